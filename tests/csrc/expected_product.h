// What a matrix product should give, in float64, and how far a kernel may be off.
//
// Error bound: a result is a chain of rounded float operations on terms t_i, so it is within
// (operations on the longest chain) * 2^-24 * sum |t_i| of the exact sum (Higham 2002, section 3).
#pragma once

#include "samples.h"

namespace ptmo::test {

struct Expected {
  std::vector<double> value, magnitude; // [tokens, rows]
};

// From the exact weights and the values the kernel reads: dequantised codes, or float x.
inline Expected expect(const PlainMatrix& w, const Inputs& in, bool integer) {
  Expected out;
  for (int t = 0; t < in.tokens; ++t) {
    for (int r = 0; r < w.rows; ++r) {
      double sum = 0.0, magnitude = 0.0;
      for (int b = 0; b < w.cols / 32; ++b) {
        const size_t block = static_cast<size_t>(t) * (w.cols / 32) + b;
        double dot = 0.0, code_sum = 0.0;
        for (int c = b * 32; c < b * 32 + 32; ++c) {
          const size_t i = static_cast<size_t>(t) * w.cols + c;
          const double x = integer ? static_cast<double>(in.scales[block]) * in.code(i) : in.x[i];
          sum += w.weight(r, c) * x;
          dot += w.integer() ? w.scale(r, c) * w.codes[w.at(r, c)] * x : 0.0;
          code_sum += x;
          if (!integer)
            magnitude += w.integer()
                             ? (std::fabs(w.weight(r, c) - w.min(r, c)) + std::fabs(w.min(r, c))) *
                                   std::fabs(x)
                             : std::fabs(w.weight(r, c) * x);
        }
        if (integer)
          magnitude += std::fabs(dot) + std::fabs(w.min(r, b * 32) * code_sum);
      }
      out.value.push_back(sum);
      out.magnitude.push_back(magnitude);
    }
  }
  return out;
}

// Longest chains: two operations a block and four roundings of a term on the integer path; on the
// float path 32 in a strip, one a strip, and four for the weight and the product.
inline double operations(int cols, bool integer) {
  return integer ? 2.0 * (cols / 32) + 4.0 : 36.0 + cols / 32.0;
}

// How far y[i] may be off `want`, at `bits` of activations. The last term covers products of scales
// under the normal floats: off by up to 2^-150, times two codes.
inline double product_tolerance(const Expected& want, size_t i, int cols, int bits) {
  const double codes = bits == 8 ? 127.0 * 127.0 : bits == 16 ? 127.0 * kernels::kCode16 : 1.0;
  return operations(cols, bits < 32) * kEps * want.magnitude[i] + cols * codes * 0x1p-150;
}

} // namespace ptmo::test
