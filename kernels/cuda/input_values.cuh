// The values of a matrix product's input, before they are quantised: RMS norm or gate, residual.
// Every thread of a block has four columns at a time.
#pragma once

#include "../gates.h"
#include "cuda_kernels.h"
#include "ptx.cuh"

namespace ptmo::cuda {

constexpr int kInputWarps = 8, kInputThreads = kInputWarps * kWarpLanes;
constexpr int kInputStep =
    kInputThreads * 4; // columns that a block computes at a time, four a thread

struct Four {
  float at[4];
};
__device__ __forceinline__ Four load(const float* p) {
  const float4 v = *reinterpret_cast<const float4*>(p);
  return {{v.x, v.y, v.z, v.w}};
}
__device__ __forceinline__ void store(float* p, const Four& v) {
  *reinterpret_cast<float4*>(p) = float4{v.at[0], v.at[1], v.at[2], v.at[3]};
}

struct Row {
  const float *x, *up, *added;
  float inverse, added_inverse; // 1 / RMS
};

// (1 / RMS) of the values(col) of the columns in a row, for all threads. Squares of large values
// are summed apart and scaled (Blue 1978), so that none overflows; those that vanish are nothing
// beside eps.
template <typename Values>
__device__ float inverse_rms(int cols, float eps, float* shared, const Values& values) {
  constexpr float kLarge = 0x1p40f, kDown = 0x1p-72f;
  float small = 0.0f, large = 0.0f;
  for (int col = static_cast<int>(threadIdx.x) * 4; col < cols; col += kInputStep) {
    const Four v = values(col);
#pragma unroll
    for (const float x : v.at) {
      const bool is_large = fabsf(x) >= kLarge;
      const float low = is_large ? 0.0f : x, high = is_large ? x * kDown : 0.0f;
      small = __fmaf_rn(low, low, small);
      large = __fmaf_rn(high, high, large);
    }
  }
#pragma unroll
  for (int with = kWarpLanes / 2; with > 0; with /= 2) {
    small += __shfl_xor_sync(kAllLanes, small, with);
    large += __shfl_xor_sync(kAllLanes, large, with);
  }
  __syncthreads(); // all have read the sums of the last call
  if (threadIdx.x % kWarpLanes == 0) {
    shared[threadIdx.x / kWarpLanes * 2] = small;
    shared[threadIdx.x / kWarpLanes * 2 + 1] = large;
  }
  __syncthreads();
  small = large = 0.0f;
#pragma unroll
  for (int w = 0; w < kInputWarps; ++w) {
    small += shared[2 * w];
    large += shared[2 * w + 1];
  }
  const float n = static_cast<float>(cols), rest = small / n + eps;
  return large > 0.0f ? kDown / sqrtf(__fmaf_rn(rest, kDown * kDown, large / n))
                      : 1.0f / sqrtf(rest);
}

// x + added.
__device__ __forceinline__ Four residual(const PrepareJob& job, const Row& row, int col) {
  Four v = load(row.x + col);
  if (row.added != nullptr) {
    Four more = load(row.added + col);
    if (job.added_weight != nullptr) {
      const Four weight = load(job.added_weight + col);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        more.at[i] = more.at[i] * row.added_inverse * weight.at[i];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      v.at[i] += more.at[i];
  }
  return v;
}

__device__ __forceinline__ Four finished(const PrepareJob& job, const Row& row, int col, Four v) {
  if (job.kind == InputKind::kPlain)
    return v;
  const Four by = load(job.kind == InputKind::kNorm ? job.weight + col : row.up + col);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float x = v.at[i];
    v.at[i] = (job.kind == InputKind::kNorm   ? x * row.inverse
               : job.kind == InputKind::kSilu ? kernels::silu(x)
                                              : kernels::gelu_tanh(x)) *
              by.at[i];
  }
  return v;
}

// All threads of the block.
__device__ Row open_row(const PrepareJob& job, int token, float* shared) {
  const size_t at = static_cast<size_t>(job.rows == nullptr ? token : job.rows[token]) * job.cols;
  Row row{job.x + at, job.up == nullptr ? nullptr : job.up + at,
          job.added == nullptr ? nullptr : job.added + at, 1.0f, 1.0f};
  if (row.added != nullptr && job.added_weight != nullptr)
    row.added_inverse =
        inverse_rms(job.cols, job.eps, shared, [&](int col) { return load(row.added + col); });
  if (job.kind == InputKind::kNorm)
    row.inverse =
        inverse_rms(job.cols, job.eps, shared, [&](int col) { return residual(job, row, col); });
  return row;
}

} // namespace ptmo::cuda
