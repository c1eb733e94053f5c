#include "page_storage.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/check.h"
#include "crypto/aes_block.h"
#include "row_exchange.h"

namespace ptmo {
namespace {

static_assert(sizeof(Aes256RoundKeys) <= SecretArena::kSlotBytes);
static_assert(sizeof(GcmSivMessageKeys) <= SecretArena::kSlotBytes);

size_t plain_bytes(const PageLayout& l, int rows) {
  return l.bytes_per_token() * static_cast<size_t>(rows);
}

void check_order(const RowOrder& order, const PageLayout& l, int rows) {
  require(order.buffer == nullptr || l.type != KvType::kInt4,
          "rows of this type cannot be put in another order");
  require_room(order, l, rows);
}

// Calls take(bytes, count) for the pieces of a page's plaintext in order.
template <typename F>
void for_pieces(const KvSession& session, int index, int rows, const RowOrder& order, RowScratch& s,
                F take) {
  const PageLayout& l = session.layout();
  const auto n = static_cast<size_t>(rows), dim = static_cast<size_t>(l.head_dim);
  const size_t bytes = n * l.row_bytes(), element = l.element_bytes();
  const uint8_t* page = session.page_bytes(index, s.page);
  const auto open = [&](int layer, int head) {
    return session.shield().open_tile(page, l, layer, head, rows, s.tile.data());
  };
  for (int layer = 0; layer < l.n_layers; ++layer) {
    if (order.buffer != nullptr) {
      for (int head = 0; head < l.n_kv_heads; ++head) {
        const Tile tile = open(layer, head);
        put_rows(order, l, 0, head, rows, tile.k);
        put_rows(order, l, 1, head, rows, tile.v);
      }
      order.reorder(layer, rows);
    }
    for (int head = 0; head < l.n_kv_heads; ++head) {
      const Tile tile = open(layer, head);
      const uint8_t* plain[2] = {tile.k, tile.v};
      for (int which = 0; which < 2; ++which) {
        if (order.buffer != nullptr) {
          take_rows(order, l, which, head, rows, s.ordered.data());
          plain[which] = s.ordered.data();
        }
        take(plain[which], bytes);
      }
      if (l.has_scales())
        take(reinterpret_cast<const uint8_t*>(tile.scales), 8 * n);
    }
  }
}

std::string page_header(const std::string& header, const PageLayout& l, int index, int rows) {
  std::string out = header;
  for (const int field : {index, index * l.rows, rows})
    for (int shift = 0; shift < 32; shift += 8)
      out.push_back(static_cast<char>(static_cast<uint32_t>(field) >> shift));
  return out;
}

const uint8_t* bytes_of(const std::string& text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}

} // namespace

PageStorage::PageStorage(SecretArena& secrets, size_t slot) : secrets_(&secrets), slot_(slot) {
  try {
    uint8_t* key = secrets.delivered_key(slot, kGcmSivKeyBytes, "storage");
    message_slot_ = secrets.take_slot();
    aes_expand(key, kGcmSivKeyBytes, key);
    keys_ = reinterpret_cast<const Aes256RoundKeys*>(key);
    message_keys_ = reinterpret_cast<GcmSivMessageKeys*>(secrets.slot_bytes(message_slot_));
  } catch (...) {
    secrets.free_slot(slot);
    throw;
  }
}

PageStorage::~PageStorage() {
  close();
}

void PageStorage::close() {
  if (secrets_ == nullptr)
    return;
  secrets_->free_slot(message_slot_);
  secrets_->free_slot(slot_);
  secrets_ = nullptr;
}

GcmSivMessage PageStorage::message(uint32_t record) {
  require(secrets_ != nullptr, "the page storage is closed");
  secrets_->slot_bytes(slot_); // throws in a forked child, where the keys are not
  uint8_t nonce[kGcmSivNonceBytes] = {};
  for (int i = 0; i < 4; ++i)
    nonce[i] = static_cast<uint8_t>(record >> (8 * i));
  return {gcm_siv_best(), *keys_, nonce, message_keys_};
}

std::vector<uint8_t> PageStorage::seal(uint32_t record, const std::string& header,
                                       const std::vector<uint8_t>& plain) {
  GcmSivMessage m = message(record);
  std::vector<uint8_t> out(plain.size() + kGcmSivTagBytes);
  uint8_t* tag = out.data() + plain.size();
  m.begin(bytes_of(header), header.size());
  m.authenticate(plain.data(), plain.size());
  m.tag(tag);
  m.start(tag);
  m.crypt(plain.data(), plain.size(), out.data());
  return out;
}

std::vector<uint8_t> PageStorage::open(uint32_t record, const std::string& header,
                                       const uint8_t* sealed, size_t bytes) {
  require(bytes >= kGcmSivTagBytes, bytes, " bytes are no sealed record");
  GcmSivMessage m = message(record);
  std::vector<uint8_t> out(bytes - kGcmSivTagBytes);
  const uint8_t* tag = sealed + out.size();
  uint8_t want[kGcmSivTagBytes];
  m.start(tag);
  m.crypt(sealed, out.size(), out.data());
  m.begin(bytes_of(header), header.size());
  m.authenticate(out.data(), out.size());
  m.tag(want);
  if (!same_tag(tag, want)) {
    secure_wipe(out.data(), out.size());
    throw AuthenticationError(concat("record ", record, " does not authenticate"));
  }
  return out;
}

size_t PageStorage::sealed_bytes(const PageLayout& layout, int rows) {
  return plain_bytes(layout, rows) + kGcmSivTagBytes;
}

int PageStorage::page_rows(const KvSession& session, int index) {
  require(!session.closed() && index >= 0 && index < session.page_count(), "page ", index,
          " is not one of the session's ", session.page_count());
  const int rows = session.layout().rows;
  return std::min(rows, session.length() - index * rows);
}

void PageStorage::seal_page(const KvSession& session, int index, const std::string& header,
                            const RowOrder& order, uint8_t* out) {
  const PageLayout& l = session.layout();
  const int rows = page_rows(session, index);
  check_order(order, l, rows);
  RowScratch scratch(l, order);
  GcmSivMessage m = message(static_cast<uint32_t>(index) + 1);
  const std::string aad = page_header(header, l, index, rows);
  uint8_t* tag = out + plain_bytes(l, rows);
  m.begin(bytes_of(aad), aad.size());
  for_pieces(session, index, rows, order, scratch,
             [&](const uint8_t* piece, size_t bytes) { m.authenticate(piece, bytes); });
  m.tag(tag);
  m.start(tag);
  for_pieces(session, index, rows, order, scratch, [&](const uint8_t* piece, size_t bytes) {
    m.crypt(piece, bytes, out);
    out += bytes;
  });
}

void PageStorage::open_page(KvSession& session, int index, int rows, const std::string& header,
                            const RowOrder& order, const uint8_t* sealed) {
  const PageLayout& l = session.layout();
  const int first = session.length();
  require(first % l.rows == 0 && index == first / l.rows, "page ", index, " does not follow ",
          first, " rows");
  require(rows >= 1 && rows <= l.rows, "rows=", rows, " is not in 1..", l.rows);
  check_order(order, l, rows);
  GcmSivMessage m = message(static_cast<uint32_t>(index) + 1);
  const std::string aad = page_header(header, l, index, rows);
  const size_t bytes = plain_bytes(l, rows);
  const uint8_t* tag = sealed + bytes;
  uint8_t want[kGcmSivTagBytes];
  {
    RowScratch scratch(l, {});
    m.start(tag);
    m.begin(bytes_of(aad), aad.size());
    for (size_t at = 0; at < bytes; at += scratch.tile.size()) {
      const size_t now = std::min(scratch.tile.size(), bytes - at);
      m.crypt(sealed + at, now, scratch.tile.data());
      m.authenticate(scratch.tile.data(), now);
    }
    m.tag(want);
  }
  if (!same_tag(tag, want))
    throw AuthenticationError(concat("page ", index, " does not authenticate"));
  session.append(rows);
  try {
    m.start(tag);
    write_rows(session, first, rows, order, m, sealed);
  } catch (...) {
    session.truncate(first);
    throw;
  }
}

// Decrypts a record that was checked and stores its rows, a layer at a time where they are to be
// put in another order.
void PageStorage::write_rows(KvSession& session, int first, int rows, const RowOrder& order,
                             GcmSivMessage& m, const uint8_t* sealed) {
  const PageLayout& l = session.layout();
  const auto n = static_cast<size_t>(rows), dim = static_cast<size_t>(l.head_dim);
  const size_t bytes = n * l.row_bytes(), element = l.element_bytes();
  const size_t scale_bytes = l.has_scales() ? 8 * n : 0;
  RowScratch s(l, order);
  uint8_t* tile = s.tile.data();
  const auto scales_of = [&](int head, size_t row) {
    return s.scales.data() + 2 * (head * n + row);
  };
  const auto store = [&](int layer, int head) {
    for (size_t row = 0; row < n; ++row)
      session.write(layer, head, first + static_cast<int>(row), tile + row * l.row_bytes(),
                    tile + bytes + row * l.row_bytes(),
                    l.has_scales() ? scales_of(head, row) : nullptr);
  };
  for (int layer = 0; layer < l.n_layers; ++layer) {
    for (int head = 0; head < l.n_kv_heads; ++head) {
      m.crypt(sealed, 2 * bytes, tile);
      m.crypt(sealed + 2 * bytes, scale_bytes, reinterpret_cast<uint8_t*>(scales_of(head, 0)));
      sealed += 2 * bytes + scale_bytes;
      if (order.buffer == nullptr)
        store(layer, head);
      for (int which = 0; which < 2 && order.buffer != nullptr; ++which)
        put_rows(order, l, which, head, rows, tile + which * bytes);
    }
    if (order.buffer == nullptr)
      continue;
    order.reorder(layer, rows);
    for (int head = 0; head < l.n_kv_heads; ++head) {
      for (int which = 0; which < 2; ++which)
        take_rows(order, l, which, head, rows, tile + which * bytes);
      store(layer, head);
    }
  }
}

} // namespace ptmo
