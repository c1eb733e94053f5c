// The matrix and score kernels of the levels with 256-bit registers: a panel's 16 rows are two ymm
// registers of 8 rows. The levels differ in how a register of weight codes (8 rows x 4 columns)
// meets a broadcast of four activation codes; that is their `Dot` (avx2.cpp, avxvnni.cpp):
//   Dot::Int4            the integer sum of a block of INT4 codes, 0 at first
//     add(codes, four)   adds the products of unsigned codes
//     total()            int32, one lane a row; exact
//   Dot::Int8            the same for INT8 codes
//     prepare(codes)     what add() takes for a register of signed codes
//     kBias              what it adds to each
// The rest is the Product of integer_level.h.
#pragma once

#include "attention_avx2.h"
#include "integer_level.h"

namespace ptmo::kernels {
namespace {

inline __m256i broadcast4(const int8_t* codes) {
  return _mm256_set1_epi32(four_codes(codes));
}

inline __m256i load256(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

inline void store_rows(float* y, __m256 acc, int half, int rows) {
  alignas(32) float out[8];
  _mm256_store_ps(out, acc);
  for (int r = half * 8; r < std::min(rows, half * 8 + 8); ++r)
    y[r] = out[r - half * 8];
}

// A part is the rows 8 * half .. 8 * half + 7 of a panel. The two halves lie in the same cache
// lines: the first asks for what comes next.
template <typename Dot> struct HalfPanels {
  static constexpr int kParts = 2, kTokens = 4;

  // The products of a block's 32 columns, code[c] holding columns 4c .. 4c + 3, each code `bias`
  // too high; exact.
  template <typename Sum, bool kWide>
  static __m256 dot(const __m256i code[8], int bias, const Activations& x, size_t block) {
    const auto products = [&](const int8_t* codes) {
      Sum sum;
      for (int c = 0; c < 8; ++c)
        sum.add(code[c], broadcast4(codes + 4 * c));
      return sum.total();
    };
    __m256i sum = products(x.codes + block * kBlock);
    if (kWide)
      sum = _mm256_add_epi32(_mm256_slli_epi32(sum, 8), products(x.low + block * kBlock));
    if (bias != 0)
      sum = _mm256_sub_epi32(sum, _mm256_set1_epi32(bias * x.code_sums[block]));
    return _mm256_cvtepi32_ps(sum);
  }

  template <int NT, bool kMins, bool kWide>
  static void int4(const PackedMatrix& w, const uint8_t* panel, int half, int rows,
                   const Activations& x, int t0, float* y, size_t y_stride) {
    const int blocks = w.cols / kBlock, per_group = w.group / kBlock;
    const __m256i nibble = _mm256_set1_epi8(0x0f);
    __m256 acc[NT];
    for (int t = 0; t < NT; ++t)
      acc[t] = _mm256_setzero_ps();
    const uint8_t* at = panel;
    for (int b = 0; b < blocks; at += kMins ? 64 : 32) {
      const uint8_t* tail = at + static_cast<size_t>(per_group) * 256;
      const __m256 d = load_scales(tail + 16 * half);
      const __m256 m = kMins ? load_scales(tail + 32 + 16 * half) : d;
      for (int g = 0; g < per_group; ++g, ++b, at += 256) {
        prefetch(at, half == 0 ? 5 : 0);
        __m256i code[8];
        for (int p = 0; p < 4; ++p) {
          const __m256i raw = load256(at + p * 64 + half * 32);
          code[p] = _mm256_and_si256(raw, nibble);
          code[4 + p] = _mm256_and_si256(_mm256_srli_epi16(raw, 4), nibble);
        }
        for (int t = 0; t < NT; ++t) {
          const size_t block = static_cast<size_t>(t0 + t) * blocks + b;
          const __m256 sum = dot<typename Dot::Int4, kWide>(code, kMins ? 0 : 8, x, block);
          acc[t] = _mm256_fmadd_ps(sum, _mm256_mul_ps(d, _mm256_set1_ps(x.scales[block])), acc[t]);
          if (kMins)
            acc[t] = _mm256_fmadd_ps(m, _mm256_set1_ps(x.sums[block]), acc[t]);
        }
      }
    }
    for (int t = 0; t < NT; ++t)
      store_rows(y + (t0 + t) * y_stride, acc[t], half, rows);
  }

  template <int NT, bool kWide>
  static void int8(const PackedMatrix& w, const uint8_t* panel, int half, int rows,
                   const Activations& x, int t0, float* y, size_t y_stride) {
    const int blocks = w.cols / kBlock;
    __m256 acc[NT];
    for (int t = 0; t < NT; ++t)
      acc[t] = _mm256_setzero_ps();
    const uint8_t* at = panel;
    for (int b = 0; b < blocks; ++b, at += kInt8BlockBytes) {
      prefetch(at, half == 0 ? 9 : 0);
      const __m256 d = load_scales(at + 512 + 16 * half);
      __m256i code[8];
      for (int c = 0; c < 8; ++c)
        code[c] = Dot::Int8::prepare(load256(at + c * 64 + half * 32));
      for (int t = 0; t < NT; ++t) {
        const size_t block = static_cast<size_t>(t0 + t) * blocks + b;
        const __m256 sum = dot<typename Dot::Int8, kWide>(code, Dot::Int8::kBias, x, block);
        acc[t] = _mm256_fmadd_ps(sum, _mm256_mul_ps(d, _mm256_set1_ps(x.scales[block])), acc[t]);
      }
    }
    for (int t = 0; t < NT; ++t)
      store_rows(y + (t0 + t) * y_stride, acc[t], half, rows);
  }

  // Of simd_kernels.h, by the level's own product.
  struct RankDot {
    typename Dot::Int8 sum;
    int32_t bias;
    explicit RankDot(int32_t code_sum) : bias(Dot::Int8::kBias * code_sum) {}
    static __m256i load(const int8_t* codes) { return broadcast4(codes); }
    void add(const uint8_t* b, __m256i four) { sum.add(Dot::Int8::prepare(load256(b)), four); }
    __m256 total() const {
      return _mm256_cvtepi32_ps(_mm256_sub_epi32(sum.total(), _mm256_set1_epi32(bias)));
    }
  };
};

bool avx2_supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

} // namespace
} // namespace ptmo::kernels
