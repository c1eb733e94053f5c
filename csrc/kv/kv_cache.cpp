#include "kv_cache.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "seal.h"

namespace ptmo {

KvSession::KvSession(PageArena& arena, uint32_t session_id)
    : arena_(arena), session_id_(session_id), shield_(std::make_unique<PlainShield>()) {}

KvSession::KvSession(PageArena& arena, uint32_t session_id, uint32_t epoch, SecretArena& secrets,
                     size_t slot)
    : arena_(arena), session_id_(session_id), epoch_(epoch), secrets_(&secrets), slot_(slot) {
  try {
    shield_ = std::make_unique<SealShield>(secrets.expand_key(slot));
  } catch (...) {
    secrets.free_slot(slot);
    throw;
  }
}

KvSession::~KvSession() {
  close();
}

void KvSession::close() {
  if (closed())
    return;
  for (const int page : pages_)
    arena_.free(page);
  pages_.clear();
  length_ = 0;
  shield_.reset();
  if (secrets_ != nullptr)
    secrets_->free_slot(slot_);
}

void KvSession::add_page(uint32_t first_position) {
  const int index = arena_.allocate();
  pages_.push_back(index);
  PageHeader header{};
  header.magic = PageHeader::kMagic;
  header.version = 1;
  header.rows_per_page = static_cast<uint16_t>(layout().rows);
  header.page_id = static_cast<uint32_t>(index);
  header.session = session_id_;
  header.epoch = epoch_;
  header.first_position = first_position;
  std::memcpy(arena_.page(index), &header, sizeof(header));
}

void KvSession::append(int rows) {
  require(!closed(), "the session is closed");
  require(rows >= 1 && rows <= kMaxRows - length_, "rows=", rows, " does not fit a session of ",
          length_, " rows and at most ", kMaxRows);
  const int per_page = layout().rows, pages_before = page_count();
  const int pages_needed = (length_ + rows + per_page - 1) / per_page;
  try {
    while (page_count() < pages_needed)
      add_page(static_cast<uint32_t>(page_count() * per_page));
  } catch (...) {
    for (; page_count() > pages_before; pages_.pop_back())
      arena_.free(pages_.back());
    throw;
  }
  for (int position = length_; position < length_ + rows; ++position) {
    uint8_t* at = page(position / per_page);
    reinterpret_cast<uint64_t*>(at + sizeof(PageHeader))[position % per_page] = next_seq_++;
    reinterpret_cast<PageHeader*>(at)->length = static_cast<uint32_t>(position % per_page + 1);
  }
  length_ += rows;
}

void KvSession::write(int layer, int head, int position, const uint8_t* k, const uint8_t* v,
                      const float* scales) {
  uint8_t* at = page(position / layout().rows);
  const int row = position % layout().rows;
  const uint64_t seq = reinterpret_cast<const uint64_t*>(at + sizeof(PageHeader))[row];
  shield_->write_row(at, layout(), layer, head, row, seq, k, v, scales);
}

void KvSession::truncate(int length) {
  require(length >= 0 && length <= length_, "length=", length, " is not in 0..", length_);
  const PageLayout& l = layout();
  const int pages_kept = (length + l.rows - 1) / l.rows;
  for (; page_count() > pages_kept; pages_.pop_back())
    arena_.free(pages_.back());
  length_ = length;
  if (length % l.rows == 0)
    return;
  uint8_t* last = page(pages_kept - 1);
  const size_t kept = static_cast<size_t>(length % l.rows), dropped = l.rows - kept;
  reinterpret_cast<PageHeader*>(last)->length = static_cast<uint32_t>(kept);
  secure_wipe(last + sizeof(PageHeader) + 8 * kept, 8 * dropped);
  for (int layer = 0; layer < l.n_layers; ++layer) {
    for (int head = 0; head < l.n_kv_heads; ++head) {
      uint8_t* at = last + l.head_offset(layer, head);
      secure_wipe(at + kept * l.row_bytes(), dropped * l.row_bytes());
      secure_wipe(at + l.tile_bytes() + kept * l.row_bytes(), dropped * l.row_bytes());
      if (l.has_scales())
        secure_wipe(at + 2 * l.tile_bytes() + 8 * kept, 8 * dropped);
    }
  }
}

} // namespace ptmo
