// Zeroes buffers, all in one launch.
#include <algorithm>

#include "cuda_kernels.h"
#include "launch.cuh"

namespace ptmo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr size_t kWordsAThread = 8, kMostBlocks = 256;

__global__ void __launch_bounds__(kThreads) zero_words(const __grid_constant__ ZeroJob job) {
  const size_t first = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x,
               step = static_cast<size_t>(gridDim.x) * kThreads;
  for (int range = 0; range < job.count; ++range)
    for (size_t i = first; i < job.ranges[range].words; i += step)
      job.ranges[range].start[i] = 0;
}

} // namespace

cudaError_t zero(const ZeroJob& job, cudaStream_t stream) {
  size_t words = 0;
  for (int range = 0; range < job.count; ++range)
    words += job.ranges[range].words;
  if (words == 0)
    return cudaSuccess;
  const size_t blocks = std::min(words / (kThreads * kWordsAThread) + 1, kMostBlocks);
  return launch(zero_words, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), stream, job);
}

} // namespace ptmo::cuda
