// Linked into every test program of the GPU with --wrap=cudaMalloc and --wrap=cudaFree, and so
// between the engine and the CUDA runtime.
#include "device_under_test.h"

#include <cstdlib>
#include <map>
#include <mutex>

namespace ptmo::test {
namespace {

std::mutex& lock() {
  static std::mutex mutex;
  return mutex;
}
std::map<uint8_t*, size_t>& blocks() {
  static std::map<uint8_t*, size_t> all;
  return all;
}
// initcheck (tests/gpu/run.py) finds what reads uninitialised memory, unless poison initialised it.
bool poison = std::getenv("PTMO_NO_POISON") == nullptr;

constexpr int kSkipped = 77; // CTest's SKIP_RETURN_CODE of these programs

// Before main(): a test program on a machine without a device says so and is skipped, unless
// PTMO_DEVICE_EXPECTED is set (tests/gpu/run.py).
const bool checked = [] {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0)
    return true;
  const bool expected = std::getenv("PTMO_DEVICE_EXPECTED") != nullptr;
  std::printf("%s: no usable CUDA device (%s)\n", expected ? "failed" : "skipped",
              error == cudaSuccess ? "none is there" : cudaGetErrorString(error));
  std::fflush(stdout);
  std::_Exit(expected ? 1 : kSkipped);
}();

} // namespace

std::vector<DeviceBlock> device_blocks() {
  const std::lock_guard<std::mutex> held(lock());
  std::vector<DeviceBlock> out;
  for (const auto& [start, bytes] : blocks())
    out.push_back({start, bytes});
  return out;
}

void poison_allocations(bool on) {
  poison = on;
}

bool allocations_are_poisoned() {
  return poison;
}

} // namespace ptmo::test

extern "C" {

cudaError_t __real_cudaMalloc(void** out, size_t bytes);
cudaError_t __real_cudaFree(void* p);

cudaError_t __wrap_cudaMalloc(void** out, size_t bytes) {
  using namespace ptmo::test;
  cudaError_t error = __real_cudaMalloc(out, bytes);
  if (error != cudaSuccess)
    return error;
  {
    const std::lock_guard<std::mutex> held(lock());
    blocks()[static_cast<uint8_t*>(*out)] = bytes;
  }
  if (poison && (error = cudaMemset(*out, 0xff, bytes)) == cudaSuccess)
    error = cudaDeviceSynchronize();
  return error;
}

cudaError_t __wrap_cudaFree(void* p) {
  using namespace ptmo::test;
  {
    const std::lock_guard<std::mutex> held(lock());
    blocks().erase(static_cast<uint8_t*>(p));
  }
  return __real_cudaFree(p);
}
}
