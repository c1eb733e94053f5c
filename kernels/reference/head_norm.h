// The order-free sum of squares of `head_rms_norm`. Every level agrees with these few lines.
//
// Each x^2, exact in double, is rounded to a common grid 2^g by adding and subtracting a number of
// the right size; sums of such multiples stay below 2^(g + 53) and are therefore exact, in any
// order (Demmel & Nguyen 2013, one fold). The grid follows max|x|, which has no order either. For
// n values the mean square is off by less than n^2 2^-52 of itself: 2^-34 at 512.
#pragma once

#include <cmath>

namespace ptmo::kernels {

// The number to add to and subtract from x^2; max = max|x|, n in 4..2^20. No grid where a value is
// infinite: the sum is, too.
inline double square_grid(float max, int n) {
  if (!(max > 0.0f) || std::isinf(max))
    return 0.0;
  return std::ldexp(0.75, 2 * std::ilogb(max) + 2 + std::ilogb(2.0 * n - 1.0)); // n max^2 < 2^that
}

inline double on_grid(float x, double grid) {
  const double square = static_cast<double>(x) * x;
  return (square + grid) - grid;
}

inline float inverse_rms(double sum_of_squares, int n, float eps) {
  return static_cast<float>(1.0 / std::sqrt(sum_of_squares / n + eps));
}

} // namespace ptmo::kernels
