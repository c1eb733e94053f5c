// What the matrix kernels mean, one scalar at a time.
#include "reference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "../row_codes.h"
#include "panels.h"

namespace ptmo::kernels::ref {

void quantize_blocks(const float* x, int cols, int8_t* codes, int8_t* low, float* scales,
                     float* sums, int32_t* code_sums) {
  for (int b = 0; b < cols / kBlock; ++b) {
    int16_t c[kBlock];
    if (low == nullptr) {
      scales[b] = quantize_row_i8(x + b * kBlock, kBlock, codes + b * kBlock);
      std::copy_n(codes + b * kBlock, kBlock, c);
    } else {
      scales[b] = quantize_row_i16(x + b * kBlock, kBlock, c);
      for (int i = 0; i < kBlock; ++i) { // 256 * high + low, low in -128..127
        codes[b * kBlock + i] = static_cast<int8_t>(upper_byte(c[i]));
        low[b * kBlock + i] = static_cast<int8_t>(c[i]);
      }
    }
    code_sums[b] = std::accumulate(c, c + kBlock, 0);
    sums[b] = scales[b] * static_cast<float>(code_sums[b]);
  }
}

namespace {

int32_t activation_code(const Activations& x, size_t i) {
  return x.low == nullptr ? x.codes[i] : 256 * x.codes[i] + x.low[i];
}

// One output on the integer path: the block's integer dot product is exact, then scaled once.
float integer_dot(const PackedMatrix& w, const uint8_t* panel, int row, const Activations& x,
                  int token) {
  const int blocks = w.cols / kBlock;
  float acc = 0.0f;
  for (int b = 0; b < blocks; ++b) {
    const size_t first = static_cast<size_t>(token) * w.cols + b * kBlock;
    int32_t dot = 0;
    for (int i = 0; i < kBlock; ++i)
      dot += panel_code(w, panel, row, b * kBlock + i) * activation_code(x, first + i);
    const size_t at = static_cast<size_t>(token) * blocks + b;
    if (w.type == WeightType::kInt8) {
      const float scale = half_to_float(load_u16(panel + b * kInt8BlockBytes + 512 + 2 * row));
      acc += scale * x.scales[at] * static_cast<float>(dot);
    } else {
      const uint8_t* tail = panel +
                            (b * kBlock / w.group) * int4_superblock_bytes(w.type, w.group) +
                            (w.group / kBlock) * 256;
      acc += half_to_float(load_u16(tail + 2 * row)) * x.scales[at] * static_cast<float>(dot);
      if (w.type == WeightType::kInt4)
        acc += half_to_float(load_u16(tail + 32 + 2 * row)) * x.sums[at];
    }
  }
  return acc;
}

float float_dot(const PackedMatrix& w, const uint8_t* panel, int row, const Activations& x,
                int token) {
  double acc = 0.0;
  for (int k = 0; k < w.cols; ++k) {
    acc += static_cast<double>(panel_weight(w, panel, row, k)) *
           x.f32[static_cast<size_t>(token) * w.cols + k];
  }
  return static_cast<float>(acc);
}

} // namespace

void matmul(const PackedMatrix& w, int panel_begin, int panel_end, const Activations& x, int tokens,
            float* y, size_t y_stride) {
  const bool integer = x.codes != nullptr && is_integer(w.type);
  for (int p = panel_begin; p < panel_end; ++p) {
    const uint8_t* panel = w.data + static_cast<size_t>(p) * w.panel_bytes;
    for (int row = 0; row < std::min(kPanelRows, w.rows - p * kPanelRows); ++row) {
      for (int t = 0; t < tokens; ++t) {
        y[t * y_stride + p * kPanelRows + row] =
            integer ? integer_dot(w, panel, row, x, t) : float_dot(w, panel, row, x, t);
      }
    }
  }
}

namespace {

float low_rank_dot(const LowRankFactor& b, const uint8_t* panel, int row, const LowRankInput& u,
                   int token) {
  const int chunks = rank_chunks(b.rank);
  const size_t from = static_cast<size_t>(token) * chunks;
  if (b.type == WeightType::kF32) {
    double acc = 0.0;
    for (int r = 0; r < b.rank; ++r)
      acc += static_cast<double>(low_rank_weight(b, panel, row, r)) * u.f32[from * kRankChunk + r];
    return static_cast<float>(acc);
  }
  float acc = 0.0f;
  for (int c = 0; c < chunks; ++c) {
    int32_t dot = 0;
    for (int r = c * kRankChunk; r < std::min(b.rank, (c + 1) * kRankChunk); ++r)
      dot += low_rank_code(panel, row, r) * u.codes[from * kRankChunk + r];
    const float scale = half_to_float(load_u16(low_rank_scales(b, panel, c) + 2 * row));
    acc += scale * u.scales[from + c] * static_cast<float>(dot);
  }
  return acc;
}

} // namespace

void low_rank_add(const LowRankTerm* terms, int count, int panel_begin, int panel_end, int tokens,
                  float* y, size_t y_stride) {
  for (const LowRankTerm* term = terms; term < terms + count; ++term) {
    for (int p = panel_begin; p < panel_end; ++p) {
      const uint8_t* panel = term->b.data + static_cast<size_t>(p) * term->b.panel_bytes;
      for (int row = 0; row < std::min(kPanelRows, term->b.rows - p * kPanelRows); ++row)
        for (int t = 0; t < tokens; ++t)
          y[t * y_stride + p * kPanelRows + row] += low_rank_dot(term->b, panel, row, term->u, t);
    }
  }
}

} // namespace ptmo::kernels::ref
