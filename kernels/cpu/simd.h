// One float vector type `V` for the level this file is compiled for: 16 lanes with AVX-512,
// 8 with AVX2 + FMA + F16C. Everything is in an anonymous namespace: each level's object file
// keeps its own copy, so that no AVX-512 code can be linked into a lower level.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace ptmo::kernels {
namespace {

#if defined(__AVX512F__)
struct V {
  using reg = __m512;
  static constexpr int lanes = 16;
  static reg zero() { return _mm512_setzero_ps(); }
  static reg set1(float x) { return _mm512_set1_ps(x); }
  static reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, reg a) { _mm512_storeu_ps(p, a); }
  static reg load_i8(const int8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static reg load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store_f16(uint16_t* p, reg a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static reg add(reg a, reg b) { return _mm512_add_ps(a, b); }
  static reg sub(reg a, reg b) { return _mm512_sub_ps(a, b); }
  static reg mul(reg a, reg b) { return _mm512_mul_ps(a, b); }
  static reg div(reg a, reg b) { return _mm512_div_ps(a, b); }
  static reg fma(reg a, reg b, reg c) { return _mm512_fmadd_ps(a, b, c); }
  static reg max(reg a, reg b) { return _mm512_max_ps(a, b); }
  static reg min(reg a, reg b) { return _mm512_min_ps(a, b); }
  static reg abs(reg a) { return _mm512_abs_ps(a); }
  static reg round(reg a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static reg nan_to_zero(reg a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a);
  }
  // a * 2^n for integral n in [-126, 127].
  static reg ldexp(reg a, reg n) { return _mm512_scalef_ps(a, n); }
  static __m512i to_int(reg a) { return _mm512_cvtps_epi32(a); }
  static void store_i8(int8_t* p, reg a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(to_int(a)));
  }
  static void store_i16(int16_t* p, reg a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(to_int(a)));
  }
  // From 16 words of 4 bytes: the nibble at bit `shift` of each, and the signed byte `j` of each.
  static reg nibbles(const uint8_t* p, int shift) {
    const __m512i words = _mm512_srl_epi32(_mm512_loadu_si512(p), _mm_cvtsi32_si128(shift));
    return _mm512_cvtepi32_ps(_mm512_and_si512(words, _mm512_set1_epi32(0x0f)));
  }
  static reg signed_bytes(const uint8_t* p, int j) {
    const __m512i words = _mm512_sll_epi32(_mm512_loadu_si512(p), _mm_cvtsi32_si128(24 - 8 * j));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(words, 24));
  }
  static float reduce_add(reg a) { return _mm512_reduce_add_ps(a); }
  static float reduce_max(reg a) { return _mm512_reduce_max_ps(a); }
};
#else
struct V {
  using reg = __m256;
  static constexpr int lanes = 8;
  static reg zero() { return _mm256_setzero_ps(); }
  static reg set1(float x) { return _mm256_set1_ps(x); }
  static reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, reg a) { _mm256_storeu_ps(p, a); }
  static reg load_i8(const int8_t* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static reg load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_f16(uint16_t* p, reg a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static reg add(reg a, reg b) { return _mm256_add_ps(a, b); }
  static reg sub(reg a, reg b) { return _mm256_sub_ps(a, b); }
  static reg mul(reg a, reg b) { return _mm256_mul_ps(a, b); }
  static reg div(reg a, reg b) { return _mm256_div_ps(a, b); }
  static reg fma(reg a, reg b, reg c) { return _mm256_fmadd_ps(a, b, c); }
  static reg max(reg a, reg b) { return _mm256_max_ps(a, b); }
  static reg min(reg a, reg b) { return _mm256_min_ps(a, b); }
  static reg abs(reg a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static reg round(reg a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static reg nan_to_zero(reg a) { return _mm256_and_ps(_mm256_cmp_ps(a, a, _CMP_ORD_Q), a); }
  // a * 2^n for integral n in [-126, 127].
  static reg ldexp(reg a, reg n) {
    const __m256i exponent =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(exponent));
  }
  static __m256i to_int(reg a) { return _mm256_cvtps_epi32(a); }
  static __m128i to_i16(reg a) {
    const __m256i i = to_int(a);
    return _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  }
  static void store_i8(int8_t* p, reg a) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(to_i16(a), to_i16(a)));
  }
  static void store_i16(int16_t* p, reg a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_i16(a));
  }
  // From 8 words of 4 bytes: the nibble at bit `shift` of each, and the signed byte `j` of each.
  static __m256i words(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static reg nibbles(const uint8_t* p, int shift) {
    const __m256i shifted = _mm256_srl_epi32(words(p), _mm_cvtsi32_si128(shift));
    return _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(0x0f)));
  }
  static reg signed_bytes(const uint8_t* p, int j) {
    const __m256i shifted = _mm256_sll_epi32(words(p), _mm_cvtsi32_si128(24 - 8 * j));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(shifted, 24));
  }
  static float reduce_add(reg a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
  }
  static float reduce_max(reg a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
  }
};
#endif

// exp(x) for x <= 0, to about 1 ulp: 2^n e^r with |r| <= ln2 / 2 and a degree-6 polynomial
// (coefficients: Cephes expf). Below -87 the result stays at e^-87 = 1.6e-38; a NaN stays a NaN.
inline V::reg exp_nonpositive(V::reg x) {
  const V::reg clamped = V::max(V::set1(-87.0f), x);
  const V::reg n = V::round(V::mul(clamped, V::set1(1.44269504088896341f)));
  V::reg r = V::fma(n, V::set1(-0.693359375f), clamped);
  r = V::fma(n, V::set1(2.12194440e-4f), r);
  V::reg p = V::set1(1.9875691500e-4f);
  p = V::fma(p, r, V::set1(1.3981999507e-3f));
  p = V::fma(p, r, V::set1(8.3334519073e-3f));
  p = V::fma(p, r, V::set1(4.1665795894e-2f));
  p = V::fma(p, r, V::set1(1.6666665459e-1f));
  p = V::fma(p, r, V::set1(5.0000001201e-1f));
  p = V::add(V::fma(V::mul(p, r), r, r), V::set1(1.0f));
  return V::ldexp(p, n);
}

} // namespace
} // namespace ptmo::kernels
