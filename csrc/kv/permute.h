// The engine's side of `permute` with restore=tee: sizes and a call, never a permutation.
//
// After attention the vectors a^p stand in `buffer`, memory registered with the TEE. `restore`
// asks the TEE to put a in their place, one crossing a layer and chunk, and throws if it cannot.
#pragma once

#include <functional>

namespace ptmo {

struct AttentionRestore {
  float* buffer = nullptr; // [max_tokens, n_heads * head_dim]; null: nothing to restore
  int max_tokens = 0;
  std::function<void(int layer, int tokens)> restore;
};

} // namespace ptmo
