#include "int4.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "common/check.h"
#include "kernels/half.h"
#include "kernels/reference/panels.h"

namespace ptmo {

using kernels::kBlock;
using kernels::kPanelRows;
using kernels::WeightType;

AlignedBuffer::AlignedBuffer(size_t bytes) : size_(bytes) {
  if (bytes == 0)
    return;
  const size_t rounded = (bytes + 63) / 64 * 64;
  data_ = static_cast<uint8_t*>(std::aligned_alloc(64, rounded));
  if (data_ == nullptr)
    throw std::bad_alloc();
  std::memset(data_, 0, rounded);
}

AlignedBuffer::~AlignedBuffer() {
  std::free(data_);
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

namespace {

void check_group(int cols, int group) {
  require(group == 32 || group == 64 || group == 128, "group=", group, " is not 32, 64 or 128");
  require(cols > 0 && cols % group == 0, "cols=", cols, " is not a multiple of group=", group);
}

// Chooses (scale, min) of one group in fp16.
void choose_scale(const float* x, int group, bool symmetric, uint16_t* scale, uint16_t* min) {
  if (symmetric) {
    float extreme = 0.0f;
    for (int i = 0; i < group; ++i)
      if (std::fabs(x[i]) > std::fabs(extreme))
        extreme = x[i];
    *scale = float_to_half(extreme / -8.0f);
    *min = float_to_half(-8.0f * half_to_float(*scale));
    return;
  }
  const auto [low, high] = std::minmax_element(x, x + group);
  *scale = float_to_half((*high - *low) / 15.0f);
  *min = float_to_half(*low);
}

} // namespace

void quantize_int4(const float* x, int rows, int cols, int group, bool symmetric, uint8_t* codes,
                   uint16_t* scales, uint16_t* mins) {
  check_group(cols, group);
  const int groups = cols / group;
  for (int r = 0; r < rows; ++r) {
    for (int g = 0; g < groups; ++g) {
      const size_t at = static_cast<size_t>(r) * groups + g;
      const float* xs = x + static_cast<size_t>(r) * cols + static_cast<size_t>(g) * group;
      choose_scale(xs, group, symmetric, scales + at, mins + at);
      const float scale = half_to_float(scales[at]), min = half_to_float(mins[at]);
      const float inv = scale != 0.0f ? 1.0f / scale : 0.0f;
      uint8_t* out =
          codes + static_cast<size_t>(r) * (cols / 2) + static_cast<size_t>(g) * group / 2;
      for (int i = 0; i < group; ++i) {
        const float code = std::nearbyint((xs[i] - min) * inv);
        const auto nibble = static_cast<uint8_t>(code > 0.0f ? std::min(code, 15.0f) : 0.0f);
        uint8_t& byte = out[i / kBlock * 16 + i % 16];
        byte = i % kBlock < 16 ? nibble : static_cast<uint8_t>(byte | nibble << 4);
      }
    }
  }
}

void dequantize_int4(const uint8_t* codes, const uint16_t* scales, const uint16_t* mins, int rows,
                     int cols, int group, float* out) {
  check_group(cols, group);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < cols; ++c) {
      const size_t at = static_cast<size_t>(r) * (cols / group) + c / group;
      const uint8_t byte = codes[static_cast<size_t>(r) * (cols / 2) + c / kBlock * 16 + c % 16];
      const int code = c % kBlock < 16 ? byte & 0x0f : byte >> 4;
      out[static_cast<size_t>(r) * cols + c] =
          half_to_float(scales[at]) * static_cast<float>(code) + half_to_float(mins[at]);
    }
  }
}

size_t panel_bytes(WeightType type, int cols, int group) {
  require(cols > 0, "cols=", cols, " is not positive");
  switch (type) {
  case WeightType::kInt4:
  case WeightType::kInt4Symmetric:
    check_group(cols, group);
    return static_cast<size_t>(cols / group) * kernels::int4_superblock_bytes(type, group);
  case WeightType::kInt8:
    require(cols % kBlock == 0, "cols=", cols, " is not a multiple of 32");
    return static_cast<size_t>(cols / kBlock) * kernels::kInt8BlockBytes;
  case WeightType::kF16:
    return static_cast<size_t>(cols) * kPanelRows * 2;
  case WeightType::kF32:
    break;
  }
  return static_cast<size_t>(cols) * kPanelRows * 4;
}

WeightType int4_type(const uint16_t* scales, const uint16_t* mins, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (half_to_float(mins[i]) != -8.0f * half_to_float(scales[i]))
      return WeightType::kInt4;
  return WeightType::kInt4Symmetric;
}

void pack_int4(const uint8_t* codes, const uint16_t* scales, const uint16_t* mins, int rows,
               int cols, int group, uint8_t* out) {
  const WeightType type = mins != nullptr ? WeightType::kInt4 : WeightType::kInt4Symmetric;
  const size_t stride = panel_bytes(type, cols, group);
  const size_t super_bytes = kernels::int4_superblock_bytes(type, group);
  const int per_group = group / kBlock, groups = cols / group;
  for (int r = 0; r < rows; ++r) {
    uint8_t* panel = out + static_cast<size_t>(r / kPanelRows) * stride;
    const int lane = r % kPanelRows;
    for (int g = 0; g < groups; ++g) {
      uint8_t* super = panel + static_cast<size_t>(g) * super_bytes;
      const size_t at = static_cast<size_t>(r) * groups + g;
      for (int b = 0; b < per_group; ++b) {
        const uint8_t* block = codes + static_cast<size_t>(r) * (cols / 2) +
                               (static_cast<size_t>(g) * per_group + b) * 16;
        for (int p = 0; p < 4; ++p)
          std::memcpy(super + b * 256 + p * 64 + lane * 4, block + 4 * p, 4);
      }
      std::memcpy(super + per_group * 256 + 2 * lane, scales + at, 2);
      if (mins != nullptr)
        std::memcpy(super + per_group * 256 + 32 + 2 * lane, mins + at, 2);
    }
  }
}

void pack_int8(const int8_t* codes, const uint16_t* scales, int rows, int cols, uint8_t* out) {
  const size_t stride = panel_bytes(WeightType::kInt8, cols, 0);
  const int blocks = cols / kBlock;
  for (int r = 0; r < rows; ++r) {
    uint8_t* panel = out + static_cast<size_t>(r / kPanelRows) * stride;
    const int lane = r % kPanelRows;
    for (int b = 0; b < blocks; ++b) {
      const int8_t* block = codes + static_cast<size_t>(r) * cols + b * kBlock;
      require(std::find(block, block + kBlock, int8_t{-128}) == block + kBlock,
              "INT8 code -128 in row ", r, " is outside -127..127");
      uint8_t* to = panel + static_cast<size_t>(b) * kernels::kInt8BlockBytes;
      for (int c = 0; c < 8; ++c)
        std::memcpy(to + c * 64 + lane * 4, block + 4 * c, 4);
      std::memcpy(to + 512 + 2 * lane, scales + static_cast<size_t>(r) * blocks + b, 2);
    }
  }
}

namespace {
template <typename T> void pack_transposed(const T* x, int rows, int cols, uint8_t* out) {
  for (int r = 0; r < rows; ++r) {
    auto* panel = reinterpret_cast<T*>(out) +
                  static_cast<size_t>(r / kPanelRows) * cols * kPanelRows + r % kPanelRows;
    for (int c = 0; c < cols; ++c)
      panel[static_cast<size_t>(c) * kPanelRows] = x[static_cast<size_t>(r) * cols + c];
  }
}
} // namespace

void pack_f16(const uint16_t* x, int rows, int cols, uint8_t* out) {
  pack_transposed(x, rows, cols, out);
}

void pack_f32(const float* x, int rows, int cols, uint8_t* out) {
  pack_transposed(x, rows, cols, out);
}

} // namespace ptmo
