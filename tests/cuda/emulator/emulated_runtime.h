// The part of the CUDA runtime that csrc/cuda uses, on the CPU; included by cuda_runtime.h.
//
// "Device" memory is heap memory of the exact size, poisoned when it is given out, and a stream is
// a name: what is put on one is done at once.
#pragma once

#include <chrono>
#include <cstdlib>
#include <map>

enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
constexpr cudaError_t cudaErrorMemoryAllocation = 2;

namespace cuda_emulator {

// What is allocated: start and size. A test may look at it, as a thief of the memory would.
inline std::map<uint8_t*, size_t>& device_memory() {
  static std::map<uint8_t*, size_t> all;
  return all;
}

inline bool on_device(const void* p, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(p);
  for (const auto& [start, size] : device_memory())
    if (at >= start && at + bytes <= start + size)
      return true;
  return false;
}

} // namespace cuda_emulator

inline cudaError_t cudaMalloc(void** out, size_t bytes) {
  auto* p = static_cast<uint8_t*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
  if (p == nullptr)
    return cudaErrorMemoryAllocation;
  std::memset(p, 0xff, bytes);
  cuda_emulator::device_memory()[p] = bytes;
  *out = p;
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  cuda_emulator::device_memory().erase(static_cast<uint8_t*>(p));
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t) {
  const bool to_device = kind != cudaMemcpyDeviceToHost,
             from_device = kind != cudaMemcpyHostToDevice;
  if (cuda_emulator::on_device(to, bytes) != to_device ||
      cuda_emulator::on_device(from, bytes) != from_device)
    return cudaErrorInvalidValue;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  if (!cuda_emulator::on_device(p, bytes))
    return cudaErrorInvalidValue;
  std::memset(p, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t) {
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}

// An event is a time. Recording a graph runs what is recorded, once; a replay runs nothing: only
// what the recording left can be looked at.
using cudaEvent_t = std::chrono::steady_clock::time_point*;
using cudaGraph_t = struct EmulatedGraph*;
using cudaGraphExec_t = bool*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum cudaDeviceAttr { cudaDevAttrL2CacheSize };

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
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* out, cudaGraph_t,
                                                 unsigned long long) {
  *out = new bool(true);
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) {
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t) {
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 1 << 20;
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "invalid argument";
}
