// Whether this process can use a CUDA device, and in one line why not.
#pragma once

#include <string>

#include <cuda_runtime.h>

namespace ptmo::cuda {

struct UsableDevices {
  int count = 0;
  std::string why_none;
};

// None where the device in use cannot run this build's kernels, whose code is for `architectures`
// ("sm_87 sm_90a"): one is launched, once a device. The driver is asked, since which of NVIDIA's
// devices run each other's code is no rule of numbers.
UsableDevices usable_devices(const std::string& architectures);

// Why the runtime counts no device. Versions as CUDA has them: 12060 is 12.6. A driver of version 0
// is none.
std::string why_no_device(cudaError_t error, int driver_version, int runtime_version);

} // namespace ptmo::cuda
