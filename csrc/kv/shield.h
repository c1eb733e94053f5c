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
  // Stores one row's record for (layer, head): `k` and `v` are row_bytes, `scales` two floats or
  // null. `seq` is the row's sequence number.
  virtual void write_row(uint8_t* page, const PageLayout& layout, int layer, int head, int row,
                         uint64_t seq, const uint8_t* k, const uint8_t* v,
                         const float* scales) const = 0;
  // Gives rows [0, rows) of (layer, head). A shield that must decrypt uses `scratch` (at least
  // layout.head_bytes(), 64-byte aligned), which the caller wipes when it is done.
  virtual Tile open_tile(const uint8_t* page, const PageLayout& layout, int layer, int head,
                         int rows, uint8_t* scratch) const = 0;
};

class PlainShield : public Shield {
public:
  void write_row(uint8_t* page, const PageLayout& layout, int layer, int head, int row,
                 uint64_t seq, const uint8_t* k, const uint8_t* v,
                 const float* scales) const override;
  Tile open_tile(const uint8_t* page, const PageLayout& layout, int layer, int head, int rows,
                 uint8_t* scratch) const override;
};

} // namespace ptmo
