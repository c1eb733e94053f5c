#include "device.h"

#include <cstring>
#include <utility>

#include "common/check.h"
#include "secmem/secret_arena.h"

namespace ptmo::cuda {

void check_call(cudaError_t error, const char* what) {
  ensure(error == cudaSuccess, "the CUDA device failed at ", what, ": ", cudaGetErrorString(error));
}

Stream::Stream() {
  check_call(cudaStreamCreate(&stream_), "making a stream");
}

Stream::~Stream() {
  cudaStreamDestroy(stream_);
}

void Stream::wait() const {
  check_call(cudaStreamSynchronize(stream_), "its work");
}

DeviceMemory::DeviceMemory(size_t bytes) : size_(bytes) {
  if (bytes == 0)
    return;
  void* p = nullptr;
  const cudaError_t error = cudaMalloc(&p, bytes);
  ensure(error == cudaSuccess, "the CUDA device has no ", bytes,
         " bytes left: ", cudaGetErrorString(error));
  data_ = static_cast<uint8_t*>(p);
}

DeviceMemory::~DeviceMemory() {
  if (data_ == nullptr)
    return;
  cudaMemsetAsync(data_, 0, size_, nullptr);
  cudaStreamSynchronize(nullptr);
  cudaFree(data_);
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

HostBuffer::~HostBuffer() {
  wipe(size_);
  if (data_ != nullptr)
    cudaFreeHost(data_);
}

void HostBuffer::reserve(size_t bytes) {
  if (bytes <= size_)
    return;
  void* p = nullptr;
  const cudaError_t error = cudaHostAlloc(&p, bytes, cudaHostAllocDefault);
  ensure(error == cudaSuccess, "the host has no ", bytes,
         " bytes that the CUDA device reaches: ", cudaGetErrorString(error));
  std::memset(p, 0, bytes);
  wipe(size_);
  if (data_ != nullptr)
    cudaFreeHost(data_);
  data_ = static_cast<uint8_t*>(p);
  size_ = bytes;
}

void HostBuffer::wipe(size_t bytes) {
  secure_wipe(data_, bytes);
}

} // namespace ptmo::cuda
