// The matrix and score kernels of the levels with 256-bit registers: a panel's 16 rows are two ymm
// registers of 8 rows. The levels differ in how a register of weight codes (8 rows x 4 columns)
// meets a broadcast of four activation codes; that is their `Dot` (avx2.cpp, avxvnni.cpp):
//   Dot::Int4            the integer sum of a block of INT4 codes, 0 at first
//     add(codes, four)   adds the products of unsigned codes
//     total()            int32, one lane a row; exact
//   Dot::Int8(code_sum)  the same for INT8 codes, given the sum of the block's activation codes
//     prepare(codes)     what add() takes for a register of signed codes
#pragma once

#include "attention_avx2.h"
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

// The two halves of a panel lie in the same cache lines: the first asks for what comes next.
constexpr int kPrefetchBytes = 10240;

inline void prefetch(int half, const uint8_t* at, int lines) {
  for (int i = 0; half == 0 && i < lines; ++i)
    _mm_prefetch(reinterpret_cast<const char*>(at + kPrefetchBytes + i * 64), _MM_HINT_T0);
}

// Rows 8 * half .. 8 * half + 7 of a panel.
template <typename Dot, int NT, bool kMins>
void int4_half(const PackedMatrix& w, const uint8_t* panel, int half, int rows,
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
      prefetch(half, at, 5);
      __m256i lo[4], hi[4];
      for (int p = 0; p < 4; ++p) {
        const __m256i raw = load256(at + p * 64 + half * 32);
        lo[p] = _mm256_and_si256(raw, nibble);
        hi[p] = _mm256_and_si256(_mm256_srli_epi16(raw, 4), nibble);
      }
      for (int t = 0; t < NT; ++t) {
        const size_t block = static_cast<size_t>(t0 + t) * blocks + b;
        const int8_t* codes = x.codes + block * kBlock;
        typename Dot::Int4 products;
        for (int p = 0; p < 4; ++p) {
          products.add(lo[p], broadcast4(codes + 4 * p));
          products.add(hi[p], broadcast4(codes + 16 + 4 * p));
        }
        __m256i sum = products.total();
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

template <typename Dot, int NT>
void int8_half(const PackedMatrix& w, const uint8_t* panel, int half, int rows,
               const Activations& x, int t0, float* y, size_t y_stride) {
  const int blocks = w.cols / kBlock;
  __m256 acc[NT];
  for (int t = 0; t < NT; ++t)
    acc[t] = _mm256_setzero_ps();
  const uint8_t* at = panel;
  for (int b = 0; b < blocks; ++b, at += kInt8BlockBytes) {
    prefetch(half, at, 9);
    const __m256 d = load_scales(at + 512 + 16 * half);
    __m256i code[8];
    for (int c = 0; c < 8; ++c)
      code[c] = Dot::Int8::prepare(load256(at + c * 64 + half * 32));
    for (int t = 0; t < NT; ++t) {
      const size_t block = static_cast<size_t>(t0 + t) * blocks + b;
      const int8_t* codes = x.codes + block * kBlock;
      typename Dot::Int8 sum(x.code_sums[block]);
      for (int c = 0; c < 8; ++c)
        sum.add(code[c], broadcast4(codes + 4 * c));
      const __m256 dot = _mm256_cvtepi32_ps(sum.total());
      acc[t] = _mm256_fmadd_ps(dot, _mm256_mul_ps(d, _mm256_set1_ps(x.scales[block])), acc[t]);
    }
  }
  for (int t = 0; t < NT; ++t)
    store_rows(y + (t0 + t) * y_stride, acc[t], half, rows);
}

template <typename Dot, int NT>
void half_product(const PackedMatrix& w, const uint8_t* panel, int half, int rows,
                  const Activations& x, int t0, float* y, size_t y_stride) {
  if (w.type == WeightType::kInt4)
    int4_half<Dot, NT, true>(w, panel, half, rows, x, t0, y, y_stride);
  else if (w.type == WeightType::kInt4Symmetric)
    int4_half<Dot, NT, false>(w, panel, half, rows, x, t0, y, y_stride);
  else
    int8_half<Dot, NT>(w, panel, half, rows, x, t0, y, y_stride);
}

template <typename Dot>
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
        half_product<Dot, 4>(w, panel, half, rows, x, t, out, y_stride);
      for (; t + 2 <= tokens; t += 2) // the head's two planes of one token
        half_product<Dot, 2>(w, panel, half, rows, x, t, out, y_stride);
      for (; t < tokens; ++t)
        half_product<Dot, 1>(w, panel, half, rows, x, t, out, y_stride);
    }
  }
}

// Of simd_kernels.h, by the level's own product.
template <typename Dot> struct RankDot {
  typename Dot::Int8 sum;
  explicit RankDot(int32_t code_sum) : sum(code_sum) {}
  static __m256i load(const int8_t* codes) { return broadcast4(codes); }
  void add(const uint8_t* b, __m256i four) { sum.add(Dot::Int8::prepare(load256(b)), four); }
  __m256 total() const { return _mm256_cvtepi32_ps(sum.total()); }
};

bool avx2_supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

// Constant: no vector instruction may run before the CPU is known to have it.
template <typename Dot> constexpr Table table_of(const char* name) {
  return {
      name,       quantize_blocks, matmul<Dot>,    rms_norm,        swiglu,
      add,        cos_sin,         rope,           quantize_row_i8, quantize_row_i16,
      to_f16,     quantize_row_i4, unpack_rows_i4, attend_i8,       attend_f16,
      attend_f32, fold_partials,   geglu,          head_rms_norm,   low_rank_add<RankDot<Dot>>,
  };
}

} // namespace
} // namespace ptmo::kernels
