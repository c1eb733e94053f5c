// The order-free sum of squares of `head_rms_norm`. Every level agrees with these few lines.
//
// Each x^2, exact in double, is rounded to a common grid 2^g by adding and subtracting a number of
// the right size; sums of such multiples stay below 2^(g + 53) and are therefore exact, in any
// order (Demmel & Nguyen 2013, one fold). The grid follows max|x|, which has no order either. For
// n values the mean square is off by less than n^2 2^-52 of itself: 2^-34 at 512.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../host_device.h"

namespace ptmo::kernels {

// e where 2^e <= x < 2^(e + 1), for normal x.
PTMO_HD inline int binary_exponent(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return static_cast<int>(bits >> 52 & 0x7ff) - 1023;
}

// e with n max^2 < 2^e; max = max|x|, n in 4..2^20. The grid's step is 2^(e - 53).
PTMO_HD inline int grid_exponent(float max, int n) {
  return 2 * binary_exponent(max) + 2 + binary_exponent(2.0 * n - 1.0);
}

PTMO_HD inline double power_of_two(int e) { // of normal doubles
  const uint64_t bits = static_cast<uint64_t>(e + 1023) << 52;
  double out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

// The number to add to and subtract from x^2. No grid where a value is infinite: the sum is, too.
PTMO_HD inline double square_grid(float max, int n) {
  if (!(max > 0.0f) || max - max != 0.0f)
    return 0.0;
  return 0.75 * power_of_two(grid_exponent(max, n));
}

PTMO_HD inline double on_grid(float x, double grid) {
  const double square = static_cast<double>(x) * x;
  return (square + grid) - grid;
}

// The same in integers, for a device whose doubles are slow: on_grid(x, square_grid(max, n)) =
// square_code(x, e) * 2^(e - 53), e = grid_exponent(max, n). Sums of codes are below 2^53; a NaN
// adds 2^54.
constexpr uint64_t kNanCode = uint64_t{1} << 54;

PTMO_HD inline uint64_t square_code(float x, int e) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u)
    return kNanCode;
  const int exponent = static_cast<int>(bits >> 23);
  const uint32_t mantissa = (bits & 0x7fffffu) | (exponent > 0 ? 0x800000u : 0u);
  const uint64_t square = static_cast<uint64_t>(mantissa) * mantissa; // times 2^(2 p)
  const int p = (exponent > 0 ? exponent : 1) - 150, cut = e - 53 - 2 * p;
  if (square == 0 || cut > 48) // below half a step
    return 0;
  if (cut <= 0)
    return square << -cut;
  // Half to even is down: an odd square is 1 modulo 8, so what lies half-way lies above an even
  // code.
  return (square + ((uint64_t{1} << (cut - 1)) - 1)) >> cut;
}

PTMO_HD inline double sum_of_squares(uint64_t codes, float max, int n) {
  if (codes >= kNanCode)
    return NAN;
  if (!(max > 0.0f) || max - max != 0.0f)
    return static_cast<double>(max) * max;
  return static_cast<double>(codes) * power_of_two(grid_exponent(max, n) - 53);
}

PTMO_HD inline float inverse_rms(double sum_of_squares, int n, float eps) {
  return static_cast<float>(1.0 / std::sqrt(sum_of_squares / n + eps));
}

} // namespace ptmo::kernels
