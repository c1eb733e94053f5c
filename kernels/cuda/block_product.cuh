// The product of 16 rows by 32 columns of weights with 8 columns of activation codes, exact in
// integers, and how it becomes floats: what the matrix kernels share.
//
// A column of the product is one plane of one token: with two planes a token's high and low codes
// stand in neighbouring columns, which one lane holds.
#pragma once

#include "cuda_kernels.h"
#include "ptx.cuh"

namespace ptmo::cuda {

// 2^23 + 2^22: the accumulators start as this float's bits, so that a sum of integers below 2^22 in
// size stands in the last bits of a float, exact, and no conversion is needed. The worst block is
// 240 * 128 * 32 < 2^20.
constexpr int32_t kMagicBits = 0x4B400000;
constexpr float kMagic = 12582912.0f;

__device__ __forceinline__ float from_magic(int32_t bits) {
  return __int_as_float(bits) - kMagic;
}

// Weights of one lane: two rows by 64 columns.
template <WeightType kType> struct WeightTile {
  static constexpr bool kInt4 = kType != WeightType::kInt8;
  static constexpr int kLoads = kInt4 ? 1 : 2;
  uint4 words[kLoads];

  // `codes`: of this panel and tile. Bytes that are read once when `kOnce`.
  template <bool kOnce> __device__ __forceinline__ void load(const uint8_t* codes, int lane) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const uint8_t* at = codes + i * kTileBytes + lane * 16;
      words[i] = kOnce ? load_once(at) : *reinterpret_cast<const uint4*>(at);
    }
  }
  // INT4 codes come out 16 times as large, in the upper half of a byte.
  __device__ __forceinline__ AFragment block(int b) const {
    if constexpr (kInt4) {
      const uint32_t low = b == 0 ? words[0].x : words[0].z,
                     high = b == 0 ? words[0].y : words[0].w;
      constexpr uint32_t kUpper = 0xf0f0f0f0u;
      return {{low << 4 & kUpper, high << 4 & kUpper, low & kUpper, high & kUpper}};
    } else {
      const uint4& w = words[b];
      return {{w.x, w.y, w.z, w.w}};
    }
  }
};

// Codes of one column of a tile: both blocks' fragments.
struct InputTile {
  uint4 words;
  __device__ __forceinline__ BFragment block(int b) const {
    return b == 0 ? BFragment{{words.x, words.y}} : BFragment{{words.z, words.w}};
  }
};

template <WeightType kType>
__device__ __forceinline__ CFragment block_product(const AFragment& a, const BFragment& b) {
  const CFragment zero{{kMagicBits, kMagicBits, kMagicBits, kMagicBits}};
  return kType == WeightType::kInt4 ? mma_u8(a, b, zero) : mma_s8(a, b, zero);
}

// The scales (and mins) of a lane's two rows for one group of columns.
template <WeightType kType> struct RowScales {
  float scale[2], min[2];

  // `unit`: where the group's fp16 values for this g stand.
  __device__ __forceinline__ void load(const uint16_t* unit) {
    constexpr float kFactor = kType == WeightType::kInt8 ? 1.0f : 0.0625f; // see WeightTile::block
    if constexpr (kType == WeightType::kInt4) {
      const uint2 v = *reinterpret_cast<const uint2*>(unit);
      scale[0] = from_half(static_cast<uint16_t>(v.x)) * kFactor;
      scale[1] = from_half(static_cast<uint16_t>(v.x >> 16)) * kFactor;
      min[0] = from_half(static_cast<uint16_t>(v.y));
      min[1] = from_half(static_cast<uint16_t>(v.y >> 16));
    } else {
      const uint32_t v = *reinterpret_cast<const uint32_t*>(unit);
      scale[0] = from_half(static_cast<uint16_t>(v)) * kFactor;
      scale[1] = from_half(static_cast<uint16_t>(v >> 16)) * kFactor;
    }
  }
};

// Sums of a lane for 8 columns of the product: two rows by two tokens, or by one with two planes.
template <WeightType kType, int kPlanes> struct Sums {
  static constexpr int kTokens = 2 / kPlanes;
  float at[2][kTokens] = {};

  // Adds block b of a tile. Of token t's activations, input[t] has each block's scale and scale *
  // sum of codes.
  __device__ __forceinline__ void add(const CFragment& c, const RowScales<kType>& w,
                                      const float4 (&input)[kTokens], int b) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float scale = b == 0 ? input[t].x : input[t].z,
                    sum = b == 0 ? input[t].y : input[t].w;
        const float product = kPlanes == 1 ? from_magic(c.r[2 * row + t])
                                           : __fmaf_rn(256.0f, from_magic(c.r[2 * row]),
                                                       from_magic(c.r[2 * row + 1]));
        at[row][t] = __fmaf_rn(w.scale[row] * scale, product, at[row][t]);
        if constexpr (kType == WeightType::kInt4)
          at[row][t] = __fmaf_rn(w.min[row], sum, at[row][t]);
      }
    }
  }
};

// The low-rank updates of y[token, row], added to `y` in order.
__device__ __forceinline__ float add_low_rank(const MatmulJob& job, int row, int token, float y) {
  for (int i = 0; i < job.term_count; ++i) {
    const DeviceLowRankTerm& term = job.terms[i];
    const int at = token - term.first;
    if (at < 0 || at >= term.count)
      continue;
    for (int chunk = 0; chunk < term.chunks; ++chunk) {
      const size_t place = static_cast<size_t>(row) * term.chunks + chunk;
      const uint4 codes = *reinterpret_cast<const uint4*>(term.b + place * kernels::kRankChunk);
      const float* u =
          term.u + (static_cast<size_t>(at) * term.chunks + chunk) * kernels::kRankChunk;
      const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
      float sum = 0.0f;
#pragma unroll
      for (int r = 0; r < kernels::kRankChunk; ++r)
        sum = __fmaf_rn(static_cast<float>(static_cast<int8_t>(words[r / 4] >> 8 * (r % 4))), u[r],
                        sum);
      y = __fmaf_rn(from_half(term.b_scales[place]), sum, y);
    }
  }
  return y;
}

// Bias, updates, and where y goes.
__device__ __forceinline__ void finish(const MatmulJob& job, int row, int token, float sum) {
  if (row >= job.w.rows || token >= job.x.tokens)
    return;
  if (job.bias != nullptr)
    sum += job.bias[row];
  sum = add_low_rank(job, row, token, sum);
  float* y = job.y + static_cast<size_t>(token) * job.y_stride + row;
  *y = job.add ? *y + sum : sum;
}

} // namespace ptmo::cuda
