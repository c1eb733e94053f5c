// How the device keeps weights and activations: in the order in which a warp's tensor-core
// instruction takes them (fragments: ptx.cuh), so that a lane loads 16 bytes at a time and a warp
// reads without a gap. Index maps that host and device share; no CUDA is needed to compile this.
//
// A tile is 16 rows of W (a panel) by 64 columns in INT4, by 32 in INT8: 512 bytes, 16 a lane. With
// g = lane / 4 and p = lane % 4 a lane's four words are
//   INT4: block 0 row g, block 0 row g + 8, block 1 row g, block 1 row g + 8; in a word, byte j has
//         column 4p + j in its low nibble, column 16 + 4p + j in its high nibble, as the panels of
//         kernels.h have them; symmetric codes as two's complement (code - 8)
//   INT8: row g and row g + 8 of columns 4p..4p+3, then both of columns 16 + 4p..
// Tiles of a panel follow by columns. Scales follow apart: for each panel, for each group of
// columns, for each g: fp16 scales of rows g and g + 8, then, where the type has mins, theirs.
//
// Activations go in the same 64 columns: of a row of codes, lane p's 16 bytes of a tile are columns
// 4p.., 16 + 4p.. of block 0, then of block 1.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../host_device.h"
#include "../kernels.h"

namespace ptmo::cuda {

using kernels::kBlock;
using kernels::kPanelRows;
using kernels::WeightType;

constexpr int kTileColumns = 64; // of activations, and of INT4 weights
constexpr int kTileBytes = 512;
constexpr int kWarpLanes = 32;

PTMO_HD constexpr int tiles_of(int cols) {
  return (cols + kTileColumns - 1) / kTileColumns;
}
// Columns with the zeros that fill the last tile.
PTMO_HD constexpr int padded(int cols) {
  return tiles_of(cols) * kTileColumns;
}

// Where the code of column `col` stands in a row of activations.
PTMO_HD constexpr int activation_offset(int col) {
  const int c = col % kBlock;
  return col / kTileColumns * kTileColumns + c % 16 / 4 * 16 + col % kTileColumns / kBlock * 8 +
         c / 16 * 4 + c % 4;
}

// fp16 values that one lane group g takes of a group of columns.
PTMO_HD constexpr int scale_unit(WeightType type) {
  return type == WeightType::kInt4 ? 4 : 2;
}
PTMO_HD constexpr int groups_of(WeightType type, int cols, int group) {
  return padded(cols) / (type == WeightType::kInt8 ? kBlock : group) +
         (padded(cols) % (type == WeightType::kInt8 ? kBlock : group) != 0);
}

// Where the four bytes begin that hold the codes of columns col..col + 3 (a multiple of four) of a
// row; of INT4 in their low nibbles where col % 32 < 16, else in their high ones.
PTMO_HD constexpr size_t weight_offset(WeightType type, int cols, int row, int col) {
  const bool int8 = type == WeightType::kInt8;
  const int tile_columns = int8 ? kBlock : kTileColumns, c = col % kBlock;
  const int lane = row % 8 * 4 + c % 16 / 4, upper_row = row % kPanelRows / 8;
  const int word = 2 * (int8 ? c / 16 : col % kTileColumns / kBlock) + upper_row;
  const size_t tile =
      static_cast<size_t>(row / kPanelRows) * static_cast<size_t>(padded(cols) / tile_columns) +
      static_cast<size_t>(col / tile_columns);
  return tile * kTileBytes + static_cast<size_t>(lane * 16 + word * 4);
}
// Where the scale of a row's group of columns stands; the group's min two places on.
PTMO_HD constexpr size_t scale_offset(WeightType type, int cols, int group, int row, int col) {
  const int width = type == WeightType::kInt8 ? kBlock : group;
  const size_t unit =
      (static_cast<size_t>(row / kPanelRows) * static_cast<size_t>(groups_of(type, cols, group)) +
       static_cast<size_t>(col / width)) *
          8 +
      static_cast<size_t>(row % 8);
  return unit * static_cast<size_t>(scale_unit(type)) + static_cast<size_t>(row % kPanelRows / 8);
}

// Bytes of codes and count of fp16 scales (and mins) of a matrix.
constexpr size_t code_bytes(WeightType type, int rows, int cols) {
  return static_cast<size_t>(kernels::panels(rows)) * static_cast<size_t>(padded(cols)) *
         (type == WeightType::kInt8 ? 16 : 8);
}
constexpr size_t scale_count(WeightType type, int rows, int cols, int group) {
  return static_cast<size_t>(kernels::panels(rows)) *
         static_cast<size_t>(groups_of(type, cols, group)) * 8 *
         static_cast<size_t>(scale_unit(type));
}

// Panels (kernels.h) of an integer type into the device's order; what fills the last tile is zero.
void repack(const kernels::PackedMatrix& w, uint8_t* codes, uint16_t* scales);

} // namespace ptmo::cuda
