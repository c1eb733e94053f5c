// The gates of feed-forward layers, which the reference level and the device share.
#pragma once

#include <cmath>

#include "host_device.h"

namespace ptmo::kernels {

// Shazeer 2020.
PTMO_HD inline float silu(float g) {
  return g / (1.0f + expf(-g));
}

// The tanh approximation (Hendrycks & Gimpel 2016); 1.59576912 = sqrt(8 / pi).
PTMO_HD inline float gelu_tanh(float g) {
  return g / (1.0f + expf(-1.59576912f * (g + 0.044715f * (g * g * g))));
}

} // namespace ptmo::kernels
