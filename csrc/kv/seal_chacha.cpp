#include "seal_chacha.h"

#include <cstring>

#include "secmem/secret_arena.h"

namespace ptmo {
namespace {

// A row's record in a head's block (page_table.h).
kernels::RowRecord record(uint8_t* block, const PageLayout& layout, int row) {
  const auto n = static_cast<size_t>(row);
  const size_t tile = layout.tile_bytes(), at = n * layout.row_bytes();
  return {block + at, block + tile + at, layout.has_scales() ? block + 2 * tile + 8 * n : nullptr};
}

// A frame of its own: the compiler spills keys and keystream, and the caller wipes them.
constexpr size_t kSpilled = 2048;
[[gnu::noinline]] void xor_row(const kernels::ChaChaKey& key, const kernels::RowId& id,
                               const kernels::RowRecord& row, size_t bytes) {
  kernels::chacha_xor_row(key, id, row, bytes);
}

kernels::RowId row_id(uint64_t seq, int layer, int head) {
  return {seq, static_cast<uint16_t>(layer), static_cast<uint16_t>(head)};
}

} // namespace

void ChaChaShield::write_row(uint8_t* block, const PageLayout& layout, int layer, int head, int row,
                             uint64_t seq, const uint8_t* k, const uint8_t* v,
                             const float* scales) const {
  const kernels::RowRecord to = record(block, layout, row);
  std::memcpy(to.k, k, layout.row_bytes());
  std::memcpy(to.v, v, layout.row_bytes());
  if (layout.has_scales())
    std::memcpy(to.scales, scales, 8);
  xor_row(key_, row_id(seq, layer, head), to, layout.row_bytes());
  burn_stack(kSpilled);
}

void ChaChaShield::open_tiles(const uint8_t* const* pages, int count, const PageLayout& layout,
                              int layer, int head, int last_rows, uint8_t* scratch,
                              Tile* tiles) const {
  for (int i = 0; i < count; ++i, scratch += layout.head_bytes()) {
    const auto* seqs = reinterpret_cast<const uint64_t*>(pages[i] + sizeof(PageHeader));
    const int rows = i + 1 == count ? last_rows : layout.rows;
    std::memcpy(scratch, pages[i] + layout.head_offset(layer, head), layout.head_bytes());
    for (int row = 0; row < rows; ++row)
      xor_row(key_, row_id(seqs[row], layer, head), record(scratch, layout, row),
              layout.row_bytes());
    const size_t tile = layout.tile_bytes();
    const auto* scales = reinterpret_cast<const float*>(scratch + 2 * tile);
    tiles[i] = {scratch, scratch + tile, layout.has_scales() ? scales : nullptr};
  }
  burn_stack(kSpilled);
}

} // namespace ptmo
