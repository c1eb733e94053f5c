// The cosines and sines of a chunk's positions.
#include "../rotary.h"
#include "cuda_kernels.h"
#include "launch.cuh"

namespace ptmo::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) fill_table(const __grid_constant__ RotaryTableJob job) {
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (i >= job.tokens * job.width)
    return;
  const float angle =
      static_cast<float>(job.positions[i / job.width]) * job.inv_freq[i % job.width];
  const kernels::CosSin at = kernels::cosine_and_sine(angle);
  job.cosine[i] = at.cosine;
  job.sine[i] = at.sine;
}

} // namespace

cudaError_t fill_rotary_table(const RotaryTableJob& job, cudaStream_t stream) {
  const int blocks = (job.tokens * job.width + kThreads - 1) / kThreads;
  return blocks == 0 ? cudaSuccess : launch(fill_table, dim3(blocks), dim3(kThreads), stream, job);
}

} // namespace ptmo::cuda
