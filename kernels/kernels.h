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

constexpr int panels(int rows) {
  return (rows + kPanelRows - 1) / kPanelRows;
}

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

// Activations of `tokens` rows. Float weights and the fp32 path read f32; the integer path reads
// the rest, per block of 32: x ~= scale * c, sums = scale * sum(c), code_sums = sum(c), with c =
// code at 8 bits and c = 256 * code + low at 16.
struct Activations {
  int cols;
  const float* f32;         // [tokens, cols]
  const int8_t* codes;      // [tokens, cols], null on the fp32 path
  const int8_t* low;        // [tokens, cols], null at 8 bits
  const float* scales;      // [tokens, cols / 32]
  const float* sums;        // [tokens, cols / 32]
  const int32_t* code_sums; // [tokens, cols / 32]
};

constexpr int kCode16 = 127 * 256 + 127; // the largest 16-bit code whose two bytes are both signed

// Consecutive cache rows of one KV head, in pieces of `rows` (16 or 32) rows each.
constexpr int kSpanRows = 128; // at most
constexpr int kSpanPieces = kSpanRows / 16;
struct CacheSpan {
  int first_piece, pieces, rows; // pieces before the first are not there: no query sees them
  const uint8_t* k[kSpanPieces]; // [rows, dim] elements
  const uint8_t* v[kSpanPieces];
  const float* scales[kSpanPieces]; // [rows, 2], of the K and the V row: integer elements only
  const uint8_t* next[kSpanPieces]; // next_bytes each that will be read soon, or null
  size_t next_bytes;
};

// Query rows; row i sees the rows [first[i], last[i]) of a span, at least one. A kernel may read
// the cache rows around those, up to a multiple of 16, but no result depends on them.
struct Queries {
  int count, dim;       // dim: a multiple of 16, 16..512
  float scale;          // of q . k
  const float* q;       // [count, dim]; float elements
  const int16_t* codes; // [count, dim], q ~= code_scales * codes; integer elements
  const float* code_scales;
  const int *first, *last;
};

// What attention over a span gives for one query: [0] max, [16..31] parts of a sum, then acc [dim].
// With x[r] = log2(e) * scale * (q . k[r]) and p[r] = 2^(x[r] - max) over the rows r that it sees:
// max = max x, sum = sum p, acc = sum p v.
constexpr int kPartialHead = 32;
constexpr float kLog2e = 1.44269504088896341f;

constexpr size_t kAttendScratch = 24 * 1024; // bytes, 64-byte aligned; holds secrets afterwards

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

  // Symmetric blocks: c = round_half_even(x / scale), scale = max|x| / 127 at 8 bits (`low` is
  // null), max|x| / kCode16 at 16.
  void (*quantize_blocks)(const float* x, // [cols]
                          int cols, int8_t* codes, int8_t* low, float* scales, float* sums,
                          int32_t* code_sums);

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

  // Symmetric integer rows: returns scale = max|x| / (127 or kCode16); 0 for zero rows.
  float (*quantize_row_i8)(const float* x, int n, int8_t* codes);
  float (*quantize_row_i16)(const float* x, int n, int16_t* codes);
  void (*to_f16)(const float* x, int n, uint16_t* out);
  // Codes -7..7, scale = max|x| / 7: byte j of the n / 2 that count holds the codes of elements j
  // (low nibble) and j + n / 2, plus 8. `out` has room for n bytes: the rest is scratch.
  float (*quantize_row_i4)(const float* x, int n, uint8_t* out);
  // The codes of `rows` such rows of n elements.
  void (*unpack_rows_i4)(const uint8_t* packed, int rows, int n, int8_t* codes);

  // partials [count, kPartialHead + dim] of the queries over the span. INT8 elements: q . k is
  // exact in int32; p[r] times the scale of v[r] becomes a code of 0..32767 (32767: 1 times the
  // largest scale of a row seen), and the sums of code * v are exact in int32. Float elements:
  // every element of acc has its own chain of fused steps, rows in order.
  void (*attend_i8)(const Queries& q, const CacheSpan& span, void* scratch, float* partials);
  void (*attend_f16)(const Queries& q, const CacheSpan& span, void* scratch, float* partials);
  void (*attend_f32)(const Queries& q, const CacheSpan& span, void* scratch, float* partials);
  // Folds `count` partials, each into its own total of the same form; a total of max = -infinity
  // and zeros is empty.
  void (*fold_partials)(const float* partials, int count, int dim, float* totals);

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
