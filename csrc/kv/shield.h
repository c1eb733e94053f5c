// What stands between the attention kernel and the bytes of a page.
//
// `PlainShield` leaves rows as they are: shields `none` and `permute` (a permutation is in the
// weights, so K and V arrive permuted). `SealShield` (seal.h) keeps them as ciphertext.
#pragma once

#include <cstdint>

#include "page_table.h"

namespace ptmo {

// One head's rows of one page, readable: K and V codes [rows, head_dim], scales [rows, 2].
struct Tile {
  const uint8_t* k;
  const uint8_t* v;
  const float* scales; // null where the cache has none
};

class Shield {
public:
  virtual ~Shield() = default;
  // Stores one row's record in (layer, head)'s `block` of a page: `k` and `v` are row_bytes,
  // `scales` two floats or null. `seq` is the row's sequence number.
  virtual void write_row(uint8_t* block, const PageLayout& layout, int layer, int head, int row,
                         uint64_t seq, const uint8_t* k, const uint8_t* v,
                         const float* scales) const = 0;
  // Gives the rows of (layer, head) of `count` pages: all of a page's, of the last one `last_rows`.
  // A shield that must decrypt uses `scratch` (at least layout.head_bytes() a page, 64-byte
  // aligned), which the caller wipes when it is done.
  virtual void open_tiles(const uint8_t* const* pages, int count, const PageLayout& layout,
                          int layer, int head, int last_rows, uint8_t* scratch,
                          Tile* tiles) const = 0;
  // Of one page.
  Tile open_tile(const uint8_t* page, const PageLayout& layout, int layer, int head, int rows,
                 uint8_t* scratch) const {
    Tile tile;
    open_tiles(&page, 1, layout, layer, head, rows, scratch, &tile);
    return tile;
  }
};

class PlainShield : public Shield {
public:
  void write_row(uint8_t* block, const PageLayout& layout, int layer, int head, int row,
                 uint64_t seq, const uint8_t* k, const uint8_t* v,
                 const float* scales) const override;
  void open_tiles(const uint8_t* const* pages, int count, const PageLayout& layout, int layer,
                  int head, int last_rows, uint8_t* scratch, Tile* tiles) const override;
};

} // namespace ptmo
