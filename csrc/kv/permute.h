// The engine's side of `permute`: sizes and calls, never a permutation. Buffers are memory
// registered with the TEE; what stands in them is put in another order there, or the call throws.
#pragma once

#include <cstddef>
#include <cstdint>

#include <functional>

namespace ptmo {

// restore=tee: after attention the vectors a^p stand in `buffer`, and `restore` asks the TEE to put
// a in their place, one crossing a layer and chunk.
struct AttentionRestore {
  float* buffer = nullptr; // [max_tokens, n_heads * head_dim]; null: nothing to restore
  int max_tokens = 0;
  std::function<void(int layer, int tokens)> restore;
};

// Pages that leave memory hold rows in the model's own order. `reorder` takes a layer's K and V
// rows of one page from the order of the pages to the model's, or back, as its maker decided.
// Layout: [2 (K, V), n_kv_heads, head_dim, rows] elements, so that what moves is contiguous.
struct RowOrder {
  uint8_t* buffer = nullptr; // null: pages hold rows in the model's order
  size_t bytes = 0;
  std::function<void(int layer, int rows)> reorder;
};

} // namespace ptmo
