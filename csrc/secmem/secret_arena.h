// Memory for keys: memfd_secret where the kernel has it (unreadable even to root through
// /proc/PID/mem), else a locked memfd. Not inherited by a fork, not in core dumps, wiped on free.
//
// The descriptor is what the TEE maps to deliver a key: the key goes from the TEE's process
// straight into these pages and never becomes a Python object or a socket message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "crypto/aes_ctr.h"
#include "kernels/chacha.h"

namespace ptmo {

// Overwrites with zeros in a way the compiler must keep.
void secure_wipe(void* p, size_t bytes);

// Zeroes the vector registers and what functions that have returned left below the caller's frame:
// spilled keys, and registers, which the dynamic linker keeps there while it finds a function.
[[gnu::noinline]] void burn_stack(size_t bytes);

class SecretArena {
public:
  // One slot holds a session's 16-byte key (where the TEE writes) and its expanded round keys.
  static constexpr size_t kSlotBytes = 256;
  static constexpr size_t kRoundKeysAt = 64;

  // `allow_memfd_secret` = false takes the fallback straight away (kernels before 6.5, tests).
  explicit SecretArena(size_t bytes, bool allow_memfd_secret = true);
  ~SecretArena();
  SecretArena(const SecretArena&) = delete;
  SecretArena& operator=(const SecretArena&) = delete;

  int fd() const { return fd_; } // -1 after close_fd()
  // Gives the descriptor up once the TEE has its own: nobody can then take it from this process.
  void close_fd();
  size_t size() const { return size_; }
  bool is_memfd_secret() const { return secret_; }

  // Takes a free slot and returns its byte offset; throws std::runtime_error when none is left.
  size_t take_slot();
  // Wipes the slot and gives it back.
  void free_slot(size_t offset);
  // Expands the key at the slot's start into its round keys and wipes the key itself.
  // Throws std::runtime_error if the slot still holds zeros: no key was delivered.
  const AesRoundKeys& expand_key(size_t offset);
  // The same of a key for a device's pages, which needs 256 bits: the key's AES-128 encryptions of
  // the blocks 1 and 2 (a key derivation in counter mode, NIST SP 800-108).
  const kernels::ChaChaKey& expand_device_key(size_t offset);
  // The slot's bytes, for native code that keeps keys of other kinds there. Throws
  // std::runtime_error in a forked child.
  uint8_t* slot_bytes(size_t offset) const;
  // The same, once the TEE has written a key of `key_bytes` at its start; throws as expand_key
  // does, naming the kind of key.
  uint8_t* delivered_key(size_t offset, size_t key_bytes, const char* kind) const;

private:
  uint8_t* slot(size_t offset) const;
  // Whether this process made the arena: in a forked child the pages are not there to be touched.
  bool owned() const;

  int fd_ = -1;
  int owner_pid_;
  uint8_t* base_ = nullptr;
  size_t size_ = 0;
  bool secret_ = false;
  std::vector<bool> taken_;
};

} // namespace ptmo
