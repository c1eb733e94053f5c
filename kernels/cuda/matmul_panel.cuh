// What the two matrix kernels share: where a panel of W stands, and which instantiation a job
// takes.
#pragma once

#include <type_traits>

#include "block_product.cuh"
#include "launch.cuh"

namespace ptmo::cuda {

constexpr int kProductColumns = 8; // of one tensor-core product
constexpr int kFewColumns = 32;    // of activations, at most; a column is one plane of one token

// 16 rows of W, whose groups of columns have `kSpan` blocks: a tile meets one of them or two.
template <WeightType kType, int kSpan> struct MatmulPanel {
  static constexpr int kScales = kSpan == 1 ? 2 : 1;
  static constexpr int kCodeBytes = WeightTile<kType>::kLoads * kTileBytes; // of a tile
  static constexpr int kScaleBytes = 8 * sizeof(ScaleBits<kType>);          // of a group
  int first_row, tiles;
  const uint8_t *codes, *scales;

  __device__ __forceinline__ MatmulPanel(const DeviceMatrix& w, int panel)
      : first_row(panel * kPanelRows), tiles(tiles_of(w.cols)),
        codes(w.codes + static_cast<size_t>(panel) * tiles * kCodeBytes),
        scales(reinterpret_cast<const uint8_t*>(w.scales) +
               static_cast<size_t>(panel) * groups_of(kType, w.cols, kSpan * kBlock) *
                   kScaleBytes) {}
  __device__ __forceinline__ const uint8_t* codes_of(int tile) const {
    return codes + static_cast<size_t>(tile) * kCodeBytes;
  }
  __device__ __forceinline__ const uint8_t* scales_of(int tile, int i) const {
    return scales + static_cast<size_t>(2 * tile / kSpan + i) * kScaleBytes;
  }
};

// The part that a block works on, when each has as many blocks as of(part) says, and which of them
// it is.
struct BlockOfPart {
  int part, index;

  template <typename Count>
  __device__ __forceinline__ BlockOfPart(const MatmulJob& job, int block, const Count& of)
      : part(0), index(block) {
    for (int blocks = of(job.parts[0]); index >= blocks; blocks = of(job.parts[part])) {
      index -= blocks;
      ++part;
    }
  }
};
template <typename Count> int blocks_of(const MatmulJob& job, const Count& of) {
  int blocks = 0;
  for (int i = 0; i < job.count; ++i)
    blocks += of(job.parts[i]);
  return blocks;
}

// use(type, planes, span) with those of a job, whose parts are alike, each an integral_constant.
template <typename Use> cudaError_t with_shape(const MatmulJob& job, const Use& use) {
  const auto with_planes = [&](auto type, auto span) {
    return job.x.planes == 1 ? use(type, std::integral_constant<int, 1>{}, span)
                             : use(type, std::integral_constant<int, 2>{}, span);
  };
  const auto with_span = [&](auto type) {
    return job.parts[0].w.group == 128  ? with_planes(type, std::integral_constant<int, 4>{})
           : job.parts[0].w.group == 64 ? with_planes(type, std::integral_constant<int, 2>{})
                                        : with_planes(type, std::integral_constant<int, 1>{});
  };
  switch (job.parts[0].w.type) {
  case WeightType::kInt4:
    return with_span(std::integral_constant<WeightType, WeightType::kInt4>{});
  case WeightType::kInt4Symmetric:
    return with_span(std::integral_constant<WeightType, WeightType::kInt4Symmetric>{});
  default:
    return with_planes(std::integral_constant<WeightType, WeightType::kInt8>{},
                       std::integral_constant<int, 1>{});
  }
}

// Parts of one type and group.
cudaError_t matmul_few_columns(const MatmulJob& job, cudaStream_t stream);
cudaError_t matmul_many_columns(const MatmulJob& job, cudaStream_t stream);

} // namespace ptmo::cuda
