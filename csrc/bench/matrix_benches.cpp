// The benches of weights that decoding reads: matrices and low-rank factors.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "benches.h"
#include "common/check.h"
#include "kernels/half.h"
#include "kernels/reference/panels.h"
#include "random_inputs.h"

namespace ptmo {

using kernels::kBlock;
using kernels::kPanelRows;
using kernels::kRankChunk;
using kernels::panels;
using kernels::WeightType;

namespace {

const uint16_t kScale = float_to_half(0.01f), kMin = float_to_half(-0.08f);

// One matrix in panels, from random codes.
void pack_random(WeightType type, int rows, int cols, int group, uint8_t* out) {
  const bool int4 = kernels::is_int4(type);
  const auto groups = static_cast<size_t>(rows) * static_cast<size_t>(cols / group);
  const std::vector<uint16_t> scales(groups, kScale);
  const std::vector<uint16_t> mins(groups, kMin);
  const std::vector<int8_t> codes = random_codes(static_cast<size_t>(rows) * cols / (int4 ? 2 : 1));
  if (int4)
    pack_int4(reinterpret_cast<const uint8_t*>(codes.data()), scales.data(),
              type == WeightType::kInt4 ? mins.data() : nullptr, rows, cols, group, out);
  else
    pack_int8(codes.data(), scales.data(), rows, cols, out);
}

// A low-rank factor in panels, from random codes.
void pack_random(const kernels::LowRankFactor& b, uint8_t* out) {
  const std::vector<int8_t> codes = random_codes(b.panel_bytes);
  const std::vector<uint16_t> scales(kPanelRows, kScale);
  for (int p = 0; p < panels(b.rows); ++p, out += b.panel_bytes) {
    std::memcpy(out, codes.data(), b.panel_bytes);
    for (int c = 0; c < kernels::rank_chunks(b.rank); ++c) {
      const auto at = static_cast<size_t>(kernels::low_rank_scales(b, out, c) - out);
      std::memcpy(out + at, scales.data(), 2 * kPanelRows);
    }
  }
}

} // namespace

Rotation::Rotation(size_t bytes, size_t working_set_bytes) : bytes_(bytes) {
  const size_t copies = std::max<size_t>(1, (working_set_bytes + bytes - 1) / bytes);
  const size_t spacing = (bytes + 63) / 64 * 64;
  uint8_t* first = arena_.allocate(spacing * copies);
  for (size_t i = 0; i < copies; ++i)
    copies_.push_back(first + i * spacing);
}

void Rotation::repeat_first() {
  for (uint8_t* copy : copies_)
    if (copy != copies_[0])
      std::memcpy(copy, copies_[0], bytes_);
}

MatmulBench::MatmulBench(WeightType type, int rows, int cols, int group, int activation_bits,
                         int tokens, int threads, size_t working_set_bytes)
    : kernels_(kernels::best()), pool_(threads), tokens_(tokens) {
  require(kernels::is_integer(type), "weights are INT4 or INT8");
  require(rows >= 1 && cols >= 1 && tokens >= 1, "rows=", rows, ", cols=", cols,
          ", tokens=", tokens, " are not all positive");
  require(activation_bits == 8 || activation_bits == 16, "activation_bits=", activation_bits,
          " is not 8 or 16");
  matrix_ = {type, rows, cols, group, nullptr, panel_bytes(type, cols, group)};
  rotation_ = std::make_unique<Rotation>(matrix_.panel_bytes * panels(rows), working_set_bytes);
  pack_random(type, rows, cols, group, rotation_->first());
  rotation_->repeat_first();
  const auto values = static_cast<size_t>(tokens) * static_cast<size_t>(cols);
  const std::vector<float> x = random_floats(values);
  codes_.resize(values);
  low_.resize(activation_bits == 16 ? values : 0);
  int8_t* low = low_.empty() ? nullptr : low_.data();
  scales_.resize(values / kBlock);
  sums_.resize(values / kBlock);
  code_sums_.resize(values / kBlock);
  kernels_.quantize_blocks(x.data(), static_cast<int>(values), codes_.data(), low, scales_.data(),
                           sums_.data(), code_sums_.data());
  input_ = {cols, nullptr, codes_.data(), low, scales_.data(), sums_.data(), code_sums_.data()};
  y_.resize(static_cast<size_t>(tokens) * rows);
}

void MatmulBench::run(int repeats) {
  for (int i = 0; i < repeats; ++i) {
    matrix_.data = rotation_->next();
    pool_.parallel_for(panels(matrix_.rows), [&](int begin, int end, int) {
      kernels_.matmul(matrix_, begin, end, input_, tokens_, y_.data(),
                      static_cast<size_t>(matrix_.rows));
    });
  }
}

LowRankBench::LowRankBench(int rows, int rank, int tokens, int threads, size_t working_set_bytes)
    : kernels_(kernels::best()), pool_(threads), tokens_(tokens) {
  require(rows >= 1 && rank >= 1 && tokens >= 1, "rows=", rows, ", rank=", rank,
          ", tokens=", tokens, " are not all positive");
  const auto type = WeightType::kInt8;
  kernels::LowRankFactor& b = term_.b;
  b = {type, rows, rank, nullptr, kernels::low_rank_panel_bytes(type, rank)};
  rotation_ = std::make_unique<Rotation>(b.panel_bytes * panels(rows), working_set_bytes);
  pack_random(b, rotation_->first());
  rotation_->repeat_first();
  const auto chunks = static_cast<size_t>(tokens) * kernels::rank_chunks(rank);
  codes_ = random_codes(chunks * kRankChunk);
  scales_.assign(chunks, 0.01f);
  for (size_t c = 0; c < chunks; ++c) {
    const auto first = codes_.begin() + static_cast<ptrdiff_t>(c * kRankChunk);
    code_sums_.push_back(std::accumulate(first, first + kRankChunk, 0));
  }
  term_.u = {nullptr, codes_.data(), scales_.data(), code_sums_.data()};
  y_.resize(static_cast<size_t>(tokens) * rows);
}

void LowRankBench::run(int repeats) {
  const int rows = term_.b.rows;
  for (int i = 0; i < repeats; ++i) {
    term_.b.data = rotation_->next();
    pool_.parallel_for(panels(rows), [&](int begin, int end, int) {
      kernels_.low_rank_add(&term_, 1, begin, end, tokens_, y_.data(), static_cast<size_t>(rows));
    });
  }
}

} // namespace ptmo
