#include "device_heap.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include <sys/mman.h>

namespace cuda_emulator {
namespace {

constexpr size_t kAlignment = 256;         // cudaMalloc's
constexpr size_t kRoom = size_t{16} << 30; // the host's pages come as they are touched

#ifdef __SANITIZE_ADDRESS__

// Not by aligned_alloc, which would have to round the size.
uint8_t* take(size_t bytes) {
  void* block = nullptr;
  return bytes <= kRoom && posix_memalign(&block, kAlignment, bytes) == 0
             ? static_cast<uint8_t*>(block)
             : nullptr;
}
bool intact(const uint8_t*, size_t) {
  return true; // who leaves a block is seen at once
}
void give_back(uint8_t* block, size_t) {
  std::free(block);
}
void open(bool) {}

#else

// One stretch of addresses, so that opening it is one call.
struct Heap {
  uint8_t* start;
  size_t used = 0;                      // from the start, freed blocks among it
  std::multimap<size_t, uint8_t*> free; // by size

  Heap() {
    void* p = mmap(nullptr, kRoom, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
      throw std::runtime_error("no addresses for the emulated device");
    start = static_cast<uint8_t*>(p);
  }
};

Heap& heap() {
  static Heap all;
  return all;
}

// Behind each block, for writes that leave it.
constexpr size_t kGuard = 64;
constexpr uint8_t kGuardByte = 0xa5;

size_t padded(size_t bytes) {
  return (bytes + kGuard + kAlignment - 1) / kAlignment * kAlignment;
}

uint8_t* place(size_t bytes) {
  Heap& h = heap();
  const auto found = h.free.find(bytes); // engines ask for the same sizes again
  if (found != h.free.end()) {
    uint8_t* block = found->second;
    h.free.erase(found);
    return block;
  }
  if (bytes > kRoom - h.used)
    return nullptr;
  uint8_t* block = h.start + h.used;
  h.used += bytes;
  return block;
}
uint8_t* take(size_t bytes) {
  uint8_t* block = bytes <= kRoom ? place(padded(bytes)) : nullptr;
  if (block != nullptr) {
    const DeviceAccess open;
    std::memset(block + bytes, kGuardByte, kGuard);
  }
  return block;
}
bool intact(const uint8_t* block, size_t bytes) {
  const DeviceAccess open;
  return std::all_of(block + bytes, block + bytes + kGuard,
                     [](uint8_t byte) { return byte == kGuardByte; });
}
void give_back(uint8_t* block, size_t bytes) {
  heap().free.emplace(padded(bytes), block);
}
void open(bool yes) {
  const Heap& h = heap();
  constexpr size_t kPage = 4096;
  if (h.used > 0 && mprotect(h.start, (h.used + kPage - 1) / kPage * kPage,
                             yes ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
    throw std::runtime_error("the emulated device's memory cannot be opened");
}

#endif

int accesses = 0;

} // namespace

std::map<uint8_t*, size_t>& device_memory() {
  static std::map<uint8_t*, size_t> all;
  return all;
}

uint8_t* allocate(size_t bytes) {
  uint8_t* block = take(bytes);
  if (block != nullptr)
    device_memory()[block] = bytes;
  return block;
}

void release(uint8_t* block) {
  const auto found = device_memory().find(block);
  if (found == device_memory().end())
    throw std::runtime_error("memory is freed that is not allocated");
  if (!intact(block, found->second))
    throw std::runtime_error("a kernel wrote behind a block of device memory");
  give_back(block, found->second);
  device_memory().erase(found);
}

bool on_device(const void* p, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(p);
  auto after = device_memory().upper_bound(const_cast<uint8_t*>(at));
  if (after == device_memory().begin())
    return false;
  const auto& [start, size] = *--after;
  return at + bytes <= start + size;
}

DeviceAccess::DeviceAccess() {
  if (accesses++ == 0)
    open(true);
}

DeviceAccess::~DeviceAccess() {
  if (--accesses == 0)
    open(false);
}

} // namespace cuda_emulator
