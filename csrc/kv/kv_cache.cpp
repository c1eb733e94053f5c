#include "kv_cache.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "common/check.h"
#include "rewrite.h"
#include "row_exchange.h"
#include "seal.h"
#include "seal_chacha.h"

namespace ptmo {

namespace {

// A seal key in a slot of the arena, which it owns, and the cipher under it.
struct SealKey {
  SecretArena& secrets;
  const size_t slot;
  std::unique_ptr<Shield> shield;

  SealKey(SecretArena& arena, size_t key_slot, bool on_device) : secrets(arena), slot(key_slot) {
    try {
      if (on_device)
        shield = std::make_unique<ChaChaShield>(arena.expand_device_key(key_slot));
      else
        shield = std::make_unique<SealShield>(arena.expand_key(key_slot));
    } catch (...) {
      arena.free_slot(key_slot);
      throw;
    }
  }
  ~SealKey() {
    shield.reset();
    secrets.free_slot(slot);
  }
  SealKey(const SealKey&) = delete;
  SealKey& operator=(const SealKey&) = delete;
};

} // namespace

// What a session and its forks have in common.
struct SessionFamily {
  const uint32_t id; // the first session's
  uint32_t epoch = 0;
  std::unique_ptr<SealKey> key; // null: rows are not sealed
  const PlainShield plain{};
  uint64_t next_seq = 0;
  std::vector<KvSession*> members;

  explicit SessionFamily(uint32_t first_session) : id(first_session) {}
  SessionFamily(uint32_t first_session, uint32_t key_epoch, SecretArena& arena, size_t slot,
                bool on_device)
      : id(first_session), epoch(key_epoch),
        key(std::make_unique<SealKey>(arena, slot, on_device)) {}
  const Shield* shield() const { return key ? key->shield.get() : &plain; }
};

namespace {

uint64_t* seqs_of(uint8_t* page) {
  return reinterpret_cast<uint64_t*>(page + sizeof(PageHeader));
}

// Calls f(offset in a page, bytes) for what rows [from, to) hold there, sequence numbers included.
template <typename F> void for_rows(const PageLayout& l, int from, int to, F f) {
  if (from >= to)
    return;
  const auto first = static_cast<size_t>(from), count = static_cast<size_t>(to - from);
  f(sizeof(PageHeader) + 8 * first, 8 * count);
  const std::vector<PageLayout::Record> records = l.records();
  for (int layer = 0; layer < l.n_layers; ++layer)
    for (int head = 0; head < l.n_kv_heads; ++head)
      for (const PageLayout::Record& r : records)
        f(l.head_offset(layer, head) + r.offset + first * r.bytes, count * r.bytes);
}

} // namespace

KvSession::KvSession(PageArena& arena, uint32_t session_id)
    : arena_(arena), session_id_(session_id), sealed_(false),
      family_(std::make_shared<SessionFamily>(session_id)), shield_(family_->shield()) {
  family_->members.push_back(this);
}

KvSession::KvSession(PageArena& arena, uint32_t session_id, uint32_t epoch, SecretArena& secrets,
                     size_t slot)
    : arena_(arena), session_id_(session_id), sealed_(true),
      family_(std::make_shared<SessionFamily>(session_id, epoch, secrets, slot, arena.on_device())),
      shield_(family_->shield()) {
  family_->members.push_back(this);
}

KvSession::KvSession(const KvSession& of, uint32_t session_id)
    : arena_(of.arena_), session_id_(session_id), sealed_(of.sealed_), family_(of.family_),
      shield_(of.shield_), pages_(of.pages_), length_(of.length_), adapter_tag_(of.adapter_tag_) {
  family_->members.push_back(this);
  for (const int page : pages_)
    arena_.share(page);
}

KvSession::~KvSession() {
  close();
}

std::unique_ptr<KvSession> KvSession::fork(uint32_t session_id) const {
  require(!closed(), "the session is closed");
  return std::unique_ptr<KvSession>(new KvSession(*this, session_id));
}

void KvSession::rekey(uint32_t epoch, size_t slot) {
  require(!closed() && sealed_, "there is no sealed session to give another key");
  auto next = std::make_unique<SealKey>(family_->key->secrets, slot, arena_.on_device());
  rewrite(*next->shield, epoch, {});
  family_->epoch = epoch;
  family_->key = std::move(next); // wipes the old one
  for (KvSession* member : family_->members)
    member->shield_ = family_->shield();
}

void KvSession::reorder(const RowOrder& order) {
  require(!closed() && order.buffer != nullptr, "there are no rows, or no order to put them in");
  require_room(order, layout(), layout().rows);
  rewrite(*shield_, family_->epoch, order);
}

// Pages of the whole family. They are of two kinds in between: who fails there gives all of them
// up.
void KvSession::rewrite(const Shield& to, uint32_t epoch, const RowOrder& order) {
  const std::shared_ptr<SessionFamily> family = family_; // outlives its members
  const std::vector<KvSession*> members = family->members;
  std::set<int> pages;
  for (const KvSession* member : members)
    pages.insert(member->pages_.begin(), member->pages_.end());
  RowScratch scratch(layout(), order);
  if (arena_.on_device())
    scratch.page.resize(layout().page_bytes());
  arena_.require_usable();
  try {
    for (const int page : pages)
      rewrite_page(arena_, page, {*shield_, to, epoch, order}, family->next_seq, scratch);
  } catch (...) {
    for (KvSession* member : members)
      member->close();
    throw;
  }
}

void KvSession::close() {
  if (closed())
    return;
  std::vector<KvSession*>& members = family_->members;
  members.erase(std::find(members.begin(), members.end(), this));
  for (size_t i = 0; i < pages_.size(); ++i)
    release_page(pages_[i], i);
  arena_.settle();
  pages_.clear();
  length_ = 0;
  shield_ = nullptr;
  family_.reset();
}

PageHeader& KvSession::header(int page) const {
  return *reinterpret_cast<PageHeader*>(arena_.page(page));
}

int KvSession::rows_in(size_t i) const {
  return std::clamp(length_ - static_cast<int>(i) * layout().rows, 0, layout().rows);
}

// Gives up page `page`, which was the i-th of this session.
void KvSession::release_page(int page, size_t i) {
  if (!arena_.free(page))
    tidy_page(page, i);
}

// After a session left a page or forgot rows of it: rows that none of its users has are wiped, and
// the header names one that uses it.
void KvSession::tidy_page(int page, size_t i) {
  int rows = 0;
  const KvSession* user = nullptr;
  PageHeader& h = header(page);
  for (const KvSession* member : family_->members) {
    if (i >= member->pages_.size() || member->pages_[i] != page)
      continue;
    rows = std::max(rows, member->rows_in(i));
    if (user == nullptr || member->session_id_ == h.session)
      user = member;
  }
  if (user == nullptr)
    return;
  for_rows(layout(), rows, static_cast<int>(h.length),
           [&](size_t offset, size_t bytes) { arena_.wipe(page, offset, bytes); });
  h.session = user->session_id_;
  h.length = static_cast<uint32_t>(rows);
  arena_.publish(page);
}

// Makes `copy`, an empty page of the arena, page i of this session, with the rows page i holds.
void KvSession::own_page(size_t i, int copy) {
  const int old = pages_[i], rows = rows_in(i);
  arena_.copy(old, copy, 0, sizeof(PageHeader));
  for_rows(layout(), 0, rows,
           [&](size_t offset, size_t bytes) { arena_.copy(old, copy, offset, bytes); });
  PageHeader& h = header(copy);
  h.page_id = static_cast<uint32_t>(copy);
  h.session = session_id_;
  h.length = static_cast<uint32_t>(rows);
  arena_.publish(copy);
  pages_[i] = copy;
  release_page(old, i);
}

void KvSession::set_adapter_tag(uint64_t tag) {
  require(!closed(), "the session is closed");
  if (tag == adapter_tag_)
    return;
  std::vector<size_t> shared_pages;
  for (size_t i = 0; i < pages_.size(); ++i)
    if (shared(i))
      shared_pages.push_back(i);
  const std::vector<int> copies = arena_.allocate(shared_pages.size());
  for (size_t j = 0; j < copies.size(); ++j)
    own_page(shared_pages[j], copies[j]);
  adapter_tag_ = tag;
}

void KvSession::append(int rows) {
  require(!closed(), "the session is closed");
  require(rows >= 1 && rows <= kMaxRows - length_, "rows=", rows, " does not fit a session of ",
          length_, " rows and at most ", kMaxRows);
  const int per_page = layout().rows;
  const size_t pages_needed = static_cast<size_t>((length_ + rows + per_page - 1) / per_page);
  const bool copy_last = length_ % per_page != 0 && shared(pages_.size() - 1);
  pages_.reserve(pages_needed);
  std::vector<int> fresh = arena_.allocate(pages_needed - pages_.size() + (copy_last ? 1 : 0));
  if (copy_last) {
    own_page(pages_.size() - 1, fresh.back());
    fresh.pop_back();
  }
  for (const int page : fresh) {
    PageHeader& h = header(page);
    h.magic = PageHeader::kMagic;
    h.version = PageHeader::kVersion;
    h.rows_per_page = static_cast<uint16_t>(per_page);
    h.page_id = static_cast<uint32_t>(page);
    h.session = session_id_;
    h.epoch = family_->epoch;
    h.first_position = static_cast<uint32_t>(page_count() * per_page);
    h.family = family_->id;
    pages_.push_back(page);
  }
  for (int position = length_; position < length_ + rows; ++position) {
    uint8_t* at = page(position / per_page);
    seqs_of(at)[position % per_page] = family_->next_seq++;
    auto* h = reinterpret_cast<PageHeader*>(at);
    h->length = static_cast<uint32_t>(position % per_page + 1);
    h->adapter_tag = adapter_tag_;
  }
  for (size_t i = static_cast<size_t>(length_ / per_page); i < pages_.size(); ++i)
    arena_.publish(pages_[i]);
  length_ += rows;
}

void KvSession::write(int layer, int head, int position, const uint8_t* k, const uint8_t* v,
                      const float* scales) {
  const auto i = static_cast<size_t>(position / layout().rows);
  require(position >= 0 && position < length_ && !shared(i), "position=", position,
          " is no row of this session's own");
  uint8_t* at = arena_.page(pages_[i]);
  const int row = position % layout().rows;
  const uint64_t seq = seqs_of(at)[row];
  const size_t offset = layout().head_offset(layer, head);
  if (!arena_.on_device()) {
    shield_->write_row(at + offset, layout(), layer, head, row, seq, k, v, scales);
    return;
  }
  std::vector<uint8_t> block(layout().head_bytes());
  shield_->write_row(block.data(), layout(), layer, head, row, seq, k, v, scales);
  for (const PageLayout::Record& r : layout().records()) {
    const size_t place = r.offset + static_cast<size_t>(row) * r.bytes;
    arena_.write(pages_[i], offset + place, r.bytes, block.data() + place);
  }
  secure_wipe(block.data(), block.size());
}

const uint8_t* KvSession::page_bytes(int i, std::vector<uint8_t>& copy) const {
  if (!arena_.on_device())
    return page(i);
  copy.resize(layout().page_bytes());
  arena_.read(page_id(i), 0, copy.size(), copy.data());
  return copy.data();
}

void KvSession::truncate(int length) {
  require(length >= 0 && length <= length_, "length=", length, " is not in 0..", length_);
  const int per_page = layout().rows;
  const auto pages_kept = static_cast<size_t>((length + per_page - 1) / per_page);
  length_ = length;
  while (pages_.size() > pages_kept) {
    const int page = pages_.back();
    pages_.pop_back();
    release_page(page, pages_.size());
  }
  if (length % per_page != 0)
    tidy_page(pages_.back(), pages_kept - 1);
  arena_.settle();
}

} // namespace ptmo
