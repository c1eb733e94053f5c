// Rows of a matrix in the device's order as floats: the embeddings of tokens, where the matrix is
// also the head that the logits are made with.
#include "block_product.cuh"
#include "launch.cuh"

namespace ptmo::cuda {
namespace {

constexpr int kThreads = 256;

// A block has one token, a thread four columns at a time. Rounds as kernels.h has it: the scaled
// code, then the min, then `by`.
__global__ void __launch_bounds__(kThreads)
    embed_rows(const __grid_constant__ DeviceMatrix w, const int32_t* tokens, float by,
               float* out) {
  const int token = tokens[blockIdx.x];
  const bool there = token >= 0 && token < w.rows;
  for (int col = static_cast<int>(threadIdx.x) * 4; col < w.cols; col += kThreads * 4) {
    float values[4] = {};
    if (there) {
      const uint32_t word =
          *reinterpret_cast<const uint32_t*>(w.codes + weight_offset(w.type, w.cols, token, col));
      const uint16_t* scales = w.scales + scale_offset(w.type, w.cols, w.group, token, col);
      const float scale = from_half(scales[0]);
      const float min = w.type == WeightType::kInt4 ? from_half(scales[2]) : 0.0f;
      const int up = col % kBlock < 16 ? 4 : 0; // moves a nibble to the upper half of a byte
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto byte = static_cast<uint8_t>(word >> 8 * i);
        const int code = w.type == WeightType::kInt8   ? static_cast<int8_t>(byte)
                         : w.type == WeightType::kInt4 ? (byte << up & 0xf0) >> 4
                                                       : static_cast<int8_t>(byte << up) >> 4;
        const float scaled = scale * static_cast<float>(code);
        values[i] = (w.type == WeightType::kInt4 ? scaled + min : scaled) * by;
      }
    }
    *reinterpret_cast<float4*>(out + static_cast<size_t>(blockIdx.x) * w.cols + col) =
        float4{values[0], values[1], values[2], values[3]};
  }
}

} // namespace

cudaError_t embed(const DeviceMatrix& w, const int32_t* tokens, int count, float scale, float* out,
                  cudaStream_t stream) {
  if (count == 0)
    return cudaSuccess;
  return launch(embed_rows, dim3(count), dim3(kThreads), stream, w, tokens, scale, out);
}

} // namespace ptmo::cuda
