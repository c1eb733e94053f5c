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

// The rows of one sequence in the chunk in hand: q, out [tokens, n_heads * head_dim], the first at
// position `first`; they are the last `tokens` rows of the session.
struct AttentionJob {
  const KvSession* session;
  const float* q;
  int first, tokens;
  float* out;
};

class Attention {
public:
  Attention(const ModelConfig& config, const PageLayout& layout, int threads);

  // out[t, h] = softmax(scale * q[t, h] . K) V over the positions that row t of a job may see: all
  // up to its own, or the last `window` of them (0: all).
  void run(const kernels::Table& kernels, ThreadPool& pool, const AttentionJob* jobs, int count,
           int layer, int window, float scale);

private:
  struct Scratch {
    AlignedBuffer tile;           // one head's page, decrypted
    std::vector<int16_t> q_codes; // [queries, head_dim]
    std::vector<float> q, q_scales, max, sum, acc, scores;
    std::vector<int32_t> dots;
    void wipe();
  };

  struct Pass;
  void run_block(const Pass& pass, const AttentionJob& job, int kv_head, int t0, int t1,
                 Scratch& scratch);
  void score_tile(const Pass& pass, const Tile& tile, int rows, size_t query,
                  Scratch& scratch) const;

  struct Item {
    const AttentionJob* job;
    int kv_head, t0, t1;
  };

  const ModelConfig config_;
  const PageLayout layout_;
  std::vector<Scratch> scratch_; // one a thread
  std::vector<Item> items_;
};

} // namespace ptmo
