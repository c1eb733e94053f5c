// The product of 16 rows by 32 columns of weights with 8 columns of activation codes, exact in
// integers, and how it becomes floats: what the matrix kernels share.
//
// A column of the product is one plane of one token: with two planes a token's high and low codes
// stand in neighbouring columns, which one lane holds.
#pragma once

#include <type_traits>

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

  // `codes`: the lane's 16 bytes of this panel and tile.
  __device__ __forceinline__ void load(const uint8_t* codes) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i)
      words[i] = *reinterpret_cast<const uint4*>(codes + i * kTileBytes);
  }
  // From memory, where they are read once; what is not `wanted` stays as it is.
  __device__ __forceinline__ void load_once(const uint8_t* codes, bool wanted) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i)
      load_once_if(wanted, codes + i * kTileBytes, words[i]);
  }
  // Symmetric INT4 codes come out 16 times as large, their sign in a byte's.
  __device__ __forceinline__ AFragment block(int b) const {
    if constexpr (kInt4) {
      const uint32_t low = b == 0 ? words[0].x : words[0].z,
                     high = b == 0 ? words[0].y : words[0].w;
      constexpr uint32_t kLower = 0x0f0f0f0fu, kUpper = 0xf0f0f0f0u;
      if constexpr (kType == WeightType::kInt4)
        return {{low & kLower, high & kLower, low >> 4 & kLower, high >> 4 & kLower}};
      else
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

// fp16 scales (and mins) of a lane's two rows for one group of columns, as they lie.
template <WeightType kType>
using ScaleBits = std::conditional_t<kType == WeightType::kInt4, uint2, uint32_t>;

template <WeightType kType> struct RowScales {
  float scale[2], min[2];

  __device__ __forceinline__ void unpack(const ScaleBits<kType>& bits) {
    if constexpr (kType == WeightType::kInt4) {
      to_floats(bits.x, 1.0f, scale);
      to_floats(bits.y, 1.0f, min);
    } else {
      to_floats(bits, kType == WeightType::kInt8 ? 1.0f : 0.0625f, scale); // see WeightTile::block
    }
  }

private:
  __device__ __forceinline__ static void to_floats(uint32_t halves, float factor, float (&out)[2]) {
    out[0] = from_half(static_cast<uint16_t>(halves)) * factor;
    out[1] = from_half(static_cast<uint16_t>(halves >> 16)) * factor;
  }
};

// Sums of a lane for 8 columns of the product: two rows by two tokens, or by one with two planes.
//
// How an exact sum of integers becomes a float: of one plane with the magic, one operation of the
// floating-point pipe; of two as 256 * high + low and a conversion, two operations in place of
// three, of the integer pipe. (Attention takes the other three: there that pipe has the cipher.)
template <WeightType kType, int kPlanes> struct Sums {
  static constexpr int kTokens = 2 / kPlanes;
  float at[2][kTokens] = {};

  // The product of one block, as add() takes it.
  __device__ __forceinline__ static CFragment multiply(const AFragment& a, const BFragment& b) {
    constexpr int32_t kStart = kPlanes == 1 ? kMagicBits : 0;
    const CFragment start{{kStart, kStart, kStart, kStart}};
    return kType == WeightType::kInt4 ? mma_u8(a, b, start) : mma_s8(a, b, start);
  }

  // Adds a tile: the products of its two blocks. `w`: of each block, or of both where they are of
  // one group. Of token t's activations, input[t] has each block's scale and scale * sum of codes.
  template <int kGroups>
  __device__ __forceinline__ void add(const CFragment (&c)[2], const RowScales<kType> (&w)[kGroups],
                                      const float4 (&input)[kTokens]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float4& in = input[t];
        float& sum = at[row][t];
        const float first = product(c[0], row, t), second = product(c[1], row, t);
        if constexpr (kGroups == 1) {
          sum = __fmaf_rn(w[0].scale[row], __fmaf_rn(in.z, second, in.x * first), sum);
          if constexpr (kType == WeightType::kInt4)
            sum = __fmaf_rn(w[0].min[row], in.y + in.w, sum);
        } else {
          sum = __fmaf_rn(w[0].scale[row] * in.x, first, sum);
          sum = __fmaf_rn(w[1].scale[row] * in.z, second, sum);
          if constexpr (kType == WeightType::kInt4)
            sum = __fmaf_rn(w[1].min[row], in.w, __fmaf_rn(w[0].min[row], in.y, sum));
        }
      }
    }
  }

private:
  __device__ __forceinline__ static float product(const CFragment& c, int row, int t) {
    return kPlanes == 1 ? from_magic(c.r[2 * row + t])
                        : static_cast<float>(256 * c.r[2 * row] + c.r[2 * row + 1]);
  }
};

// Byte j of four signed ones, put into the last bits of 2^23 + 128: a conversion would take the
// device four times as long.
__device__ __forceinline__ float byte_to_float(uint32_t bytes, int j) {
  const uint32_t bits = __byte_perm(bytes ^ 0x80808080u, 0x4B000000u, 0x7440u | j);
  return __int_as_float(static_cast<int>(bits)) - 8388736.0f;
}

// What y[token, row] gets beside the product: bias and low-rank updates, in order.
__device__ __forceinline__ float beside_product(const MatmulPart& part, int row, int token) {
  float y = part.bias == nullptr ? 0.0f : part.bias[row];
  for (int i = 0; i < part.term_count; ++i) {
    const DeviceLowRankTerm& term = part.terms[i];
    const int at = token - term.first;
    if (at < 0 || at >= term.count)
      continue;
    for (int chunk = 0; chunk < term.chunks; ++chunk) {
      const size_t place = static_cast<size_t>(row) * term.chunks + chunk;
      const uint4 codes = *reinterpret_cast<const uint4*>(term.b + place * kernels::kRankChunk);
      const auto* u = reinterpret_cast<const float4*>(
          term.u + (static_cast<size_t>(at) * term.chunks + chunk) * kernels::kRankChunk);
      const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
      float sum = 0.0f;
#pragma unroll
      for (int r = 0; r < kernels::kRankChunk / 4; ++r) {
        const float4 of = u[r];
        const float values[4] = {of.x, of.y, of.z, of.w};
#pragma unroll
        for (int j = 0; j < 4; ++j)
          sum = __fmaf_rn(byte_to_float(words[r], j), values[j], sum);
      }
      y = __fmaf_rn(from_half(term.b_scales[place]), sum, y);
    }
  }
  return y;
}

// Where y[token, row] goes; null: outside the product.
__device__ __forceinline__ float* place_of(const MatmulPart& part, int tokens, int row, int token) {
  const bool there = row < part.w.rows && token < tokens;
  return there ? part.y + static_cast<size_t>(token) * part.y_stride + row : nullptr;
}

} // namespace ptmo::cuda
