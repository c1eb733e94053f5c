// INT4 and INT8 matrices times few columns of INT8 activations (decoding): a block streams one
// panel of the weights from memory into registers, its warps taking turns at the tiles. Bound by
// bytes where it issues less than memory delivers, so what a tile costs in instructions is kept
// small: kernels/README.md has the count.
#include "matmul_panel.cuh"

namespace ptmo::cuda {
namespace {

constexpr int kFewWarps = 8; // of a block, which has one panel and splits its columns among them
constexpr int kFewThreads = kFewWarps * kWarpLanes;

// What a warp has under way of a tile of weights. Scales are asked for with the codes: both come
// from memory.
template <WeightType kType, int kSpan> struct TileAhead {
  WeightTile<kType> codes;
  ScaleBits<kType> scales[MatmulPanel<kType, kSpan>::kScales];
};

// A warp's own tiles: every kFewWarps-th of a panel.
template <WeightType kType, int kSpan> struct WarpTiles {
  using Panel = MatmulPanel<kType, kSpan>;
  static constexpr int kCodeStep = kFewWarps * Panel::kCodeBytes; // from tile to tile
  static constexpr int kScaleStep = kFewWarps * 2 / kSpan * Panel::kScaleBytes;
  const uint8_t *codes, *scales; // of the lane, in tile 0

  __device__ __forceinline__ WarpTiles(const Panel& panel, int warp, int lane)
      : codes(panel.codes_of(warp) + lane * 16),
        scales(panel.scales_of(warp, 0) + lane / 4 * sizeof(ScaleBits<kType>)) {}
  __device__ __forceinline__ void load(int tile, bool wanted, TileAhead<kType, kSpan>& to) const {
    to.codes.load_once(codes + tile * kCodeStep, wanted);
#pragma unroll
    for (int i = 0; i < Panel::kScales; ++i)
      load_if(wanted, scales + tile * kScaleStep + i * Panel::kScaleBytes, to.scales[i]);
  }
  __device__ __forceinline__ void advance(int by) {
    codes += by * kCodeStep;
    scales += by * kScaleStep;
  }
};

__host__ __device__ int few_blocks(const MatmulPart& part) {
  return kernels::panels(part.w.rows);
}

// Columns and tokens past the last repeat it: the product's columns do not meet, and theirs go
// nowhere.
template <WeightType kType, int kPlanes, int kGroups, int kSpan>
__global__ void __launch_bounds__(kFewThreads, kGroups == 4 && kPlanes == 1 ? 1 : 2)
    matmul_few(const __grid_constant__ MatmulJob job) {
  using Acc = Sums<kType, kPlanes>;
  using Panel = MatmulPanel<kType, kSpan>;
  constexpr int kTokens = Acc::kTokens, kAllTokens = kGroups * 4 * kTokens;
  constexpr int kAhead = kGroups == 1 ? 4 : 2; // tiles a warp has under way
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpLanes,
            warp = __shfl_sync(kAllLanes, thread / kWarpLanes, 0); // known to be the warp's own
  const int g = lane / 4, p = lane % 4;
  const BlockOfPart block(job, static_cast<int>(blockIdx.x), few_blocks);
  const MatmulPart& part = job.parts[block.part];
  const Panel panel(part.w, block.index);
  const int tiles = (panel.tiles - warp + kFewWarps - 1) / kFewWarps; // of the warp
  const int columns = job.x.tokens * kPlanes;

  WarpTiles<kType, kSpan> weights(panel, warp, lane);
  TileAhead<kType, kSpan> ahead[kAhead] = {};
#pragma unroll
  for (int i = 0; i < kAhead; ++i)
    weights.load(i, i < tiles, ahead[i]);

  // What is added to the product is fetched while the first weights are under way.
  constexpr int kOutputs = (kAllTokens * kPanelRows + kFewThreads - 1) / kFewThreads;
  float beside[kOutputs], before[kOutputs];
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    const int at = thread + i * kFewThreads;
    const int row = panel.first_row + at % kPanelRows, token = at / kPanelRows;
    const float* y = place_of(part, job.x.tokens, row, token);
    beside[i] = y == nullptr ? 0.0f : beside_product(part, row, token);
    before[i] = y == nullptr || !job.add ? 0.0f : *y;
  }

  const int8_t* codes[kGroups]; // of the next tile, as the scales
  const float2* scales[kGroups][kTokens];
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
    const int column = min(n * kProductColumns + g, columns - 1);
    codes[n] =
        job.x.codes + (static_cast<size_t>(column) * panel.tiles + warp) * kTileColumns + p * 16;
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const int token = min((n * 4 + p) * kTokens + t, job.x.tokens - 1);
      scales[n][t] = job.x.scales + (static_cast<size_t>(token) * panel.tiles + warp) * 2;
    }
  }
  Acc sums[kGroups];
  for (int first = 0; first < tiles; first += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i >= tiles)
        break;
      const AFragment a[2] = {ahead[i].codes.block(0), ahead[i].codes.block(1)};
      RowScales<kType> row_scales[Panel::kScales];
#pragma unroll
      for (int b = 0; b < Panel::kScales; ++b)
        row_scales[b].unpack(ahead[i].scales[b]);
      weights.load(kAhead + i, first + kAhead + i < tiles, ahead[i]);
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        const InputTile input{
            *reinterpret_cast<const uint4*>(codes[n] + i * kFewWarps * kTileColumns)};
        float4 both[kTokens];
#pragma unroll
        for (int t = 0; t < kTokens; ++t)
          both[t] = *reinterpret_cast<const float4*>(scales[n][t] + i * kFewWarps * 2);
        sums[n].add({Acc::multiply(a[0], input.block(0)), Acc::multiply(a[1], input.block(1))},
                    row_scales, both);
      }
    }
    weights.advance(kAhead);
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      codes[n] += kAhead * kFewWarps * kTileColumns;
#pragma unroll
      for (int t = 0; t < kTokens; ++t)
        scales[n][t] += kAhead * kFewWarps * 2;
    }
  }

  // The warps' sums meet in shared memory [warp][token][row] and are added in the warps' order.
  PTMO_SHARED(float, shared, kFewWarps * kAllTokens * kPanelRows);
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      float* at = shared + (warp * kAllTokens + (n * 4 + p) * kTokens + t) * kPanelRows + g;
      at[0] = sums[n].at[0][t];
      at[8] = sums[n].at[1][t];
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    const int at = thread + i * kFewThreads;
    float* y = place_of(part, job.x.tokens, panel.first_row + at % kPanelRows, at / kPanelRows);
    if (y == nullptr)
      continue;
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kFewWarps; ++w)
      sum += shared[w * kAllTokens * kPanelRows + at];
    *y = before[i] + (sum + beside[i]);
  }
}

template <WeightType kType, int kPlanes, int kGroups, int kSpan>
cudaError_t launch_few(const MatmulJob& job, cudaStream_t stream) {
  return launch(matmul_few<kType, kPlanes, kGroups, kSpan>, dim3(blocks_of(job, few_blocks)),
                dim3(kFewThreads), stream, job);
}

} // namespace

cudaError_t matmul_few_columns(const MatmulJob& job, cudaStream_t stream) {
  return with_shape(job, [&](auto type, auto planes, auto span) {
    constexpr WeightType kType = decltype(type)::value;
    constexpr int kPlanes = decltype(planes)::value, kSpan = decltype(span)::value;
    const int columns = job.x.tokens * kPlanes;
    if (columns <= kProductColumns)
      return launch_few<kType, kPlanes, 1, kSpan>(job, stream);
    if (columns <= 2 * kProductColumns)
      return launch_few<kType, kPlanes, 2, kSpan>(job, stream);
    return launch_few<kType, kPlanes, 4, kSpan>(job, stream);
  });
}

cudaError_t matmul(const MatmulJob& job, cudaStream_t stream) {
  const auto alike = [&](int a, int b) {
    const DeviceMatrix &v = job.parts[a].w, &w = job.parts[b].w;
    return v.type == w.type && (v.type == WeightType::kInt8 || v.group == w.group);
  };
  const int count = job.x.tokens == 0 ? 0 : job.count;
  cudaError_t error = cudaSuccess;
  for (int first = 0, i = 0; i < count && error == cudaSuccess; first = i) {
    MatmulJob together{job.x, job.add, 0, {}};
    for (; i < count && alike(first, i); ++i)
      together.parts[together.count++] = job.parts[i];
    error = job.x.tokens * job.x.planes <= kFewColumns ? matmul_few_columns(together, stream)
                                                       : matmul_many_columns(together, stream);
  }
  return error;
}

} // namespace ptmo::cuda
