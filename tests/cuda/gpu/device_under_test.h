// What a test may ask of the device it runs on beyond the CUDA runtime: see
// emulator/device_under_test.h, whose place this takes where tests run on a GPU.
//
// Memory is managed memory, which the host and the device both reach. No page of it can be guarded:
// compute-sanitizer's memcheck sees what leaves an allocation. Orders of threads cannot be chosen:
// a result is computed three times as the device pleases, and racecheck looks for the rest.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include <cuda_runtime.h>

#include "check.h"

namespace ptmo::test {

inline void check_device(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    fail(__FILE__, __LINE__, std::string(what) + ": " + cudaGetErrorString(error));
}

// Errors of kernels arrive here: of launches whose result a test did not look at, and of kernels
// that broke off.
inline void finish_device_work() {
  const cudaError_t done = cudaDeviceSynchronize(), last = cudaGetLastError();
  check_device(done, "the device's work");
  // An allocation that was refused is its caller's to report, and tests ask for too much.
  if (last != cudaErrorMemoryAllocation)
    check_device(last, "a launch");
}

// Whether new allocations are poison (they are, at first): no one may rely on zeros. Off where a
// test looks for what stood in the memory before, and where PTMO_NO_POISON is set: initcheck then
// finds what reads memory that nothing wrote.
void poison_allocations(bool on);
bool allocations_are_poisoned();

// Who writes a buffer first. initcheck sees what the device writes alone: a buffer of the host's is
// always poisoned by the device, or each value that a test put there would be an error.
enum class Writer { kHost, kKernel };

// Poison (0xff: NaNs, -1) when it is made.
class SharedBuffer {
public:
  explicit SharedBuffer(size_t bytes, Writer first = Writer::kHost) {
    if (bytes == 0)
      return;
    void* p = nullptr;
    check_device(cudaMallocManaged(&p, bytes, cudaMemAttachGlobal), "managed memory");
    data_ = static_cast<uint8_t*>(p);
    if (first == Writer::kHost || allocations_are_poisoned())
      check_device(cudaMemset(data_, 0xff, bytes), "poison");
  }
  ~SharedBuffer() { cudaFree(data_); } // waits for the device
  SharedBuffer(SharedBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  SharedBuffer& operator=(SharedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  // After all work that was begun.
  uint8_t* data() const {
    finish_device_work();
    return data_;
  }

private:
  uint8_t* data_ = nullptr;
};

constexpr int kSchedules = 3;

inline void use_schedule(int) {}

// A GPU does not show the shared memory of its blocks; gpu/test_gpu_residue.cpp looks at what the
// next kernel finds in it.
inline void watch_shared_memory(std::function<void(const uint8_t* bytes, size_t count)> look) {
  if (look)
    skip("a GPU does not show its blocks' shared memory");
}

// A driver's heap is not ours to wipe: what it holds is counted, and told.
constexpr bool kDriverKeepsParameters = true;

inline void forget_device_threads() {}

enum class DeviceCall { kGraphLaunch, kInstantiate, kMemset, kCopy, kLaunch };
inline void fail_after(DeviceCall, int) {
  skip("a GPU does not fail on demand");
}

// The engine's own allocations: every cudaMalloc() and cudaFree() of a test program goes through
// device_under_test.cpp, which keeps this list.
struct DeviceBlock {
  uint8_t* start;
  size_t bytes;
};
std::vector<DeviceBlock> device_blocks();

inline std::vector<uint8_t> read_block(const DeviceBlock& block) {
  finish_device_work();
  std::vector<uint8_t> out(block.bytes);
  check_device(cudaMemcpy(out.data(), block.start, block.bytes, cudaMemcpyDeviceToHost),
               "reading an allocation");
  return out;
}

} // namespace ptmo::test
