// What the levels with integer products share: the way through a matrix's panels, and the table. A
// level's `Product` multiplies a panel by NT tokens of x, the first of them t0:
//   kParts                 1, or 2 where a call takes one half of the panel's 16 rows
//   kTokens                the largest NT, 4 or 8: as many as the registers hold sums of
//   int4<NT, kMins, kWide>(w, panel, part, rows, x, t0, y, y_stride)
//   int8<NT, kWide>(as int4)
//                          `rows` of the panel are there; y is where its first row's outputs go;
//                          kWide: x has 16-bit codes, whose two bytes meet the weights apart
//   RankDot                of low_rank_add (simd_kernels.h)
#pragma once

#include "attention.h"
#include "simd_kernels.h"

namespace ptmo::kernels {
namespace {

// How far ahead of the block in hand. On x86 the hardware's own prefetch stops at 4 KiB, and one
// core needs about this much under way to keep memory busy.
#if defined(__aarch64__)
constexpr int kPrefetchBytes = 1024;
#else
constexpr int kPrefetchBytes = 10240;
#endif

inline void prefetch(const uint8_t* at, int lines) {
  for (int i = 0; i < lines; ++i)
    __builtin_prefetch(at + kPrefetchBytes + i * 64);
}

inline V::reg load_scales(const uint8_t* p) {
  return V::load_f16(reinterpret_cast<const uint16_t*>(p));
}

// Four codes, as the broadcasts take them.
inline int32_t four_codes(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, sizeof(four));
  return four;
}

template <typename Product, int NT, bool kWide>
void panel_product(const PackedMatrix& w, const uint8_t* panel, int part, int rows,
                   const Activations& x, int t0, float* y, size_t y_stride) {
  if (w.type == WeightType::kInt4)
    Product::template int4<NT, true, kWide>(w, panel, part, rows, x, t0, y, y_stride);
  else if (w.type == WeightType::kInt4Symmetric)
    Product::template int4<NT, false, kWide>(w, panel, part, rows, x, t0, y, y_stride);
  else
    Product::template int8<NT, kWide>(w, panel, part, rows, x, t0, y, y_stride);
}

template <typename Product, bool kWide>
void integer_matmul(const PackedMatrix& w, int panel_begin, int panel_end, const Activations& x,
                    int tokens, float* y, size_t y_stride) {
  for (int p = panel_begin; p < panel_end; ++p) {
    const uint8_t* panel = w.data + static_cast<size_t>(p) * w.panel_bytes;
    const int rows = std::min(kPanelRows, w.rows - p * kPanelRows);
    float* out = y + p * kPanelRows;
    for (int part = 0; part < Product::kParts; ++part) {
      int t = 0;
      for (; Product::kTokens == 8 && t + 8 <= tokens; t += 8)
        panel_product<Product, Product::kTokens, kWide>(w, panel, part, rows, x, t, out, y_stride);
      for (; t + 4 <= tokens; t += 4)
        panel_product<Product, 4, kWide>(w, panel, part, rows, x, t, out, y_stride);
      for (; t + 2 <= tokens; t += 2)
        panel_product<Product, 2, kWide>(w, panel, part, rows, x, t, out, y_stride);
      for (; t < tokens; ++t)
        panel_product<Product, 1, kWide>(w, panel, part, rows, x, t, out, y_stride);
    }
  }
}

template <typename Product>
void matmul(const PackedMatrix& w, int panel_begin, int panel_end, const Activations& x, int tokens,
            float* y, size_t y_stride) {
  const auto product = x.codes == nullptr || !is_integer(w.type) ? float_matmul
                       : x.low == nullptr                        ? integer_matmul<Product, false>
                                                                 : integer_matmul<Product, true>;
  product(w, panel_begin, panel_end, x, tokens, y, y_stride);
}

// Constant: no vector instruction may run before the CPU is known to have it.
template <typename Product>
constexpr Table table_of(const char* name, decltype(Table::attend_i8) attend_i8) {
  return {
      name,
      quantize_blocks,
      matmul<Product>,
      rms_norm,
      swiglu,
      add,
      cos_sin,
      rope,
      quantize_row_i8,
      quantize_row_i16,
      to_f16,
      quantize_row_i4,
      unpack_rows_i4,
      attend_i8,
      attend_f16,
      attend_f32,
      fold_partials,
      geglu,
      head_rms_norm,
      low_rank_add<typename Product::RankDot>,
  };
}

} // namespace
} // namespace ptmo::kernels
