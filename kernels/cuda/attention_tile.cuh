// What a warp does with a tile of 32 cache rows: the scores of its queries, their weights, and the
// weighted sums of V rows, all on the tensor cores and in registers. With g = lane / 4 and
// p = lane % 4:
//   scores   C[rows, columns] = K[rows, dim] Q[dim, columns]: a query is two columns, the high and
//            the low plane of its codes, so that lane (g, p) gets both sums of query p and rows
//            g, g + 8.. and joins them: exact integers, in whose sums elements have no order
//   weights  p[r] = 2^(x[r] - largest x of the tile), times the scale of V's row; the largest such
//            product of a tile is code kCode16, and codes go in two planes again
//   sums     C[elements, columns] = V'[elements, rows] P[rows, columns], exact integers over the 32
//            rows of a tile; then one fused step for each element and tile, tiles in order
// An element of V meets weights only, never another element, and which element of the tile it is
// decides no more than where its sum stands. So a permutation of a head's elements, which the
// weights before and after attention carry (kernels.h), needs no gather here: permuted rows give
// the permuted result, bit for bit.
//
// V' takes rows where V has elements. A lane reads four elements of the rows 2p + {0, 1, 8, 9} and
// transposes the 4 x 4 bytes with eight permutations; which row a place of the product means is
// free, as long as P agrees, and these are free of bank conflicts.
//
// Halves go the same way with products of 16 rows: a high and a low half are the planes, and sums
// are float, in the tensor core's own order.
#pragma once

#include <cfloat>
#include <type_traits>

#include "block_product.cuh"
#include "kv_tile.cuh"

namespace ptmo::cuda {

constexpr int kGroupQueries = 4;         // queries of one tensor-core product
constexpr float kNothingSeen = -FLT_MAX; // the largest score of no rows: differences stay numbers

// `a` = rows, four bytes of each; out[i] = byte i of the four rows.
__device__ __forceinline__ void transpose_bytes(const uint32_t (&rows)[4], uint32_t (&out)[4]) {
  const uint32_t low01 = __byte_perm(rows[0], rows[1], 0x5140),
                 high01 = __byte_perm(rows[0], rows[1], 0x7362),
                 low23 = __byte_perm(rows[2], rows[3], 0x5140),
                 high23 = __byte_perm(rows[2], rows[3], 0x7362);
  out[0] = __byte_perm(low01, low23, 0x5410);
  out[1] = __byte_perm(low01, low23, 0x7632);
  out[2] = __byte_perm(high01, high23, 0x5410);
  out[3] = __byte_perm(high01, high23, 0x7632);
}

// Four codes -8..7 of a page (plus 8), low nibbles or high: 16 times as large, as signed bytes.
__device__ __forceinline__ uint32_t low_nibbles(uint32_t packed) {
  return (packed << 4 & 0xf0f0f0f0u) ^ 0x80808080u;
}
__device__ __forceinline__ uint32_t high_nibbles(uint32_t packed) {
  return (packed & 0xf0f0f0f0u) ^ 0x80808080u;
}

__device__ __forceinline__ CFragment multiply(const AFragment& a, const BFragment& b,
                                              const CFragment& c) {
  return mma_s8(a, b, c);
}
__device__ __forceinline__ FloatFragment multiply(const AFragment& a, const BFragment& b,
                                                  const FloatFragment& c) {
  return mma_f16(a, b, c);
}

// One score from its planes; below 2^31 for rows of 256 elements and codes of INT4 times 16.
__device__ __forceinline__ float join_planes(int32_t high, int32_t low) {
  return static_cast<float>(256 * high + low);
}
__device__ __forceinline__ float join_planes(float high, float low) {
  return high + low;
}

// Over the lanes that have the same query: max, or sum in a fixed order.
__device__ __forceinline__ float max_of_rows(float x) {
#pragma unroll
  for (int with = 4; with < kWarpLanes; with *= 2)
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, with));
  return x;
}
__device__ __forceinline__ float sum_of_rows(float x) {
#pragma unroll
  for (int with = 4; with < kWarpLanes; with *= 2)
    x += __shfl_xor_sync(kAllLanes, x, with);
  return x;
}

// The queries of a warp, kGroups * 4, and what attention over the tiles so far gives. In the
// registers of lane (g, p): codes of query g / 2, plane g % 2; everything else of query p of a
// group.
template <KvElement kElement, int kRowBytes, int kGroups> struct WarpAttention {
  static constexpr bool kHalves = kElement == KvElement::kF16,
                        kNibbles = kElement == KvElement::kInt4;
  static constexpr int kStride = KvTile<kRowBytes>::kStride;
  static constexpr int kQueries = kGroups * kGroupQueries;
  static constexpr int kStepBytes = kNibbles ? 16 : 32; // of a K row in one product
  static constexpr int kSteps = kRowBytes / kStepBytes;
  static constexpr int kColumns = kRowBytes / 32;                  // of a V row, 32 bytes each
  static constexpr int kProducts = kNibbles ? 4 : kHalves ? 1 : 2; // of a column
  static constexpr float kCodeSize = kNibbles ? 0.0625f : 1.0f;    // see low_nibbles
  using Sums = std::conditional_t<kHalves, FloatFragment, CFragment>;

  // Weights of a tile's rows, and what the tile's sums count beside the tiles before.
  struct Weights {
    BFragment codes[kGroups][kHalves ? 2 : 1];
    float keep[kGroups], take[kGroups];
  };

  int lane, g, p;
  BFragment q[kGroups][kSteps];
  float factor[kGroups]; // a dot product of codes times this is a score in base 2
  float largest[kGroups], sum[kGroups];
  float acc[kGroups][kColumns * kProducts][2];

  __device__ explicit WarpAttention(int lane) : lane(lane), g(lane / 4), p(lane % 4) {
#pragma unroll
    for (int k = 0; k < kGroups; ++k) {
      largest[k] = kNothingSeen;
      sum[k] = 0.0f;
#pragma unroll
      for (int i = 0; i < kColumns * kProducts; ++i)
        acc[k][i][0] = acc[k][i][1] = 0.0f;
    }
  }

  // Quantises query g / 2 of group k, whose row is `row`; null: there is none.
  __device__ __forceinline__ void load(int k, const float* row, int dim, float scale) {
    constexpr int kPairs = kHalves ? 1 : 2; // of elements in a register of codes
    float2 x[kSteps][2][kPairs];
    float most = 0.0f;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int in_half = 16 * s + 4 * p; // of a row of INT4, which holds two halves
        const int at = kNibbles  ? in_half + i * (dim / 2)
                       : kHalves ? 16 * s + 8 * i + 2 * p
                                 : 32 * s + 16 * i + 4 * p;
        const bool there = row != nullptr && (kNibbles ? in_half < dim / 2 : at < dim);
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          x[s][i][j] = there ? *reinterpret_cast<const float2*>(row + at + 2 * j) : float2{0, 0};
          most = fmaxf(most, fmaxf(fabsf(x[s][i][j].x), fabsf(x[s][i][j].y)));
        }
      }
    }
    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
    constexpr float kMost = kHalves ? 1.0f : static_cast<float>(kernels::kCode16);
    const bool tiny = !(most > 1e-30f); // as quantize_row_i16: zero rows
    const float inverse = tiny ? 0.0f : kMost / most;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t codes = 0;
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          const uint32_t both = plane(x[s][i][j].x * inverse, x[s][i][j].y * inverse);
          codes |= both << 16 * j;
        }
        q[k][s].r[i] = codes;
      }
    }
    const float of_query = tiny ? 0.0f : most / kMost;
    factor[k] = __shfl_sync(kAllLanes, of_query, 8 * p) * scale * kernels::kLog2e * kCodeSize;
  }

  // Of rows in a tile that query p of a group sees: [from, to). `scales`: of the tile's rows.
  struct Seen {
    int from[kGroups], to[kGroups];
  };
  __device__ __forceinline__ Weights weigh(const uint8_t* keys, const uint2* scales,
                                           const Seen& seen, int row_bytes) {
    Sums dots[kGroups][2];
#pragma unroll
    for (int k = 0; k < kGroups; ++k)
      dots[k][0] = dots[k][1] = Sums{};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if (s * kStepBytes >= row_bytes)
        break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint8_t* at = keys + (16 * half + g) * kStride + s * kStepBytes + 4 * p;
        const AFragment a = key_fragment(at);
#pragma unroll
        for (int k = 0; k < kGroups; ++k)
          dots[k][half] = multiply(a, q[k][s], dots[k][half]);
      }
    }
    Weights out;
#pragma unroll
    for (int k = 0; k < kGroups; ++k) {
      float x[4];
      bool sees[4];
      float most = kNothingSeen;
#pragma unroll
      for (int i = 0; i < 4; ++i) { // row 8 i + g
        const int row = 8 * i + g;
        sees[i] = row >= seen.from[k] && row < seen.to[k];
        const auto& c = dots[k][i / 2].r;
        x[i] = join_planes(c[i % 2 * 2], c[i % 2 * 2 + 1]);
        if constexpr (!kHalves)
          x[i] *= __int_as_float(static_cast<int>(scales[row].x));
        x[i] = sees[i] ? x[i] * factor[k] : kNothingSeen;
        most = fmaxf(most, x[i]);
      }
      most = max_of_rows(most);
      float tile_sum = 0.0f;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x[i] = sees[i] ? exp2f(x[i] - most) : 0.0f;
        tile_sum += x[i];
      }
      const float now = fmaxf(largest[k], most);
      out.keep[k] = exp2f(largest[k] - now);
      out.take[k] = exp2f(most - now);
      largest[k] = now;
      sum[k] = __fmaf_rn(tile_sum, out.take[k], sum[k] * out.keep[k]);
      if constexpr (kHalves)
        spread_halves(x, out.codes[k]);
      else
        spread_codes(x, sees, scales, out.codes[k][0], out.take[k]);
    }
    return out;
  }

  // Adds the tile's V rows with their weights.
  __device__ __forceinline__ void add(const uint8_t* values, const Weights& weights,
                                      int row_bytes) {
#pragma unroll
    for (int b = 0; b < kColumns; ++b) {
      if (32 * b >= row_bytes)
        break;
      uint32_t words[2][4]; // four bytes of row 16 half + 2p + {0, 1, 8, 9}
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          words[half][j] = *reinterpret_cast<const uint32_t*>(
              values + (16 * half + 2 * p + j % 2 + j / 2 * 8) * kStride + 32 * b + 4 * g);
      }
      AFragment a[kHalves ? 2 : kProducts];
      value_fragments(words, a);
#pragma unroll
      for (int k = 0; k < kGroups; ++k) {
#pragma unroll
        for (int i = 0; i < kProducts; ++i) {
          float products[2];
          if constexpr (kHalves) {
            FloatFragment c = mma_f16(a[0], weights.codes[k][0], FloatFragment{});
            c = mma_f16(a[1], weights.codes[k][1], c);
            products[0] = c.r[0] + c.r[1];
            products[1] = c.r[2] + c.r[3];
          } else {
            // A sum of a plane is at most 127 * 128 * 32 < 2^20.
            const CFragment c = mma_s8(a[i], weights.codes[k][0],
                                       {{kMagicBits, kMagicBits, kMagicBits, kMagicBits}});
            products[0] = __fmaf_rn(256.0f, from_magic(c.r[0]), from_magic(c.r[1]));
            products[1] = __fmaf_rn(256.0f, from_magic(c.r[2]), from_magic(c.r[3]));
          }
          float (&to)[2] = acc[k][b * kProducts + i];
#pragma unroll
          for (int r = 0; r < 2; ++r)
            to[r] = __fmaf_rn(products[r], weights.take[k], to[r] * weights.keep[k]);
        }
      }
    }
  }

  // When all tiles are in: the sum, which lanes have in parts so far.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int k = 0; k < kGroups; ++k)
      sum[k] = sum_of_rows(sum[k]);
  }

  // use(k, element, value) for each element that the lane has.
  template <typename Use> __device__ __forceinline__ void each(int dim, const Use& use) const {
#pragma unroll
    for (int b = 0; b < kColumns; ++b) {
#pragma unroll
      for (int i = 0; i < kProducts; ++i) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int in_half = 32 * b + 4 * g + i;
          const int element = kNibbles  ? in_half + r * (dim / 2)
                              : kHalves ? 16 * b + 2 * g + r
                                        : 32 * b + 4 * g + 2 * i + r;
          if (!(kNibbles ? in_half < dim / 2 : element < dim))
            continue;
#pragma unroll
          for (int k = 0; k < kGroups; ++k)
            use(k, element, acc[k][b * kProducts + i][r]);
        }
      }
    }
  }

private:
  // Two elements of this lane's plane, 16 bits in all with integers and 32 with halves.
  __device__ __forceinline__ uint32_t plane(float x, float y) const {
    if constexpr (kHalves) {
      return half_plane(x) | half_plane(y) << 16;
    } else {
      return code_plane(__float2int_rn(x)) | code_plane(__float2int_rn(y)) << 8;
    }
  }
  __device__ __forceinline__ uint32_t half_plane(float x) const {
    const uint16_t high = to_half(x);
    return g % 2 == 0 ? high : to_half(x - from_half(high));
  }
  __device__ __forceinline__ uint32_t code_plane(int code) const {
    return static_cast<uint32_t>(g % 2 == 0 ? (code + 128) >> 8 : code) & 0xffu;
  }

  // Rows g and g + 8, as the product takes them.
  __device__ __forceinline__ AFragment key_fragment(const uint8_t* at) const {
    const auto word = [&](int offset) { return *reinterpret_cast<const uint32_t*>(at + offset); };
    if constexpr (kNibbles) {
      const uint32_t near = word(0), far = word(8 * kStride);
      return {{low_nibbles(near), low_nibbles(far), high_nibbles(near), high_nibbles(far)}};
    } else {
      return {{word(0), word(8 * kStride), word(16), word(8 * kStride + 16)}};
    }
  }

  __device__ __forceinline__ void value_fragments(const uint32_t (&words)[2][4],
                                                  AFragment (&a)[kHalves ? 2 : kProducts]) const {
    if constexpr (kHalves) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t (&w)[4] = words[half];
        a[half] = {{__byte_perm(w[0], w[1], 0x5410), __byte_perm(w[0], w[1], 0x7632),
                    __byte_perm(w[2], w[3], 0x5410), __byte_perm(w[2], w[3], 0x7632)}};
      }
    } else {
      uint32_t near[4], far[4]; // rows of the first half and the second
      transpose_bytes(words[0], near);
      transpose_bytes(words[1], far);
#pragma unroll
      for (int i = 0; i < kProducts; ++i) {
        if constexpr (kNibbles)
          a[i] = {{low_nibbles(near[i]), high_nibbles(near[i]), low_nibbles(far[i]),
                   high_nibbles(far[i])}};
        else
          a[i] = {{near[2 * i], near[2 * i + 1], far[2 * i], far[2 * i + 1]}};
      }
    }
  }

  // Weights from the lanes that have them, (row, query), to those that need them for the product,
  // (rows 2p + {0, 1, 8, 9}, column g). `take` becomes the size of a code's unit too.
  __device__ __forceinline__ void spread_codes(const float (&weight)[4], const bool (&sees)[4],
                                               const uint2* scales, BFragment& codes,
                                               float& take) const {
    float x[4], most = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = sees[i] ? weight[i] * __int_as_float(static_cast<int>(scales[8 * i + g].y)) : 0.0f;
      most = fmaxf(most, fabsf(x[i]));
    }
    most = max_of_rows(most);
    constexpr float kMost = static_cast<float>(kernels::kCode16);
    const bool tiny = !(most > 1e-30f);
    const float inverse = tiny ? 0.0f : kMost / most;
    take *= tiny ? 0.0f : most * (kCodeSize / kMost);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // 256 high + low = code: the code's two bytes, once the low one has lent its sign.
      const auto bytes = [&](float value) {
        return static_cast<uint32_t>(__float2int_rn(value * inverse) + 128) ^ 0x80u;
      };
      const uint32_t word = (bytes(x[2 * half]) & 0xffffu) | bytes(x[2 * half + 1]) << 16;
      const uint32_t first = __shfl_sync(kAllLanes, word, 8 * p + g / 2),
                     second = __shfl_sync(kAllLanes, word, 8 * p + 4 + g / 2);
      codes.r[half] = __byte_perm(first, second, g % 2 == 0 ? 0x7351 : 0x6240);
    }
  }
  __device__ __forceinline__ void spread_halves(const float (&weight)[4],
                                                BFragment (&codes)[kHalves ? 2 : 1]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float x = weight[2 * half + i];
        const uint16_t high = to_half(x);
        const uint32_t word = high | static_cast<uint32_t>(to_half(x - from_half(high))) << 16;
        const uint32_t first = __shfl_sync(kAllLanes, word, 8 * p + g / 2),
                       second = __shfl_sync(kAllLanes, word, 8 * p + 4 + g / 2);
        codes[half].r[i] = __byte_perm(first, second, g % 2 == 0 ? 0x5410 : 0x7632);
      }
    }
  }
};

} // namespace ptmo::cuda
