// Seeded inputs for the tests: random numbers, packed matrices with their plain values beside
// them, quantised activations, and the kernel levels this CPU has.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/half.h"
#include "kernels/kernels.h"
#include "quant/int4.h"

namespace ptmo::test {

using kernels::levels;
using kernels::WeightType;

constexpr double kEps = 5.9604644775390625e-8; // 2^-24: the rounding error of one float operation

// SplitMix64 (Steele, Lea & Flood 2014).
class Random {
public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  int below(int n) { return static_cast<int>(bits() % static_cast<uint64_t>(n)); }
  int between(int low, int high) { return low + below(high - low + 1); }
  float uniform(float low, float high) {
    return low + (high - low) * (static_cast<float>(bits() >> 40) * 0x1p-24f);
  }
  // About a standard normal: the sum of 12 uniforms.
  float normal() {
    float sum = -6.0f;
    for (int i = 0; i < 12; ++i)
      sum += uniform(0.0f, 1.0f);
    return sum;
  }
  std::vector<float> normals(size_t n, float scale = 1.0f) {
    std::vector<float> out(n);
    for (float& x : out)
      x = scale * normal();
    return out;
  }
  std::vector<int> permutation(int n) {
    std::vector<int> p(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i)
      p[i] = i;
    for (int i = n - 1; i > 0; --i)
      std::swap(p[i], p[below(i + 1)]);
    return p;
  }

private:
  uint64_t state_;
};

// Equal as bytes: tells -0 from 0 and compares NaNs.
template <typename T> bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// A matrix in storage form, one integer code (or float) a weight.
struct PlainMatrix {
  WeightType type;
  int rows, cols, group;
  std::vector<int> codes;             // integers: [rows, cols]; kInt4Symmetric: -8..7
  std::vector<uint16_t> scales, mins; // [rows, cols / group]
  std::vector<float> values;          // kF16 (rounded to fp16), kF32: [rows, cols]

  size_t at(int r, int c) const { return static_cast<size_t>(r) * cols + c; }
  bool integer() const { return kernels::is_integer(type); }
  double scale(int r, int c) const {
    return half_to_float(scales[static_cast<size_t>(r) * (cols / group) + c / group]);
  }
  double min(int r, int c) const {
    return type != WeightType::kInt4
               ? 0.0
               : half_to_float(mins[static_cast<size_t>(r) * (cols / group) + c / group]);
  }
  // The weight without any rounding.
  double weight(int r, int c) const {
    return integer() ? scale(r, c) * codes[at(r, c)] + min(r, c) : values[at(r, c)];
  }
};

inline PlainMatrix random_matrix(Random& random, WeightType type, int rows, int cols, int group) {
  PlainMatrix m{type, rows, cols, group, {}, {}, {}, {}};
  const size_t n = static_cast<size_t>(rows) * cols;
  if (!m.integer()) {
    m.values = random.normals(n, 0.05f);
    if (type == WeightType::kF16)
      for (float& v : m.values)
        v = half_to_float(float_to_half(v));
    return m;
  }
  for (size_t i = 0; i < n; ++i)
    m.codes.push_back(type == WeightType::kInt4            ? random.below(16)
                      : type == WeightType::kInt4Symmetric ? random.between(-8, 7)
                                                           : random.between(-127, 127));
  for (size_t i = 0; i < n / group; ++i) {
    const float scale = random.uniform(0.001f, 0.02f);
    m.scales.push_back(float_to_half(scale));
    m.mins.push_back(float_to_half(-8.0f * scale * random.uniform(0.5f, 1.5f)));
  }
  return m;
}

// use(matrix [17, 256], x [6, 256]) with codes, scales and inputs at the ends of what they can be.
template <typename Use> void each_extreme_product(WeightType type, int group, const Use& use) {
  constexpr int kRows = 17, kCols = 256;
  const size_t codes = static_cast<size_t>(kRows) * kCols, groups = codes / group;
  for (const uint16_t scale : {0x0001, 0x7bff, 0x0000}) { // fp16 2^-24, 65504, 0
    PlainMatrix w{type, kRows, kCols, group, {}, {}, {}, {}};
    for (size_t i = 0; i < codes; ++i)
      w.codes.push_back(type == WeightType::kInt4            ? 15
                        : type == WeightType::kInt4Symmetric ? (i % 512 < 256 ? 7 : -8)
                                                             : (i % 512 < 256 ? 127 : -127));
    w.scales.assign(groups, scale);
    w.mins.assign(groups, static_cast<uint16_t>(scale | 0x8000));
    for (const float size : {1e-28f, 1.0f, 1e28f}) {
      std::vector<float> x(6 * kCols, size); // row 0: all codes at their largest
      for (int c = 0; c < kCols; ++c) {
        x[kCols + c] = -size;
        x[2 * kCols + c] = c % 2 ? size : -size;
        x[3 * kCols + c] = 0.0f;
        x[4 * kCols + c] = c % 32 == 7 ? size : size * 1e-3f;
        x[5 * kCols + c] = 1e-40f; // below the least scale: a zero row
      }
      use(w, x);
    }
  }
}

// A matrix in panels. The buffer must outlive the copies of `packed`.
struct PanelMatrix {
  AlignedBuffer buffer;
  kernels::PackedMatrix packed{};

  explicit PanelMatrix(const PlainMatrix& m) {
    const size_t stride = panel_bytes(m.type, m.cols, m.group);
    buffer = AlignedBuffer(stride * static_cast<size_t>((m.rows + 15) / 16));
    packed = {m.type, m.rows, m.cols, m.group, buffer.data(), stride};
    if (kernels::is_int4(m.type)) {
      const bool mins = m.type == WeightType::kInt4;
      std::vector<uint8_t> bytes(m.codes.size() / 2);
      for (int r = 0; r < m.rows; ++r)
        for (int c = 0; c < m.cols; ++c)
          bytes[m.at(r, c / 32 * 32) / 2 + c % 16] |=
              static_cast<uint8_t>((m.codes[m.at(r, c)] + (mins ? 0 : 8)) << (c % 32 < 16 ? 0 : 4));
      pack_int4(bytes.data(), m.scales.data(), mins ? m.mins.data() : nullptr, m.rows, m.cols,
                m.group, buffer.data());
    } else if (m.type == WeightType::kInt8) {
      const std::vector<int8_t> bytes(m.codes.begin(), m.codes.end());
      pack_int8(bytes.data(), m.scales.data(), m.rows, m.cols, buffer.data());
    } else if (m.type == WeightType::kF16) {
      std::vector<uint16_t> halves;
      for (const float v : m.values)
        halves.push_back(float_to_half(v));
      pack_f16(halves.data(), m.rows, m.cols, buffer.data());
    } else {
      pack_f32(m.values.data(), m.rows, m.cols, buffer.data());
    }
  }
};

// Activations quantised to 8 or 16 bits by one level's own quantiser, with room for nothing more.
struct Inputs {
  int cols, tokens;
  std::vector<float> x, scales, sums;
  std::vector<int8_t> codes, low;
  std::vector<int32_t> code_sums;

  Inputs(const kernels::Table& level, std::vector<float> values, int columns, int bits = 8)
      : cols(columns), tokens(static_cast<int>(values.size()) / columns), x(std::move(values)) {
    const size_t blocks = x.size() / 32;
    codes.resize(x.size());
    low.resize(bits == 16 ? x.size() : 0);
    scales.resize(blocks);
    sums.resize(blocks);
    code_sums.resize(blocks);
    // One call does every token: their blocks follow each other.
    level.quantize_blocks(x.data(), static_cast<int>(x.size()), codes.data(),
                          low.empty() ? nullptr : low.data(), scales.data(), sums.data(),
                          code_sums.data());
  }
  int code(size_t i) const { return low.empty() ? codes[i] : 256 * codes[i] + low[i]; }
  kernels::Activations integers() const {
    return {cols,          x.data(),    codes.data(),    low.empty() ? nullptr : low.data(),
            scales.data(), sums.data(), code_sums.data()};
  }
  kernels::Activations floats() const {
    return {cols, x.data(), nullptr, nullptr, nullptr, nullptr, nullptr};
  }
};

} // namespace ptmo::test
