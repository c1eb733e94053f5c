// The cosines and sines of a chunk's positions, in a launch of their own.
#include "launch.cuh"
#include "rotary_table.cuh"

namespace ptmo::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) fill_table(const __grid_constant__ RotaryTableJob job) {
  fill_angle(job, static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x));
}

} // namespace

cudaError_t fill_rotary_table(const RotaryTableJob& job, cudaStream_t stream) {
  const int blocks = (job.tokens * job.width + kThreads - 1) / kThreads;
  return blocks == 0 ? cudaSuccess : launch(fill_table, dim3(blocks), dim3(kThreads), stream, job);
}

} // namespace ptmo::cuda
