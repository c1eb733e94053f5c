// Rotary position embedding (Su et al. 2021): the arithmetic that every level and the device share.
#pragma once

#include <cmath>

#include "host_device.h"

namespace ptmo::kernels {

struct CosSin {
  float cosine, sine;
};

// Quadrant reduction and polynomials (Cephes sin/cos) in double, without integers or branches, so
// that a plain loop over it vectorises, and without fused steps, so that host and device agree bit
// for bit. Off by at most 0.51 * 2^-24 (rounding to float) + |angle| * 2^-52 (the reduction): by
// 0.58 * 2^-24 where |angle| < 2^24.
PTMO_HD inline CosSin cosine_and_sine(float angle) {
  const double x = angle;
  constexpr double kRound = 6755399441055744.0; // 1.5 * 2^52: added and taken off, it rounds
  const double quadrant = (x * 0.63661977236758134308 + kRound) - kRound;
  const double r = (x - quadrant * 1.57079632679489655800) - quadrant * 6.12323399573676603587e-17;
  const double z = r * r;
  const double s =
      r + r * z *
              (-1.66666666666666307295e-1 +
               z * (8.33333333332211858878e-3 +
                    z * (-1.98412698295895385996e-4 +
                         z * (2.75573136213857245213e-6 +
                              z * (-2.50507477628578072866e-8 + z * 1.58962301576546568060e-10)))));
  const double c =
      1.0 - 0.5 * z +
      z * z *
          (4.16666666666665929218e-2 +
           z * (-1.38888888888730564116e-3 +
                z * (2.48015872888517045348e-5 +
                     z * (-2.75573141792967388112e-7 +
                          z * (2.08757008419747316778e-9 - z * 1.13585365213876817300e-11)))));
  // The quadrant modulo 4, then modulo 2.
  const double turn = quadrant - 4.0 * ((quadrant * 0.25 - 0.375 + kRound) - kRound);
  const double odd = turn - 2.0 * ((turn * 0.5 - 0.25 + kRound) - kRound);
  const double sin_value = odd == 1.0 ? c : s, cos_value = odd == 1.0 ? s : c;
  return {static_cast<float>(cos_value * (std::fabs(turn - 1.5) < 1.0 ? -1.0 : 1.0)),
          static_cast<float>(sin_value * (turn < 1.5 ? 1.0 : -1.0))};
}

// Turns the pair (a, b) by an angle. Plain products: lanes, tails and devices round alike.
PTMO_HD inline void rotate_pair(float& a, float& b, float cosine, float sine) {
  const float x = a, y = b;
  a = x * cosine - y * sine;
  b = y * cosine + x * sine;
}

} // namespace ptmo::kernels
