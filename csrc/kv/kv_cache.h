// One session's KV cache: a list of pages, a length, and the sequence numbers of its rows.
//
// A session and its forks are a family: they share one seal key, one counter of sequence numbers
// and, copy-on-write, their pages. Numbers only ever grow within a family: a row written again
// after a truncation, or by another fork, takes a new one, so no (key, counter) pair repeats. A
// copied page keeps its ciphertext and the numbers that belong to it. The seal key lives in the
// secret arena and is wiped when another takes its place, or with the last session of the family.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "page_table.h"
#include "permute.h"
#include "secmem/secret_arena.h"
#include "shield.h"

namespace ptmo {

struct SessionFamily;

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

  // A second session over the same rows. Pages are shared until either writes to one: that one
  // then takes a copy. Costs no page and no row is encrypted anew.
  std::unique_ptr<KvSession> fork(uint32_t session_id) const;

  // Puts every page of the family, a shared one once, under the key that the TEE has written at
  // `slot` of the arena of the old one, which is wiped. Takes over the slot. All that can fail in
  // this process's memory fails before a row is touched, and the session is as it was; a device
  // that fails in between costs the family its rows: it is closed. Forks must not run meanwhile.
  void rekey(uint32_t epoch, size_t slot);
  // Puts every row of the family in another order; keys stay. A throw of `order` closes the family.
  void reorder(const RowOrder& order);

  // Gives up every page; those of no other fork are freed (and zeroed), and the last session of a
  // family wipes the seal key. Idempotent; the session is then unusable.
  void close();

  bool closed() const { return family_ == nullptr; }
  int length() const { return length_; }
  bool sealed() const { return sealed_; }
  const PageLayout& layout() const { return arena_.layout(); }
  const Shield& shield() const { return *shield_; }
  const PageArena& arena() const { return arena_; }
  int page_count() const { return static_cast<int>(pages_.size()); }
  int page_id(int i) const { return pages_[static_cast<size_t>(i)]; }
  uint8_t* page(int i) const { return arena_.page(page_id(i)); }
  // All bytes of page i: where it stands, or read from a device into `copy`, which the caller
  // wipes.
  const uint8_t* page_bytes(int i, std::vector<uint8_t>& copy) const;

  // Names the adapter set that rows appended from now on are computed under, and keeps those there
  // are. Pages are shared under equal adapter sets only: a fork that changes its set takes copies
  // of the pages it shares (throws on a full arena, and nothing has changed).
  void set_adapter_tag(uint64_t tag);
  uint64_t adapter_tag() const { return adapter_tag_; }

  // Makes room for `rows` more rows and gives each its sequence number. All or nothing: on a full
  // arena it throws and the session is unchanged. A shared page it would write to is copied first.
  void append(int rows);
  // Stores the row of `position`, one that append() made room for, for (layer, head). Once a row:
  // a second time would use its counter again.
  void write(int layer, int head, int position, const uint8_t* k, const uint8_t* v,
             const float* scales);
  // Forgets rows from `length` on: pages and rows that no fork uses are zeroed.
  void truncate(int length);

private:
  KvSession(const KvSession& of, uint32_t session_id);
  void rewrite(const Shield& to, uint32_t epoch, const RowOrder& order);
  bool shared(size_t i) const { return arena_.users(pages_[i]) > 1; }
  int rows_in(size_t i) const; // of page i, by this session's length
  void own_page(size_t i, int copy);
  void release_page(int page, size_t i);
  void tidy_page(int page, size_t i);
  PageHeader& header(int page) const;

  PageArena& arena_;
  const uint32_t session_id_;
  const bool sealed_;
  std::shared_ptr<SessionFamily> family_; // null once closed
  const Shield* shield_ = nullptr;        // the family's
  std::vector<int> pages_;
  int length_ = 0;
  uint64_t adapter_tag_ = 0;
};

} // namespace ptmo
