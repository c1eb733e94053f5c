#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace ptmo {
namespace {

constexpr int kBlockTokens = 16; // query tokens that share one pass over the cache

template <typename T> void wipe_vector(std::vector<T>& v) {
  secure_wipe(v.data(), v.size() * sizeof(T));
}

Tile from_row(const Tile& tile, const PageLayout& layout, int row) {
  const size_t skip = static_cast<size_t>(row) * layout.row_bytes();
  return {tile.k + skip, tile.v + skip, tile.scales == nullptr ? nullptr : tile.scales + 2 * row};
}

} // namespace

struct Attention::Pass {
  const kernels::Table& kernels;
  int layer, window;
  float scale;
};

void Attention::Scratch::wipe() {
  secure_wipe(tile.data(), tile.size());
  wipe_vector(q_codes);
  for (auto* v : {&q, &q_scales, &max, &sum, &acc, &scores})
    wipe_vector(*v);
  wipe_vector(dots);
}

Attention::Attention(const ModelConfig& config, const PageLayout& layout, int threads)
    : config_(config), layout_(layout), scratch_(static_cast<size_t>(threads)) {
  const size_t queries = static_cast<size_t>(kBlockTokens) * (config.n_heads / config.n_kv_heads);
  for (Scratch& s : scratch_) {
    s.tile = AlignedBuffer(layout.head_bytes());
    s.q_codes.resize(queries * config.head_dim);
    s.q.resize(queries * config.head_dim);
    s.q_scales.resize(queries);
    s.max.resize(queries);
    s.sum.resize(queries);
    s.acc.resize(queries * config.head_dim);
    s.scores.resize(static_cast<size_t>(layout.rows));
    s.dots.resize(static_cast<size_t>(layout.rows));
  }
}

void Attention::run(const kernels::Table& kernels, ThreadPool& pool, const AttentionJob* jobs,
                    int count, int layer, int window, float scale) {
  const Pass pass{kernels, layer, window, scale};
  items_.clear();
  for (int j = 0; j < count; ++j)
    for (int t0 = 0; t0 < jobs[j].tokens; t0 += kBlockTokens)
      for (int head = 0; head < config_.n_kv_heads; ++head)
        items_.push_back({&jobs[j], head, t0, std::min(t0 + kBlockTokens, jobs[j].tokens)});
  pool.parallel_for(static_cast<int>(items_.size()), [&](int begin, int end, int thread) {
    Scratch& scratch = scratch_[static_cast<size_t>(thread)];
    for (int i = begin; i < end; ++i) {
      const Item& item = items_[static_cast<size_t>(i)];
      run_block(pass, *item.job, item.kv_head, item.t0, item.t1, scratch);
    }
    scratch.wipe();
  });
}

// Scores of one query over a tile's first `rows` rows. With INT8 keys the dot product is exact in
// integers (int16 query codes), so the order of a permuted head's elements cannot matter.
void Attention::score_tile(const Pass& pass, const Tile& tile, int rows, size_t query,
                           Scratch& s) const {
  const int dim = config_.head_dim;
  if (layout_.type == KvType::kInt8) {
    pass.kernels.dot_rows_i8(s.q_codes.data() + query * dim,
                             reinterpret_cast<const int8_t*>(tile.k), rows, dim, s.dots.data());
    const float q_scale = s.q_scales[query] * pass.scale;
    for (int r = 0; r < rows; ++r)
      s.scores[r] = static_cast<float>(s.dots[r]) * (q_scale * tile.scales[2 * r]);
    return;
  }
  const float* q = s.q.data() + query * dim;
  if (layout_.type == KvType::kF16) {
    pass.kernels.dot_rows_f16(q, reinterpret_cast<const uint16_t*>(tile.k), rows, dim,
                              s.scores.data());
  } else {
    pass.kernels.dot_rows_f32(q, reinterpret_cast<const float*>(tile.k), rows, dim,
                              s.scores.data());
  }
  for (int r = 0; r < rows; ++r)
    s.scores[r] *= pass.scale;
}

void Attention::run_block(const Pass& pass, const AttentionJob& job, int kv_head, int t0, int t1,
                          Scratch& s) {
  const int dim = config_.head_dim, group = config_.n_heads / config_.n_kv_heads;
  const size_t queries = static_cast<size_t>(t1 - t0) * group;
  for (size_t i = 0; i < queries; ++i) {
    const int t = t0 + static_cast<int>(i) / group,
              h = kv_head * group + static_cast<int>(i) % group;
    const float* q = job.q + (static_cast<size_t>(t) * config_.n_heads + h) * dim;
    std::memcpy(s.q.data() + i * dim, q, sizeof(float) * dim);
    if (layout_.type == KvType::kInt8)
      s.q_scales[i] = pass.kernels.quantize_row_i16(q, dim, s.q_codes.data() + i * dim);
    s.max[i] = -std::numeric_limits<float>::infinity();
    s.sum[i] = 0.0f;
  }
  std::fill_n(s.acc.begin(), queries * dim, 0.0f);

  const int last = job.first + t1 - 1; // the furthest position this block may see
  const int earliest =
      pass.window == 0 ? 0 : std::max(0, job.first + t0 - pass.window + 1); // it must see
  for (int page = earliest / layout_.rows; page * layout_.rows <= last; ++page) {
    const int base = page * layout_.rows;
    const int tile_rows = std::min(layout_.rows, last - base + 1);
    const Tile tile = job.session->shield().open_tile(job.session->page(page), layout_, pass.layer,
                                                      kv_head, tile_rows, s.tile.data());
    for (size_t i = 0; i < queries; ++i) {
      const int position = job.first + t0 + static_cast<int>(i) / group;
      const int low = pass.window == 0 ? 0 : std::max(0, position - pass.window + 1 - base);
      const int rows = std::min(tile_rows, position - base + 1) - low;
      if (rows <= 0)
        continue;
      const Tile seen = from_row(tile, layout_, low);
      score_tile(pass, seen, rows, i, s);
      const float tile_max = *std::max_element(s.scores.begin(), s.scores.begin() + rows);
      const float new_max = std::max(s.max[i], tile_max);
      float* acc = s.acc.data() + i * dim;
      if (new_max > s.max[i]) {
        const float shrink = std::exp(s.max[i] - new_max);
        s.sum[i] *= shrink;
        for (int d = 0; d < dim; ++d)
          acc[d] *= shrink;
        s.max[i] = new_max;
      }
      s.sum[i] += pass.kernels.exp_sum(s.scores.data(), rows, new_max);
      if (layout_.type == KvType::kInt8) {
        for (int r = 0; r < rows; ++r)
          s.scores[r] *= seen.scales[2 * r + 1];
        pass.kernels.weighted_rows_i8(s.scores.data(), reinterpret_cast<const int8_t*>(seen.v),
                                      rows, dim, acc);
      } else if (layout_.type == KvType::kF16) {
        pass.kernels.weighted_rows_f16(s.scores.data(), reinterpret_cast<const uint16_t*>(seen.v),
                                       rows, dim, acc);
      } else {
        pass.kernels.weighted_rows_f32(s.scores.data(), reinterpret_cast<const float*>(seen.v),
                                       rows, dim, acc);
      }
    }
  }
  for (size_t i = 0; i < queries; ++i) {
    const int t = t0 + static_cast<int>(i) / group,
              h = kv_head * group + static_cast<int>(i) % group;
    float* out = job.out + (static_cast<size_t>(t) * config_.n_heads + h) * dim;
    const float inv = 1.0f / s.sum[i];
    for (int d = 0; d < dim; ++d)
      out[d] = s.acc[i * dim + d] * inv;
  }
}

} // namespace ptmo
