#include "lora.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/check.h"
#include "quant/int4.h"

namespace ptmo {

using kernels::kBlock;
using kernels::kPanelRows;
using kernels::panels;
using kernels::WeightType;

namespace {

constexpr size_t kLine = 64;
// First and last of the linears that read the same input.
constexpr std::pair<int, int> kReadTogether[] = {{0, 2}, {3, 3}, {4, 5}, {6, 6}};

size_t rounded(size_t bytes) {
  return (bytes + kLine - 1) / kLine * kLine;
}

void pack_factor_int8(const kernels::LowRankFactor& b, const int8_t* codes, const uint16_t* scales,
                      uint8_t* out) {
  const int chunks = kernels::rank_chunks(b.rank);
  for (int r = 0; r < b.rows; ++r) {
    uint8_t* at = out + static_cast<size_t>(r / kPanelRows) * b.panel_bytes;
    const int lane = r % kPanelRows;
    for (int c = 0; c < chunks; ++c) {
      const int first = c * kernels::kRankChunk, quads = kernels::rank_quads(b.rank, c);
      for (int i = first; i < std::min(b.rank, first + kernels::kRankChunk); ++i) {
        const int8_t code =
            codes[(static_cast<size_t>(r) * chunks + c) * kernels::kRankChunk + i - first];
        require(code != -128, "INT8 code -128 in row ", r, " is outside -127..127");
        at[(i - first) / 4 * 64 + lane * 4 + i % 4] = static_cast<uint8_t>(code);
      }
      std::memcpy(at + static_cast<size_t>(quads) * 64 + 2 * lane,
                  scales + static_cast<size_t>(r) * chunks + c, 2);
      at += static_cast<size_t>(quads) * 64 + 32;
    }
  }
}

} // namespace

std::pair<int, int> linear_shape(const ModelConfig& c, Linear linear) {
  switch (linear) {
  case Linear::kQ:
    return {c.q_size(), c.d_model};
  case Linear::kK:
  case Linear::kV:
    return {c.kv_size(), c.d_model};
  case Linear::kO:
    return {c.d_model, c.q_size()};
  case Linear::kGate:
  case Linear::kUp:
    return {c.d_ff, c.d_model};
  case Linear::kDown:
    break;
  }
  return {c.d_model, c.d_ff};
}

Adapter::Adapter(const ModelConfig& config, const std::vector<Part>& parts)
    : config_((validate(config), config)), pairs_(static_cast<size_t>(config.n_layers)) {
  for (const Part& part : parts) {
    require(part.layer >= 0 && part.layer < config.n_layers, "layer=", part.layer, " is not in 0..",
            config.n_layers - 1);
    const auto linear = static_cast<size_t>(part.linear);
    require(linear < kLinears, "linear=", linear, " is not one of the ", kLinears);
    require(part.rank >= 1 && part.rank <= kMaxRank, "rank=", part.rank, " is not in 1..",
            kMaxRank);
    LowRankPair& pair = pairs_[static_cast<size_t>(part.layer)][linear];
    require(pair.b.rank == 0, "layer ", part.layer, " has linear ", linear, " twice");
    const auto [rows, cols] = linear_shape(config, part.linear);
    const WeightType type = part.integer ? WeightType::kInt8 : WeightType::kF32;
    pair.a = {
        type, part.rank, cols, part.integer ? kBlock : 0, nullptr, panel_bytes(type, cols, kBlock)};
    pair.b = {type, rows, part.rank, nullptr, kernels::low_rank_panel_bytes(type, part.rank)};
    bytes_ += rounded(panels(part.rank) * pair.a.panel_bytes) +
              rounded(panels(rows) * pair.b.panel_bytes);
  }
  if (parts.empty())
    return;
  const uint8_t* at = arena_.allocate(bytes_);
  const auto take = [&at](size_t bytes) {
    const uint8_t* out = at;
    at += rounded(bytes);
    return out;
  };
  for (auto& layer : pairs_) {
    for (const auto& [first, last] : kReadTogether) {
      for (int i = first; i <= last; ++i)
        layer[i].a.data = take(panels(layer[i].b.rank) * layer[i].a.panel_bytes);
      for (int i = first; i <= last; ++i)
        layer[i].b.data = take(panels(layer[i].b.rows) * layer[i].b.panel_bytes);
    }
  }
}

int Adapter::rank(int layer, Linear linear) const {
  require(layer >= 0 && layer < config_.n_layers, "layer=", layer, " is not in 0..",
          config_.n_layers - 1);
  return pairs_[static_cast<size_t>(layer)][static_cast<size_t>(linear)].b.rank;
}

LowRankPair& Adapter::announced(int layer, Linear linear, WeightType type) {
  require(rank(layer, linear) > 0, "layer ", layer, " has no linear ", static_cast<int>(linear));
  LowRankPair& pair = pairs_[static_cast<size_t>(layer)][static_cast<size_t>(linear)];
  require(pair.b.type == type, "layer ", layer, ", linear ", static_cast<int>(linear),
          " was announced in the other form");
  return pair;
}

void Adapter::set_int8(int layer, Linear linear, const int8_t* a, const uint16_t* a_scales,
                       const int8_t* b, const uint16_t* b_scales, float scale) {
  LowRankPair& pair = announced(layer, linear, WeightType::kInt8);
  require(std::isfinite(scale), "scale=", scale, " is not finite");
  pack_int8(a, a_scales, pair.b.rank, pair.a.cols, const_cast<uint8_t*>(pair.a.data));
  pack_factor_int8(pair.b, b, b_scales, const_cast<uint8_t*>(pair.b.data));
  pair.scale = scale;
  pair.ready = true;
}

void Adapter::set_float(int layer, Linear linear, const float* a, const float* b, float scale) {
  LowRankPair& pair = announced(layer, linear, WeightType::kF32);
  require(std::isfinite(scale), "scale=", scale, " is not finite");
  pack_f32(a, pair.b.rank, pair.a.cols, const_cast<uint8_t*>(pair.a.data));
  pack_f32(b, pair.b.rows, pair.b.rank, const_cast<uint8_t*>(pair.b.data));
  pair.scale = scale;
  pair.ready = true;
}

void Adapter::require_complete(const ModelConfig& config) const {
  require(config.n_layers == config_.n_layers, "the adapter has ", config_.n_layers,
          " layers, the model ", config.n_layers);
  for (int i = 0; i < kLinears; ++i)
    require(linear_shape(config, static_cast<Linear>(i)) ==
                linear_shape(config_, static_cast<Linear>(i)),
            "the adapter was made for a model of other dimensions");
  for (const auto& layer : pairs_)
    for (const LowRankPair& pair : layer)
      require(pair.ready || pair.b.rank == 0, "a part of the adapter was never filled");
}

} // namespace ptmo
