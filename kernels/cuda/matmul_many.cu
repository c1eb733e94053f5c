// INT4 and INT8 matrices times many columns of INT8 activations (prefill): a block shares tiles of
// both sides in shared memory, where asynchronous copies put them. Bound by the operations around
// the tensor cores' products (kernels/README.md).
#include "matmul_panel.cuh"

namespace ptmo::cuda {
namespace {

constexpr int kManyPanels = 4;   // of a block: 64 rows
constexpr int kManyColumns = 64; // of a block
constexpr int kManyWarps = 4;    // two by two: each has two panels by 32 columns
constexpr int kManyStages = 4;   // of tiles in shared memory
constexpr int kManyThreads = kManyWarps * kWarpLanes;
constexpr int kWarpPanels = 2, kWarpGroups = 4;

// A tile's part of shared memory: weights and their scales by panel, then the activations.
template <WeightType kType, int kPlanes, int kSpan> struct ManyStage {
  using Panel = MatmulPanel<kType, kSpan>;
  static constexpr int kScaleBytes = Panel::kScales * Panel::kScaleBytes;
  static constexpr int kWeightBytes = Panel::kCodeBytes + kScaleBytes; // of a panel
  static constexpr int kTokens = kManyColumns / kPlanes;
  static constexpr int kCodes = kManyPanels * kWeightBytes; // where the parts begin
  static constexpr int kScaleOffset = kCodes + kManyColumns * kTileColumns;
  static constexpr int kBytes = kScaleOffset + kTokens * 16;
};

__host__ __device__ int many_blocks(const MatmulPart& part) {
  return (kernels::panels(part.w.rows) + kManyPanels - 1) / kManyPanels;
}

// Blocks that a multiprocessor is to have at once: one with all scales and mins apart spills
// with 4.
template <WeightType kType, int kPlanes, int kSpan> constexpr int many_at_once() {
  return kType == WeightType::kInt4 && kPlanes == 1 && kSpan == 1 ? 3 : 4;
}

template <WeightType kType, int kPlanes, int kSpan>
__global__ void __launch_bounds__(kManyThreads, many_at_once<kType, kPlanes, kSpan>())
    matmul_many(const __grid_constant__ MatmulJob job) {
  using Stage = ManyStage<kType, kPlanes, kSpan>;
  using Panel = MatmulPanel<kType, kSpan>;
  using Acc = Sums<kType, kPlanes>;
  constexpr int kTokens = Acc::kTokens;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpLanes,
            warp = __shfl_sync(kAllLanes, thread / kWarpLanes, 0);
  const int g = lane / 4, p = lane % 4;
  const BlockOfPart block(job, static_cast<int>(blockIdx.x), many_blocks);
  const MatmulPart& part = job.parts[block.part];
  const int first_panel = block.index * kManyPanels;
  const int first_token = static_cast<int>(blockIdx.y) * Stage::kTokens;
  const int tiles = tiles_of(job.x.cols), width = tiles * kTileColumns;
  const int panels = kernels::panels(part.w.rows), columns = job.x.tokens * kPlanes;
  PTMO_SHARED(uint8_t, shared, kManyStages* Stage::kBytes);

  // Where a thread's 16 bytes of each kind come from in tile 0. A warp fetches a panel: its codes,
  // 16 bytes a lane, and its scales, which lie one behind the other.
  static_assert(kManyWarps == kManyPanels && kManyThreads % 4 == 0);
  const bool has_panel = first_panel + warp < panels;
  const Panel panel(part.w, has_panel ? first_panel + warp : 0);
  const bool fetches_scales = lane * 16 < Stage::kScaleBytes;
  constexpr int kColumnsAtOnce = kManyThreads / 4, kInputs = kManyColumns / kColumnsAtOnce;
  const int8_t* const input = job.x.codes + static_cast<size_t>(first_token) * kPlanes * width;
  int inputs[kInputs]; // offsets: a register less than a pointer
  bool has_input[kInputs];
#pragma unroll
  for (int i = 0; i < kInputs; ++i) {
    const int column = thread / 4 + i * kColumnsAtOnce;
    has_input[i] = first_token * kPlanes + column < columns;
    inputs[i] = (has_input[i] ? column : 0) * width + thread % 4 * 16;
  }
  const bool fetches_token = thread < Stage::kTokens,
             has_token = first_token + thread < job.x.tokens;
  const float2* const input_scales = job.x.scales + static_cast<size_t>(first_token) * 2 * tiles;
  const int of_token = (fetches_token && has_token ? thread : 0) * 2 * tiles;
  const auto fetch = [&](int tile) {
    if (tile < tiles) {
      uint8_t* stage = shared + tile % kManyStages * Stage::kBytes;
      uint8_t* weights = stage + warp * Stage::kWeightBytes + lane * 16;
#pragma unroll
      for (int i = 0; i < Panel::kCodeBytes / kTileBytes; ++i)
        copy16_async(weights + i * kTileBytes, panel.codes_of(tile) + i * kTileBytes + lane * 16,
                     has_panel);
      if (fetches_scales)
        copy16_async(weights + Panel::kCodeBytes, panel.scales_of(tile, 0) + lane * 16, has_panel);
#pragma unroll
      for (int i = 0; i < kInputs; ++i)
        copy16_async(stage + Stage::kCodes + (thread + i * kManyThreads) * 16,
                     input + (inputs[i] + tile * kTileColumns), has_input[i]);
      if (fetches_token)
        copy16_async(stage + Stage::kScaleOffset + thread * 16,
                     input_scales + (of_token + 2 * tile), has_token);
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
    AFragment a[kWarpPanels][2];
    RowScales<kType> row_scales[kWarpPanels][Panel::kScales];
#pragma unroll
    for (int m = 0; m < kWarpPanels; ++m) {
      const uint8_t* of_panel = stage + (warp_panel + m) * Stage::kWeightBytes;
      WeightTile<kType> weights;
      weights.load(of_panel + lane * 16);
      a[m][0] = weights.block(0);
      a[m][1] = weights.block(1);
      const auto* bits = reinterpret_cast<const ScaleBits<kType>*>(of_panel + Panel::kCodeBytes);
#pragma unroll
      for (int i = 0; i < Panel::kScales; ++i)
        row_scales[m][i].unpack(bits[8 * i + g]);
    }
#pragma unroll
    for (int n = 0; n < kWarpGroups; ++n) {
      const int column = (warp_group + n) * kProductColumns;
      const InputTile x{*reinterpret_cast<const uint4*>(stage + Stage::kCodes +
                                                        (column + g) * kTileColumns + p * 16)};
      float4 both[kTokens];
#pragma unroll
      for (int t = 0; t < kTokens; ++t)
        both[t] = *reinterpret_cast<const float4*>(stage + Stage::kScaleOffset +
                                                   (column / kPlanes + p * kTokens + t) * 16);
#pragma unroll
      for (int m = 0; m < kWarpPanels; ++m)
        sums[m][n].add({Acc::multiply(a[m][0], x.block(0)), Acc::multiply(a[m][1], x.block(1))},
                       row_scales[m], both);
    }
  }
  wait_copies<0>();

#pragma unroll
  for (int m = 0; m < kWarpPanels; ++m) {
#pragma unroll
    for (int n = 0; n < kWarpGroups; ++n) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = (first_panel + warp_panel + m) * kPanelRows + 8 * half + g;
          const int token = first_token + (warp_group + n) * 4 * kTokens + p * kTokens + t;
          if (float* y = place_of(part, job.x.tokens, row, token))
            *y =
                (job.add ? *y : 0.0f) + (sums[m][n].at[half][t] + beside_product(part, row, token));
        }
      }
    }
  }
}

template <WeightType kType, int kPlanes, int kSpan>
cudaError_t launch_many(const MatmulJob& job, cudaStream_t stream) {
  using Stage = ManyStage<kType, kPlanes, kSpan>;
  const dim3 grid(blocks_of(job, many_blocks),
                  (job.x.tokens + Stage::kTokens - 1) / Stage::kTokens);
  return launch(matmul_many<kType, kPlanes, kSpan>, grid, dim3(kManyThreads), stream, job);
}

} // namespace

cudaError_t matmul_many_columns(const MatmulJob& job, cudaStream_t stream) {
  return with_shape(job, [&](auto type, auto planes, auto span) {
    return launch_many<decltype(type)::value, decltype(planes)::value, decltype(span)::value>(
        job, stream);
  });
}

} // namespace ptmo::cuda
