// The linear layers of a forward pass: quantised inputs, rows split over the threads, low-rank
// updates of the rows whose sequences ask for them.
#include <algorithm>

#include "decoder.h"

namespace ptmo {
namespace {

constexpr int kFewRows = 8;             // of a batch in which memory is what takes time
constexpr size_t kPrefetchBytes = 4096; // of the matrix to come

} // namespace

void Decoder::begin_input(Input& input, Bits bits, const float* x, int cols) const {
  const bool integers = integer_ && cols % kernels::kBlock == 0;
  input.view = {cols,
                x,
                integers ? input.codes.data() : nullptr,
                integers && bits == Bits::k16 ? input.low.data() : nullptr,
                input.scales.data(),
                input.sums.data(),
                input.code_sums.data()};
}

void Decoder::set_input(Input& input, Bits bits, const float* x, int cols, int n) {
  begin_input(input, bits, x, cols);
  if (input.view.codes == nullptr)
    return;
  pool_.parallel_for(n, [&](int begin, int end, int) {
    for (int t = begin; t < end; ++t)
      quantize_row(input, t, 0, cols);
  });
}

void Decoder::quantize_row(Input& input, int t, int from, int to) const {
  const size_t at = static_cast<size_t>(t) * input.view.cols + from, block = at / kernels::kBlock;
  kernels_.quantize_blocks(input.view.f32 + at, to - from, input.codes.data() + at,
                           input.view.low == nullptr ? nullptr : input.low.data() + at,
                           input.scales.data() + block, input.sums.data() + block,
                           input.code_sums.data() + block);
}

// With few rows each panel's update follows at once, while memory brings the next panel.
void Decoder::multiply(const Input& input, const Projection& p, int from, int to, int n) {
  const kernels::PackedMatrix& m = p.w.packed;
  const auto stride = static_cast<size_t>(m.rows);
  const bool updates = low_rank_.has(p.linear);
  const int step = updates && n <= kFewRows ? 1 : to - from;
  int updated = from;
  for (int at = from; at < to; at += step) {
    const int end = std::min(at + step, to);
    kernels_.matmul(m, at, end, input.view, n, p.y, stride);
    if (updates && low_rank_.ready(kernels_, p.linear, end == to)) {
      low_rank_.expand(kernels_, p.linear, updated, end, p.y, stride);
      updated = end;
    }
  }
  const int row = from * kernels::kPanelRows,
            rows = std::min(to * kernels::kPanelRows, m.rows) - row;
  for (int t = 0; t < n && !p.bias.empty(); ++t)
    kernels_.add(p.bias.data() + row, rows, p.y + t * stride + row);
}

void Decoder::project(const Input& input, std::initializer_list<Projection> projections, int n,
                      const Matrix& next) {
  int panels = 0;
  for (const Projection& p : projections)
    panels += p.w.panels();
  const int lead = low_rank_.lead(1);
  pool_.parallel_for(lead + panels, [&](int begin, int end, int share) {
    low_rank_.shrink_share(kernels_, begin, end, 1);
    int offset = lead; // of this matrix among all the items
    for (const Projection& p : projections) {
      const int from = std::max(begin - offset, 0), to = std::min(end - offset, p.w.panels());
      offset += p.w.panels();
      if (from < to)
        multiply(input, p, from, to, n);
    }
    prefetch_share(next, share);
  });
}

// Memory has nothing to do while threads meet and attention computes.
void Decoder::prefetch_share(const Matrix& next, int share) const {
  const auto begin = static_cast<size_t>(pool_.share_begin(next.panels(), share));
  const uint8_t* at = next.data + begin * next.packed.panel_bytes;
  const size_t left = next.bytes - begin * next.packed.panel_bytes;
  for (size_t i = 0; i < std::min(kPrefetchBytes, left); i += 64)
    __builtin_prefetch(at + i);
}

} // namespace ptmo
