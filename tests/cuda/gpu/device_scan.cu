#include "device_scan.h"

#include <algorithm>
#include <cstdio>

namespace ptmo::test {
namespace {

constexpr int kThreads = 256;

using Count = unsigned long long; // atomicAdd's

__device__ bool among(const uint64_t* sorted, int count, uint64_t word) {
  int low = 0;
  while (count > 0) {
    const int half = count / 2;
    const bool above = sorted[low + half] < word;
    low += above ? half + 1 : 0;
    count = above ? count - half - 1 : half;
  }
  return sorted[low] == word; // one more word stands behind the last
}

__global__ void scan(const uint64_t* words, size_t n, const uint64_t* sorted, int count,
                     Count* hits) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  Count mine = 0;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    mine += among(sorted, count, words[i]);
  if (mine > 0)
    atomicAdd(hits, mine);
}

__global__ void scan_shared(int n, const uint64_t* sorted, int count, Count* hits) {
  extern __shared__ uint64_t left_behind[];
  Count mine = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    mine += among(sorted, count, left_behind[i]);
  if (mine > 0)
    atomicAdd(hits, mine);
}

__global__ void fill_shared(int n, const uint64_t* sorted, int count) {
  extern __shared__ uint64_t left_behind[];
  volatile uint64_t* const to = left_behind; // stores that nothing reads
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    to[i] = sorted[i % count];
}

// The needles on the device, in order, and a counter. Wiped, so that no later search finds this.
struct Search {
  SharedBuffer words, counter{sizeof(Count)};
  int count;

  explicit Search(const Needles& needles)
      : words((needles.size() + 1) * sizeof(uint64_t)), count(static_cast<int>(needles.size())) {
    std::vector<uint64_t> sorted = needles.words();
    std::sort(sorted.begin(), sorted.end());
    std::copy(sorted.begin(), sorted.end(), data());
    data()[count] = 0;
    hits() = 0;
  }
  ~Search() {
    cudaMemset(words.data(), 0, (static_cast<size_t>(count) + 1) * sizeof(uint64_t));
    cudaDeviceSynchronize();
  }
  Search(const Search&) = delete;
  Search& operator=(const Search&) = delete;

  void look_at(const uint8_t* start, size_t bytes) const {
    const uint64_t* const sorted = data();
    Count* const found = &hits();
    scan<<<4096, kThreads>>>(reinterpret_cast<const uint64_t*>(start), bytes / sizeof(uint64_t),
                             sorted, count, found);
  }
  uint64_t* data() const { return reinterpret_cast<uint64_t*>(words.data()); }
  Count& hits() const { return *reinterpret_cast<Count*>(counter.data()); }
};

struct Multiprocessors {
  int count = 0, shared_bytes = 0;

  Multiprocessors() {
    int device = 0;
    check_device(cudaGetDevice(&device), "the device");
    check_device(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
                 "multiprocessors");
    check_device(
        cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "shared memory");
  }
  // Lets a block of `kernel` have all of a multiprocessor's shared memory.
  template <typename Kernel> void allow_all(Kernel* kernel) const {
    check_device(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "a block with all of the shared memory");
  }
  int words() const { return shared_bytes / static_cast<int>(sizeof(uint64_t)); }
};

} // namespace

void Needles::add(const uint8_t* row, size_t bytes) {
  for (size_t at = 0; at + 8 <= bytes; at += 8) {
    uint8_t sorted[8];
    std::copy_n(row + at, 8, sorted);
    std::sort(sorted, sorted + 8);
    if (std::unique(sorted, sorted + 8) - sorted < 6)
      continue;
    uint64_t word;
    std::memcpy(&word, row + at, 8);
    words_.push_back(word);
  }
}

size_t hits_in_allocations(const Needles& needles) {
  const Search search(needles);
  for (const DeviceBlock& block : device_blocks())
    search.look_at(block.start, block.bytes);
  return search.hits();
}

RestOfMemory::RestOfMemory() {
  size_t all_bytes = 0;
  check_device(cudaMemGetInfo(&free_bytes_, &all_bytes), "free memory");
  const size_t spare = std::max(free_bytes_ / 16, std::min(free_bytes_, size_t{1} << 29));
  const size_t most = free_bytes_ - spare;
  // What was given back lies in holes of any size: small pieces first, which fit into the small
  // ones, then the bulk.
  for (const size_t piece : {size_t{512}, size_t{1} << 16, size_t{1} << 21, size_t{1} << 26,
                             size_t{1} << 30, size_t{1} << 26, size_t{1} << 21}) {
    const size_t share = piece == size_t{1} << 30 ? most : std::min(most, bytes_ + 256 * piece);
    for (void* p; bytes_ + piece <= share && cudaMalloc(&p, piece) == cudaSuccess;) {
      blocks_.push_back({static_cast<uint8_t*>(p), piece});
      bytes_ += piece;
    }
  }
  (void)cudaGetLastError(); // the allocation that was one too many
}

RestOfMemory::~RestOfMemory() {
  for (const DeviceBlock& block : blocks_)
    cudaFree(block.start);
}

void RestOfMemory::print_share() const {
  const double share = free_bytes_ > 0 ? static_cast<double>(bytes_) / free_bytes_ : 0.0;
  std::printf("     searched %.1f %% of the free memory, %zu of %zu MiB\n", 100.0 * share,
              bytes_ >> 20, free_bytes_ >> 20);
}

size_t RestOfMemory::hits(const Needles& needles) const {
  const Search search(needles);
  for (const DeviceBlock& block : blocks_)
    search.look_at(block.start, block.bytes);
  return search.hits();
}

void RestOfMemory::fill(uint8_t value) const {
  for (const DeviceBlock& block : blocks_)
    check_device(cudaMemset(block.start, value, block.bytes), "overwriting free memory");
  finish_device_work();
}

size_t hits_in_shared_memory(const Needles& needles) {
  const Multiprocessors all;
  const Search search(needles);
  Count* const hits = &search.hits();
  const uint64_t* const sorted = search.data();
  all.allow_all(scan_shared);
  // One block has a multiprocessor to itself; a few times as many, so that none is left out.
  scan_shared<<<4 * all.count, kThreads, static_cast<size_t>(all.shared_bytes)>>>(
      all.words(), sorted, search.count, hits);
  return search.hits();
}

void fill_shared_memory(const Needles& needles) {
  const Multiprocessors all;
  const Search search(needles);
  const uint64_t* const sorted = search.data();
  all.allow_all(fill_shared);
  fill_shared<<<4 * all.count, kThreads, static_cast<size_t>(all.shared_bytes)>>>(
      all.words(), sorted, search.count);
  finish_device_work();
}

} // namespace ptmo::test
