// What the element-wise kernels mean, one scalar at a time.
#include <algorithm>
#include <cmath>

#include "../gates.h"
#include "../half.h"
#include "../rotary.h"
#include "../row_codes.h"
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
    out[i] = silu(gate[i]) * up[i];
}

void geglu(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; ++i)
    out[i] = gelu_tanh(gate[i]) * up[i];
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
  for (int i = 0; i < half; ++i)
    rotate_pair(x[i], x[i + half], cosine[i], sine[i]);
}

namespace {
template <typename Code> float quantize_row(const float* x, int n, float qmax, Code* codes) {
  float amax = 0.0f;
  for (int i = 0; i < n; ++i)
    amax = std::max(amax, std::fabs(x[i]));
  const CodeScale by = code_scale(amax, qmax);
  for (int i = 0; i < n; ++i)
    codes[i] = static_cast<Code>(row_code(x[i], by.inverse));
  return by.scale;
}
} // namespace

float quantize_row_i8(const float* x, int n, int8_t* codes) {
  return quantize_row(x, n, kLargestInt8, codes);
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
  const float scale = quantize_row(x, n, kLargestInt4, codes);
  for (int j = 0; j < n / 2; ++j)
    out[j] = pack_int4_codes(codes[j], codes[j + n / 2]);
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
