// The tests' matrices and activations as the device keeps them.
#pragma once

#include <vector>

#include "device_under_test.h"
#include "kernels/cuda/cuda_kernels.h"
#include "samples.h"

namespace ptmo::test {

// Values that the host and the device both reach; poison where none were given.
template <typename T> class DeviceArray {
public:
  explicit DeviceArray(size_t count, Writer first = Writer::kHost)
      : buffer_(count * sizeof(T), first), count_(count) {}
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    std::copy(values.begin(), values.end(), data());
  }
  T* data() const { return reinterpret_cast<T*>(buffer_.data()); }
  size_t size() const { return count_; }
  std::vector<T> values() const {
    const T* begin = data();
    return {begin, begin + count_};
  }

private:
  SharedBuffer buffer_;
  size_t count_;
};

struct DeviceWeights {
  DeviceArray<uint8_t> codes;
  DeviceArray<uint16_t> scales;
  cuda::DeviceMatrix matrix;

  explicit DeviceWeights(const PlainMatrix& m)
      : codes(cuda::code_bytes(m.type, m.rows, m.cols)),
        scales(cuda::scale_count(m.type, m.rows, m.cols, m.group)) {
    const PanelMatrix panels(m);
    cuda::repack(panels.packed, codes.data(), scales.data());
    matrix = {m.type, m.rows, m.cols, m.group, codes.data(), scales.data()};
  }
};

struct DeviceActivations {
  DeviceArray<int8_t> codes;
  DeviceArray<float2> scales;
  cuda::DeviceInput input;

  // The first `tokens` rows.
  DeviceActivations(const Inputs& in, int tokens)
      : codes(static_cast<size_t>(tokens) * planes(in) * cuda::padded(in.cols)),
        scales(static_cast<size_t>(tokens) * cuda::padded(in.cols) / 32) {
    const int width = cuda::padded(in.cols), blocks = in.cols / 32;
    std::fill_n(codes.data(), codes.size(), int8_t{0}); // the columns past the last
    std::fill_n(scales.data(), scales.size(), float2{0.0f, 0.0f});
    for (int t = 0; t < tokens; ++t) {
      for (int c = 0; c < in.cols; ++c) {
        const size_t at = static_cast<size_t>(t) * in.cols + c;
        int8_t* row = codes.data() + static_cast<size_t>(t) * planes(in) * width;
        row[cuda::activation_offset(c)] = in.codes[at];
        if (planes(in) == 2)
          row[width + cuda::activation_offset(c)] = in.low[at];
      }
      for (int b = 0; b < blocks; ++b) {
        const size_t at = static_cast<size_t>(t) * blocks + b;
        scales.data()[static_cast<size_t>(t) * width / 32 + b] = {in.scales[at], in.sums[at]};
      }
    }
    input = {tokens, in.cols, planes(in), codes.data(), scales.data()};
  }

private:
  static int planes(const Inputs& in) { return in.low.empty() ? 1 : 2; }
};

} // namespace ptmo::test
