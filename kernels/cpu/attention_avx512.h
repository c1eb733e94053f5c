// Integer attention products with AVX-512 VNNI: vpdpbusd adds four products of unsigned by signed
// bytes to an int32 lane.
//
// A 16-bit operand is two planes of bytes, 256 * high + low, and each plane a product of its own.
// q . k: four rows of K interleave by 4-byte groups inside 128-bit lanes, so that a register holds
// one group of each row in each lane; q's groups are spread to match, and the four lanes' sums join
// at the end. The keys are made unsigned by adding 128; 128 times the sum of q's codes is taken off
// again. P.V: four rows of V interleave by bytes, so that a lane is one element and its four bytes
// are four rows, met by a broadcast of the four rows' weights.
#pragma once

#include "attention.h"

namespace ptmo::kernels {
namespace {

struct VnniIntegers {
  struct Query {
    __m512i high[4], low[4]; // [j]: lane L holds the bytes of columns 16 L + 4 j .., four times
    int32_t bias;
  };
  static constexpr int kSums = 2 * kColumns; // of the high plane, of the low one

  static __mmask64 columns(int width) { return ~0ull >> (64 - width); }

  static void load(const int16_t* codes, int width, Query& q) {
    const auto mask = static_cast<uint64_t>(columns(width));
    const __m512i a = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(mask), codes);
    const __m512i b = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(mask >> 32), codes + 32);
    const __m512i half = _mm512_set1_epi16(128), ones = _mm512_set1_epi16(1);
    const auto bytes = [](__m512i x, __m512i y) {
      return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(x)),
                                _mm512_cvtepi16_epi8(y), 1);
    };
    const __m512i high = bytes(_mm512_srai_epi16(_mm512_add_epi16(a, half), 8),
                               _mm512_srai_epi16(_mm512_add_epi16(b, half), 8));
    spread(high, q.high);
    spread(bytes(a, b), q.low);
    q.bias = -128 * _mm512_reduce_add_epi32(
                        _mm512_add_epi32(_mm512_madd_epi16(a, ones), _mm512_madd_epi16(b, ones)));
  }

  static void dots(const Query* q, int n, const int8_t* k, int dim, int width, bool more,
                   int32_t* out) {
    const __mmask64 mask = columns(width);
    const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
    __m512i r[16], t[16];
    for (int i = 0; i < 16; ++i)
      r[i] =
          _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, k + static_cast<size_t>(i) * dim), flip);
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { // r[i + j]: group j of each lane, of rows i .. i + 3
      r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < n; ++i, ++q, out += kSpanRows) {
      __m512i high[4], low[4];
      for (int g = 0; g < 4; ++g)
        high[g] = low[g] = _mm512_setzero_si512();
      for (int j = 0; j < 4; ++j) {
        for (int g = 0; g < 4; ++g) {
          high[g] = _mm512_dpbusd_epi32(high[g], r[4 * g + j], q->high[j]);
          low[g] = _mm512_dpbusd_epi32(low[g], r[4 * g + j], q->low[j]);
        }
      }
      for (int g = 0; g < 4; ++g)
        low[g] = _mm512_add_epi32(_mm512_slli_epi32(high[g], 8), low[g]);
      const __m512i sum = add_halves(add_halves(low[0], low[1]), add_halves(low[2], low[3]));
      const __m512i start = _mm512_add_epi32(_mm512_set1_epi32(q->bias),
                                             _mm512_maskz_loadu_epi32(more ? 0xffff : 0, out));
      _mm512_storeu_si512(out, _mm512_add_epi32(sum, start));
    }
  }

  static void store_weights(__m512 w, uint8_t* codes, int r) {
    const __m512i code = _mm512_cvtps_epi32(w);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + r),
                     _mm512_cvtepi32_epi8(_mm512_srli_epi32(code, 8)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + kSpanRows + r), _mm512_cvtepi32_epi8(code));
  }

  static void add_rows(const uint8_t* codes, int first, int n, const int8_t* v, int dim, int width,
                       int32_t* sums) {
    const __mmask64 mask = columns(width);
    __m512i r[16]; // r[4 g + j]: columns 16 L + 4 j .. of lane L, of rows 4 g .. 4 g + 3
    for (int g = 0; g < 16; g += 4) {
      __m512i row[4];
      for (int i = 0; i < 4; ++i)
        row[i] = _mm512_maskz_loadu_epi8(mask, v + static_cast<size_t>(g + i) * dim);
      const __m512i ab0 = _mm512_unpacklo_epi8(row[0], row[1]);
      const __m512i ab1 = _mm512_unpackhi_epi8(row[0], row[1]);
      const __m512i cd0 = _mm512_unpacklo_epi8(row[2], row[3]);
      const __m512i cd1 = _mm512_unpackhi_epi8(row[2], row[3]);
      r[g] = _mm512_unpacklo_epi16(ab0, cd0);
      r[g + 1] = _mm512_unpackhi_epi16(ab0, cd0);
      r[g + 2] = _mm512_unpacklo_epi16(ab1, cd1);
      r[g + 3] = _mm512_unpackhi_epi16(ab1, cd1);
    }
    codes += first;
    for (int i = 0; i < n; ++i, codes += 2 * kSpanRows, sums += kSums) {
      __m512i high[4], low[4];
      for (int j = 0; j < 4; ++j) {
        high[j] = _mm512_loadu_si512(sums + 16 * j);
        low[j] = _mm512_loadu_si512(sums + kColumns + 16 * j);
      }
      for (int g = 0; g < 16; g += 4) {
        const __m512i p = four(codes + g), s = four(codes + kSpanRows + g);
        for (int j = 0; j < 4; ++j) {
          high[j] = _mm512_dpbusd_epi32(high[j], p, r[g + j]);
          low[j] = _mm512_dpbusd_epi32(low[j], s, r[g + j]);
        }
      }
      for (int j = 0; j < 4; ++j) {
        _mm512_storeu_si512(sums + 16 * j, high[j]);
        _mm512_storeu_si512(sums + kColumns + 16 * j, low[j]);
      }
    }
  }

  static void finish(const int32_t* sums, int width, float scale, float* acc) {
    __m512i sum[4];
    for (int j = 0; j < 4; ++j)
      sum[j] = _mm512_add_epi32(_mm512_slli_epi32(_mm512_loadu_si512(sums + 16 * j), 8),
                                _mm512_loadu_si512(sums + kColumns + 16 * j));
    const __m512i a = _mm512_shuffle_i32x4(sum[0], sum[1], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(sum[0], sum[1], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(sum[2], sum[3], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(sum[2], sum[3], 0xdd);
    const __m512i out[4] = {_mm512_shuffle_i32x4(a, c, 0x88), _mm512_shuffle_i32x4(b, d, 0x88),
                            _mm512_shuffle_i32x4(a, c, 0xdd), _mm512_shuffle_i32x4(b, d, 0xdd)};
    for (int j = 0; j < width / 16; ++j)
      _mm512_storeu_ps(acc + 16 * j,
                       _mm512_mul_ps(_mm512_cvtepi32_ps(out[j]), _mm512_set1_ps(scale)));
  }

private:
  static void spread(__m512i plane, __m512i out[4]) {
    out[0] = _mm512_shuffle_epi32(plane, static_cast<_MM_PERM_ENUM>(0x00));
    out[1] = _mm512_shuffle_epi32(plane, static_cast<_MM_PERM_ENUM>(0x55));
    out[2] = _mm512_shuffle_epi32(plane, static_cast<_MM_PERM_ENUM>(0xaa));
    out[3] = _mm512_shuffle_epi32(plane, static_cast<_MM_PERM_ENUM>(0xff));
  }
  static __m512i four(const uint8_t* bytes) {
    int32_t x;
    std::memcpy(&x, bytes, sizeof(x));
    return _mm512_set1_epi32(x);
  }
  // Lanes: a0 + a1, a2 + a3, b0 + b1, b2 + b3.
  static __m512i add_halves(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
  }
};

void attend_i8(const Queries& q, const CacheSpan& span, void* scratch, float* partials) {
  attend_integers<VnniIntegers>(q, span, scratch, partials);
}

} // namespace
} // namespace ptmo::kernels
