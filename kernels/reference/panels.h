// Where one weight stands in a packed matrix. Every level agrees with these few lines.
#pragma once

#include <cstring>

#include "../half.h"
#include "../kernels.h"

namespace ptmo::kernels {

inline uint16_t load_u16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

inline size_t int4_superblock_bytes(WeightType type, int group) {
  return static_cast<size_t>(group / kBlock) * 256 + (type == WeightType::kInt4 ? 64 : 32);
}
constexpr size_t kInt8BlockBytes = 512 + 32;

// The integer that a weight's scale multiplies.
inline int panel_code(const PackedMatrix& w, const uint8_t* panel, int row, int col) {
  const int c = col % kBlock;
  if (w.type == WeightType::kInt8) {
    const uint8_t* block = panel + (col / kBlock) * kInt8BlockBytes;
    return static_cast<int8_t>(block[(c / 4) * 64 + row * 4 + c % 4]);
  }
  const uint8_t* super = panel + (col / w.group) * int4_superblock_bytes(w.type, w.group);
  const uint8_t byte =
      super[((col % w.group) / kBlock) * 256 + ((c % 16) / 4) * 64 + row * 4 + c % 4];
  const int code = c < 16 ? byte & 0x0f : byte >> 4;
  return w.type == WeightType::kInt4 ? code : code - 8;
}

// W[row, col] as a float; row counts from the panel's first row.
inline float panel_weight(const PackedMatrix& w, const uint8_t* panel, int row, int col) {
  switch (w.type) {
  case WeightType::kInt4:
  case WeightType::kInt4Symmetric: {
    const uint8_t* super = panel + (col / w.group) * int4_superblock_bytes(w.type, w.group);
    const uint8_t* tail = super + (w.group / kBlock) * 256;
    const float scaled = half_to_float(load_u16(tail + 2 * row)) *
                         static_cast<float>(panel_code(w, panel, row, col));
    return w.type == WeightType::kInt4 ? scaled + half_to_float(load_u16(tail + 32 + 2 * row))
                                       : scaled;
  }
  case WeightType::kInt8: {
    const uint8_t* block = panel + (col / kBlock) * kInt8BlockBytes;
    const int c = col % kBlock;
    const auto code = static_cast<int8_t>(block[(c / 4) * 64 + row * 4 + c % 4]);
    return half_to_float(load_u16(block + 512 + 2 * row)) * static_cast<float>(code);
  }
  case WeightType::kF16:
    return half_to_float(load_u16(panel + 2 * (static_cast<size_t>(col) * kPanelRows + row)));
  case WeightType::kF32:
    break;
  }
  float out;
  std::memcpy(&out, panel + 4 * (static_cast<size_t>(col) * kPanelRows + row), sizeof(out));
  return out;
}

// A chunk of a low-rank factor's panel: all chunks before it are full.
inline const uint8_t* low_rank_chunk(const uint8_t* panel, int chunk) {
  return panel + static_cast<size_t>(chunk) * (kRankChunk / 4 * 64 + 32);
}

inline const uint8_t* low_rank_scales(const LowRankFactor& b, const uint8_t* panel, int chunk) {
  return low_rank_chunk(panel, chunk) + static_cast<size_t>(rank_quads(b.rank, chunk)) * 64;
}

inline int low_rank_code(const uint8_t* panel, int row, int r) {
  const int quad = r % kRankChunk / 4;
  return static_cast<int8_t>(low_rank_chunk(panel, r / kRankChunk)[quad * 64 + row * 4 + r % 4]);
}

// B[row, r] as a float; row counts from the panel's first row.
inline float low_rank_weight(const LowRankFactor& b, const uint8_t* panel, int row, int r) {
  if (b.type == WeightType::kInt8)
    return half_to_float(load_u16(low_rank_scales(b, panel, r / kRankChunk) + 2 * row)) *
           static_cast<float>(low_rank_code(panel, row, r));
  float out;
  std::memcpy(&out, panel + 4 * (static_cast<size_t>(r) * kPanelRows + row), sizeof(out));
  return out;
}

} // namespace ptmo::kernels
