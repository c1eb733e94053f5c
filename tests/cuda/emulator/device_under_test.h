// What a test may ask of the device it runs on beyond the CUDA runtime. There are two of these
// headers, found by the include path: this one for the emulator, gpu/device_under_test.h for a GPU.
//
// The emulator can do what no GPU can: choose the order of the threads, and look into shared memory
// as a block leaves it.
#pragma once

#include <cstring>
#include <functional>
#include <vector>

#include <cuda_runtime.h>

#include "quant/int4.h"

namespace ptmo::test {

// Who writes a buffer first. It matters to initcheck, on a GPU.
enum class Writer { kHost, kKernel };

// Memory of an exact size, aligned as a device's is, that the host and the device both reach:
// AddressSanitizer sees what leaves it. Poison (0xff: NaNs, -1) when it is made.
class SharedBuffer {
public:
  explicit SharedBuffer(size_t bytes, Writer = Writer::kHost) : memory_(bytes) {
    if (bytes > 0)
      std::memset(memory_.data(), 0xff, bytes);
  }
  // After all work that was begun.
  uint8_t* data() const { return memory_.data(); }

private:
  AlignedBuffer memory_;
};

// Runs that in_every_order() compares.
constexpr int kSchedules = 3;

inline void use_schedule(int i) {
  using cuda_emulator::Order;
  const cuda_emulator::Schedule all[kSchedules] = {
      {Order::kForward, 0}, {Order::kBackward, 0}, {Order::kShuffled, 7}};
  cuda_emulator::schedule = all[i];
}

// Ends when the device has done all that was begun; an error of it is a failure of the test.
inline void finish_device_work() {}

// From here on `look` sees each of a block's shared arrays as the block leaves it; null: no longer.
// Skips the case where the device does not show them.
inline void watch_shared_memory(std::function<void(const uint8_t* bytes, size_t count)> look) {
  cuda_emulator::inspect_shared = std::move(look);
}

// Whether the driver keeps what a launch was given in memory of its own.
constexpr bool kDriverKeepsParameters = false;

// Threads of the device leave nothing in the host's memory.
inline void forget_device_threads() {
  cuda_emulator::forget_threads();
}

// After so many more calls of this kind, those that follow fail; below zero: none does. Skips the
// case where that cannot be had.
using DeviceCall = cuda_emulator::Call;
inline void fail_after(DeviceCall call, int calls) {
  cuda_emulator::calls_before_failure(call) = calls;
}

// What the engine has allocated, and what stands there now.
struct DeviceBlock {
  uint8_t* start;
  size_t bytes;
};
inline std::vector<DeviceBlock> device_blocks() {
  std::vector<DeviceBlock> out;
  for (const auto& [start, bytes] : cuda_emulator::device_memory())
    out.push_back({start, bytes});
  return out;
}
inline std::vector<uint8_t> read_block(const DeviceBlock& block) {
  const cuda_emulator::DeviceAccess open;
  return {block.start, block.start + block.bytes};
}

} // namespace ptmo::test
