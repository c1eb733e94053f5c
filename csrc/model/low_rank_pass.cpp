#include "low_rank_pass.h"

#include <algorithm>

#include "common/spin.h"
#include "secmem/secret_arena.h"

namespace ptmo {

using kernels::kRankChunk;
using kernels::rank_chunks;

namespace {

constexpr int kUnitPanels = 2; // work of a unit, in panels of the base product
constexpr int kTileRows = 32;  // rows of u that stand as floats before they are quantised

bool is_integer(const LowRankPair& pair) {
  return pair.b.type == kernels::WeightType::kInt8;
}

// Bytes that u of n rows takes, in whole cache lines.
size_t u_bytes(const LowRankPair& pair, int n) {
  const auto chunks = static_cast<size_t>(rank_chunks(pair.b.rank)) * n;
  if (!is_integer(pair))
    return chunks * kRankChunk * sizeof(float);
  return (chunks * (kRankChunk + sizeof(float) + sizeof(int32_t)) + 63) / 64 * 64;
}

// The same activations from `row` on.
kernels::Activations from_row(const kernels::Activations& x, int row) {
  const size_t skip = static_cast<size_t>(row) * x.cols, blocks = skip / kernels::kBlock;
  return {x.cols,
          x.f32 + skip,
          x.codes == nullptr ? nullptr : x.codes + skip,
          x.low == nullptr ? nullptr : x.low + skip,
          x.scales + blocks,
          x.sums + blocks,
          x.code_sums + blocks};
}

// 16 ranks of A as a matrix of its own.
kernels::PackedMatrix chunk_of(const kernels::PackedMatrix& a, int chunk) {
  kernels::PackedMatrix out = a;
  out.rows = std::min(kRankChunk, a.rows - chunk * kRankChunk);
  out.data = a.data + static_cast<size_t>(chunk) * a.panel_bytes;
  return out;
}

} // namespace

void LowRankPass::begin(const std::vector<AdapterRows>& segments, int layer,
                        std::initializer_list<Linear> linears, const kernels::Activations& input) {
  input_ = input;
  ranges_ = {};
  groups_.clear();
  terms_.clear();
  units_.clear();
  for (const Linear linear : linears) {
    const int group = static_cast<int>(groups_.size()), unit = static_cast<int>(units_.size());
    for (const AdapterRows& segment : segments)
      add_group(segment, layer, linear);
    ranges_[static_cast<size_t>(linear)] = {group, static_cast<int>(groups_.size()) - group, unit,
                                            static_cast<int>(units_.size()) - unit};
  }
  lay_out();
  if (units_.size() > states_.size())
    states_ = std::vector<std::atomic<int>>(units_.size());
  for (size_t i = 0; i < units_.size(); ++i)
    states_[i].store(kFree, std::memory_order_relaxed);
}

void LowRankPass::add_group(const AdapterRows& segment, int layer, Linear linear) {
  const int first = static_cast<int>(terms_.size());
  for (const auto& adapter : segment.set->adapters) {
    const LowRankPair* pair = adapter->find(layer, linear);
    if (pair == nullptr)
      continue;
    for (int c = 0; c < rank_chunks(pair->b.rank); ++c)
      units_.push_back({static_cast<int>(terms_.size()), c, segment.row, segment.n});
    terms_.push_back({pair, nullptr, nullptr, nullptr, nullptr});
  }
  const int terms = static_cast<int>(terms_.size()) - first;
  if (terms > 0)
    groups_.push_back({segment.row, segment.n, first, terms});
}

// Gives a term of n rows its place in the scratch.
void LowRankPass::place(Term& term, int n, uint8_t* at) {
  if (!is_integer(*term.pair)) {
    term.floats = reinterpret_cast<float*>(at);
    return;
  }
  const auto chunks = static_cast<size_t>(rank_chunks(term.pair->b.rank)) * n;
  term.codes = reinterpret_cast<int8_t*>(at);
  term.scales = reinterpret_cast<float*>(at + chunks * kRankChunk);
  term.code_sums = reinterpret_cast<int32_t*>(term.scales + chunks);
}

void LowRankPass::lay_out() {
  const auto for_terms = [this](auto take) {
    for (const Group& group : groups_)
      for (int i = 0; i < group.terms; ++i)
        take(terms_[static_cast<size_t>(group.first_term + i)], group.n);
  };
  size_t bytes = 0;
  for_terms([&](const Term& term, int n) { bytes += u_bytes(*term.pair, n); });
  if (bytes > scratch_.size()) {
    wipe();
    scratch_ = AlignedBuffer(bytes);
  }
  uint8_t* at = scratch_.data();
  for_terms([&](Term& term, int n) {
    place(term, n, at);
    at += u_bytes(*term.pair, n);
  });
  used_ = std::max(used_, bytes);
  views_.clear();
  for (const Term& t : terms_)
    views_.push_back({t.pair->b, {t.floats, t.codes, t.scales, t.code_sums}});
}

int LowRankPass::lead(int panels) const {
  return (static_cast<int>(units_.size()) * kUnitPanels + panels - 1) / panels;
}

void LowRankPass::shrink_share(const kernels::Table& kernels, int begin, int end, int panels) {
  for (int unit = 0; unit < static_cast<int>(units_.size()); ++unit) {
    const int item = unit * kUnitPanels / panels;
    if (item >= begin && item < end)
      shrink(kernels, unit);
  }
}

void LowRankPass::shrink(const kernels::Table& kernels, int unit) {
  std::atomic<int>& state = states_[static_cast<size_t>(unit)];
  int expected = kFree;
  if (!state.compare_exchange_strong(expected, kClaimed, std::memory_order_relaxed))
    return;
  compute(kernels, units_[static_cast<size_t>(unit)]);
  state.store(kDone, std::memory_order_release);
}

void LowRankPass::compute(const kernels::Table& kernels, const Unit& unit) const {
  const Term& term = terms_[static_cast<size_t>(unit.term)];
  const kernels::PackedMatrix a = chunk_of(term.pair->a, unit.chunk);
  const int chunks = rank_chunks(term.pair->b.rank);
  const auto width = static_cast<size_t>(chunks) * kRankChunk;
  if (!is_integer(*term.pair)) {
    float* u = term.floats + unit.chunk * kRankChunk;
    kernels.matmul(a, 0, 1, from_row(input_, unit.row), unit.n, u, width);
    for (int t = 0; t < unit.n; ++t)
      for (int r = 0; r < a.rows; ++r)
        u[t * width + r] *= term.pair->scale;
    return;
  }
  alignas(64) float tile[kTileRows * kRankChunk];
  const int tile_rows = std::min(unit.n, kTileRows);
  std::fill_n(tile, tile_rows * kRankChunk, 0.0f); // ranks that A lacks stay zero
  for (int t0 = 0; t0 < unit.n; t0 += kTileRows) {
    const int n = std::min(kTileRows, unit.n - t0);
    kernels.matmul(a, 0, 1, from_row(input_, unit.row + t0), n, tile, kRankChunk);
    for (int t = 0; t < n; ++t) {
      const auto at = static_cast<size_t>(t0 + t) * chunks + unit.chunk;
      int8_t* codes = term.codes + at * kRankChunk;
      term.scales[at] =
          term.pair->scale * kernels.quantize_row_i8(tile + t * kRankChunk, kRankChunk, codes);
      term.code_sums[at] = 0;
      for (int r = 0; r < kRankChunk; ++r)
        term.code_sums[at] += codes[r];
    }
  }
  secure_wipe(tile, sizeof(float) * kRankChunk * tile_rows);
}

bool LowRankPass::ready(const kernels::Table& kernels, Linear linear, bool wait) {
  const Range& range = of(linear);
  for (int unit = range.first_unit; unit < range.first_unit + range.units; ++unit) {
    const std::atomic<int>& state = states_[static_cast<size_t>(unit)];
    if (state.load(std::memory_order_acquire) == kDone)
      continue;
    if (!wait)
      return false;
    shrink(kernels, unit);
    spin_until([&state] { return state.load(std::memory_order_acquire) == kDone; });
  }
  return true;
}

void LowRankPass::expand(const kernels::Table& kernels, Linear linear, int from, int to, float* y,
                         size_t y_stride) const {
  const Range& range = of(linear);
  for (int i = range.first_group; i < range.first_group + range.groups; ++i) {
    const Group& group = groups_[static_cast<size_t>(i)];
    kernels.low_rank_add(views_.data() + group.first_term, group.terms, from, to, group.n,
                         y + static_cast<size_t>(group.row) * y_stride, y_stride);
  }
}

void LowRankPass::wipe() {
  if (used_ > 0)
    secure_wipe(scratch_.data(), used_);
  used_ = 0;
}

} // namespace ptmo
