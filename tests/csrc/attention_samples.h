// Spans of a cache and queries for the tests of the attention kernels, and what attention over them
// gives in float64.
#pragma once

#include <algorithm>
#include <limits>
#include <ostream>
#include <stdexcept>

#include "samples.h"

namespace ptmo::test {

using kernels::kPartialHead;

enum class Elements { kI8, kF16, kF32 };
inline const Elements kElements[] = {Elements::kI8, Elements::kF16, Elements::kF32};
inline const char* name_of(Elements type) {
  return type == Elements::kI8 ? "int8" : type == Elements::kF16 ? "fp16" : "fp32";
}
inline std::ostream& operator<<(std::ostream& out, Elements type) {
  return out << name_of(type);
}

// `pieces` x `piece_rows` rows of K and V, each piece in memory of its own that begins `shift`
// elements behind a cache line. Written through set(); what is not set is zero.
struct SampleSpan {
  Elements type;
  int dim, piece_rows, pieces;
  std::vector<AlignedBuffer> memory;
  kernels::CacheSpan span{};

  SampleSpan(Elements elements, int head_dim, int rows_per_piece, int count, int shift = 0)
      : type(elements), dim(head_dim), piece_rows(rows_per_piece), pieces(count) {
    const size_t tile = static_cast<size_t>(piece_rows) * dim * bytes();
    const size_t skip = static_cast<size_t>(shift) * bytes();
    span.pieces = pieces;
    span.rows = piece_rows;
    for (int p = 0; p < pieces; ++p) {
      memory.emplace_back(2 * (tile + 64) + 8 * static_cast<size_t>(piece_rows) + 64);
      uint8_t* at = memory.back().data();
      span.k[p] = at + skip;
      span.v[p] = at + tile + 64 + skip;
      span.scales[p] = reinterpret_cast<const float*>(at + 2 * (tile + 64) + 4 * shift);
    }
  }
  size_t bytes() const { return type == Elements::kI8 ? 1 : type == Elements::kF16 ? 2 : 4; }
  int rows() const { return pieces * piece_rows; }

  float& scale(int r, int which) const { // 0: of K, 1: of V
    return const_cast<float*>(span.scales[r / piece_rows])[2 * (r % piece_rows) + which];
  }
  // A pointer is chosen, not an array: GCC 12 compiles `(c ? a : b)[r / n]` as `[0]` under
  // -fsanitize=integer-divide-by-zero.
  const uint8_t* element(int r, int which, int d) const {
    const int piece = r / piece_rows;
    return (which == 0 ? span.k[piece] : span.v[piece]) +
           (static_cast<size_t>(r % piece_rows) * dim + d) * bytes();
  }
  // The stored element for x: a code, or x rounded to the type.
  void set(int r, int which, int d, float x) const {
    uint8_t* at = const_cast<uint8_t*>(element(r, which, d));
    if (type == Elements::kI8) {
      *reinterpret_cast<int8_t*>(at) = static_cast<int8_t>(x);
    } else if (type == Elements::kF16) {
      *reinterpret_cast<uint16_t*>(at) = float_to_half(x);
    } else {
      std::memcpy(at, &x, sizeof(x));
    }
  }
  double code(int r, int which, int d) const { // without its scale
    const uint8_t* at = element(r, which, d);
    if (type == Elements::kI8)
      return *reinterpret_cast<const int8_t*>(at);
    if (type == Elements::kF16)
      return half_to_float(*reinterpret_cast<const uint16_t*>(at));
    float x;
    std::memcpy(&x, at, sizeof(x));
    return x;
  }
  double value(int r, int which, int d) const {
    return code(r, which, d) * (type == Elements::kI8 ? scale(r, which) : 1.0);
  }
  void fill(Random& random, int r) const {
    for (int which = 0; which < 2; ++which) {
      scale(r, which) = random.uniform(0.001f, 0.01f);
      for (int d = 0; d < dim; ++d)
        set(r, which, d,
            type == Elements::kI8 ? static_cast<float>(random.between(-127, 127))
                                  : random.normal());
    }
  }
  void fill(Random& random) const {
    for (int r = 0; r < rows(); ++r)
      fill(random, r);
  }
  // What no result may depend on: a NaN in floats and scales, the codes that no quantiser writes.
  void poison(int r) const {
    for (int which = 0; which < 2; ++which) {
      scale(r, which) = std::numeric_limits<float>::quiet_NaN();
      for (int d = 0; d < dim; ++d)
        set(r, which, d, type == Elements::kI8 ? -128.0f : std::numeric_limits<float>::quiet_NaN());
    }
  }
};

struct SampleQueries {
  int dim;
  float scale = 0.125f;
  std::vector<float> q, code_scales;
  std::vector<int16_t> codes;
  std::vector<int> first, last;

  explicit SampleQueries(int head_dim) : dim(head_dim) {}
  int count() const { return static_cast<int>(first.size()); }
  void add(const kernels::Table& level, const std::vector<float>& row, int from, int to) {
    q.insert(q.end(), row.begin(), row.end());
    codes.resize(q.size());
    code_scales.push_back(
        level.quantize_row_i16(row.data(), dim, codes.data() + codes.size() - row.size()));
    first.push_back(from);
    last.push_back(to);
  }
  kernels::Queries queries() const {
    return {count(),      dim,        scale, q.data(), codes.data(), code_scales.data(),
            first.data(), last.data()};
  }
  // The query's element as the kernel gets it.
  double value(Elements type, int i, int d) const {
    const size_t at = static_cast<size_t>(i) * dim + d;
    return type == Elements::kI8 ? static_cast<double>(code_scales[i]) * codes[at] : q[at];
  }
};

inline std::vector<float> slice(const std::vector<float>& x, size_t from, size_t count) {
  std::vector<float> out(count);
  std::copy_n(x.begin() + static_cast<ptrdiff_t>(from), count, out.begin());
  return out;
}

// Attends with guards around the results; scratch holds nonsense before.
inline std::vector<float> attend(const kernels::Table& level, const SampleQueries& q,
                                 const SampleSpan& s) {
  const size_t floats = static_cast<size_t>(q.count()) * (kPartialHead + q.dim);
  std::vector<float> out(floats + 16, 7.0f);
  AlignedBuffer scratch(kernels::kAttendScratch);
  std::memset(scratch.data(), 0xee, scratch.size());
  const auto kernel = s.type == Elements::kI8    ? level.attend_i8
                      : s.type == Elements::kF16 ? level.attend_f16
                                                 : level.attend_f32;
  kernel(q.queries(), s.span, scratch.data(), out.data());
  for (size_t i = floats; i < out.size(); ++i)
    if (out[i] != 7.0f)
      throw std::runtime_error("attend wrote behind its partials");
  out.resize(floats);
  return out;
}

// The finished result of one partial.
inline std::vector<double> finished(const float* partial, int dim) {
  double sum = 0.0;
  for (int i = 16; i < kPartialHead; ++i)
    sum += partial[i];
  std::vector<double> out;
  for (int d = 0; d < dim; ++d)
    out.push_back(partial[kPartialHead + d] / sum);
  return out;
}

// softmax(scale q . K) V of query i in float64; `sizes`: what a weighted sum of |V| is, so that
// errors have a measure; `largest`: of the scores' magnitudes.
struct Exact {
  std::vector<double> out, sizes;
  double largest = 0.0;

  Exact(const SampleQueries& q, const SampleSpan& s, int i)
      : out(static_cast<size_t>(q.dim)), sizes(out.size()) {
    std::vector<double> x;
    for (int r = q.first[i]; r < q.last[i]; ++r) {
      double dot = 0.0;
      for (int d = 0; d < q.dim; ++d)
        dot += q.value(s.type, i, d) * s.value(r, 0, d);
      x.push_back(dot * q.scale);
      largest = std::max(largest, std::fabs(x.back()));
    }
    const double max = *std::max_element(x.begin(), x.end());
    double sum = 0.0;
    for (double& score : x) {
      score = std::exp(score - max);
      sum += score;
    }
    for (int d = 0; d < q.dim; ++d) {
      for (size_t r = 0; r < x.size(); ++r) {
        const double term = x[r] / sum * s.value(q.first[i] + static_cast<int>(r), 1, d);
        out[d] += term;
        sizes[d] += std::fabs(term);
      }
    }
  }
};

} // namespace ptmo::test
