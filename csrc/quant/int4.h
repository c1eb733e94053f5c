// Group-wise INT4: the one description of its layout.
//
// Storage form (model files, Python):
//   codes  u8  [rows, cols / 2]   sub-blocks of 32 columns in 16 bytes; byte j of a sub-block holds
//                                 column j in its low nibble and column j + 16 in its high nibble
//   scales f16 [rows, cols / g]   g = group: 32, 64 or 128 columns
//   mins   f16 [rows, cols / g]
//   w = scale * code + min, code in 0..15. GGUF Q4_1 is this with g = 32; Q4_0 is it with
//   min = -8 * scale.
// Compute form: panels of 16 rows, described at PackedMatrix in kernels/kernels.h.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace ptmo {

// Cache-line aligned bytes, zeroed.
class AlignedBuffer {
public:
  explicit AlignedBuffer(size_t bytes = 0);
  ~AlignedBuffer();
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Quantises rows of `cols` floats. Asymmetric: scale = (max - min) / 15 per group. Symmetric: the
// value of largest magnitude maps to code 0 (so min = -8 * scale exactly), as Q4_0 does.
// Scales and mins are rounded to fp16 first and the codes chosen for the rounded values.
void quantize_int4(const float* x, int rows, int cols, int group, bool symmetric, uint8_t* codes,
                   uint16_t* scales, uint16_t* mins);

void dequantize_int4(const uint8_t* codes, const uint16_t* scales, const uint16_t* mins, int rows,
                     int cols, int group, float* out);

// Bytes of one 16-row panel; throws std::invalid_argument for shapes a type cannot hold.
size_t panel_bytes(kernels::WeightType type, int cols, int group);

// kInt4Symmetric if every min is -8 * scale exactly (as Q4_0 has it), else kInt4.
kernels::WeightType int4_type(const uint16_t* scales, const uint16_t* mins, size_t count);

// Storage form -> panels, appended at panel row 0 of `out` (ceil(rows / 16) panels). `mins` is null
// for kInt4Symmetric.
void pack_int4(const uint8_t* codes, const uint16_t* scales, const uint16_t* mins, int rows,
               int cols, int group, uint8_t* out);
// Throws std::invalid_argument on a code of -128 (no quantiser writes it; see
// kernels/cpu/avx2.cpp).
void pack_int8(const int8_t* codes, const uint16_t* scales, int rows, int cols, uint8_t* out);
void pack_f16(const uint16_t* x, int rows, int cols, uint8_t* out);
void pack_f32(const float* x, int rows, int cols, uint8_t* out);

} // namespace ptmo
