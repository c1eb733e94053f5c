// What the element-wise kernels mean, one scalar at a time.
#include <algorithm>
#include <cmath>

#include "../half.h"
#include "head_norm.h"
#include "reference.h"

namespace ptmo::kernels {
namespace ref {

void rms_norm(const float* x, const float* weight, int n, float eps, float* y) {
  double sum = 0.0;
  for (int i = 0; i < n; ++i)
    sum += static_cast<double>(x[i]) * x[i];
  const float inv = static_cast<float>(1.0 / std::sqrt(sum / n + eps));
  for (int i = 0; i < n; ++i)
    y[i] = x[i] * inv * weight[i];
}

void swiglu(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; ++i)
    out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

void geglu(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; ++i) {
    const float g = gate[i];
    out[i] = g / (1.0f + std::exp(-1.59576912f * (g + 0.044715f * (g * g * g)))) * up[i];
  }
}

void head_rms_norm(float* x, const float* weight, int n, float eps) {
  float max = 0.0f;
  for (int i = 0; i < n; ++i)
    max = std::max(max, std::fabs(x[i]));
  const double grid = square_grid(max, n);
  double sum = 0.0;
  for (int i = 0; i < n; ++i)
    sum += on_grid(x[i], grid);
  const float inv = inverse_rms(sum, n, eps);
  for (int i = 0; i < n; ++i)
    x[i] = x[i] * inv * weight[i];
}

void add(const float* x, int n, float* y) {
  for (int i = 0; i < n; ++i)
    y[i] += x[i];
}

void cos_sin(const float* angle, int n, float* cosine, float* sine) {
  for (int i = 0; i < n; ++i) {
    cosine[i] = static_cast<float>(std::cos(static_cast<double>(angle[i])));
    sine[i] = static_cast<float>(std::sin(static_cast<double>(angle[i])));
  }
}

void rope(float* x, const float* cosine, const float* sine, int half) {
  for (int i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cosine[i] - b * sine[i];
    x[i + half] = b * cosine[i] + a * sine[i];
  }
}

namespace {
template <typename Code> float quantize_row(const float* x, int n, float qmax, Code* codes) {
  float amax = 0.0f;
  for (int i = 0; i < n; ++i)
    amax = std::max(amax, std::fabs(x[i]));
  // Rows this small (or zero) have no finite inverse scale: they are stored as zeros.
  const bool tiny = !(amax > 1e-30f);
  const float inv = tiny ? 0.0f : qmax / amax;
  for (int i = 0; i < n; ++i) {
    const float code = std::nearbyint(x[i] * inv);
    codes[i] = static_cast<Code>(std::isnan(code) ? 0.0f : code);
  }
  return tiny ? 0.0f : amax / qmax;
}
} // namespace

float quantize_row_i8(const float* x, int n, int8_t* codes) {
  return quantize_row(x, n, 127.0f, codes);
}

float quantize_row_i16(const float* x, int n, int16_t* codes) {
  return quantize_row(x, n, static_cast<float>(kCode16), codes);
}

void to_f16(const float* x, int n, uint16_t* out) {
  for (int i = 0; i < n; ++i)
    out[i] = float_to_half(x[i]);
}

float quantize_row_i4(const float* x, int n, uint8_t* out) {
  auto* codes = reinterpret_cast<int8_t*>(out);
  const float scale = quantize_row(x, n, 7.0f, codes);
  for (int j = 0; j < n / 2; ++j)
    out[j] = static_cast<uint8_t>((codes[j] + 8) | (codes[j + n / 2] + 8) << 4);
  return scale;
}

void unpack_rows_i4(const uint8_t* packed, int rows, int n, int8_t* codes) {
  for (int r = 0; r < rows; ++r, packed += n / 2, codes += n) {
    for (int j = 0; j < n / 2; ++j) {
      codes[j] = static_cast<int8_t>((packed[j] & 15) - 8);
      codes[j + n / 2] = static_cast<int8_t>((packed[j] >> 4) - 8);
    }
  }
}

} // namespace ref

const Table& reference() {
  static const Table table = {
      "reference",          ref::quantize_blocks,
      ref::matmul,          ref::rms_norm,
      ref::swiglu,          ref::add,
      ref::cos_sin,         ref::rope,
      ref::quantize_row_i8, ref::quantize_row_i16,
      ref::to_f16,          ref::quantize_row_i4,
      ref::unpack_rows_i4,  ref::attend_i8,
      ref::attend_f16,      ref::attend_f32,
      ref::fold_partials,   ref::geglu,
      ref::head_rms_norm,   ref::low_rank_add,
  };
  return table;
}

} // namespace ptmo::kernels
