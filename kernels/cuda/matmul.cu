// INT4 and INT8 matrices times INT8 activations on the tensor cores: one kernel for few columns
// (decoding), which streams the weights from memory into registers, and one for many (prefill),
// which shares tiles of both sides in shared memory. A column is one plane of one token.
//
// Bytes and operations: kernels/README.md.
#include "block_product.cuh"
#include "launch.cuh"

namespace ptmo::cuda {
namespace {

constexpr int kProductColumns = 8; // of one tensor-core product

// ---------------------------------------------------------------- few columns

constexpr int kFewWarps = 8;    // of a block, which has one panel and splits its columns among them
constexpr int kFewColumns = 32; // of activations, at most

template <WeightType kType, int kPlanes, int kGroups>
__global__ void __launch_bounds__(kFewWarps* kWarpLanes, kGroups == 4 ? 1 : 2)
    matmul_few(const __grid_constant__ MatmulJob job) {
  using Acc = Sums<kType, kPlanes>;
  constexpr int kTokens = Acc::kTokens;
  constexpr int kAhead = kGroups == 1 ? 4 : 2; // tiles a warp has under way
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes,
            warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int g = lane / 4, p = lane % 4, panel = static_cast<int>(blockIdx.x);
  const int tiles = tiles_of(job.x.cols), columns = job.x.tokens * job.x.planes;
  const int blocks = 2 * tiles, width = tiles * kTileColumns;
  constexpr int kTileStep = WeightTile<kType>::kLoads * kTileBytes;
  const uint8_t* codes = job.w.codes + static_cast<size_t>(panel) * tiles * kTileStep;
  const int groups = groups_of(kType, job.x.cols, job.w.group);
  const int group_blocks = kType == WeightType::kInt8 ? 1 : job.w.group / kBlock;
  const uint16_t* scales =
      job.w.scales + (static_cast<size_t>(panel) * groups * 8 + g) * scale_unit(kType);

  Acc sums[kGroups];
  for (int first = warp; first < tiles; first += kFewWarps * kAhead) {
    WeightTile<kType> weights[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int tile = first + i * kFewWarps;
      if (tile < tiles)
        weights[i].template load<true>(codes + static_cast<size_t>(tile) * kTileStep, lane);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int tile = first + i * kFewWarps;
      if (tile >= tiles)
        break;
      RowScales<kType> row_scales[2];
#pragma unroll
      for (int b = 0; b < 2; ++b)
        row_scales[b].load(scales + static_cast<size_t>((2 * tile + b) / group_blocks) * 8 *
                                        scale_unit(kType));
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        InputTile input{make_uint4(0, 0, 0, 0)};
        const int column = n * kProductColumns + g;
        if (column < columns)
          input.words = *reinterpret_cast<const uint4*>(
              job.x.codes + static_cast<size_t>(column) * width + tile * kTileColumns + p * 16);
        float4 both[kTokens]; // scales of both blocks
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          const int token = (n * 4 + p) * kTokens + t;
          both[t] = token < job.x.tokens
                        ? *reinterpret_cast<const float4*>(
                              job.x.scales + static_cast<size_t>(token) * blocks + 2 * tile)
                        : float4{0.0f, 0.0f, 0.0f, 0.0f};
        }
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          sums[n].add(block_product<kType>(weights[i].block(b), input.block(b)), row_scales[b],
                      both, b);
        }
      }
    }
  }

  // The warps' sums meet in shared memory [warp][token][row] and are added in the warps' order.
  constexpr int kAllTokens = kGroups * 4 * kTokens;
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
  for (int i = static_cast<int>(threadIdx.x); i < kAllTokens * kPanelRows;
       i += kFewWarps * kWarpLanes) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kFewWarps; ++w)
      sum += shared[w * kAllTokens * kPanelRows + i];
    finish(job, panel * kPanelRows + i % kPanelRows, i / kPanelRows, sum);
  }
}

template <WeightType kType, int kPlanes, int kGroups>
cudaError_t launch_few(const MatmulJob& job, cudaStream_t stream) {
  return launch(matmul_few<kType, kPlanes, kGroups>, dim3(kernels::panels(job.w.rows)),
                dim3(kFewWarps * kWarpLanes), stream, job);
}

// ---------------------------------------------------------------- many columns

constexpr int kManyPanels = 4;   // of a block: 64 rows
constexpr int kManyColumns = 64; // of a block
constexpr int kManyWarps = 4;    // two by two: each has two panels by 32 columns
constexpr int kManyStages = 4;   // of tiles in shared memory
constexpr int kManyThreads = kManyWarps * kWarpLanes;
constexpr int kWarpPanels = 2, kWarpGroups = 4;

template <WeightType kType, int kPlanes> struct ManyStage {
  static constexpr int kWeightBytes = WeightTile<kType>::kLoads * kTileBytes; // of a panel
  static constexpr int kTokens = kManyColumns / kPlanes;
  static constexpr int kCodes = kManyPanels * kWeightBytes; // where the parts begin
  static constexpr int kScales = kCodes + kManyColumns * kTileColumns;
  static constexpr int kBytes = kScales + kTokens * 16;
};

template <WeightType kType, int kPlanes>
__global__ void __launch_bounds__(kManyThreads) matmul_many(const __grid_constant__ MatmulJob job) {
  using Stage = ManyStage<kType, kPlanes>;
  using Acc = Sums<kType, kPlanes>;
  constexpr int kTokens = Acc::kTokens;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpLanes,
            warp = thread / kWarpLanes;
  const int g = lane / 4, p = lane % 4;
  const int first_panel = static_cast<int>(blockIdx.x) * kManyPanels;
  const int first_token = static_cast<int>(blockIdx.y) * Stage::kTokens;
  const int tiles = tiles_of(job.x.cols), width = tiles * kTileColumns;
  const int panels = kernels::panels(job.w.rows), columns = job.x.tokens * kPlanes;
  const int groups = groups_of(kType, job.x.cols, job.w.group);
  const int group_blocks = kType == WeightType::kInt8 ? 1 : job.w.group / kBlock;
  PTMO_SHARED(uint8_t, shared, kManyStages* Stage::kBytes);

  const auto fetch = [&](int tile) {
    if (tile < tiles) {
      uint8_t* stage = shared + tile % kManyStages * Stage::kBytes;
      for (int i = thread; i < kManyPanels * Stage::kWeightBytes / 16; i += kManyThreads) {
        const int panel = first_panel + i / (Stage::kWeightBytes / 16);
        const bool there = panel < panels;
        const size_t at =
            (static_cast<size_t>(there ? panel : 0) * tiles + tile) * Stage::kWeightBytes +
            static_cast<size_t>(i % (Stage::kWeightBytes / 16)) * 16;
        copy16_async(stage + i * 16, job.w.codes + at, there);
      }
      for (int i = thread; i < kManyColumns * 4; i += kManyThreads) {
        const int column = first_token * kPlanes + i / 4;
        const bool there = column < columns;
        const size_t at =
            static_cast<size_t>(there ? column : 0) * width + tile * kTileColumns + i % 4 * 16;
        copy16_async(stage + Stage::kCodes + i * 16, job.x.codes + at, there);
      }
      for (int i = thread; i < Stage::kTokens; i += kManyThreads) {
        const int token = first_token + i;
        const bool there = token < job.x.tokens;
        const size_t at = static_cast<size_t>(there ? token : 0) * 2 * tiles + 2 * tile;
        copy16_async(stage + Stage::kScales + i * 16, job.x.scales + at, there);
      }
    }
    commit_copies(); // an empty group too: each tile is one
  };

  const int warp_panel = warp / 2 * kWarpPanels, warp_group = warp % 2 * kWarpGroups;
  Acc sums[kWarpPanels][kWarpGroups];
  for (int tile = 0; tile < kManyStages - 1; ++tile)
    fetch(tile);
  for (int tile = 0; tile < tiles; ++tile) {
    wait_copies<kManyStages - 2>();
    __syncthreads(); // the tile is there for all, and all have left the stage that is filled next
    fetch(tile + kManyStages - 1);
    const uint8_t* stage = shared + tile % kManyStages * Stage::kBytes;
    WeightTile<kType> weights[kWarpPanels];
    RowScales<kType> row_scales[kWarpPanels][2];
#pragma unroll
    for (int m = 0; m < kWarpPanels; ++m) {
      weights[m].template load<false>(stage + (warp_panel + m) * Stage::kWeightBytes, lane);
      const int panel = first_panel + warp_panel + m;
      const size_t row = static_cast<size_t>(panel < panels ? panel : 0) * groups;
#pragma unroll
      for (int b = 0; b < 2; ++b)
        row_scales[m][b].load(job.w.scales +
                              ((row + (2 * tile + b) / group_blocks) * 8 + g) * scale_unit(kType));
    }
#pragma unroll
    for (int n = 0; n < kWarpGroups; ++n) {
      const int column = (warp_group + n) * kProductColumns;
      InputTile input;
      input.words = *reinterpret_cast<const uint4*>(stage + Stage::kCodes +
                                                    (column + g) * kTileColumns + p * 16);
      float4 both[kTokens];
#pragma unroll
      for (int t = 0; t < kTokens; ++t)
        both[t] = *reinterpret_cast<const float4*>(stage + Stage::kScales +
                                                   (column / kPlanes + p * kTokens + t) * 16);
#pragma unroll
      for (int b = 0; b < 2; ++b) {
#pragma unroll
        for (int m = 0; m < kWarpPanels; ++m)
          sums[m][n].add(block_product<kType>(weights[m].block(b), input.block(b)),
                         row_scales[m][b], both, b);
      }
    }
  }
  wait_copies<0>();

#pragma unroll
  for (int m = 0; m < kWarpPanels; ++m) {
#pragma unroll
    for (int n = 0; n < kWarpGroups; ++n) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const int row = (first_panel + warp_panel + m) * kPanelRows + g;
        const int token = first_token + (warp_group + n) * 4 * kTokens + p * kTokens + t;
        finish(job, row, token, sums[m][n].at[0][t]);
        finish(job, row + 8, token, sums[m][n].at[1][t]);
      }
    }
  }
}

template <WeightType kType, int kPlanes>
cudaError_t launch_many(const MatmulJob& job, cudaStream_t stream) {
  using Stage = ManyStage<kType, kPlanes>;
  const int panels = kernels::panels(job.w.rows);
  const dim3 grid((panels + kManyPanels - 1) / kManyPanels,
                  (job.x.tokens + Stage::kTokens - 1) / Stage::kTokens);
  return launch(matmul_many<kType, kPlanes>, grid, dim3(kManyThreads), stream, job);
}

template <WeightType kType, int kPlanes>
cudaError_t launch_planes(const MatmulJob& job, cudaStream_t stream) {
  const int columns = job.x.tokens * kPlanes;
  if (columns <= kProductColumns)
    return launch_few<kType, kPlanes, 1>(job, stream);
  if (columns <= 2 * kProductColumns)
    return launch_few<kType, kPlanes, 2>(job, stream);
  if (columns <= kFewColumns)
    return launch_few<kType, kPlanes, 4>(job, stream);
  return launch_many<kType, kPlanes>(job, stream);
}

template <WeightType kType> cudaError_t launch_type(const MatmulJob& job, cudaStream_t stream) {
  return job.x.planes == 1 ? launch_planes<kType, 1>(job, stream)
                           : launch_planes<kType, 2>(job, stream);
}

} // namespace

cudaError_t matmul(const MatmulJob& job, cudaStream_t stream) {
  switch (job.w.type) {
  case WeightType::kInt4:
    return launch_type<WeightType::kInt4>(job, stream);
  case WeightType::kInt4Symmetric:
    return launch_type<WeightType::kInt4Symmetric>(job, stream);
  default:
    return launch_type<WeightType::kInt8>(job, stream);
  }
}

} // namespace ptmo::cuda
