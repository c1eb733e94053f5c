// Causal grouped-query attention over a paged cache, span by span with a running softmax (Milakov &
// Gimelshein 2018; Dao et al. 2022): no T x T matrix, no decrypted copy of the cache.
//
// Spans are fixed ranges of positions, each has a result of its own (a partial), and a query's
// partials are folded in order. So no bit of the output depends on threads, on what else is in the
// batch, or on whether tokens come one at a time or in chunks.
#pragma once

#include <atomic>
#include <memory>
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
  // Tokens [t0, t1) of a job with the query heads of one KV head. They see spans [begin, end).
  struct Block {
    const AttentionJob* job;
    int head, t0, t1, begin, end;
    size_t partials; // where in partials_, if each span is an item of its own
  };
  struct Item {
    int block, begin, end; // spans of the block
  };
  struct Scratch {
    AlignedBuffer tile, codes, work; // a span's decrypted pages; INT4 unpacked; the kernel's own
    std::vector<int16_t> q_codes;    // [queries, head_dim]
    std::vector<float> q, q_scales;  // [queries, head_dim]; [queries]
    std::vector<int> first, last;    // [queries]: rows of the span in hand that each sees
    std::vector<float> partials, totals; // [queries, kPartialHead + head_dim]
    const Block* loaded = nullptr;       // whose queries these are
    void wipe();
  };
  struct Pass; // what run() was asked for
  struct Seen {
    int from, to; // queries of a block that see rows of a span
  };

  void plan(const Pass& pass, const AttentionJob* jobs, int count, int threads);
  void deal(int threads);
  void run_item(const Pass& pass, int index, int end, Scratch& s);
  void load_queries(const Pass& pass, const Block& block, Scratch& s) const;
  Seen see(const Pass& pass, const Block& block, int span, Scratch& s) const;
  kernels::CacheSpan open_span(const Pass& pass, const Block& block, int span, Seen seen,
                               Scratch& s) const;
  void unpack(const Pass& pass, int piece, Scratch& s, kernels::CacheSpan& out) const;
  void prefetch(const Pass& pass, const Block& block, int span, kernels::CacheSpan& out) const;
  void attend(const Pass& pass, const kernels::CacheSpan& span, Seen seen, Scratch& s,
              float* partials) const;
  void clear_totals(Scratch& s, size_t queries) const;
  void fold(const Pass& pass, const Block& block, Scratch& s) const;
  void finish(const Block& block, const Scratch& s) const;

  const ModelConfig config_;
  const PageLayout layout_;
  const int group_, span_rows_;
  const size_t width_;           // floats of a partial
  std::vector<Scratch> scratch_; // one a thread
  std::vector<Block> blocks_;
  std::vector<Item> items_, order_;
  bool apart_ = false;                          // each span is an item of its own
  std::vector<float> partials_;                 // of the blocks' spans in turn
  std::unique_ptr<std::atomic<int>[]> pending_; // [blocks]: spans that are not done
  size_t pending_size_ = 0;
};

} // namespace ptmo
