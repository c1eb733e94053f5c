// Outputs of kernels between guard bytes: poison where nothing may be written.
#pragma once

#include "check.h"
#include "device_samples.h"

namespace ptmo::test {

template <typename T> class Guarded {
public:
  explicit Guarded(size_t count) : array_(count + 2 * kGuard, Writer::kKernel), count_(count) {
    std::memset(array_.data(), kPoison, array_.size() * sizeof(T));
  }
  T* data() const { return array_.data() + kGuard; }
  std::vector<T> values() const {
    const T* begin = data();
    return {begin, begin + count_};
  }

  // Fails where a guard was written.
  void check() const {
    const auto* bytes = reinterpret_cast<const uint8_t*>(array_.data());
    const size_t end = array_.size() * sizeof(T), guard = kGuard * sizeof(T);
    for (size_t i = 0; i < guard; ++i)
      if (bytes[i] != kPoison || bytes[end - 1 - i] != kPoison)
        fail(__FILE__, __LINE__, "a kernel wrote outside its output");
  }

private:
  static constexpr size_t kGuard = 16; // keeps the data aligned
  static constexpr uint8_t kPoison = 0xa5;
  DeviceArray<T> array_;
  size_t count_;
};

} // namespace ptmo::test
