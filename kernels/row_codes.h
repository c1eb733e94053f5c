// Symmetric integer codes of a row (or block): x ~= scale * code. What every level and the device
// share; `Table::quantize_row_i8` and the like say what a row of them is.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace ptmo::kernels {

constexpr float kLargestInt8 = 127.0f, kLargestInt4 = 7.0f; // codes, by size

struct CodeScale {
  float scale, inverse;
};

// amax = max|x|, a NaN counting for nothing. Rows this small (or zero) have no finite inverse
// scale: they are stored as zeros. An infinity makes the scale infinite and the codes zero.
PTMO_HD inline CodeScale code_scale(float amax, float largest_code) {
  const bool tiny = !(amax > 1e-30f);
  return {tiny ? 0.0f : amax / largest_code, tiny ? 0.0f : largest_code / amax};
}

// Round half to even; a NaN becomes 0.
PTMO_HD inline float row_code(float x, float inverse_scale) {
  const float code = nearbyintf(x * inverse_scale);
  return code == code ? code : 0.0f;
}

// The upper byte of a 16-bit code = 256 * upper + lower, lower in -128..127.
PTMO_HD inline int upper_byte(int code) {
  return (code + 128) >> 8;
}

// Two INT4 codes -7..7 in a byte.
PTMO_HD inline uint8_t pack_int4_codes(int low, int high) {
  return static_cast<uint8_t>((low + 8) | (high + 8) << 4);
}

} // namespace ptmo::kernels
