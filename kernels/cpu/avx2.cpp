// AVX2 + FMA + F16C: a panel's 16 rows are two ymm registers of 8 rows.
//
// Without VNNI, vpmaddubsw multiplies unsigned by signed bytes into int16 pairs. INT4 codes are at
// most 15, so the eight products of a block add up to at most 8 * 2 * 15 * 127 = 30,480: they fit
// int16 and are widened once a block. INT8 codes go through |activation| and a sign transfer; codes
// of -128 are refused when a matrix is packed, so no pair exceeds 2 * 127 * 127 = 32,258.
#include "simd_kernels.h"

namespace ptmo::kernels {
namespace {

inline __m256i broadcast4(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, sizeof(four));
  return _mm256_set1_epi32(four);
}

inline __m256i load256(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

inline __m256 load_scales(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline void store_rows(float* y, __m256 acc, int half, int rows) {
  alignas(32) float out[8];
  _mm256_store_ps(out, acc);
  for (int r = half * 8; r < std::min(rows, half * 8 + 8); ++r)
    y[r] = out[r - half * 8];
}

// Rows 8 * half .. 8 * half + 7 of a panel.
template <int NT, bool kMins>
void int4_half(const PackedMatrix& w, const uint8_t* panel, int half, int rows,
               const Activations& x, int t0, float* y, size_t y_stride) {
  const int blocks = w.cols / kBlock, per_group = w.group / kBlock;
  const __m256i nibble = _mm256_set1_epi8(0x0f), ones = _mm256_set1_epi16(1);
  __m256 acc[NT];
  for (int t = 0; t < NT; ++t)
    acc[t] = _mm256_setzero_ps();
  const uint8_t* at = panel;
  for (int b = 0; b < blocks; at += kMins ? 64 : 32) {
    const uint8_t* tail = at + static_cast<size_t>(per_group) * 256;
    const __m256 d = load_scales(tail + 16 * half);
    const __m256 m = kMins ? load_scales(tail + 32 + 16 * half) : d;
    for (int g = 0; g < per_group; ++g, ++b, at += 256) {
      __m256i lo[4], hi[4];
      for (int p = 0; p < 4; ++p) {
        const __m256i raw = load256(at + p * 64 + half * 32);
        lo[p] = _mm256_and_si256(raw, nibble);
        hi[p] = _mm256_and_si256(_mm256_srli_epi16(raw, 4), nibble);
      }
      for (int t = 0; t < NT; ++t) {
        const size_t block = static_cast<size_t>(t0 + t) * blocks + b;
        const int8_t* codes = x.codes + block * kBlock;
        __m256i sum16 = _mm256_setzero_si256();
        for (int p = 0; p < 4; ++p) {
          sum16 = _mm256_add_epi16(sum16, _mm256_maddubs_epi16(lo[p], broadcast4(codes + 4 * p)));
          sum16 =
              _mm256_add_epi16(sum16, _mm256_maddubs_epi16(hi[p], broadcast4(codes + 16 + 4 * p)));
        }
        __m256i sum = _mm256_madd_epi16(sum16, ones);
        if (!kMins)
          sum = _mm256_sub_epi32(sum, _mm256_set1_epi32(8 * x.code_sums[block]));
        const __m256 dot = _mm256_cvtepi32_ps(sum);
        acc[t] = _mm256_fmadd_ps(dot, _mm256_mul_ps(d, _mm256_set1_ps(x.scales[block])), acc[t]);
        if (kMins)
          acc[t] = _mm256_fmadd_ps(m, _mm256_set1_ps(x.sums[block]), acc[t]);
      }
    }
  }
  for (int t = 0; t < NT; ++t)
    store_rows(y + (t0 + t) * y_stride, acc[t], half, rows);
}

template <int NT>
void int8_half(const PackedMatrix& w, const uint8_t* panel, int half, int rows,
               const Activations& x, int t0, float* y, size_t y_stride) {
  const int blocks = w.cols / kBlock;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 acc[NT];
  for (int t = 0; t < NT; ++t)
    acc[t] = _mm256_setzero_ps();
  const uint8_t* at = panel;
  for (int b = 0; b < blocks; ++b, at += kInt8BlockBytes) {
    const __m256 d = load_scales(at + 512 + 16 * half);
    __m256i code[8];
    for (int c = 0; c < 8; ++c)
      code[c] = load256(at + c * 64 + half * 32);
    for (int t = 0; t < NT; ++t) {
      const size_t block = static_cast<size_t>(t0 + t) * blocks + b;
      const int8_t* codes = x.codes + block * kBlock;
      __m256i sum = _mm256_setzero_si256();
      for (int c = 0; c < 8; ++c) {
        const __m256i a = broadcast4(codes + 4 * c);
        const __m256i products =
            _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(code[c], a));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, ones));
      }
      const __m256 dot = _mm256_cvtepi32_ps(sum);
      acc[t] = _mm256_fmadd_ps(dot, _mm256_mul_ps(d, _mm256_set1_ps(x.scales[block])), acc[t]);
    }
  }
  for (int t = 0; t < NT; ++t)
    store_rows(y + (t0 + t) * y_stride, acc[t], half, rows);
}

template <int NT>
void half_product(const PackedMatrix& w, const uint8_t* panel, int half, int rows,
                  const Activations& x, int t0, float* y, size_t y_stride) {
  if (w.type == WeightType::kInt4)
    int4_half<NT, true>(w, panel, half, rows, x, t0, y, y_stride);
  else if (w.type == WeightType::kInt4Symmetric)
    int4_half<NT, false>(w, panel, half, rows, x, t0, y, y_stride);
  else
    int8_half<NT>(w, panel, half, rows, x, t0, y, y_stride);
}

void matmul(const PackedMatrix& w, int panel_begin, int panel_end, const Activations& x, int tokens,
            float* y, size_t y_stride) {
  if (x.codes == nullptr || !is_integer(w.type)) {
    float_matmul(w, panel_begin, panel_end, x, tokens, y, y_stride);
    return;
  }
  for (int p = panel_begin; p < panel_end; ++p) {
    const uint8_t* panel = w.data + static_cast<size_t>(p) * w.panel_bytes;
    const int rows = std::min(kPanelRows, w.rows - p * kPanelRows);
    float* out = y + p * kPanelRows;
    for (int half = 0; half < 2; ++half) {
      int t = 0;
      for (; t + 4 <= tokens; t += 4)
        half_product<4>(w, panel, half, rows, x, t, out, y_stride);
      for (; t + 2 <= tokens; t += 2) // the head's two planes of one token
        half_product<2>(w, panel, half, rows, x, t, out, y_stride);
      for (; t < tokens; ++t)
        half_product<1>(w, panel, half, rows, x, t, out, y_stride);
    }
  }
}

void dot_rows_i8(const int16_t* q, const int8_t* k, int rows, int dim, int32_t* out) {
  for (int r = 0; r < rows; ++r) {
    const int8_t* row = k + static_cast<size_t>(r) * dim;
    __m256i acc = _mm256_setzero_si256();
    for (int i = 0; i < dim; i += 16) {
      const __m256i kv =
          _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + i)));
      const __m256i qv = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + i));
      acc = _mm256_add_epi32(acc, _mm256_madd_epi16(kv, qv));
    }
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(acc), _mm256_extracti128_si256(acc, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    out[r] = _mm_cvtsi128_si32(s);
  }
}

bool supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

} // namespace

const Table* avx2() {
  static const Table table = {
      "avx2",
      quantize_blocks,
      matmul,
      rms_norm,
      swiglu,
      add,
      cos_sin,
      rope,
      quantize_row_i8,
      quantize_row_i16,
      to_f16,
      dot_rows_i8,
      dot_rows_f16,
      dot_rows_f32,
      exp_sum,
      weighted_rows_i8,
      weighted_rows_f16,
      weighted_rows_f32,
  };
  return supported() ? &table : nullptr;
}

} // namespace ptmo::kernels
