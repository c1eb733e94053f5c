// Causal grouped-query attention over a paged cache, tile by tile with a running softmax
// (Milakov & Gimelshein 2018; Dao et al. 2022): no T x T matrix, no decrypted copy of the cache.
#pragma once

#include <vector>

#include "common/thread_pool.h"
#include "config.h"
#include "kernels/kernels.h"
#include "kv/kv_cache.h"
#include "quant/int4.h"

namespace ptmo {

class Attention {
public:
  Attention(const ModelConfig& config, const PageLayout& layout, int threads);

  // out[t, h] = softmax(q[t, h] . K / sqrt(head_dim)) V over positions 0 .. first + t, for the
  // last `tokens` rows of the session. q, out: [tokens, n_heads * head_dim].
  void run(const kernels::Table& kernels, ThreadPool& pool, const KvSession& session, int layer,
           const float* q, int first, int tokens, float* out);

private:
  struct Scratch {
    AlignedBuffer tile;           // one head's page, decrypted
    std::vector<int16_t> q_codes; // [queries, head_dim]
    std::vector<float> q, q_scales, max, sum, acc, scores;
    std::vector<int32_t> dots;
    void wipe();
  };

  struct Job;
  void run_block(const Job& job, int kv_head, int t0, int t1, Scratch& scratch);
  void score_tile(const Job& job, const Tile& tile, int rows, size_t query, Scratch& scratch) const;

  const ModelConfig config_;
  const PageLayout layout_;
  std::vector<Scratch> scratch_; // one a thread
};

} // namespace ptmo
