// The part of CUDA C++ that kernels/cuda uses, run on the CPU: include this folder first and the
// kernels compile as plain C++.
//
// Every thread of a block is a fiber. A fiber runs until it must wait for others: at a block
// barrier, or where its warp exchanges values. Blocks run one after another. What a GPU leaves
// undefined is made visible instead of working by luck:
//   order      fibers run in the order that `schedule` names: a result that differs between
//              orders is a race
//   memory     a shared array is a heap block of its exact size, poisoned before each block, so
//   that
//              AddressSanitizer sees what leaves it; global memory is what the test allocated
//   copies     an asynchronous copy arrives when it is waited for, and its target is poison until
//              then (ptx.h)
//   barriers   threads that wait for each other in different places throw
// Sums, products and conversions are IEEE, as on the GPU; exp2f and the like differ in last bits.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

using cudaStream_t = struct EmulatedStream*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1;

namespace cuda_emulator {

// kForward, kBackward: a warp runs as far as it can before the next one starts, so that it is ahead
// wherever a barrier is missing. kShuffled: threads of all warps take turns.
enum class Order { kForward, kBackward, kShuffled };

struct Schedule {
  Order order = Order::kForward;
  uint32_t seed = 1;
};
extern Schedule schedule;

// Called, where set, with each of a block's shared arrays as the block leaves it.
extern std::function<void(const uint8_t* bytes, size_t count)> inspect_shared;

// Runs `body` once for every thread of the grid. Throws std::runtime_error where threads wait for
// each other in vain.
void run_grid(dim3 grid, dim3 block, const std::function<void()>& body);

// Zeroes what the last block's threads had in registers and on their stacks, which on a device is
// no memory of the host.
void forget_threads();

// The block's array of that place in the source: 16-byte aligned.
void* shared_array(const void* place, size_t bytes);
unsigned lane();
void sync_block();

// Every lane of the warp named in `mask` gives `bytes` bytes of `in` and gets all 32 lanes' bytes
// [32, bytes] (zeros of a lane outside). `what` names the operation: lanes must agree on it.
const uint8_t* exchange(const char* what, uint32_t mask, const void* in, size_t bytes);

// Asynchronous copies of this thread, in groups.
void begin_copy(void* to, const void* from, size_t bytes, size_t valid);
void commit_copies();
void wait_copies(int groups_left);

struct Uint3 {
  unsigned x = 0, y = 0, z = 0;
};
extern Uint3 thread_index, block_index;
extern dim3 block_size, grid_size;

template <typename T> T from_lane(const char* what, uint32_t mask, T value, unsigned source) {
  const uint8_t* all = exchange(what, mask, &value, sizeof(T));
  std::memcpy(&value, all + source % 32 * sizeof(T), sizeof(T));
  return value;
}

} // namespace cuda_emulator

#define threadIdx cuda_emulator::thread_index
#define blockIdx cuda_emulator::block_index
#define blockDim cuda_emulator::block_size
#define gridDim cuda_emulator::grid_size

inline void __syncthreads() {
  cuda_emulator::sync_block();
}
inline void __syncwarp(uint32_t mask = 0xffffffffu) {
  cuda_emulator::exchange("__syncwarp", mask, nullptr, 0);
}
template <typename T> T __shfl_xor_sync(uint32_t mask, T value, int with) {
  return cuda_emulator::from_lane("__shfl_xor_sync", mask, value,
                                  cuda_emulator::lane() ^ static_cast<unsigned>(with));
}
template <typename T> T __shfl_sync(uint32_t mask, T value, int source) {
  return cuda_emulator::from_lane("__shfl_sync", mask, value, static_cast<unsigned>(source));
}
inline unsigned __reduce_add_sync(uint32_t mask, unsigned value) {
  const uint8_t* all = cuda_emulator::exchange("__reduce_add_sync", mask, &value, sizeof(value));
  unsigned sum = 0;
  for (int lane = 0; lane < 32; ++lane) {
    std::memcpy(&value, all + lane * sizeof(value), sizeof(value));
    sum += value; // zeros of lanes outside
  }
  return sum;
}

template <typename T> T __ldg(const T* p) {
  return *p;
}
// Fibers run one at a time: nothing comes between the read and the write.
inline unsigned atomicAdd(unsigned* p, unsigned value) {
  const unsigned before = *p;
  *p = before + value;
  return before;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i)
    c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  return c;
}
inline int min(int a, int b) {
  return a < b ? a : b;
}
inline float __int_as_float(int x) {
  float out;
  std::memcpy(&out, &x, sizeof(out));
  return out;
}
inline int __float_as_int(float x) {
  int out;
  std::memcpy(&out, &x, sizeof(out));
  return out;
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}

inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t both = static_cast<uint64_t>(y) << 32 | x;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i)
    out |= static_cast<unsigned>(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return out;
}
// To the nearest even; a NaN is zero, what is out of range its end.
inline int __float2int_rn(float x) {
  if (std::isnan(x))
    return 0;
  const float nearest = std::nearbyint(x);
  return nearest >= 2147483648.0f    ? INT32_MAX
         : nearest <= -2147483648.0f ? INT32_MIN
                                     : static_cast<int>(nearest);
}

#include "emulated_runtime.h"
