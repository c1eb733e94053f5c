// Sealed sessions for the tests: plays the TEE, which writes a key into the secret arena.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <memory>
#include <stdexcept>

#include "kv/kv_cache.h"
#include "samples.h"

namespace ptmo::test {

// The TEE's view of the arena: its own mapping of the descriptor.
class ArenaView {
public:
  explicit ArenaView(const SecretArena& arena) : size_(arena.size()) {
    void* base = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd(), 0);
    if (base == MAP_FAILED)
      throw std::runtime_error("cannot map the secret arena");
    base_ = static_cast<uint8_t*>(base);
  }
  ~ArenaView() { munmap(base_, size_); }
  ArenaView(const ArenaView&) = delete;
  ArenaView& operator=(const ArenaView&) = delete;

  void deliver_key(size_t slot, uint64_t seed, size_t key_bytes = 16) {
    Random random(seed);
    for (size_t i = 0; i < key_bytes; ++i)
      base_[slot + i] = static_cast<uint8_t>(random.bits() | 1);
  }
  const uint8_t* at(size_t offset) const { return base_ + offset; }
  bool zero(size_t offset, size_t bytes) const {
    for (size_t i = 0; i < bytes; ++i)
      if (base_[offset + i] != 0)
        return false;
    return true;
  }

private:
  size_t size_;
  uint8_t* base_ = nullptr;
};

// As from the TEE, no two sessions of a process have the same key.
inline std::unique_ptr<KvSession> sealed_session(PageArena& pages, SecretArena& secrets,
                                                 uint32_t id, uint64_t seed) {
  static std::atomic<uint64_t> sessions{0};
  const size_t slot = secrets.take_slot();
  ArenaView(secrets).deliver_key(slot, seed << 32 | ++sessions);
  return std::make_unique<KvSession>(pages, id, id, secrets, slot);
}

} // namespace ptmo::test
