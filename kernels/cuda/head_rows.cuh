// Rows of a head in registers, one a warp. A lane holds the rotary pairs (i, i + dim / 2) for i =
// lane, lane + 32, ..: RoPE and the INT4 packing need no other lane, and every load is 128 bytes
// without a gap.
#pragma once

#include "../half.h"
#include "../reference/head_norm.h"
#include "../rotary.h"
#include "../row_codes.h"
#include "cuda_kernels.h"
#include "ptx.cuh"

namespace ptmo::cuda {

constexpr int kRowWarps = 8; // of a block

__device__ __forceinline__ float warp_max(float x) {
  for (int with = kWarpLanes / 2; with > 0; with /= 2)
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, with));
  return x;
}

__device__ __forceinline__ uint64_t warp_sum(uint64_t x) {
  for (int with = kWarpLanes / 2; with > 0; with /= 2)
    x += __shfl_xor_sync(kAllLanes, x, with);
  return x;
}

// What becomes a row's factor of the norm. It tells of a K row, and is zeroed like one.
struct RowNorm {
  uint64_t codes;
  float max, inverse;
};

// A lane's part of a row; zeros past the row's end.
template <int kPairs> struct RowPairs {
  float low[kPairs], high[kPairs];

  // Calls f(pair, its place in the row's first half).
  template <typename F> static __device__ __forceinline__ void each(int half, int lane, F f) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int i = lane + j * kWarpLanes;
      if (i < half)
        f(j, i);
    }
  }
  __device__ __forceinline__ void load(const float* row, int half, int lane) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j)
      low[j] = high[j] = 0.0f;
    each(half, lane, [&](int j, int i) {
      low[j] = row[i];
      high[j] = row[i + half];
    });
  }
  __device__ __forceinline__ void store(float* row, int half, int lane) const {
    each(half, lane, [&](int j, int i) {
      row[i] = low[j];
      row[i + half] = high[j];
    });
  }
  // A NaN counts for nothing.
  __device__ __forceinline__ float largest() const {
    float max = 0.0f;
#pragma unroll
    for (int j = 0; j < kPairs; ++j)
      max = fmaxf(fmaxf(max, fabsf(low[j])), fabsf(high[j]));
    return warp_max(max);
  }
  // The order-free sum of squares, in integers.
  __device__ __forceinline__ RowNorm squares(int dim) const {
    const float max = largest();
    const int e = kernels::grid_exponent(max, dim);
    uint64_t sum = 0;
#pragma unroll
    for (int j = 0; j < kPairs; ++j)
      sum += kernels::square_code(low[j], e) + kernels::square_code(high[j], e);
    return {warp_sum(sum), max, 0.0f};
  }
  __device__ __forceinline__ void scale(const float* weight, float by, int half, int lane) {
    each(half, lane, [&](int j, int i) {
      low[j] = low[j] * by * weight[i];
      high[j] = high[j] * by * weight[i + half];
    });
  }
  __device__ __forceinline__ void rotate(const float* cosine, const float* sine, int half,
                                         int lane) {
    each(half, lane,
         [&](int j, int i) { kernels::rotate_pair(low[j], high[j], cosine[i], sine[i]); });
  }
};

// QK-norm of a block's rows; `weight` is null where the warp's row has none. All threads of the
// block come here. Small GPUs divide doubles slowly: one warp does it for all rows at once.
template <int kPairs>
__device__ __forceinline__ void norm_rows(RowPairs<kPairs>& row, const float* weight, int dim,
                                          float eps, int warp, int lane) {
  PTMO_SHARED(RowNorm, norms, kRowWarps);
  if (weight != nullptr) {
    const RowNorm norm = row.squares(dim);
    if (lane == 0)
      norms[warp] = norm;
  }
  __syncthreads();
  if (warp == 0 && lane < kRowWarps) {
    RowNorm& norm = norms[lane];
    norm.inverse =
        kernels::inverse_rms(kernels::sum_of_squares(norm.codes, norm.max, dim), dim, eps);
  }
  __syncthreads();
  if (weight != nullptr)
    row.scale(weight, norms[warp].inverse, dim / 2, lane);
  __syncwarp();
  if (lane == 0) {
    volatile RowNorm& norm = norms[warp];
    norm.codes = 0;
    norm.max = 0.0f;
    norm.inverse = 0.0f;
  }
}

// The row's elements into `out`; returns its scale.
template <KvElement kElement, int kPairs>
__device__ __forceinline__ float encode_row(const RowPairs<kPairs>& row, int half, int lane,
                                            uint8_t* out) {
  if constexpr (kElement == KvElement::kF16) {
    auto* halves = reinterpret_cast<uint16_t*>(out);
    RowPairs<kPairs>::each(half, lane, [&](int j, int i) {
      halves[i] = float_to_half(row.low[j]);
      halves[i + half] = float_to_half(row.high[j]);
    });
    return 0.0f;
  } else {
    constexpr bool kInt8 = kElement == KvElement::kInt8;
    const kernels::CodeScale by =
        kernels::code_scale(row.largest(), kInt8 ? kernels::kLargestInt8 : kernels::kLargestInt4);
    RowPairs<kPairs>::each(half, lane, [&](int j, int i) {
      const int low = static_cast<int>(kernels::row_code(row.low[j], by.inverse));
      const int high = static_cast<int>(kernels::row_code(row.high[j], by.inverse));
      if constexpr (kInt8) {
        out[i] = static_cast<uint8_t>(low);
        out[i + half] = static_cast<uint8_t>(high);
      } else {
        out[i] = kernels::pack_int4_codes(low, high);
      }
    });
    return by.scale;
  }
}

} // namespace ptmo::cuda
