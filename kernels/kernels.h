// Every compute kernel of the engine, declared once with its shapes and units.
//
// A kernel knows pointers and sizes: no Python, no allocation, no threads. `reference/` says what
// each one means in plain scalar C++; `cpu/` holds the fast levels. A level is a `Table`; `best()`
// picks one by CPU features, or by PTMO_KERNEL_LEVEL=reference|neon|avx2|avxvnni|avx512vnni.
//
// Weights are stored in panels of 16 output rows (layouts: csrc/quant/int4.h and below), so one
// SIMD lane is one output row: an integer block dot product is complete in its lane before it is
// scaled. A permutation of columns inside a 32-column block therefore cannot change a result.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptmo::kernels {

constexpr int kPanelRows = 16; // output rows of a panel
constexpr int kBlock = 32;     // columns of an integer block, and of an activation block

enum class WeightType : int { kInt4 = 0, kInt8 = 1, kF16 = 2, kF32 = 3, kInt4Symmetric = 4 };

constexpr bool is_int4(WeightType t) {
  return t == WeightType::kInt4 || t == WeightType::kInt4Symmetric;
}
constexpr bool is_integer(WeightType t) {
  return is_int4(t) || t == WeightType::kInt8;
}

// A weight matrix W [rows, cols] in panels; the last panel is padded with zero rows.
//   kInt4: cols / group superblocks of [group/32 x 256 B codes | 16 fp16 scales | 16 fp16 mins]
//          codes of a 16x32 block: [p 0..3][row 0..15][j 0..3], low nibble = column 4p + j,
//          high nibble = column 16 + 4p + j;   w = scale * code + min
//   kInt4Symmetric: the same without mins;   w = scale * (code - 8)
//   kInt8: cols / 32 blocks of [512 B codes: [c 0..7][row][j 0..3], column 4c + j | 16 fp16 scales]
//          w = scale * code, code in -127..127
//   kF16, kF32: [cols][16 rows]
struct PackedMatrix {
  WeightType type;
  int rows;
  int cols;
  int group;           // columns that share a scale (INT4: 32, 64, 128; INT8: 32; else 0)
  const uint8_t* data; // 64-byte aligned
  size_t panel_bytes;
};

// Activations of `tokens` rows. Float weights and the fp32 path read f32; the INT8 path reads the
// rest: x ~= scale * code per block of 32, sums = scale * sum(codes), code_sums = sum(codes).
struct Activations {
  int cols;
  const float* f32;         // [tokens, cols]
  const int8_t* codes;      // [tokens, cols], null on the fp32 path
  const float* scales;      // [tokens, cols / 32]
  const float* sums;        // [tokens, cols / 32]
  const int32_t* code_sums; // [tokens, cols / 32]
};

// The B [rows, rank] of a low-rank update, in panels of 16 rows. Ranks go by chunks of 16, the last
// one cut after the quad (4 ranks) that holds the last rank.
//   kInt8: chunk = its quads x 64 B codes, [row][j 0..3], rank 4 * quad + j | 16 fp16 scales
//          b = scale * code, code in -127..127
//   kF32:  [rank][16 rows]
struct LowRankFactor {
  WeightType type;
  int rows, rank;
  const uint8_t* data; // 64-byte aligned
  size_t panel_bytes;
};
constexpr int kRankChunk = 16;
constexpr int rank_chunks(int rank) {
  return (rank + kRankChunk - 1) / kRankChunk;
}
// Quads of a chunk.
constexpr int rank_quads(int rank, int chunk) {
  const int left = rank - chunk * kRankChunk;
  return left >= kRankChunk ? kRankChunk / 4 : (left + 3) / 4;
}
constexpr size_t low_rank_panel_bytes(WeightType type, int rank) {
  return static_cast<size_t>(
      type == WeightType::kF32 ? rank * 64 : (rank + 3) / 4 * 64 + rank_chunks(rank) * 32);
}

// u [tokens, rank] of a low-rank update, zero-padded to whole chunks. A kF32 factor reads f32, a
// kInt8 one the rest: u = scale * code for a chunk, code_sums = sum(codes).
struct LowRankInput {
  const float* f32;         // [tokens, chunks * 16]
  const int8_t* codes;      // [tokens, chunks * 16]
  const float* scales;      // [tokens, chunks]
  const int32_t* code_sums; // [tokens, chunks]
};

struct LowRankTerm {
  LowRankFactor b;
  LowRankInput u;
};

struct Table {
  const char* name;

  // Symmetric INT8 blocks: scale = max|x| / 127, code = round_half_even(x / scale).
  void (*quantize_blocks)(const float* x, // [cols]
                          int cols, int8_t* codes, float* scales, float* sums, int32_t* code_sums);

  // y[t, n] = sum_k W[n, k] x[t, k] for the rows of panels [panel_begin, panel_end).
  void (*matmul)(const PackedMatrix& w, int panel_begin, int panel_end, const Activations& x,
                 int tokens, float* y, size_t y_stride);

  // y = x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019); y may be x.
  void (*rms_norm)(const float* x, const float* weight, int n, float eps, float* y);
  // out = silu(gate) * up, silu(g) = g / (1 + exp(-g)) (Shazeer 2020).
  void (*swiglu)(const float* gate, const float* up, int n, float* out);
  // y += x.
  void (*add)(const float* x, int n, float* y);
  // cosine[i] = cos(angle[i]), sine[i] = sin(angle[i]); |angle| < 2^24 radians.
  void (*cos_sin)(const float* angle, int n, float* cosine, float* sine);
  // Rotates pairs (x[i], x[i + half]) by the given angles (Su et al. 2021, half-split layout).
  void (*rope)(float* x, const float* cosine, const float* sine, int half);

  // Symmetric integer rows: returns scale = max|x| / qmax (127 or 32767); scale 0 for zero rows.
  float (*quantize_row_i8)(const float* x, int n, int8_t* codes);
  float (*quantize_row_i16)(const float* x, int n, int16_t* codes);
  void (*to_f16)(const float* x, int n, uint16_t* out);

  // out[r] = sum_i q[i] k[r, i], exact in int32 (head_dim <= 512).
  void (*dot_rows_i8)(const int16_t* q, const int8_t* k, int rows, int dim, int32_t* out);
  void (*dot_rows_f16)(const float* q, const uint16_t* k, int rows, int dim, float* out);
  void (*dot_rows_f32)(const float* q, const float* k, int rows, int dim, float* out);
  // x = exp(x - max); returns the sum of the results in index order of the level.
  float (*exp_sum)(float* x, int n, float max);
  // acc[i] = fma(p[r], v[r, i], acc[i]) for r = 0, 1, ...: each i alone, rows in order.
  void (*weighted_rows_i8)(const float* p, const int8_t* v, int rows, int dim, float* acc);
  void (*weighted_rows_f16)(const float* p, const uint16_t* v, int rows, int dim, float* acc);
  void (*weighted_rows_f32)(const float* p, const float* v, int rows, int dim, float* acc);

  // out = gelu(gate) * up, gelu(g) = g / (1 + exp(-sqrt(8 / pi) (g + 0.044715 g^3))), the tanh
  // approximation (Hendrycks & Gimpel 2016).
  void (*geglu)(const float* gate, const float* up, int n, float* out);
  // rms_norm of one attention head, in place: n a multiple of 16, at most 512. The sum of squares
  // is order-free (reference/head_norm.h): permuting x and weight alike permutes the result.
  void (*head_rms_norm)(float* x, const float* weight, int n, float eps);

  // y[t, n] += sum over terms, in order, of sum_r B[n, r] u[t, r], for the rows of panels
  // [panel_begin, panel_end). Factors of one call have the same rows and type.
  void (*low_rank_add)(const LowRankTerm* terms, int count, int panel_begin, int panel_end,
                       int tokens, float* y, size_t y_stride);
};

const Table& reference();
// Each is null where the build or the CPU lacks it.
const Table* neon(); // with dot products and fp16 (ARMv8.2)
const Table* avx2();
const Table* avxvnni();
const Table* avx512vnni();

struct Levels {
  const Table* tables[5];
  int count;
  const Table* const* begin() const { return tables; }
  const Table* const* end() const { return tables + count; }
};

// The levels this CPU can run, best first; the last is the reference.
const Levels& levels();

// The level in use: the best the CPU has, or the one PTMO_KERNEL_LEVEL names.
// Throws std::invalid_argument when it names one that this CPU lacks.
const Table& best();

} // namespace ptmo::kernels
