// Inputs of `prepare_input` and what it should make of them.
#pragma once

#include "check.h"
#include "every_order.h"
#include "expected_product.h"
#include "guarded.h"

#include <algorithm>
#include <limits>

namespace ptmo::test {

using cuda::InputKind;

struct Shrink {
  PlainMatrix a;
  float scale;
  int first, count;
  int chunks() const { return (a.rows + 15) / 16; }
};

struct Preparation {
  InputKind kind;
  int cols, bits;
  std::vector<float> x, up, weight, added, added_weight;
  std::vector<Shrink> shrinks;
  std::vector<int32_t> rows;
  int spare_units = 0; // of a launch that was recorded for more work
  bool angles = false; // the launch fills a table of kAngles by the way

  int tokens() const {
    return static_cast<int>(rows.empty() ? x.size() / static_cast<size_t>(cols) : rows.size());
  }
  int planes() const { return bits / 8; }
};
constexpr float kNormEps = 1e-5f;
constexpr int kAngles = 300; // of each of two tokens: more than a block has threads

struct Prepared {
  std::vector<int8_t> codes;
  std::vector<float2> scales;
  std::vector<float> values, sum;
  std::vector<std::vector<float>> u;

  std::vector<uint8_t> bytes() const {
    std::vector<uint8_t> out;
    const auto append = [&out](const auto& v) {
      const auto* from = reinterpret_cast<const uint8_t*>(v.data());
      out.insert(out.end(), from, from + v.size() * sizeof(v[0]));
    };
    append(codes);
    append(scales);
    append(values);
    append(sum);
    for (const auto& v : u)
      append(v);
    return out;
  }
};

inline const float* or_null(const DeviceArray<float>& v) {
  return v.size() == 0 ? nullptr : v.data();
}

// The angles against the launch that makes nothing else.
inline void check_angles(const DeviceArray<int32_t>& positions, const DeviceArray<float>& inv_freq,
                         const Guarded<float>& cosine, const Guarded<float>& sine) {
  const Guarded<float> want_cosine(2 * kAngles), want_sine(2 * kAngles);
  cuda::fill_rotary_table(
      {2, kAngles, positions.data(), inv_freq.data(), want_cosine.data(), want_sine.data()},
      nullptr);
  cosine.check();
  sine.check();
  CHECK(same_bits(cosine.values(), want_cosine.values()));
  CHECK(same_bits(sine.values(), want_sine.values()));
}

inline Prepared prepare(const Preparation& p) {
  const DeviceArray<float> x(p.x), up(p.up), weight(p.weight), added(p.added),
      added_weight(p.added_weight);
  const DeviceArray<int32_t> rows(p.rows);
  std::vector<float> frequencies(kAngles);
  for (int i = 0; i < kAngles; ++i)
    frequencies[static_cast<size_t>(i)] = 0.37f * static_cast<float>(i);
  const DeviceArray<float> inv_freq(frequencies);
  const DeviceArray<int32_t> positions({1, 70001});
  std::vector<DeviceWeights> factors;
  for (const Shrink& s : p.shrinks)
    factors.emplace_back(s.a);
  Prepared out;
  in_every_order([&] {
    const size_t tokens = static_cast<size_t>(p.tokens()), width = cuda::padded(p.cols);
    const Guarded<int8_t> codes(tokens * p.planes() * width);
    const Guarded<float2> scales(tokens * width / 32);
    const Guarded<float> values(tokens * p.cols), sum(tokens * p.cols);
    std::vector<Guarded<float>> u;
    std::vector<cuda::DeviceShrink> list;
    for (size_t i = 0; i < p.shrinks.size(); ++i) {
      const Shrink& s = p.shrinks[i];
      u.emplace_back(static_cast<size_t>(s.count) * s.chunks() * 16);
      list.push_back({factors[i].matrix.codes, factors[i].matrix.scales, u[i].data(), s.scale,
                      s.chunks(), s.first, s.count});
    }
    const DeviceArray<cuda::DeviceShrink> shrinks(list);
    const int count = static_cast<int>(list.size());
    const Guarded<float> cosine(2 * kAngles), sine(2 * kAngles);
    const cuda::RotaryTableJob angles{p.angles ? 2 : 0, kAngles,       positions.data(),
                                      inv_freq.data(),  cosine.data(), sine.data()};
    CHECK_EQ(cuda::prepare_input(
                 {p.kind, p.tokens(), p.cols, p.planes(), p.rows.empty() ? nullptr : rows.data(),
                  x.data(), or_null(up), or_null(weight), kNormEps, or_null(added),
                  or_null(added_weight), sum.data(), values.data(), codes.data(), scales.data(),
                  shrinks.data(), count,
                  cuda::shrink_units(list.data(), count, p.planes()) + p.spare_units, angles},
                 nullptr),
             cudaSuccess);
    if (p.angles)
      check_angles(positions, inv_freq, cosine, sine);
    codes.check();
    scales.check();
    values.check();
    sum.check();
    out = {codes.values(), scales.values(), values.values(), sum.values(), {}};
    for (const Guarded<float>& v : u) {
      v.check();
      out.u.push_back(v.values());
    }
    return out.bytes();
  });
  return out;
}

inline bool same(float a, float b) {
  return std::isnan(a) ? std::isnan(b) : std::memcmp(&a, &b, sizeof(a)) == 0;
}

// Relative roundings of 1 / RMS: a thread's chain, five exchanges, eight warps, the mean, and half
// of that for the root, which adds three of its own.
inline double norm_roundings(int cols) {
  return ((cols + 1023) / 1024 * 4 + 5 + 8 + 3) / 2.0 + 3.0;
}

// The float64 norm of one row, and how far a kernel may be off each element.
inline void expect_norm(const float* x, const float* weight, int cols, std::vector<double>& value,
                        std::vector<double>& tolerance) {
  double sum = 0.0;
  for (int c = 0; c < cols; ++c)
    sum += static_cast<double>(x[c]) * x[c];
  const double inverse = 1.0 / std::sqrt(sum / cols + static_cast<double>(kNormEps));
  for (int c = 0; c < cols; ++c) {
    const double at = static_cast<double>(x[c]) * inverse * weight[c];
    value.push_back(at);
    // An inverse under the normal floats is off by up to 2^-149, a value too.
    tolerance.push_back((norm_roundings(cols) + 3.0) * kEps * std::fabs(at) +
                        std::fabs(static_cast<double>(x[c]) * weight[c]) * 0x1p-149 + 0x1p-149);
  }
}

inline void check_values(const Preparation& p, const Prepared& got) {
  const size_t cols = static_cast<size_t>(p.cols);
  for (int t = 0; t < p.tokens(); ++t) {
    const size_t row = (p.rows.empty() ? t : p.rows[t]) * cols, at = t * cols;
    std::vector<float> sum(p.x.begin() + row, p.x.begin() + row + cols);
    if (!p.added.empty() && p.added_weight.empty()) {
      for (size_t c = 0; c < cols; ++c)
        sum[c] += p.added[row + c];
    } else if (!p.added.empty()) {
      std::vector<double> more, tolerance;
      expect_norm(p.added.data() + row, p.added_weight.data(), p.cols, more, tolerance);
      for (size_t c = 0; c < cols; ++c) {
        const double want = p.x[row + c] + more[c];
        CHECK_NEAR(got.sum[at + c], want,
                   tolerance[c] + 2.0 * kEps * (std::fabs(want) + tolerance[c]));
        sum[c] = got.sum[at + c];
      }
    }
    for (size_t c = 0; c < cols; ++c)
      CHECK(same(got.sum[at + c], sum[c]));
    if (p.kind == InputKind::kNorm) {
      std::vector<double> value, tolerance;
      expect_norm(sum.data(), p.weight.data(), p.cols, value, tolerance);
      for (size_t c = 0; c < cols; ++c) {
        if (std::isfinite(value[c]))
          CHECK_NEAR(got.values[at + c], value[c], tolerance[c]);
        else
          CHECK(!std::isfinite(got.values[at + c]));
      }
      continue;
    }
    std::vector<float> want = sum;
    if (p.kind != InputKind::kPlain)
      (p.kind == InputKind::kSilu ? kernels::reference().swiglu : kernels::reference().geglu)(
          sum.data(), p.up.data() + row, p.cols, want.data());
    // Of a gate's steps expf alone may differ, a GPU's from the host's by three units at most.
    for (size_t c = 0; c < cols; ++c) {
      if (p.kind == InputKind::kPlain || !std::isfinite(want[c]))
        CHECK(same(got.values[at + c], want[c]));
      else
        CHECK_NEAR(got.values[at + c], want[c], 12.0 * kEps * std::fabs(want[c]) + 0x1p-148);
    }
  }
}

inline void check_codes(const Preparation& p, const Prepared& got, const Inputs& in) {
  const DeviceActivations want(in, p.tokens());
  CHECK(same_bits(got.codes, want.codes.values()));
  for (size_t i = 0; i < got.scales.size(); ++i) {
    CHECK(same(got.scales[i].x, want.scales.data()[i].x));
    CHECK(same(got.scales[i].y, want.scales.data()[i].y));
  }
}

// u against float64, and bit for bit against the product of A and the codes as a launch of its own.
inline void check_updates(const Preparation& p, const Prepared& got, const Inputs& in) {
  for (size_t i = 0; i < p.shrinks.size(); ++i) {
    const Shrink& s = p.shrinks[i];
    const size_t from = static_cast<size_t>(s.first) * p.cols;
    const Inputs segment(
        kernels::reference(),
        std::vector<float>(in.x.begin() + from,
                           in.x.begin() + from + static_cast<size_t>(s.count) * p.cols),
        p.cols, p.bits);
    const Expected want = expect(s.a, segment, true);
    const DeviceWeights a(s.a);
    const int width = s.chunks() * 16;
    for (int t = 0; t < s.count; ++t) {
      const Inputs one(kernels::reference(),
                       std::vector<float>(segment.x.begin() + static_cast<size_t>(t) * p.cols,
                                          segment.x.begin() + static_cast<size_t>(t + 1) * p.cols),
                       p.cols, p.bits);
      const DeviceActivations input(one, 1);
      const DeviceArray<float> y(s.a.rows, Writer::kKernel);
      cuda::matmul({input.input, false, 1, {{a.matrix, nullptr, nullptr, 0, y.data(), y.size()}}},
                   nullptr);
      for (int r = 0; r < width; ++r) {
        const float u = got.u[i][static_cast<size_t>(t) * width + r];
        if (r >= s.a.rows) { // a block's scale that is not finite makes all ranks NaN
          CHECK(u == 0.0f || std::isnan(got.u[i][static_cast<size_t>(t) * width]));
          continue;
        }
        CHECK(same(u, s.scale * y.data()[r]));
        const size_t at = static_cast<size_t>(t) * s.a.rows + r;
        const double most = std::fabs(s.scale) * want.magnitude[at];
        if (most < 3e38) // no sum on the way overflows; eight warps' sums and the scale
          CHECK_NEAR(u, s.scale * want.value[at],
                     std::fabs(s.scale) * product_tolerance(want, at, p.cols, p.bits) +
                         10.0 * kEps * most + 0x1p-149);
        else if (!std::isfinite(want.value[at]))
          CHECK(!std::isfinite(u));
      }
    }
  }
}

inline Prepared check_preparation(const Preparation& p) {
  set_context("kind ", static_cast<int>(p.kind), " cols ", p.cols, " bits ", p.bits, " tokens ",
              p.tokens(), " shrinks ", p.shrinks.size(), " added ", !p.added.empty(), " normed ",
              !p.added_weight.empty());
  const Prepared got = prepare(p);
  check_values(p, got);
  const Inputs in(kernels::reference(), got.values, p.cols, p.bits);
  check_codes(p, got, in);
  check_updates(p, got, in);
  return got;
}

inline Preparation random_preparation(Random& random, InputKind kind, int tokens, int cols,
                                      int bits) {
  const size_t n = static_cast<size_t>(tokens) * cols;
  Preparation p{kind, cols, bits, random.normals(n, 2.0f), {}, {}, {}, {}, {}, {}};
  if (kind == InputKind::kNorm)
    p.weight = random.normals(cols);
  if (kind == InputKind::kSilu || kind == InputKind::kGeluTanh)
    p.up = random.normals(n);
  return p;
}

inline Shrink random_shrink(Random& random, int rank, int cols, int first, int count) {
  return {random_matrix(random, WeightType::kInt8, rank, cols, 32), random.uniform(0.5f, 2.0f),
          first, count};
}

constexpr InputKind kKinds[] = {InputKind::kPlain, InputKind::kNorm, InputKind::kSilu,
                                InputKind::kGeluTanh};

} // namespace ptmo::test
