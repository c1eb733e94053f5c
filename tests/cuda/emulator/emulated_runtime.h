// The part of the CUDA runtime that csrc/cuda uses, on the CPU; included by cuda_runtime.h.
//
// Device memory is poisoned when it is given out.
#pragma once

#include <chrono>
#include <cstdlib>
#include <stdexcept>

#include "device_heap.h"
#include "emulated_graph.h"

enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
constexpr cudaError_t cudaErrorMemoryAllocation = 2, cudaErrorInsufficientDriver = 35;

inline cudaError_t cudaMalloc(void** out, size_t bytes) {
  if (cuda_emulator::recordings() > 0)
    return cudaErrorStreamCaptureUnsupported;
  uint8_t* p = cuda_emulator::allocate(bytes);
  if (p == nullptr)
    return cudaErrorMemoryAllocation;
  const cuda_emulator::DeviceAccess open;
  std::memset(p, 0xff, bytes);
  *out = p;
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  cuda_emulator::release(static_cast<uint8_t*>(p));
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t stream) {
  const auto possible = [=] {
    return cuda_emulator::on_device(to, bytes) == (kind != cudaMemcpyDeviceToHost) &&
           cuda_emulator::on_device(from, bytes) == (kind != cudaMemcpyHostToDevice);
  };
  if (!possible() || cuda_emulator::fails(cuda_emulator::Call::kCopy))
    return cudaErrorInvalidValue;
  return cuda_emulator::put(stream, [=] {
    if (!possible())
      throw std::runtime_error("a graph copies memory that is gone");
    const cuda_emulator::DeviceAccess open;
    std::memcpy(to, from, bytes);
  });
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  if (!cuda_emulator::on_device(p, bytes) || cuda_emulator::fails(cuda_emulator::Call::kMemset))
    return cudaErrorInvalidValue;
  return cuda_emulator::put(stream, [=] {
    const cuda_emulator::DeviceAccess open;
    std::memset(p, value, bytes);
  });
}
// The host's memory that a device copies from: as any other here.
constexpr unsigned cudaHostAllocDefault = 0;
inline cudaError_t cudaHostAlloc(void** out, size_t bytes, unsigned) {
  if (cuda_emulator::recordings() > 0)
    return cudaErrorStreamCaptureUnsupported;
  *out = std::malloc(bytes);
  return *out == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* p) {
  std::free(p);
  return cudaSuccess;
}

using cudaEvent_t = std::chrono::steady_clock::time_point*; // a time
enum cudaDeviceAttr {
  cudaDevAttrL2CacheSize,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor
};

inline cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new std::chrono::steady_clock::time_point;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  *event = std::chrono::steady_clock::now();
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return cudaSuccess;
}
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  *milliseconds = std::chrono::duration<float, std::milli>(*to - *from).count();
  return cudaSuccess;
}
// One device, which says what it is.
struct cudaDeviceProp {
  char name[256];
};
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"the emulator"};
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  *value = what == cudaDevAttrL2CacheSize              ? 1 << 20
           : what == cudaDevAttrComputeCapabilityMajor ? 9
                                                       : 0;
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "invalid argument";
}
