#include "device.h"

#include <cstring>
#include <utility>

#include "common/check.h"
#include "secmem/secret_arena.h"

namespace ptmo::cuda {

void check_call(cudaError_t error, const char* what) {
  ensure(error == cudaSuccess, "the CUDA device failed at ", what, ": ", cudaGetErrorString(error));
}

int OnDevice::current() {
  int device = 0;
  check_call(cudaGetDevice(&device), "its number");
  return device;
}

OnDevice::OnDevice(int device) : before_(current()) {
  if (device != before_)
    check_call(cudaSetDevice(device), "choosing it");
}

OnDevice::~OnDevice() {
  cudaSetDevice(before_);
}

Stream::Stream() {
  check_call(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
}

Stream::~Stream() {
  if (owner_.is_here())
    cudaStreamDestroy(stream_);
}

void Stream::wait() const {
  check_call(cudaStreamSynchronize(stream_), "its work");
}

DeviceMemory::DeviceMemory(size_t bytes) : size_(bytes) {
  if (bytes == 0)
    return;
  device_ = OnDevice::current();
  void* p = nullptr;
  const cudaError_t error = cudaMalloc(&p, bytes);
  ensure(error == cudaSuccess, "the CUDA device has no ", bytes,
         " bytes left: ", cudaGetErrorString(error));
  data_ = static_cast<uint8_t*>(p);
}

// Memory that could not be zeroed is not given back: its next owner would read it.
DeviceMemory::~DeviceMemory() {
  if (data_ == nullptr || !owner_.is_here())
    return;
  int before = device_;
  cudaGetDevice(&before);
  cudaSetDevice(device_);
  if (cudaMemsetAsync(data_, 0, size_, nullptr) == cudaSuccess &&
      cudaStreamSynchronize(nullptr) == cudaSuccess)
    cudaFree(data_);
  cudaSetDevice(before);
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)),
      device_(other.device_), owner_(other.owner_) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(device_, other.device_);
  std::swap(owner_, other.owner_);
  return *this;
}

HostBuffer::~HostBuffer() {
  if (data_ == nullptr || !owner_.is_here()) // a fork may not even have the pages
    return;
  wipe(size_);
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
