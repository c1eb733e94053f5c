#include "layout.h"

#include <cstring>

#include "../reference/panels.h"

namespace ptmo::cuda {
namespace {

// A word of four columns (four bytes, or eight nibbles) of one row, from a block of a panel.
uint32_t panel_word(const uint8_t* block, int quad, int row) {
  uint32_t word;
  std::memcpy(&word, block + quad * 64 + row * 4, sizeof(word));
  return word;
}

struct Source {
  const kernels::PackedMatrix& w;
  const uint8_t* panel;
  bool int4;

  // Block b of the panel; null past the matrix's columns.
  const uint8_t* block(int b) const {
    if (b * kBlock >= w.cols)
      return nullptr;
    if (!int4)
      return panel + static_cast<size_t>(b) * kernels::kInt8BlockBytes;
    const int per_group = w.group / kBlock;
    return panel +
           static_cast<size_t>(b / per_group) * kernels::int4_superblock_bytes(w.type, w.group) +
           b % per_group * 256;
  }
  const uint8_t* tail(int group) const { // the scales of a group of columns
    if (!int4)
      return panel + static_cast<size_t>(group) * kernels::kInt8BlockBytes + 512;
    return panel + static_cast<size_t>(group) * kernels::int4_superblock_bytes(w.type, w.group) +
           w.group / kBlock * 256;
  }
};

uint32_t lane_word(const Source& from, int tile, int lane, int i) {
  const int g = lane / 4, p = lane % 4, row = g + 8 * (i % 2);
  if (!from.int4) {
    const uint8_t* block = from.block(tile);
    return block == nullptr ? 0 : panel_word(block, p + 4 * (i / 2), row);
  }
  const uint8_t* block = from.block(2 * tile + i / 2);
  if (block == nullptr)
    return 0;
  const uint32_t word = panel_word(block, p, row);
  return from.w.type == WeightType::kInt4Symmetric ? word ^ 0x88888888u : word;
}

} // namespace

void repack(const kernels::PackedMatrix& w, uint8_t* codes, uint16_t* scales) {
  const bool int4 = kernels::is_int4(w.type);
  const int tiles = padded(w.cols) / (int4 ? kTileColumns : kBlock);
  const int group = int4 ? w.group : kBlock, groups = groups_of(w.type, w.cols, w.group);
  for (int panel = 0; panel < kernels::panels(w.rows); ++panel) {
    const Source from{w, w.data + static_cast<size_t>(panel) * w.panel_bytes, int4};
    for (int tile = 0; tile < tiles; ++tile) {
      for (int lane = 0; lane < kWarpLanes; ++lane) {
        for (int i = 0; i < 4; ++i, codes += 4) {
          const uint32_t word = lane_word(from, tile, lane, i);
          std::memcpy(codes, &word, sizeof(word));
        }
      }
    }
    for (int k = 0; k < groups; ++k) {
      for (int g = 0; g < 8; ++g) {
        for (int i = 0; i < scale_unit(w.type); ++i) { // scales of two rows, then their mins
          const int at = i / 2 * kPanelRows + g + 8 * (i % 2);
          *scales++ = k * group < w.cols ? kernels::load_u16(from.tail(k) + 2 * at) : uint16_t{0};
        }
      }
    }
  }
}

} // namespace ptmo::cuda
