#include "attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace ptmo {
namespace {

using kernels::CacheSpan;
using kernels::kPartialHead;

constexpr int kBlockTokens = 16;         // query tokens that share one pass over the cache
constexpr size_t kTileBytes = 16 * 1024; // K and V rows of a span: a part of the L1 cache
constexpr int kItemsPerThread = 4;       // fewer blocks than that: their spans are split up

template <typename T> void wipe_vector(std::vector<T>& v) {
  secure_wipe(v.data(), v.size() * sizeof(T));
}

// Positions of a span: whole pages, so many that their rows fit the tile. A function of the layout
// alone, for results depend on it.
int span_rows(const PageLayout& layout) {
  int rows = layout.rows;
  while (2 * rows <= kernels::kSpanRows &&
         4 * rows * layout.head_dim * layout.element_bytes() <= kTileBytes)
    rows *= 2;
  return rows;
}

} // namespace

struct Attention::Pass {
  const kernels::Table& kernels;
  int layer, window;
  float scale;
  // The first position that the query at `position` sees.
  int earliest(int position) const { return window == 0 ? 0 : std::max(0, position - window + 1); }
};

void Attention::Scratch::wipe() {
  for (AlignedBuffer* b : {&tile, &codes, &work})
    secure_wipe(b->data(), b->size());
  wipe_vector(q_codes);
  for (auto* v : {&q, &q_scales, &partials, &totals})
    wipe_vector(*v);
  loaded = nullptr;
}

Attention::Attention(const ModelConfig& config, const PageLayout& layout, int threads)
    : config_(config), layout_(layout), group_(config.n_heads / config.n_kv_heads),
      span_rows_(span_rows(layout)), width_(static_cast<size_t>(kPartialHead) + config.head_dim),
      scratch_(static_cast<size_t>(threads)) {
  const auto queries = static_cast<size_t>(kBlockTokens) * group_;
  for (Scratch& s : scratch_) {
    s.tile = AlignedBuffer(layout.head_bytes() * (span_rows_ / layout.rows));
    if (layout.type == KvType::kInt4)
      s.codes = AlignedBuffer(static_cast<size_t>(2 * span_rows_) * config.head_dim);
    s.work = AlignedBuffer(kernels::kAttendScratch);
    s.q_codes.resize(queries * config.head_dim);
    s.q.resize(queries * config.head_dim);
    s.q_scales.resize(queries);
    s.first.resize(queries);
    s.last.resize(queries);
    s.partials.resize(queries * width_);
    s.totals.resize(queries * width_);
  }
}

void Attention::run(const kernels::Table& kernels, ThreadPool& pool, const AttentionJob* jobs,
                    int count, int layer, int window, float scale) {
  const Pass pass{kernels, layer, window, scale};
  plan(pass, jobs, count, pool.size());
  pool.parallel_for(static_cast<int>(items_.size()), [&](int begin, int end, int thread) {
    Scratch& s = scratch_[static_cast<size_t>(thread)];
    for (int i = begin; i < end; ++i)
      run_item(pass, i, end, s);
    s.wipe();
  });
  if (apart_)
    wipe_vector(partials_);
}

// Enough blocks: an item is a block, which folds its spans as it goes. Few (decoding): an item is a
// span, and whoever finishes a block's last one folds them all.
void Attention::plan(const Pass& pass, const AttentionJob* jobs, int count, int threads) {
  blocks_.clear();
  items_.clear();
  for (int j = 0; j < count; ++j) {
    for (int t0 = 0; t0 < jobs[j].tokens; t0 += kBlockTokens) {
      const int t1 = std::min(t0 + kBlockTokens, jobs[j].tokens);
      const int begin = pass.earliest(jobs[j].first + t0) / span_rows_;
      const int end = (jobs[j].first + t1 - 1) / span_rows_ + 1;
      for (int head = 0; head < config_.n_kv_heads; ++head)
        blocks_.push_back({&jobs[j], head, t0, t1, begin, end, 0});
    }
  }
  const auto blocks = static_cast<int>(blocks_.size());
  apart_ = threads > 1 && blocks < kItemsPerThread * threads;
  if (!apart_) {
    for (int b = 0; b < blocks; ++b)
      items_.push_back({b, blocks_[b].begin, blocks_[b].end});
    deal(threads);
    return;
  }
  size_t floats = 0;
  if (pending_size_ < blocks_.size()) {
    pending_size_ = blocks_.size();
    pending_ = std::make_unique<std::atomic<int>[]>(pending_size_);
  }
  for (int b = 0; b < blocks; ++b) {
    Block& block = blocks_[b];
    block.partials = floats;
    floats +=
        static_cast<size_t>(block.end - block.begin) * (block.t1 - block.t0) * group_ * width_;
    pending_[b].store(block.end - block.begin, std::memory_order_relaxed);
    for (int span = block.begin; span < block.end; ++span)
      items_.push_back({b, span, span + 1});
  }
  partials_.resize(floats);
}

// Later blocks see more spans: items go to the pool's shares in turn, as cards are dealt.
void Attention::deal(int threads) {
  const int n = static_cast<int>(items_.size()), rounds = n / threads;
  int rest = rounds * threads;
  order_.clear();
  for (int share = 0; share < threads; ++share) {
    for (int round = 0; round < rounds; ++round)
      order_.push_back(items_[static_cast<size_t>(round) * threads + share]);
    const int64_t begin = static_cast<int64_t>(n) * share / threads; // as parallel_for splits
    if (static_cast<int64_t>(n) * (share + 1) / threads - begin > rounds)
      order_.push_back(items_[static_cast<size_t>(rest++)]);
  }
  items_.swap(order_);
}

void Attention::run_item(const Pass& pass, int index, int end, Scratch& s) {
  const Item& item = items_[static_cast<size_t>(index)];
  const Block& block = blocks_[static_cast<size_t>(item.block)];
  if (s.loaded != &block)
    load_queries(pass, block, s);
  for (int i = item.begin; i < item.end; ++i) {
    const Seen seen = see(pass, block, i, s);
    CacheSpan span = open_span(pass, block, i, seen, s);
    if (i + 1 < item.end) {
      prefetch(pass, block, i + 1, span);
    } else if (index + 1 < end) {
      const Item& next = items_[static_cast<size_t>(index) + 1];
      prefetch(pass, blocks_[static_cast<size_t>(next.block)], next.begin, span);
    }
    const size_t from = static_cast<size_t>(seen.from) * width_;
    if (apart_) {
      const size_t queries = static_cast<size_t>(block.t1 - block.t0) * group_;
      attend(pass, span, seen, s,
             partials_.data() + block.partials + (i - block.begin) * queries * width_ + from);
    } else {
      attend(pass, span, seen, s, s.partials.data());
      pass.kernels.fold_partials(s.partials.data(), seen.to - seen.from, config_.head_dim,
                                 s.totals.data() + from);
    }
  }
  if (!apart_) {
    finish(block, s);
  } else if (pending_[item.block].fetch_sub(1, std::memory_order_acq_rel) == 1) {
    fold(pass, block, s);
    finish(block, s);
  }
}

void Attention::load_queries(const Pass& pass, const Block& block, Scratch& s) const {
  const auto dim = static_cast<size_t>(config_.head_dim), heads = static_cast<size_t>(group_);
  for (int t = block.t0; t < block.t1; ++t) {
    const size_t at = static_cast<size_t>(t - block.t0) * heads;
    const float* q =
        block.job->q + (static_cast<size_t>(t) * config_.n_heads + block.head * heads) * dim;
    std::memcpy(s.q.data() + at * dim, q, heads * dim * sizeof(float));
    if (layout_.has_scales())
      for (size_t i = at; i < at + heads; ++i)
        s.q_scales[i] = pass.kernels.quantize_row_i16(s.q.data() + i * dim, config_.head_dim,
                                                      s.q_codes.data() + i * dim);
  }
  clear_totals(s, static_cast<size_t>(block.t1 - block.t0) * heads);
  s.loaded = &block;
}

void Attention::clear_totals(Scratch& s, size_t queries) const {
  std::fill_n(s.totals.begin(), queries * width_, 0.0f);
  for (size_t i = 0; i < queries; ++i)
    s.totals[i * width_] = -std::numeric_limits<float>::infinity();
}

// Tokens that see a part of the span follow each other: later ones start later and end later.
Attention::Seen Attention::see(const Pass& pass, const Block& block, int span, Scratch& s) const {
  const int base = span * span_rows_;
  Seen seen{0, 0};
  for (int t = block.t0; t < block.t1; ++t) {
    const int position = block.job->first + t, i = (t - block.t0) * group_;
    const int first = std::max(pass.earliest(position) - base, 0);
    const int last = std::min(position + 1 - base, span_rows_);
    if (first >= last)
      continue;
    if (seen.from == seen.to)
      seen.from = i;
    seen.to = i + group_;
    std::fill_n(s.first.begin() + i, group_, first);
    std::fill_n(s.last.begin() + i, group_, last);
  }
  return seen;
}

// The span's pages, decrypted into the tile where they are sealed: those with rows that are seen.
CacheSpan Attention::open_span(const Pass& pass, const Block& block, int span, Seen seen,
                               Scratch& s) const {
  const KvSession& session = *block.job->session;
  const int first = *std::min_element(s.first.begin() + seen.from, s.first.begin() + seen.to);
  const int last = *std::max_element(s.last.begin() + seen.from, s.last.begin() + seen.to);
  CacheSpan out{};
  out.rows = layout_.rows;
  out.pieces = (last + layout_.rows - 1) / layout_.rows;
  out.first_piece = first / layout_.rows;
  const uint8_t* pages[kernels::kSpanPieces];
  Tile tiles[kernels::kSpanPieces];
  const int count = out.pieces - out.first_piece, page = span * (span_rows_ / layout_.rows);
  for (int i = 0; i < count; ++i)
    pages[i] = session.page(page + out.first_piece + i);
  session.shield().open_tiles(pages, count, layout_, pass.layer, block.head,
                              last - (out.pieces - 1) * layout_.rows, s.tile.data(), tiles);
  for (int piece = out.first_piece; piece < out.pieces; ++piece) {
    const Tile& tile = tiles[piece - out.first_piece];
    out.k[piece] = tile.k;
    out.v[piece] = tile.v;
    out.scales[piece] = tile.scales;
    if (layout_.type == KvType::kInt4)
      unpack(pass, piece, s, out);
  }
  return out;
}

// INT4 codes go on as INT8.
void Attention::unpack(const Pass& pass, int piece, Scratch& s, CacheSpan& out) const {
  const size_t bytes = static_cast<size_t>(layout_.rows) * config_.head_dim;
  uint8_t* at = s.codes.data() + 2 * bytes * static_cast<size_t>(piece);
  for (const uint8_t** packed : {&out.k[piece], &out.v[piece]}) {
    pass.kernels.unpack_rows_i4(*packed, layout_.rows, config_.head_dim,
                                reinterpret_cast<int8_t*>(at));
    *packed = at;
    at += bytes;
  }
}

// Has the kernel fetch the pages of the span that this thread reads next.
void Attention::prefetch(const Pass& pass, const Block& block, int span, CacheSpan& out) const {
  const KvSession& session = *block.job->session;
  const int per_span = span_rows_ / layout_.rows;
  const int pages = std::min(session.page_count() - span * per_span, per_span);
  out.next_bytes = layout_.head_bytes();
  for (int piece = 0; piece < pages; ++piece)
    out.next[piece] =
        session.page(span * per_span + piece) + layout_.head_offset(pass.layer, block.head);
}

void Attention::attend(const Pass& pass, const CacheSpan& span, Seen seen, Scratch& s,
                       float* partials) const {
  const auto from = static_cast<size_t>(seen.from), dim = static_cast<size_t>(config_.head_dim);
  const kernels::Queries queries{seen.to - seen.from,
                                 config_.head_dim,
                                 pass.scale,
                                 s.q.data() + from * dim,
                                 s.q_codes.data() + from * dim,
                                 s.q_scales.data() + from,
                                 s.first.data() + from,
                                 s.last.data() + from};
  const auto kernel = layout_.has_scales()           ? pass.kernels.attend_i8
                      : layout_.type == KvType::kF16 ? pass.kernels.attend_f16
                                                     : pass.kernels.attend_f32;
  kernel(queries, span, s.work.data(), partials);
}

void Attention::fold(const Pass& pass, const Block& block, Scratch& s) const {
  const size_t queries = static_cast<size_t>(block.t1 - block.t0) * group_;
  clear_totals(s, queries);
  for (int i = block.begin; i < block.end; ++i) {
    const Seen seen = see(pass, block, i, s);
    const size_t from = static_cast<size_t>(seen.from) * width_;
    pass.kernels.fold_partials(partials_.data() + block.partials +
                                   (i - block.begin) * queries * width_ + from,
                               seen.to - seen.from, config_.head_dim, s.totals.data() + from);
  }
}

void Attention::finish(const Block& block, const Scratch& s) const {
  const auto dim = static_cast<size_t>(config_.head_dim), heads = static_cast<size_t>(group_);
  const float* total = s.totals.data();
  for (int t = block.t0; t < block.t1; ++t) {
    float* out =
        block.job->out + (static_cast<size_t>(t) * config_.n_heads + block.head * heads) * dim;
    for (size_t i = 0; i < heads; ++i, total += width_, out += dim) {
      float sum = 0.0f;
      for (int part = 16; part < kPartialHead; ++part)
        sum += total[part];
      const float inverse = 1.0f / sum;
      for (size_t d = 0; d < dim; ++d)
        out[d] = total[kPartialHead + d] * inverse;
    }
  }
}

} // namespace ptmo
