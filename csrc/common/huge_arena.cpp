#include "huge_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "check.h"

namespace ptmo {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kChunkBytes = 16 * kHugePage;

size_t round_up(size_t bytes, size_t to) {
  return (bytes + to - 1) / to * to;
}

// Anonymous memory aligned to 2 MiB: a larger range is mapped and its ends are given back.
uint8_t* map_aligned(size_t bytes) {
  const size_t spare = bytes + kHugePage;
  void* range = mmap(nullptr, spare, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ensure(range != MAP_FAILED, "no memory for ", bytes, " bytes: ", std::strerror(errno));
  const auto start = reinterpret_cast<uintptr_t>(range);
  const uintptr_t base = round_up(start, kHugePage);
  if (base > start)
    munmap(range, base - start);
  if (base + bytes < start + spare)
    munmap(reinterpret_cast<void*>(base + bytes), start + spare - base - bytes);
  return reinterpret_cast<uint8_t*>(base);
}

} // namespace

HugeArena::~HugeArena() {
  for (const Chunk& chunk : chunks_)
    munmap(chunk.base, chunk.bytes);
}

uint8_t* HugeArena::allocate(size_t bytes) {
  const size_t rounded = round_up(std::max<size_t>(bytes, 1), 64);
  if (chunks_.empty() || used_ + rounded > chunks_.back().bytes) {
    const size_t size = round_up(std::max(rounded, kChunkBytes), kHugePage);
    chunks_.reserve(chunks_.size() + 1);
    chunks_.push_back({map_aligned(size), size});
    madvise(chunks_.back().base, size, MADV_HUGEPAGE); // without it: the same, in small pages
    used_ = 0;
  }
  uint8_t* out = chunks_.back().base + used_;
  used_ += rounded;
  return out;
}

} // namespace ptmo
