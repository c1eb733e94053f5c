// How a kernel starts: kernels never use <<< >>>, so that the emulator can run them too.
#pragma once

#include "cuda_kernels.h"

namespace ptmo::cuda {

inline const SealKeys kNoKeys{}; // what a launch for rows in the clear gets

// Starts `kernel` on `stream` and returns the error of the launch itself, if any.
#ifdef __CUDACC__
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream,
                   Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// The same, with arguments read where they stand: no copy of a key is left on the stack.
template <typename... Parameters>
cudaError_t launch_in_place(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                            cudaStream_t stream, const Parameters&... arguments) {
  void* places[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, places, 0, stream);
}
#else
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream,
                   Arguments... arguments) {
  return cuda_emulator::launch(kernel, grid, block, stream, static_cast<Parameters>(arguments)...);
}
template <typename... Parameters>
cudaError_t launch_in_place(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                            cudaStream_t stream, const Parameters&... arguments) {
  return cuda_emulator::launch(kernel, grid, block, stream, arguments...);
}
#endif

} // namespace ptmo::cuda
