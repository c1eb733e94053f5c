#include "seal.h"

#include <cstring>

#include "counter_ledger.h"

namespace ptmo {

void PlainShield::write_row(uint8_t* page, const PageLayout& layout, int layer, int head, int row,
                            uint64_t /*seq*/, const uint8_t* k, const uint8_t* v,
                            const float* scales) const {
  uint8_t* at = page + layout.head_offset(layer, head);
  std::memcpy(at + row * layout.row_bytes(), k, layout.row_bytes());
  std::memcpy(at + layout.tile_bytes() + row * layout.row_bytes(), v, layout.row_bytes());
  if (layout.has_scales())
    std::memcpy(at + 2 * layout.tile_bytes() + 8 * row, scales, 8);
}

Tile PlainShield::open_tile(const uint8_t* page, const PageLayout& layout, int layer, int head,
                            int /*rows*/, uint8_t* /*scratch*/) const {
  const uint8_t* at = page + layout.head_offset(layer, head);
  const auto* scales = reinterpret_cast<const float*>(at + 2 * layout.tile_bytes());
  return {at, at + layout.tile_bytes(), layout.has_scales() ? scales : nullptr};
}

void SealShield::write_row(uint8_t* page, const PageLayout& layout, int layer, int head, int row,
                           uint64_t seq, const uint8_t* k, const uint8_t* v,
                           const float* scales) const {
  count_counters(keys_, seq, layer, head, layout.has_scales());
  uint8_t* at = page + layout.head_offset(layer, head);
  const auto l = static_cast<uint16_t>(layer), h = static_cast<uint16_t>(head);
  const size_t bytes = layout.row_bytes();
  aes128_ctr_xor(keys_, &seq, 1, l, StreamKind::kKey, h, k, bytes, at + row * bytes);
  aes128_ctr_xor(keys_, &seq, 1, l, StreamKind::kValue, h, v, bytes,
                 at + layout.tile_bytes() + row * bytes);
  if (layout.has_scales()) {
    aes128_ctr_xor(keys_, &seq, 1, l, StreamKind::kScales, h,
                   reinterpret_cast<const uint8_t*>(scales), 8,
                   at + 2 * layout.tile_bytes() + 8 * row);
  }
}

Tile SealShield::open_tile(const uint8_t* page, const PageLayout& layout, int layer, int head,
                           int rows, uint8_t* scratch) const {
  const uint8_t* at = page + layout.head_offset(layer, head);
  const auto* seqs = reinterpret_cast<const uint64_t*>(page + sizeof(PageHeader));
  const auto l = static_cast<uint16_t>(layer), h = static_cast<uint16_t>(head);
  const size_t bytes = layout.row_bytes(), tile = layout.tile_bytes();
  aes128_ctr_xor(keys_, seqs, rows, l, StreamKind::kKey, h, at, bytes, scratch);
  aes128_ctr_xor(keys_, seqs, rows, l, StreamKind::kValue, h, at + tile, bytes, scratch + tile);
  if (layout.has_scales()) {
    aes128_ctr_xor(keys_, seqs, rows, l, StreamKind::kScales, h, at + 2 * tile, 8,
                   scratch + 2 * tile);
  }
  return {scratch, scratch + tile,
          layout.has_scales() ? reinterpret_cast<const float*>(scratch + 2 * tile) : nullptr};
}

} // namespace ptmo
