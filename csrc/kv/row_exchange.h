// Rows on their way through another order: opened into scratch, laid out for the TEE, taken back.
#pragma once

#include <vector>

#include "page_table.h"
#include "permute.h"
#include "quant/int4.h"

namespace ptmo {

// Memory for opened rows that is wiped when it goes, whichever way, the shared buffer included.
struct RowScratch {
  AlignedBuffer tile;        // K | V | scales of one head
  AlignedBuffer ordered;     // K or V of one head, in the other order
  std::vector<float> scales; // a layer's: they wait while its rows are put in order
  std::vector<uint8_t> page; // of a device: as it stands there
  uint8_t* shared;
  size_t shared_bytes;
  RowScratch(const PageLayout& l, const RowOrder& order);
  ~RowScratch();
  RowScratch(const RowScratch&) = delete;
  RowScratch& operator=(const RowScratch&) = delete;
  // Of one head's row while it waits.
  float* scales_of(int head, int rows) {
    return scales.data() + 2 * static_cast<size_t>(head) * static_cast<size_t>(rows);
  }
};

// Throws std::invalid_argument unless `order`, if it asks for one at all, has room for a layer of
// `rows` rows.
void require_room(const RowOrder& order, const PageLayout& l, int rows);
// Lays `rows` K (which = 0) or V (1) rows of a head out in the order's buffer, one element after
// the other, those of INT4 in a byte each.
void put_rows(const RowOrder& order, const PageLayout& l, int which, int head, int rows,
              const uint8_t* in);
// The way back.
void take_rows(const RowOrder& order, const PageLayout& l, int which, int head, int rows,
               uint8_t* out);

} // namespace ptmo
