// A device's memory and its queue of work, owned; errors become exceptions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <cuda_runtime.h>

#include "common/owner_process.h"

namespace ptmo::cuda {

// Throws std::runtime_error naming what was tried.
void check_call(cudaError_t error, const char* what);

// The device that was this thread's when the object was made is so again while this lives.
class OnDevice {
public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  static int current();

private:
  int before_;
};

// An engine's queue of work, done in order. No other stream waits for it, the default one neither:
// recording it disturbs nobody. A forked process has none: it leaves the device alone.
class Stream {
public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }
  void wait() const; // until all of it is done
  int device() const { return device_; }

private:
  cudaStream_t stream_ = nullptr;
  const int device_ = OnDevice::current();
  OwnerProcess owner_;
};

// Device memory, uninitialised; zeroed before it is given back.
class DeviceMemory {
public:
  explicit DeviceMemory(size_t bytes = 0);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  int device_ = 0;
  OwnerProcess owner_;
};

// The host's memory that a device copies from and to by itself; zeros at first. Grows, and forgets
// what it held; wiped before it is given back.
class HostBuffer {
public:
  HostBuffer() = default;
  ~HostBuffer();
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;
  void reserve(size_t bytes);
  void wipe(size_t bytes); // the first ones
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  OwnerProcess owner_;
};

template <typename T> class DeviceArray {
public:
  explicit DeviceArray(size_t count = 0) : memory_(count * sizeof(T)) {}
  // A copy of the host's values; done when this returns.
  DeviceArray(const T* values, size_t count, const Stream& stream) : DeviceArray(count) {
    if (count == 0)
      return;
    check_call(cudaMemcpyAsync(data(), values, bytes(), cudaMemcpyHostToDevice, stream),
               "copying in");
    stream.wait();
  }
  DeviceArray(const std::vector<T>& values, const Stream& stream)
      : DeviceArray(values.data(), values.size(), stream) {}
  T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  size_t size() const { return memory_.size() / sizeof(T); }
  size_t bytes() const { return memory_.size(); }
  bool empty() const { return memory_.size() == 0; }

private:
  DeviceMemory memory_;
};

} // namespace ptmo::cuda
