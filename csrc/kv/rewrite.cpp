#include "rewrite.h"

#include <cstring>

#include "row_exchange.h"

namespace ptmo {
namespace {

constexpr int kMostRows = 32; // of a page (PageLayout)

// Opens a layer's rows, has them put in the other order, and keeps their scales in `s`.
void exchange(const uint8_t* page, const PageLayout& l, int layer, int rows, const Rewrite& how,
              RowScratch& s) {
  for (int head = 0; head < l.n_kv_heads; ++head) {
    const Tile tile = how.from.open_tile(page, l, layer, head, rows, s.tile.data());
    put_rows(how.order, l, 0, head, rows, tile.k);
    put_rows(how.order, l, 1, head, rows, tile.v);
    if (l.has_scales())
      std::memcpy(s.scales_of(head, rows), tile.scales, 8 * static_cast<size_t>(rows));
  }
  how.order.reorder(layer, rows);
}

Tile taken(const PageLayout& l, int head, int rows, const Rewrite& how, RowScratch& s) {
  uint8_t* tile = s.tile.data();
  take_rows(how.order, l, 0, head, rows, tile);
  take_rows(how.order, l, 1, head, rows, tile + l.tile_bytes());
  return {tile, tile + l.tile_bytes(), l.has_scales() ? s.scales_of(head, rows) : nullptr};
}

} // namespace

void rewrite_page(PageArena& arena, int page, const Rewrite& how, uint64_t& next_seq,
                  RowScratch& scratch) {
  const PageLayout& l = arena.layout();
  uint8_t* at = arena.page(page);
  if (arena.on_device()) {
    arena.read(page, 0, scratch.page.size(), scratch.page.data());
    at = scratch.page.data();
  }
  auto* header = reinterpret_cast<PageHeader*>(at);
  const int rows = static_cast<int>(header->length);
  const size_t row_bytes = l.row_bytes();
  uint64_t numbers[kMostRows];
  for (int row = 0; row < rows; ++row)
    numbers[row] = next_seq++;
  for (int layer = 0; layer < l.n_layers; ++layer) {
    if (how.order.buffer != nullptr)
      exchange(at, l, layer, rows, how, scratch);
    for (int head = 0; head < l.n_kv_heads; ++head) {
      const Tile tile = how.order.buffer != nullptr
                            ? taken(l, head, rows, how, scratch)
                            : how.from.open_tile(at, l, layer, head, rows, scratch.tile.data());
      for (int row = 0; row < rows; ++row)
        how.to.write_row(at + l.head_offset(layer, head), l, layer, head, row, numbers[row],
                         tile.k + row * row_bytes, tile.v + row * row_bytes,
                         l.has_scales() ? tile.scales + 2 * row : nullptr);
    }
  }
  std::memcpy(at + sizeof(PageHeader), numbers, 8 * static_cast<size_t>(rows));
  header->epoch = how.epoch;
  if (arena.on_device())
    arena.write(page, 0, scratch.page.size(), at);
}

} // namespace ptmo
