// The kernels that read the same on every SIMD level, written on the vector type `V` of simd.h.
// Callers guarantee: head_dim is a multiple of 16; blocks are 32 columns.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../reference/head_norm.h"
#include "../reference/panels.h"
#include "../reference/reference.h"
#include "../rotary.h"
#include "../row_codes.h"
#include "simd.h"

namespace ptmo::kernels {
namespace {

void rms_norm(const float* x, const float* weight, int n, float eps, float* y) {
  V::reg acc = V::zero();
  int i = 0;
  for (; i + V::lanes <= n; i += V::lanes) {
    const V::reg v = V::load(x + i);
    acc = V::fma(v, v, acc);
  }
  float sum = V::reduce_add(acc);
  for (int j = i; j < n; ++j)
    sum += x[j] * x[j];
  const float inv = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
  const V::reg vinv = V::set1(inv);
  for (i = 0; i + V::lanes <= n; i += V::lanes)
    V::store(y + i, V::mul(V::mul(V::load(x + i), vinv), V::load(weight + i)));
  for (; i < n; ++i)
    y[i] = x[i] * inv * weight[i];
}

// 1 / (1 + e^-x) from e^-|x| alone, so that the exponential cannot overflow.
inline V::reg sigmoid(V::reg x) {
  const V::reg one = V::set1(1.0f);
  const V::reg e = exp_nonpositive(V::sub(V::zero(), V::abs(x)));
  const V::reg positive = V::max(V::min(V::mul(x, V::set1(1e30f)), one), V::zero());
  const V::reg numerator = V::add(positive, V::mul(V::sub(one, positive), e));
  return V::div(numerator, V::add(one, e));
}

void swiglu(const float* gate, const float* up, int n, float* out) {
  int i = 0;
  for (; i + V::lanes <= n; i += V::lanes) {
    const V::reg g = V::load(gate + i);
    V::store(out + i, V::mul(V::mul(g, sigmoid(g)), V::load(up + i)));
  }
  if (i < n)
    ref::swiglu(gate + i, up + i, n - i, out + i);
}

void geglu(const float* gate, const float* up, int n, float* out) {
  int i = 0;
  for (; i + V::lanes <= n; i += V::lanes) {
    const V::reg g = V::load(gate + i);
    const V::reg cube = V::mul(V::mul(g, g), g);
    const V::reg x = V::mul(V::set1(1.59576912f), V::fma(V::set1(0.044715f), cube, g));
    V::store(out + i, V::mul(V::mul(g, sigmoid(x)), V::load(up + i)));
  }
  if (i < n)
    ref::geglu(gate + i, up + i, n - i, out + i);
}

void head_rms_norm(float* x, const float* weight, int n, float eps) {
  V::reg m = V::zero();
  for (int i = 0; i < n; i += V::lanes)
    m = V::max(V::abs(V::load(x + i)), m); // this order: max(NaN, m) is m
  const float max = V::reduce_max(m);
  const double grid = square_grid(max, n);
  constexpr int kLanes = 8; // the sum is exact: any number of them gives the same bits
  double sums[kLanes] = {};
  for (int i = 0; i < n; i += kLanes)
    for (int j = 0; j < kLanes; ++j)
      sums[j] += on_grid(x[i + j], grid);
  double sum = 0.0;
  for (const double lane : sums)
    sum += lane;
  const V::reg inv = V::set1(inverse_rms(sum, n, eps));
  for (int i = 0; i < n; i += V::lanes)
    V::store(x + i, V::mul(V::mul(V::load(x + i), inv), V::load(weight + i)));
}

void add(const float* x, int n, float* y) {
  int i = 0;
  for (; i + V::lanes <= n; i += V::lanes)
    V::store(y + i, V::add(V::load(y + i), V::load(x + i)));
  for (; i < n; ++i)
    y[i] += x[i];
}

void cos_sin(const float* __restrict angle, int n, float* __restrict cosine,
             float* __restrict sine) {
  for (int i = 0; i < n; ++i) {
    const CosSin at = cosine_and_sine(angle[i]);
    cosine[i] = at.cosine;
    sine[i] = at.sine;
  }
}

void rope(float* x, const float* cosine, const float* sine, int half) {
  int i = 0;
  for (; i + V::lanes <= half; i += V::lanes) {
    const V::reg a = V::load(x + i), b = V::load(x + i + half);
    const V::reg c = V::load(cosine + i), s = V::load(sine + i);
    // Plain products, no fused multiply: lanes and the tail below round alike, so that a
    // permutation of pairs cannot move a value between differently rounded code paths.
    V::store(x + i, V::sub(V::mul(a, c), V::mul(b, s)));
    V::store(x + i + half, V::add(V::mul(b, c), V::mul(a, s)));
  }
  for (; i < half; ++i)
    rotate_pair(x[i], x[i + half], cosine[i], sine[i]);
}

// n is a multiple of 16. Returns the scale; `store` writes V::lanes codes.
template <typename Code, typename Store>
inline float quantize_row(const float* x, int n, float qmax, Code* codes, Store store) {
  V::reg m = V::zero();
  for (int i = 0; i < n; i += V::lanes)
    m = V::max(V::abs(V::load(x + i)), m); // this order: max(NaN, m) is m
  const float amax = V::reduce_max(m);
  const CodeScale by = code_scale(amax, qmax);
  const V::reg inv = V::set1(by.inverse);
  for (int i = 0; i < n; i += V::lanes)
    store(codes + i, V::nan_to_zero(V::mul(V::load(x + i), inv)));
  return by.scale;
}

float quantize_row_i8(const float* x, int n, int8_t* codes) {
  return quantize_row(x, n, kLargestInt8, codes, V::store_i8);
}

float quantize_row_i16(const float* x, int n, int16_t* codes) {
  return quantize_row(x, n, static_cast<float>(kCode16), codes, V::store_i16);
}

float quantize_row_i4(const float* x, int n, uint8_t* out) {
  auto* codes = reinterpret_cast<int8_t*>(out);
  const float scale = quantize_row(x, n, kLargestInt4, codes, V::store_i8);
  for (int j = 0; j < n / 2; ++j)
    out[j] = pack_int4_codes(codes[j], codes[j + n / 2]);
  return scale;
}

void unpack_rows_i4(const uint8_t* __restrict packed, int rows, int n, int8_t* __restrict codes) {
  const int half = n / 2; // a multiple of 8
  for (int r = 0; r < rows; ++r, packed += half, codes += n) {
    int j = 0;
    for (; j + 16 <= half; j += 16)
      unpack_16(packed + j, codes + j, codes + half + j);
    for (; j < half; ++j) {
      codes[j] = static_cast<int8_t>((packed[j] & 15) - 8);
      codes[half + j] = static_cast<int8_t>((packed[j] >> 4) - 8);
    }
  }
}

void quantize_blocks(const float* x, int cols, int8_t* codes, int8_t* low, float* scales,
                     float* sums, int32_t* code_sums) {
  for (int b = 0; b < cols / kBlock; ++b, x += kBlock, codes += kBlock) {
    if (low == nullptr) {
      scales[b] = quantize_row_i8(x, kBlock, codes);
      code_sums[b] = sum_block(codes);
    } else {
      const auto store = [codes, low](int8_t* at, V::reg a) {
        V::store_bytes(at, low + (at - codes), a);
      };
      scales[b] = quantize_row(x, kBlock, static_cast<float>(kCode16), codes, store);
      code_sums[b] = 256 * sum_block(codes) + sum_block(low);
      low += kBlock;
    }
    sums[b] = scales[b] * static_cast<float>(code_sums[b]);
  }
}

void to_f16(const float* x, int n, uint16_t* out) {
  for (int i = 0; i < n; i += V::lanes)
    V::store_f16(out + i, V::load(x + i));
}

// ---- float matmul over panels: a 32-column strip is dequantised once, then serves every token.

constexpr int kVecs = kPanelRows / V::lanes;

// strip[c][16] = W[panel rows, col + c] for the 32 columns of an INT4 or INT8 block.
inline void load_block(const PackedMatrix& w, const uint8_t* panel, int col, float* strip) {
  const bool int4 = is_int4(w.type);
  const uint8_t* unit = int4 ? panel + (col / w.group) * int4_superblock_bytes(w.type, w.group)
                             : panel + (col / kBlock) * kInt8BlockBytes;
  const uint8_t* codes = int4 ? unit + (col % w.group) / kBlock * 256 : unit;
  const auto* tail =
      reinterpret_cast<const uint16_t*>(int4 ? unit + w.group / kBlock * 256 : unit + 512);
  for (int v = 0; v < kVecs; ++v) {
    const V::reg d = V::load_f16(tail + v * V::lanes);
    V::reg m = V::zero();
    if (w.type == WeightType::kInt4)
      m = V::load_f16(tail + 16 + v * V::lanes);
    if (w.type == WeightType::kInt4Symmetric)
      m = V::mul(d, V::set1(-8.0f));
    for (int c = 0; c < kBlock; ++c) {
      const uint8_t* at = codes + (int4 ? c % 16 / 4 : c / 4) * 64 + v * V::lanes * 4;
      const V::reg code =
          int4 ? V::nibbles(at, 8 * (c % 4) + c / 16 * 4) : V::signed_bytes(at, c % 4);
      V::store(strip + c * 16 + v * V::lanes, V::add(V::mul(d, code), m));
    }
  }
}

// strip[c][16] = W[panel rows, col + c] for c < n <= 32.
inline void load_strip(const PackedMatrix& w, const uint8_t* panel, int col, int n, float* strip) {
  if (w.type == WeightType::kF32) {
    std::memcpy(strip, panel + static_cast<size_t>(col) * kPanelRows * 4, sizeof(float) * n * 16);
  } else if (w.type == WeightType::kF16) {
    const auto* half = reinterpret_cast<const uint16_t*>(panel) + static_cast<size_t>(col) * 16;
    for (int i = 0; i < n * 16; i += V::lanes)
      V::store(strip + i, V::load_f16(half + i));
  } else {
    load_block(w, panel, col, strip);
  }
}

void float_matmul(const PackedMatrix& w, int panel_begin, int panel_end, const Activations& x,
                  int tokens, float* y, size_t y_stride) {
  constexpr int kTokens = 32; // accumulators of one pass: 32 x 16 floats, 2 KiB
  alignas(64) float strip[kBlock * kPanelRows];
  alignas(64) float acc[kTokens * kPanelRows];
  for (int p = panel_begin; p < panel_end; ++p) {
    const uint8_t* panel = w.data + static_cast<size_t>(p) * w.panel_bytes;
    const int rows = std::min(kPanelRows, w.rows - p * kPanelRows);
    for (int t0 = 0; t0 < tokens; t0 += kTokens) {
      const int nt = std::min(kTokens, tokens - t0);
      std::memset(acc, 0, sizeof(acc));
      for (int col = 0; col < w.cols; col += kBlock) {
        const int n = std::min(kBlock, w.cols - col);
        load_strip(w, panel, col, n, strip);
        for (int t = 0; t < nt; ++t) {
          const float* xs = x.f32 + static_cast<size_t>(t0 + t) * w.cols + col;
          V::reg a[kVecs];
          for (int v = 0; v < kVecs; ++v)
            a[v] = V::zero();
          for (int c = 0; c < n; ++c) {
            const V::reg xc = V::set1(xs[c]);
            for (int v = 0; v < kVecs; ++v)
              a[v] = V::fma(xc, V::load(strip + c * 16 + v * V::lanes), a[v]);
          }
          for (int v = 0; v < kVecs; ++v) {
            float* at = acc + t * 16 + v * V::lanes;
            V::store(at, V::add(V::load(at), a[v]));
          }
        }
      }
      for (int t = 0; t < nt; ++t)
        std::memcpy(y + (t0 + t) * y_stride + p * kPanelRows, acc + t * 16, sizeof(float) * rows);
    }
  }
}

// ---- low-rank updates

constexpr int kPanelsAhead = 2; // that a factor's bytes are asked for before they are used

// In the next three, y begins at panel_begin, and panels are whole.

// y += B u of a float factor: each lane's own chain over the ranks, then one addition.
inline void add_float(const LowRankTerm& term, int panel_begin, int panel_end, int token,
                      float* y) {
  const float* u = term.u.f32 + static_cast<size_t>(token) * rank_chunks(term.b.rank) * kRankChunk;
  for (int p = panel_begin; p < panel_end; ++p) {
    const auto* b = reinterpret_cast<const float*>(term.b.data + p * term.b.panel_bytes);
    for (int row = 0; row < kPanelRows; row += V::lanes) {
      V::reg sum = V::zero();
      for (int r = 0; r < term.b.rank; ++r)
        sum = V::fma(V::set1(u[r]), V::load(b + r * kPanelRows + row), sum);
      float* out = y + (p - panel_begin) * kPanelRows + row;
      V::store(out, V::add(V::load(out), sum));
    }
  }
}

// y += B u of one chunk of an INT8 factor, exact in int32 before its scales are applied.
//   Dot(code_sum)      the integer sum, 0 at first, given the sum of the chunk's u codes
//     load(codes)      four codes of u, as add() takes them
//     add(b, four)     adds V::lanes rows x 4 ranks of b by four codes of u
//     total()          as floats, one lane a row
template <typename Dot>
inline void add_chunk(const LowRankTerm& term, int chunk, int quads, int panel_begin, int panel_end,
                      int token, float* y) {
  const size_t at = static_cast<size_t>(token) * rank_chunks(term.b.rank) + chunk;
  const int8_t* u = term.u.codes + at * kRankChunk;
  const decltype(Dot::load(u)) fours[] = {Dot::load(u), Dot::load(u + 4), Dot::load(u + 8),
                                          Dot::load(u + 12)};
  const V::reg scale = V::set1(term.u.scales[at]);
  const Dot zero(term.u.code_sums[at]);
  for (int p = panel_begin; p < panel_end; ++p) {
    const uint8_t* b = low_rank_chunk(term.b.data + p * term.b.panel_bytes, chunk);
    for (int i = 0; token == 0 && i <= quads; ++i)
      __builtin_prefetch(b + kPanelsAhead * term.b.panel_bytes + i * 64);
    for (int row = 0; row < kPanelRows; row += V::lanes) {
      Dot dot = zero;
      for (int q = 0; q < quads; ++q)
        dot.add(b + q * 64 + row * 4, fours[q]);
      const V::reg d = V::load_f16(reinterpret_cast<const uint16_t*>(b + quads * 64) + row);
      float* out = y + (p - panel_begin) * kPanelRows + row;
      V::store(out, V::fma(dot.total(), V::mul(d, scale), V::load(out)));
    }
  }
}

template <typename Dot>
void add_terms(const LowRankTerm* terms, int count, int panel_begin, int panel_end, int token,
               float* y) {
  for (const LowRankTerm* term = terms; term < terms + count; ++term) {
    if (term->b.type == WeightType::kF32) {
      add_float(*term, panel_begin, panel_end, token, y);
      continue;
    }
    const int full = term->b.rank / kRankChunk;
    for (int c = 0; c < full; ++c) // a constant number of quads: the loop over them unrolls
      add_chunk<Dot>(*term, c, kRankChunk / 4, panel_begin, panel_end, token, y);
    if (full < rank_chunks(term->b.rank))
      add_chunk<Dot>(*term, full, rank_quads(term->b.rank, full), panel_begin, panel_end, token, y);
  }
}

template <typename Dot>
void low_rank_add(const LowRankTerm* terms, int count, int panel_begin, int panel_end, int tokens,
                  float* y, size_t y_stride) {
  const int rows = terms->b.rows, whole = std::min(panel_end, rows / kPanelRows);
  for (int t = 0; t < tokens; ++t) {
    float* out = y + t * y_stride;
    add_terms<Dot>(terms, count, panel_begin, whole, t, out + panel_begin * kPanelRows);
    if (whole < panel_end) { // the last panel is cut: a whole one in its place
      float last[kPanelRows] = {};
      std::memcpy(last, out + whole * kPanelRows, sizeof(float) * (rows % kPanelRows));
      add_terms<Dot>(terms, count, whole, panel_end, t, last);
      std::memcpy(out + whole * kPanelRows, last, sizeof(float) * (rows % kPanelRows));
    }
  }
}

} // namespace
} // namespace ptmo::kernels
