// One session's KV cache: a list of pages, a length, and the sequence numbers of its rows.
//
// Sequence numbers only ever grow within a session: a row written again after a truncation takes
// a new one, so no (key, counter) pair repeats. The session's seal key lives in the secret arena
// and is wiped with the session.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "page_table.h"
#include "secmem/secret_arena.h"
#include "shield.h"

namespace ptmo {

class KvSession {
public:
  static constexpr int kMaxRows = 1 << 24;

  // An unsealed session.
  KvSession(PageArena& arena, uint32_t session_id);
  // A sealed session whose key the TEE has written at `slot` of `secrets`. Takes over the slot.
  KvSession(PageArena& arena, uint32_t session_id, uint32_t epoch, SecretArena& secrets,
            size_t slot);
  ~KvSession();
  KvSession(const KvSession&) = delete;
  KvSession& operator=(const KvSession&) = delete;

  // Frees (and zeroes) every page and wipes the seal key. Idempotent; the session is then unusable.
  void close();

  bool closed() const { return shield_ == nullptr; }
  int length() const { return length_; }
  bool sealed() const { return secrets_ != nullptr; }
  const PageLayout& layout() const { return arena_.layout(); }
  const Shield& shield() const { return *shield_; }
  int page_count() const { return static_cast<int>(pages_.size()); }
  uint8_t* page(int i) const { return arena_.page(pages_[static_cast<size_t>(i)]); }

  // Makes room for `rows` more rows and gives each its sequence number. All or nothing: on a full
  // arena it throws and the session is unchanged.
  void append(int rows);
  // Stores the row of `position` for (layer, head).
  void write(int layer, int head, int position, const uint8_t* k, const uint8_t* v,
             const float* scales);
  // Forgets rows from `length` on: whole pages are freed (and zeroed), the rest of the last zeroed.
  void truncate(int length);

private:
  void add_page(uint32_t first_position);

  PageArena& arena_;
  const uint32_t session_id_;
  const uint32_t epoch_ = 0;
  SecretArena* secrets_ = nullptr;
  size_t slot_ = 0;
  std::unique_ptr<Shield> shield_;
  std::vector<int> pages_;
  int length_ = 0;
  uint64_t next_seq_ = 0;
};

} // namespace ptmo
