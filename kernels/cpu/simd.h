// One float vector type `V` for the level this file is compiled for: 16 lanes with AVX-512,
// 8 with AVX2 + FMA + F16C, 8 in two NEON registers. Everything is in an anonymous namespace: each
// level's object file keeps its own copy, so that no AVX-512 code can be linked into a lower level.
// Alike everywhere: max(a, b) is b and min(a, b) is b where either is a NaN; rounding is to
// nearest, ties to even; pointers need no alignment.
#pragma once

#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

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
  static reg from_int(const int32_t* p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
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
  // Codes up to kCode16, as 256 * high + low.
  static void store_bytes(int8_t* high, int8_t* low, reg a) {
    const __m512i code = to_int(a);
    const __m512i top = _mm512_srai_epi32(_mm512_add_epi32(code, _mm512_set1_epi32(128)), 8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high), _mm512_cvtepi32_epi8(top));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low), _mm512_cvtepi32_epi8(code));
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
  // The sums of four registers, to p[0 .. 3].
  static void store_sums(float* p, reg a, reg b, reg c, reg d) {
    const reg ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const reg cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const reg sums =
        _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half =
        _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }
  // Lane i: x where first <= row + i < last, else other.
  static reg within(int row, int first, int last, reg x, reg other) {
    const auto below = [row](int end) {
      const int n = end - row;
      return n <= 0 ? 0u : n >= lanes ? 0xffffu : (1u << n) - 1;
    };
    return _mm512_mask_mov_ps(other, static_cast<__mmask16>(below(last) & ~below(first)), x);
  }
};
#elif defined(__AVX2__)
struct V {
  using reg = __m256;
  static constexpr int lanes = 8;
  static reg zero() { return _mm256_setzero_ps(); }
  static reg set1(float x) { return _mm256_set1_ps(x); }
  static reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, reg a) { _mm256_storeu_ps(p, a); }
  static reg from_int(const int32_t* p) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
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
  // Codes up to kCode16, as 256 * high + low.
  static void store_bytes(int8_t* high, int8_t* low, reg a) {
    const __m128i code = to_i16(a);
    const __m128i top = _mm_srai_epi16(_mm_add_epi16(code, _mm_set1_epi16(128)), 8);
    const __m128i rest = _mm_srai_epi16(_mm_slli_epi16(code, 8), 8);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(high), _mm_packs_epi16(top, top));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(low), _mm_packs_epi16(rest, rest));
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
  // The sums of four registers, to p[0 .. 3].
  static void store_sums(float* p, reg a, reg b, reg c, reg d) {
    const reg ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const reg cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const reg sums =
        _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
  }
  // Lane i: x where first <= row + i < last, else other.
  static reg within(int row, int first, int last, reg x, reg other) {
    const __m256i at =
        _mm256_add_epi32(_mm256_set1_epi32(row), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __m256i in = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), at),
                                           _mm256_cmpgt_epi32(_mm256_set1_epi32(last), at));
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(in));
  }
};
#elif defined(__aarch64__)
struct V {
  // Two registers: halfs and bytes then load a full register's worth, and sums have two chains.
  struct reg {
    float32x4_t lo, hi;
  };
  static constexpr int lanes = 8;
  static reg set1(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
  static reg zero() { return set1(0.0f); }
  static reg load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
  static void store(float* p, reg a) {
    vst1q_f32(p, a.lo);
    vst1q_f32(p + 4, a.hi);
  }
  static reg from_int(const int32_t* p) {
    return {vcvtq_f32_s32(vld1q_s32(p)), vcvtq_f32_s32(vld1q_s32(p + 4))};
  }
  static reg load_f16(const uint16_t* p) {
    const float16x8_t half = vreinterpretq_f16_u16(vld1q_u16(p));
    return {vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)};
  }
  static void store_f16(uint16_t* p, reg a) {
    vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a.lo), a.hi)));
  }
  static reg add(reg a, reg b) { return {vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
  static reg sub(reg a, reg b) { return {vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)}; }
  static reg mul(reg a, reg b) { return {vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
  static reg div(reg a, reg b) { return {vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)}; }
  static reg fma(reg a, reg b, reg c) {
    return {vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)};
  }
  static float32x4_t greater(float32x4_t a, float32x4_t b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
  }
  static float32x4_t less(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
  static reg max(reg a, reg b) { return {greater(a.lo, b.lo), greater(a.hi, b.hi)}; }
  static reg min(reg a, reg b) { return {less(a.lo, b.lo), less(a.hi, b.hi)}; }
  static reg abs(reg a) { return {vabsq_f32(a.lo), vabsq_f32(a.hi)}; }
  static reg round(reg a) { return {vrndnq_f32(a.lo), vrndnq_f32(a.hi)}; }
  static float32x4_t ordered(float32x4_t a) {
    return vreinterpretq_f32_u32(vandq_u32(vceqq_f32(a, a), vreinterpretq_u32_f32(a)));
  }
  static reg nan_to_zero(reg a) { return {ordered(a.lo), ordered(a.hi)}; }
  // a * 2^n for integral n in [-126, 127].
  static float32x4_t power_of_two(float32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
  }
  static reg ldexp(reg a, reg n) { return mul(a, {power_of_two(n.lo), power_of_two(n.hi)}); }
  static int16x8_t to_i16(reg a) {
    return vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(a.lo)), vcvtnq_s32_f32(a.hi));
  }
  static void store_i8(int8_t* p, reg a) { vst1_s8(p, vqmovn_s16(to_i16(a))); }
  static void store_i16(int16_t* p, reg a) { vst1q_s16(p, to_i16(a)); }
  // Codes up to kCode16, as 256 * high + low.
  static void store_bytes(int8_t* high, int8_t* low, reg a) {
    const int16x8_t code = to_i16(a);
    vst1_s8(high, vshrn_n_s16(vaddq_s16(code, vdupq_n_s16(128)), 8));
    vst1_s8(low, vmovn_s16(code));
  }
  // From 8 words of 4 bytes: the nibble at bit `shift` of each, and the signed byte `j` of each.
  static uint32x4_t words(const uint8_t* p) { return vreinterpretq_u32_u8(vld1q_u8(p)); }
  static reg nibbles(const uint8_t* p, int shift) {
    const auto at = [shift](const uint8_t* q) {
      const uint32x4_t shifted = vshlq_u32(words(q), vdupq_n_s32(-shift));
      return vcvtq_f32_u32(vandq_u32(shifted, vdupq_n_u32(0x0f)));
    };
    return {at(p), at(p + 16)};
  }
  static reg signed_bytes(const uint8_t* p, int j) {
    const auto at = [j](const uint8_t* q) {
      const uint32x4_t shifted = vshlq_u32(words(q), vdupq_n_s32(24 - 8 * j));
      return vcvtq_f32_s32(vshrq_n_s32(vreinterpretq_s32_u32(shifted), 24));
    };
    return {at(p), at(p + 16)};
  }
  static float reduce_add(reg a) {
    const float32x4_t s = vaddq_f32(a.lo, a.hi);
    return vaddv_f32(vadd_f32(vget_low_f32(s), vget_high_f32(s)));
  }
  static float reduce_max(reg a) { return vmaxvq_f32(greater(a.lo, a.hi)); }
  // The sums of four registers, to p[0 .. 3].
  static void store_sums(float* p, reg a, reg b, reg c, reg d) {
    const float32x4_t ab = vpaddq_f32(vaddq_f32(a.lo, a.hi), vaddq_f32(b.lo, b.hi));
    const float32x4_t cd = vpaddq_f32(vaddq_f32(c.lo, c.hi), vaddq_f32(d.lo, d.hi));
    vst1q_f32(p, vpaddq_f32(ab, cd));
  }
  // Lane i: x where first <= row + i < last, else other.
  static float32x4_t within_four(int32x4_t at, int first, int last, float32x4_t x,
                                 float32x4_t other) {
    const uint32x4_t in =
        vandq_u32(vcgeq_s32(at, vdupq_n_s32(first)), vcltq_s32(at, vdupq_n_s32(last)));
    return vbslq_f32(in, x, other);
  }
  static reg within(int row, int first, int last, reg x, reg other) {
    const int32_t count[4] = {0, 1, 2, 3};
    const int32x4_t at = vaddq_s32(vdupq_n_s32(row), vld1q_s32(count));
    return {within_four(at, first, last, x.lo, other.lo),
            within_four(vaddq_s32(at, vdupq_n_s32(4)), first, last, x.hi, other.hi)};
  }
};
#else
#error "this file's level has no vector type"
#endif

// 16 bytes of INT4 codes, 8 above what they stand for: the low nibbles, then the high ones.
inline void unpack_16(const uint8_t* packed, int8_t* low, int8_t* high) {
#if defined(__aarch64__)
  const uint8x16_t raw = vld1q_u8(packed), eight = vdupq_n_u8(8);
  vst1q_s8(low, vreinterpretq_s8_u8(vsubq_u8(vandq_u8(raw, vdupq_n_u8(15)), eight)));
  vst1q_s8(high, vreinterpretq_s8_u8(vsubq_u8(vshrq_n_u8(raw, 4), eight)));
#else
  const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
  const __m128i nibble = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(low),
                   _mm_sub_epi8(_mm_and_si128(raw, nibble), eight));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(high),
                   _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(raw, 4), nibble), eight));
#endif
}

// The sum of 32 signed bytes.
inline int32_t sum_block(const int8_t* codes) {
#if defined(__aarch64__)
  return vaddlvq_s8(vld1q_s8(codes)) + vaddlvq_s8(vld1q_s8(codes + 16));
#else
  const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  const __m256i wide = _mm256_add_epi16(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(c)),
                                        _mm256_cvtepi8_epi16(_mm256_extracti128_si256(c, 1)));
  const __m256i pairs = _mm256_madd_epi16(wide, _mm256_set1_epi16(1));
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
#endif
}

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

// 2^x for x <= 0, to about 1 ulp: a polynomial of degree 6 (minimax with value 1 at 0) on
// [-1/2, 1/2]. Below -126 the result stays at 2^-126; a NaN stays a NaN.
inline V::reg exp2_nonpositive(V::reg x) {
  const V::reg clamped = V::max(V::set1(-126.0f), x);
  const V::reg n = V::round(clamped), r = V::sub(clamped, n);
  V::reg p = V::set1(1.5353371289e-4f);
  p = V::fma(p, r, V::set1(1.3398877842e-3f));
  p = V::fma(p, r, V::set1(9.6184373540e-3f));
  p = V::fma(p, r, V::set1(5.5503324629e-2f));
  p = V::fma(p, r, V::set1(2.4022647913e-1f));
  p = V::fma(p, r, V::set1(6.9314720286e-1f));
  p = V::fma(p, r, V::set1(1.0f));
  return V::ldexp(p, n);
}

} // namespace
} // namespace ptmo::kernels
