#include "usable.h"

#include <mutex>
#include <set>
#include <stdexcept>

#include "device.h"
#include "kernels/cuda/cuda_kernels.h"

namespace ptmo::cuda {
namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

int attribute(cudaDeviceAttr what, int device) {
  int value = 0;
  check_call(cudaDeviceGetAttribute(&value, what, device), "its architecture");
  return value;
}

cudaError_t try_kernel() {
  const Stream stream;
  const DeviceArray<uint32_t> words(1);
  ZeroJob job{};
  job.add(words.data(), words.size());
  const cudaError_t error = zero(job, stream);
  return error == cudaSuccess ? cudaStreamSynchronize(stream) : error;
}

// Throws std::runtime_error where the device in use runs no kernel of this build.
void check_kernels(const std::string& architectures) {
  static std::mutex mutex;
  static std::set<int> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const int device = OnDevice::current();
  if (known.count(device) > 0)
    return;
  const cudaError_t error = try_kernel();
  if (error == cudaErrorNoKernelImageForDevice)
    throw std::runtime_error(
        "this build has code for " + architectures + ", the device is sm_" +
        std::to_string(attribute(cudaDevAttrComputeCapabilityMajor, device)) +
        std::to_string(attribute(cudaDevAttrComputeCapabilityMinor, device)) +
        ": build for it by PTMO_CUDA_ARCHS=native .venv/bin/pip install --no-build-isolation -e .");
  check_call(error, "its first kernel");
  known.insert(device);
}

} // namespace

std::string why_no_device(cudaError_t error, int driver_version, int runtime_version) {
  if (error == cudaSuccess)
    return "the CUDA driver sees no device";
  if (error != cudaErrorInsufficientDriver)
    return cudaGetErrorString(error);
  if (driver_version == 0)
    return "no CUDA driver is installed";
  return "the CUDA driver is of CUDA " + version_text(driver_version) + ", this build needs " +
         version_text(runtime_version);
}

UsableDevices usable_devices(const std::string& architectures) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    return {0, why_no_device(error, driver, runtime)};
  }
  try {
    check_kernels(architectures);
  } catch (const std::runtime_error& failure) {
    return {0, failure.what()};
  }
  return {count, {}};
}

} // namespace ptmo::cuda
