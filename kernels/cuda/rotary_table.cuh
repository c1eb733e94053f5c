// One cosine and sine of a chunk's positions.
#pragma once

#include "../rotary.h"
#include "cuda_kernels.h"

namespace ptmo::cuda {

// `i` of [tokens, width]; what lies outside is left.
__device__ __forceinline__ void fill_angle(const RotaryTableJob& job, int i) {
  if (i >= job.tokens * job.width)
    return;
  const float angle =
      static_cast<float>(job.positions[i / job.width]) * job.inv_freq[i % job.width];
  const kernels::CosSin at = kernels::cosine_and_sine(angle);
  job.cosine[i] = at.cosine;
  job.sine[i] = at.sine;
}

} // namespace ptmo::cuda
