// The machine instructions that C++ has no name for, and nothing else: INT8 tensor-core products,
// asynchronous copies into shared memory, loads past a cache, halves (PTX ISA; sm_80 and later).
// Under the emulator (tests/cuda/emulator) the same names run on the CPU.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "../half.h"

namespace ptmo::cuda {

constexpr uint32_t kAllLanes = 0xffffffffu; // of a warp, in its exchanges

// Fragments of one product C[16, 8] += A[16, 32] B[32, 8] of 8-bit integers, spread over a warp.
// With g = lane / 4 and p = lane % 4, a register of four bytes holds
//   a[0], a[1]: A[g or g + 8][4p..4p+3];   a[2], a[3]: the same rows, columns 16 + 4p..
//   b[0]: B[4p..4p+3][g];                  b[1]: B[16 + 4p..][g]
//   c[0], c[1]: C[g][2p], C[g][2p + 1];    c[2], c[3]: row g + 8
struct AFragment {
  uint32_t r[4];
};
struct BFragment {
  uint32_t r[2];
};
struct CFragment {
  int32_t r[4];
};
// C of a product C[16, 8] += A[16, 16] B[16, 8] of halves. A register of A and B has two of them
// where it has four bytes above: a[0]: A[g][2p], A[g][2p + 1]; a[2]: columns 8 + 2p..; b likewise.
struct FloatFragment {
  float r[4];
};

#ifdef __CUDACC__

// What the three products differ in: shape and types, C's fragment and its registers' kind.
#define PTMO_MMA(name, types, Fragment, kind)                                                      \
  __device__ __forceinline__ Fragment name(const AFragment& a, const BFragment& b,                 \
                                           const Fragment& c) {                                    \
    Fragment d;                                                                                    \
    asm("mma.sync.aligned." types " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"     \
        : "=" kind(d.r[0]), "=" kind(d.r[1]), "=" kind(d.r[2]), "=" kind(d.r[3])                   \
        : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]),            \
          kind(c.r[0]), kind(c.r[1]), kind(c.r[2]), kind(c.r[3]));                                 \
    return d;                                                                                      \
  }

PTMO_MMA(mma_s8, "m16n8k32.row.col.s32.s8.s8.s32", CFragment, "r")        // A signed
PTMO_MMA(mma_u8, "m16n8k32.row.col.s32.u8.s8.s32", CFragment, "r")        // A unsigned, B signed
PTMO_MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32", FloatFragment, "f") // halves
#undef PTMO_MMA

// 16 bytes from global to shared memory, past the first cache; zeros where `wanted` is false.
__device__ __forceinline__ void copy16_async(void* shared, const void* global, bool wanted) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = wanted ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
               : "memory");
}

// 8 bytes, for rows that are no multiple of 16.
__device__ __forceinline__ void copy8_async(void* shared, const void* global, bool wanted) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = wanted ? 8 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(global), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `Left` groups of this thread's copies are under way.
template <int Left> __device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}

// Loads of what is `wanted`, asked for where they stand; else the value stays. The condition is the
// instruction's own: around it, the compiler would move registers in each case.
__device__ __forceinline__ void load_if(bool wanted, const void* p, uint32_t& v) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.s32 p, %2, 0;\n@p ld.global.nc.u32 %0, [%1];\n}"
               : "+r"(v)
               : "l"(p), "r"(static_cast<int>(wanted)));
}
__device__ __forceinline__ void load_if(bool wanted, const void* p, uint2& v) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.s32 p, %3, 0;\n@p ld.global.nc.v2.u32 {%0,%1}, [%2];\n}"
               : "+r"(v.x), "+r"(v.y)
               : "l"(p), "r"(static_cast<int>(wanted)));
}
// 16 bytes that are read once: they leave the caches to what is read again.
__device__ __forceinline__ void load_once_if(bool wanted, const void* p, uint4& v) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.s32 p, %5, 0;\n"
               "@p ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n}"
               : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
               : "l"(p), "r"(static_cast<int>(wanted)));
}

__device__ __forceinline__ float from_half(uint16_t h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}

__device__ __forceinline__ uint16_t to_half(float f) {
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}

// Zeroes 16 bytes of shared memory, read again or not.
__device__ __forceinline__ void wipe16(void* shared) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
}

// An array of the block's shared memory. Sizes are constants, so that the compiler reports them.
#define PTMO_SHARED(type, name, count) __shared__ __align__(16) type name[count]

#else

#include "emulated_ptx.h"

#endif

} // namespace ptmo::cuda
