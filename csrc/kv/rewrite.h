// Pages written anew where they stand: under another seal key, in another order, or both.
//
// Every row takes a new sequence number, also under the key that it had. Plaintext stands in one
// wiped tile, and for another order also in the buffer shared with the TEE, one layer of one page.
#pragma once

#include "page_table.h"
#include "permute.h"
#include "shield.h"

namespace ptmo {

struct RowScratch;

struct Rewrite {
  const Shield& from; // what the pages are under
  const Shield& to;
  uint32_t epoch;        // what they will name
  const RowOrder& order; // none: rows stay in theirs
};

// Opens every row of a page and stores it again; rows take numbers from `next_seq` on. Without an
// order, and in this process's memory, nothing here throws. Where it throws the page is lost: a
// part of it is written anew.
void rewrite_page(PageArena& arena, int page, const Rewrite& how, uint64_t& next_seq,
                  RowScratch& scratch);

} // namespace ptmo
