// What goes into a matrix product, in one launch: RMS norm or gated activation, residual, INT8
// codes, and the first half of low-rank updates on those codes (the split of SVDQuant, Li et al.
// 2024: A beside the quantisation, B in the product).
//
// No block waits for another or reads what another writes. With few tokens the blocks that multiply
// by A compute the values and codes they need again, in shared memory: cheap beside a second
// launch. The residual goes to a buffer that nobody reads in the same launch, so that x stays what
// it was for every block.
#include "../row_codes.h"
#include "block_product.cuh"
#include "input_values.cuh"
#include "launch.cuh"
#include "rotary_table.cuh"

namespace ptmo::cuda {
namespace {

constexpr int kFusedTokens = 16; // at most: above, A waits for the codes of the first launch
constexpr int kSplitTokens = 64; // from here on a block writes whole tokens

// A lane's four columns of a block, whose eight lanes are neighbours.
template <int kPlanes> struct BlockCodes {
  uint32_t words[kPlanes];
  float scale, sum; // of the block
};

// All lanes of the warp.
template <int kPlanes> __device__ __forceinline__ BlockCodes<kPlanes> quantise(const Four& v) {
  float max = 0.0f;
#pragma unroll
  for (const float x : v.at)
    max = fmaxf(max, fabsf(x));
#pragma unroll
  for (int with = 1; with < 8; with *= 2)
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, with));
  const kernels::CodeScale by =
      kernels::code_scale(max, kPlanes == 1 ? 127.0f : static_cast<float>(kernels::kCode16));
  BlockCodes<kPlanes> out{};
  int sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const auto code = static_cast<int>(kernels::row_code(v.at[i], by.inverse));
    sum += code;
    out.words[kPlanes - 1] |= (static_cast<uint32_t>(code) & 255u) << 8 * i;
    if constexpr (kPlanes == 2)
      out.words[0] |= (static_cast<uint32_t>(kernels::upper_byte(code)) & 255u) << 8 * i;
  }
#pragma unroll
  for (int with = 1; with < 8; with *= 2)
    sum += __shfl_xor_sync(kAllLanes, sum, with);
  out.scale = by.scale;
  out.sum = by.scale * static_cast<float>(sum);
  return out;
}

// Calls take(col, residual, values, codes) for each four columns of [from, to), zeros past the
// row's end: a whole number of tiles.
template <int kPlanes, typename Take>
__device__ __forceinline__ void for_columns(const PrepareJob& job, const Row& row, int from, int to,
                                            const Take& take) {
  for (int base = from; base < to; base += kInputStep) { // whole warps: they share a block's codes
    const int col = base + static_cast<int>(threadIdx.x) * 4;
    Four sum{}, values{};
    if (col < job.cols && col < to) {
      sum = residual(job, row, col);
      values = finished(job, row, col, sum);
    }
    const BlockCodes<kPlanes> codes = quantise<kPlanes>(values);
    if (col < to)
      take(col, sum, values, codes);
  }
}

// One part of a token, of `parts`, to where the caller wants it.
template <int kPlanes>
__device__ void write(const PrepareJob& job, int token, int part, int parts, float* shared) {
  const Row row = open_row(job, token, shared);
  const int width = padded(job.cols);
  const int columns = parts == 1 ? width : kInputStep, from = part * columns;
  const size_t at = static_cast<size_t>(token) * job.cols;
  for_columns<kPlanes>(
      job, row, from, from + columns < width ? from + columns : width,
      [&](int col, const Four& sum, const Four& values, const BlockCodes<kPlanes>& codes) {
        if (col < job.cols && job.sum != nullptr)
          store(job.sum + at + col, sum);
        if (col < job.cols && job.values != nullptr)
          store(job.values + at + col, values);
        if (job.codes == nullptr)
          return;
        int8_t* to =
            job.codes + static_cast<size_t>(token) * kPlanes * width + activation_offset(col);
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane)
          *reinterpret_cast<uint32_t*>(to + plane * width) = codes.words[plane];
        if (col % kBlock == 0)
          job.scales[(static_cast<size_t>(token) * width + col) / kBlock] = {codes.scale,
                                                                             codes.sum};
      });
}

// ---------------------------------------------------------------- the first half of an update

constexpr int kColumns = 8;              // of one tensor-core product: planes of tokens
constexpr int kPieceBytes = 16 * 1024;   // of codes in shared memory
constexpr int kPieceTiles = kInputWarps; // a piece is a multiple of these, whatever its tokens: a
                                         // warp's sums then run over the same tiles in one order
constexpr int kAhead = 4;                // tiles of A that a warp has under way

template <int kPlanes> struct Group {
  static constexpr int kTokens = kColumns / kPlanes;
};

// 16 ranks of one A by the tokens of a group.
struct Unit {
  const DeviceShrink* of;
  int chunk, first, tokens; // of the shrink's own tokens
};

template <int kPlanes> __device__ Unit find_unit(const PrepareJob& job, int index) {
  constexpr int kTokens = Group<kPlanes>::kTokens;
  for (int i = 0; i < job.shrink_count; ++i) {
    const DeviceShrink* of = job.shrinks + i;
    const int units = (of->count + kTokens - 1) / kTokens * of->chunks;
    if (index < units) {
      const int first = index / of->chunks * kTokens, left = of->count - first;
      return {of, index % of->chunks, first, left < kTokens ? left : kTokens};
    }
    index -= units;
  }
  return {nullptr, 0, 0, 0};
}

struct Piece {
  int8_t* codes; // [tokens, planes, stride]
  float* scales; // [tokens, stride / 32]
  int from, to, stride;
};

// Computes the codes of a piece, where `rows` has what a token needs, or copies them.
template <int kPlanes>
__device__ void fill(const PrepareJob& job, int first, int tokens, const Row* rows,
                     const Piece& piece) {
  const int width = padded(job.cols), columns = piece.to - piece.from;
  for (int t = 0; t < tokens; ++t) {
    int8_t* codes = piece.codes + t * kPlanes * piece.stride;
    float* scales = piece.scales + t * (piece.stride / kBlock);
    if (rows != nullptr) {
      for_columns<kPlanes>(job, rows[t], piece.from, piece.to,
                           [&](int col, const Four&, const Four&, const BlockCodes<kPlanes>& of) {
                             const int at = col - piece.from;
#pragma unroll
                             for (int plane = 0; plane < kPlanes; ++plane)
                               *reinterpret_cast<uint32_t*>(codes + plane * piece.stride +
                                                            activation_offset(at)) =
                                   of.words[plane];
                             if (at % kBlock == 0)
                               scales[at / kBlock] = of.scale;
                           });
      continue;
    }
    const size_t token = static_cast<size_t>(first + t);
    for (int i = static_cast<int>(threadIdx.x) * 16; i < columns * kPlanes;
         i += kInputThreads * 16) {
      const int plane = i / columns, at = i % columns;
      *reinterpret_cast<uint4*>(codes + plane * piece.stride + at) =
          *reinterpret_cast<const uint4*>(job.codes + (token * kPlanes + plane) * width +
                                          piece.from + at);
    }
    for (int i = static_cast<int>(threadIdx.x); i < columns / kBlock; i += kInputThreads)
      scales[i] = job.scales[(token * width + piece.from) / kBlock + i].x;
  }
}

template <int kPlanes>
__device__ void shrink(const PrepareJob& job, int index, bool fused, float* norm_sums) {
  using Weights = WeightTile<WeightType::kInt8>;
  constexpr int kTokens = Group<kPlanes>::kTokens, kLaneTokens = 2 / kPlanes;
  constexpr int kTileStep = Weights::kLoads * kTileBytes;
  const Unit unit = find_unit<kPlanes>(job, index);
  if (unit.of == nullptr)
    return;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpLanes,
            warp = thread / kWarpLanes, g = lane / 4, p = lane % 4;
  const int tiles = tiles_of(job.cols), first = unit.of->first + unit.first;

  PTMO_SHARED(Row, rows, kTokens);
  for (int t = 0; fused && t < unit.tokens; ++t) {
    const Row row = open_row(job, first + t, norm_sums);
    if (thread == 0)
      rows[t] = row;
  }
  // A tile more than a piece is apart: columns of the product then lie in different banks.
  PTMO_SHARED(int8_t, codes, kPieceBytes + kColumns * kTileColumns);
  PTMO_SHARED(float, scales, (kPieceBytes + kColumns * kTileColumns) / kPlanes / kBlock);
  const int piece_tiles =
      kPieceBytes / kTileColumns / (unit.tokens * kPlanes) / kPieceTiles * kPieceTiles;
  const uint8_t* a = unit.of->a + static_cast<size_t>(unit.chunk) * tiles * kTileStep;
  const uint16_t* a_scales =
      unit.of->a_scales + (static_cast<size_t>(unit.chunk) * 2 * tiles * 8 + g) * 2;

  Sums<WeightType::kInt8, kPlanes> sums;
  for (int from = 0; from < tiles; from += piece_tiles) {
    const int to = from + piece_tiles < tiles ? from + piece_tiles : tiles;
    const Piece piece{codes, scales, from * kTileColumns, to * kTileColumns,
                      (piece_tiles + 1) * kTileColumns};
    for (int begin = from + warp;; begin += kInputWarps * kAhead) {
      Weights weights[kAhead] = {}; // asked for before the codes are computed: they do not wait
      ScaleBits<WeightType::kInt8> scale_bits[kAhead][2] = {};
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int tile = begin + i * kInputWarps;
        weights[i].load_once(a + static_cast<size_t>(tile) * kTileStep + lane * 16, tile < to);
#pragma unroll
        for (int b = 0; b < 2; ++b)
          load_if(tile < to, a_scales + static_cast<size_t>(2 * tile + b) * 16, scale_bits[i][b]);
      }
      if (begin == from + warp) {
        __syncthreads(); // the rows are known, and all have left the last piece
        fill<kPlanes>(job, first, unit.tokens, fused ? rows : nullptr, piece);
        __syncthreads();
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int tile = begin + i * kInputWarps;
        if (tile >= to)
          break;
        const int at = tile - from;
        // Columns and tokens past the last repeat it: theirs are sums of their own.
        const int column = min(g, unit.tokens * kPlanes - 1);
        const InputTile input{*reinterpret_cast<const uint4*>(codes + column * piece.stride +
                                                              at * kTileColumns + p * 16)};
        float4 both[kLaneTokens]; // scales of both blocks; there are no mins to take their sums
#pragma unroll
        for (int t = 0; t < kLaneTokens; ++t) {
          const int token = min(p * kLaneTokens + t, unit.tokens - 1);
          const float* of_token = scales + token * (piece.stride / kBlock) + 2 * at;
          both[t] = float4{of_token[0], 0.0f, of_token[1], 0.0f};
        }
        RowScales<WeightType::kInt8> row_scales[2];
#pragma unroll
        for (int b = 0; b < 2; ++b)
          row_scales[b].unpack(scale_bits[i][b]);
        sums.add({sums.multiply(weights[i].block(0), input.block(0)),
                  sums.multiply(weights[i].block(1), input.block(1))},
                 row_scales, both);
      }
      if (begin + kInputWarps * kAhead >= to)
        break;
    }
  }

  // The warps' sums [warp][token][rank] are added in the warps' order.
  PTMO_SHARED(float, parts, kInputWarps * kTokens * kPanelRows);
#pragma unroll
  for (int t = 0; t < kLaneTokens; ++t) {
    float* at = parts + (warp * kTokens + p * kLaneTokens + t) * kPanelRows + g;
    at[0] = sums.at[0][t];
    at[8] = sums.at[1][t];
  }
  __syncthreads();
  for (int i = thread; i < unit.tokens * kPanelRows; i += kInputThreads) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kInputWarps; ++w)
      sum += parts[w * kTokens * kPanelRows + i];
    const size_t token = static_cast<size_t>(unit.first + i / kPanelRows);
    unit.of->u[(token * unit.of->chunks + unit.chunk) * kPanelRows + i % kPanelRows] =
        unit.of->scale * sum;
  }
}

// Blocks first write the codes, `parts` a token, then multiply by A, then fill the angles.
template <int kPlanes>
__global__ void __launch_bounds__(kInputThreads)
    prepare(const __grid_constant__ PrepareJob job, int parts, int units) {
  PTMO_SHARED(float, norm_sums, 2 * kInputWarps);
  const int block = static_cast<int>(blockIdx.x), writers = job.tokens * parts;
  if (block < writers)
    write<kPlanes>(job, block / parts, block % parts, parts, norm_sums);
  else if (block < writers + units)
    shrink<kPlanes>(job, block - writers, true, norm_sums);
  else
    fill_angle(job.angles,
               (block - writers - units) * kInputThreads + static_cast<int>(threadIdx.x));
}

template <int kPlanes>
__global__ void __launch_bounds__(kInputThreads)
    shrink_codes(const __grid_constant__ PrepareJob job) {
  shrink<kPlanes>(job, static_cast<int>(blockIdx.x), false, nullptr);
}

template <int kPlanes> cudaError_t launch_planes(const PrepareJob& job, cudaStream_t stream) {
  const int parts =
      job.tokens >= kSplitTokens ? 1 : (padded(job.cols) + kInputStep - 1) / kInputStep;
  const bool fused = job.tokens <= kFusedTokens;
  const int units = fused ? job.units : 0;
  const int of_angles = (job.angles.tokens * job.angles.width + kInputThreads - 1) / kInputThreads;
  const cudaError_t error = launch(prepare<kPlanes>, dim3(job.tokens * parts + units + of_angles),
                                   dim3(kInputThreads), stream, job, parts, units);
  if (error != cudaSuccess || fused || job.units == 0)
    return error;
  return launch(shrink_codes<kPlanes>, dim3(job.units), dim3(kInputThreads), stream, job);
}

} // namespace

int shrink_units(const DeviceShrink* shrinks, int count, int planes) {
  const int tokens = kColumns / planes;
  int units = 0;
  for (int i = 0; i < count; ++i)
    units += (shrinks[i].count + tokens - 1) / tokens * shrinks[i].chunks;
  return units;
}

cudaError_t prepare_input(const PrepareJob& job, cudaStream_t stream) {
  if (job.tokens == 0)
    return cudaSuccess;
  return job.planes == 2 ? launch_planes<2>(job, stream) : launch_planes<1>(job, stream);
}

} // namespace ptmo::cuda
