// Integer attention products with AVX2: bytes widen to int16, vpmaddwd adds two products to an
// int32 lane.
#pragma once

#include "attention.h"

namespace ptmo::kernels {
namespace {

struct MaddIntegers {
  using Query = const int16_t*;
  static constexpr int kSums = kColumns; // in the order of `interleaved`

  static void load(const int16_t* codes, int /*width*/, Query& q) { q = codes; }

  static void dots(const Query* q, int n, const int8_t* k, int dim, int width, bool more,
                   int32_t* out) {
    for (int r = 0; r < 16; r += 4, k += static_cast<size_t>(4) * dim) {
      int i = 0;
      for (; i + 2 <= n; i += 2)
        dot_four<2>(q + i, k, dim, width, more, out + i * kSpanRows + r);
      if (i < n)
        dot_four<1>(q + i, k, dim, width, more, out + i * kSpanRows + r);
    }
  }

  static void store_weights(__m256 w, uint8_t* codes, int r) {
    V::store_i16(reinterpret_cast<int16_t*>(codes) + r, w);
  }

  static void add_rows(const uint8_t* codes, int first, int n, const int8_t* v, int dim, int width,
                       int32_t* sums) {
    for (int r = 0; r < 16; r += 8) {
      for (int c = 0; c < width; c += 16) {
        __m256i low[4], high[4]; // rows r + 2 j and r + 2 j + 1, interleaved
        for (int j = 0; j < 4; ++j) {
          const __m256i a = widened(v + static_cast<size_t>(r + 2 * j) * dim + c);
          const __m256i b = widened(v + static_cast<size_t>(r + 2 * j + 1) * dim + c);
          low[j] = _mm256_unpacklo_epi16(a, b);
          high[j] = _mm256_unpackhi_epi16(a, b);
        }
        for (int i = 0; i < n; ++i) {
          const uint8_t* weights = codes + i * 2 * kSpanRows + 2 * (first + r);
          auto* to = reinterpret_cast<__m256i*>(sums + i * kSums + c);
          __m256i x = _mm256_loadu_si256(to), y = _mm256_loadu_si256(to + 1);
          for (int j = 0; j < 4; ++j) {
            int32_t two;
            std::memcpy(&two, weights + 4 * j, sizeof(two));
            x = _mm256_add_epi32(x, _mm256_madd_epi16(low[j], _mm256_set1_epi32(two)));
            y = _mm256_add_epi32(y, _mm256_madd_epi16(high[j], _mm256_set1_epi32(two)));
          }
          _mm256_storeu_si256(to, x);
          _mm256_storeu_si256(to + 1, y);
        }
      }
    }
  }

  // Of 16 elements, sums holds 0-3 and 8-11, then 4-7 and 12-15.
  static void finish(const int32_t* sums, int width, float scale, float* acc) {
    for (int c = 0; c < width; c += 16) {
      const auto* from = reinterpret_cast<const __m256i*>(sums + c);
      const __m256i x = _mm256_loadu_si256(from), y = _mm256_loadu_si256(from + 1);
      const __m256i out[2] = {_mm256_permute2x128_si256(x, y, 0x20),
                              _mm256_permute2x128_si256(x, y, 0x31)};
      for (int j = 0; j < 2; ++j)
        _mm256_storeu_ps(acc + c + 8 * j,
                         _mm256_mul_ps(_mm256_cvtepi32_ps(out[j]), _mm256_set1_ps(scale)));
    }
  }

private:
  static __m256i widened(const int8_t* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  template <int N>
  static void dot_four(const Query* q, const int8_t* k, int dim, int width, bool more,
                       int32_t* out) {
    __m256i acc[N][4];
    for (int i = 0; i < N; ++i)
      for (int r = 0; r < 4; ++r)
        acc[i][r] = _mm256_setzero_si256();
    for (int c = 0; c < width; c += 16) {
      __m256i row[4];
      for (int r = 0; r < 4; ++r)
        row[r] = widened(k + static_cast<size_t>(r) * dim + c);
      for (int i = 0; i < N; ++i) {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q[i] + c));
        for (int r = 0; r < 4; ++r)
          acc[i][r] = _mm256_add_epi32(acc[i][r], _mm256_madd_epi16(row[r], x));
      }
    }
    for (int i = 0; i < N; ++i) {
      const __m256i sums = _mm256_hadd_epi32(_mm256_hadd_epi32(acc[i][0], acc[i][1]),
                                             _mm256_hadd_epi32(acc[i][2], acc[i][3]));
      auto* to = reinterpret_cast<__m128i*>(out + i * kSpanRows);
      const __m128i start = more ? _mm_loadu_si128(to) : _mm_setzero_si128();
      _mm_storeu_si128(to, _mm_add_epi32(start, _mm_add_epi32(_mm256_castsi256_si128(sums),
                                                              _mm256_extracti128_si256(sums, 1))));
    }
  }
};

void attend_i8(const Queries& q, const CacheSpan& span, void* scratch, float* partials) {
  attend_integers<MaddIntegers>(q, span, scratch, partials);
}

} // namespace
} // namespace ptmo::kernels
