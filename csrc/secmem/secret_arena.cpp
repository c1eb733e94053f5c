#include "secret_arena.h"

#include <alloca.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/check.h"
#include "crypto/aes_block.h"

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

namespace ptmo {

void secure_wipe(void* p, size_t bytes) {
  if (bytes == 0) // of an empty buffer, whose pointer may be null
    return;
  std::memset(p, 0, bytes);
  asm volatile("" : : "r"(p) : "memory");
}

void burn_stack(size_t bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx"))
    asm volatile("vzeroall"
                 :
                 :
                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  if (__builtin_cpu_supports("avx512f")) // memcpy uses the others too
    asm volatile(".irp r, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31\n"
                 "vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r\n"
                 ".endr"
                 :
                 :
                 : "memory");
#endif
  secure_wipe(alloca(bytes), bytes);
}

SecretArena::SecretArena(size_t bytes, bool allow_memfd_secret)
    : owner_pid_(static_cast<int>(getpid())) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size_ = (std::max<size_t>(bytes, 1) + page - 1) / page * page;
  if (allow_memfd_secret)
    fd_ = static_cast<int>(syscall(SYS_memfd_secret, O_CLOEXEC));
  secret_ = fd_ >= 0;
  if (!secret_)
    fd_ = memfd_create("ptmo-secret-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ensure(fd_ >= 0, "no memory for the secret arena: ", std::strerror(errno));
  void* base = MAP_FAILED;
  if (ftruncate(fd_, static_cast<off_t>(size_)) == 0)
    base = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (base == MAP_FAILED || (!secret_ && mlock(base, size_) != 0)) {
    const int error = errno;
    if (base != MAP_FAILED)
      munmap(base, size_);
    close(fd_);
    ensure(false, "the secret arena cannot be locked in memory (", size_,
           " bytes): ", std::strerror(error), "; raise the memlock limit");
  }
  // The TEE maps only memory whose size is fixed: a memfd_secret's is, a memfd's by its seals.
  if (!secret_)
    fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
  base_ = static_cast<uint8_t*>(base);
  madvise(base_, size_, MADV_DONTFORK);
  madvise(base_, size_, MADV_DONTDUMP);
  taken_.assign(size_ / kSlotBytes, false);
}

bool SecretArena::owned() const {
  return static_cast<int>(getpid()) == owner_pid_;
}

SecretArena::~SecretArena() {
  if (owned()) {
    secure_wipe(base_, size_);
    munmap(base_, size_);
  }
  close_fd();
}

void SecretArena::close_fd() {
  if (fd_ >= 0)
    close(fd_);
  fd_ = -1;
}

uint8_t* SecretArena::slot(size_t offset) const {
  require(offset % kSlotBytes == 0 && offset / kSlotBytes < taken_.size() &&
              taken_[offset / kSlotBytes],
          "offset=", offset, " is no slot in use");
  return base_ + offset;
}

size_t SecretArena::take_slot() {
  const auto free = std::find(taken_.begin(), taken_.end(), false);
  ensure(free != taken_.end(), "the secret arena's ", taken_.size(), " key slots are all in use");
  *free = true;
  return static_cast<size_t>(free - taken_.begin()) * kSlotBytes;
}

void SecretArena::free_slot(size_t offset) {
  uint8_t* at = slot(offset);
  if (owned())
    secure_wipe(at, kSlotBytes);
  taken_[offset / kSlotBytes] = false;
}

uint8_t* SecretArena::slot_bytes(size_t offset) const {
  ensure(owned(), "the secret arena belongs to process ", owner_pid_, ", not to a fork of it");
  return slot(offset);
}

uint8_t* SecretArena::delivered_key(size_t offset, size_t key_bytes, const char* kind) const {
  uint8_t* key = slot_bytes(offset);
  uint8_t any = 0;
  for (size_t i = 0; i < key_bytes; ++i)
    any |= key[i];
  ensure(any != 0, "the TEE delivered no ", kind, " key");
  return key;
}

const AesRoundKeys& SecretArena::expand_key(size_t offset) {
  uint8_t* key = delivered_key(offset, 16, "seal");
  auto* round_keys = reinterpret_cast<AesRoundKeys*>(key + kRoundKeysAt);
  aes128_expand(key, round_keys);
  secure_wipe(key, 16);
  return *round_keys;
}

const kernels::ChaChaKey& SecretArena::expand_device_key(size_t offset) {
  uint8_t* key = delivered_key(offset, 16, "seal");
  auto* round_keys = reinterpret_cast<AesRoundKeys*>(key + kRoundKeysAt);
  aes128_expand(key, round_keys);
  for (int i = 0; i < 2; ++i) {
    uint8_t* block = key + 16 * i;
    secure_wipe(block, 16);
    block[15] = static_cast<uint8_t>(i + 1);
    aes_encrypt_block(round_keys->bytes, 10, block);
  }
  secure_wipe(round_keys, sizeof(*round_keys));
  burn_stack(8192);
  return *reinterpret_cast<kernels::ChaChaKey*>(key);
}

} // namespace ptmo
