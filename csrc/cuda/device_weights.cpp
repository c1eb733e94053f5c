#include "device_weights.h"

#include <cstring>
#include <utility>

#include "common/check.h"
#include "kernels/reference/panels.h"
#include "quant/int4.h"

namespace ptmo::cuda {
namespace {

constexpr const char* kLinearNames[kLinears] = {"q", "k", "v", "o", "gate", "up", "down"};

// "layers.3.q" is part "q" of layer 3; -1 for what belongs to the whole model. The name is known.
std::pair<int, std::string> split(const std::string& name) {
  if (name.rfind("layers.", 0) != 0)
    return {-1, name};
  const size_t dot = name.find('.', 7);
  return {std::stoi(name.substr(7, dot - 7)), name.substr(dot + 1)};
}

} // namespace

MatrixOnDevice::MatrixOnDevice(const std::string& name, const kernels::PackedMatrix& panels,
                               const Stream& stream) {
  require(kernels::is_integer(panels.type), name,
          " is not quantised: a CUDA device needs INT4 or INT8 weights (ptmo model quantize)");
  std::vector<uint8_t> codes(code_bytes(panels.type, panels.rows, panels.cols));
  std::vector<uint16_t> scales(scale_count(panels.type, panels.rows, panels.cols, panels.group));
  repack(panels, codes.data(), scales.data());
  codes_ = DeviceArray<uint8_t>(codes, stream);
  scales_ = DeviceArray<uint16_t>(scales, stream);
  view_ = {panels.type, panels.rows, panels.cols, panels.group, codes_.data(), scales_.data()};
}

Matrix& WeightsOnDevice::prepare(const std::string& name, kernels::WeightType type, int rows,
                                 int cols, int group) {
  require(matrix(name) != nullptr, name, " is not a matrix of this model");
  host_.expect_shape(name, rows, cols);
  require(kernels::is_integer(type), name,
          " is not quantised: a CUDA device needs INT4 or INT8 weights (ptmo model quantize)");
  const size_t stride = panel_bytes(type, cols, group);
  panels_ = AlignedBuffer(stride * static_cast<size_t>(kernels::panels(rows)));
  pending_ = {panels_.data(), panels_.size(), {type, rows, cols, group, panels_.data(), stride}};
  return pending_;
}

void WeightsOnDevice::finish(const std::string& name) {
  *matrix(name) = MatrixOnDevice(name, pending_.packed, stream_);
  panels_ = AlignedBuffer();
  ++version_;
}

void WeightsOnDevice::set_vector(const std::string& name, const std::vector<float>& values) {
  DeviceArray<float>* out = vector(name);
  require(out != nullptr, name, " is not a vector of this model");
  host_.expect_shape(name, static_cast<int>(values.size()), 1);
  *out = DeviceArray<float>(values, stream_);
  ++version_;
}

MatrixOnDevice* WeightsOnDevice::matrix(const std::string& name) {
  if (host_.matrix(name) == nullptr) // throws on a layer that is not there
    return nullptr;
  const auto [layer, part] = split(name);
  if (layer < 0)
    return part == "embed" ? &embed : &head;
  for (size_t i = 0; i < kLinears; ++i)
    if (part == kLinearNames[i])
      return &layers[static_cast<size_t>(layer)].linears[i];
  return nullptr;
}

DeviceArray<float>* WeightsOnDevice::vector(const std::string& name) {
  if (host_.vector(name) == nullptr)
    return nullptr;
  const auto [layer, part] = split(name);
  if (layer < 0)
    return part == "final_norm" ? &final_norm : part == "inv_freq" ? &inv_freq : &inv_freq_local;
  LayerOnDevice& l = layers[static_cast<size_t>(layer)];
  const std::map<std::string, DeviceArray<float>*> parts = {{"attn_norm", &l.attn_norm},
                                                            {"ffn_norm", &l.ffn_norm},
                                                            {"q_bias", &l.q_bias},
                                                            {"k_bias", &l.k_bias},
                                                            {"v_bias", &l.v_bias},
                                                            {"q_norm", &l.q_norm},
                                                            {"k_norm", &l.k_norm},
                                                            {"attn_post_norm", &l.attn_post_norm},
                                                            {"ffn_post_norm", &l.ffn_post_norm},
                                                            {"inv_freq", &l.inv_freq}};
  return parts.at(part);
}

void WeightsOnDevice::require_complete() const {
  require(!embed.empty() && !final_norm.empty() && !inv_freq.empty(),
          "parameter embed, final_norm or inv_freq was not set");
  require(!config_.has_local_layers() || !inv_freq_local.empty(),
          "parameter inv_freq_local was not set");
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerOnDevice& l = layers[i];
    for (const MatrixOnDevice& m : l.linears)
      require(!m.empty(), "layer ", i, " lacks one of its seven matrices");
    require(!l.attn_norm.empty() && !l.ffn_norm.empty(), "layer ", i, " lacks a norm");
    require(!config_.qk_norm || (!l.q_norm.empty() && !l.k_norm.empty()), "layer ", i,
            " lacks a QK-norm");
    require(!config_.post_norms || (!l.attn_post_norm.empty() && !l.ffn_post_norm.empty()),
            "layer ", i, " lacks a norm before a residual sum");
  }
}

size_t WeightsOnDevice::bytes() const {
  size_t total = embed.bytes() + head.bytes();
  for (const LayerOnDevice& l : layers)
    for (const MatrixOnDevice& m : l.linears)
      total += m.bytes();
  return total;
}

AdapterOnDevice::AdapterOnDevice(const Adapter& adapter, const Stream& stream)
    : parts_(static_cast<size_t>(adapter.config().n_layers)) {
  for (int layer = 0; layer < adapter.config().n_layers; ++layer) {
    for (int i = 0; i < kLinears; ++i) {
      const LowRankPair* pair = adapter.find(layer, static_cast<Linear>(i));
      if (pair == nullptr)
        continue;
      require(pair->b.type == WeightType::kInt8, "a CUDA device needs INT8 adapters");
      Part& part = parts_[static_cast<size_t>(layer)][static_cast<size_t>(i)];
      const int chunks = kernels::rank_chunks(pair->b.rank), width = chunks * kernels::kRankChunk;
      const auto rows = static_cast<size_t>(pair->b.rows);
      std::vector<int8_t> codes(rows * static_cast<size_t>(width));
      std::vector<uint16_t> scales(rows * static_cast<size_t>(chunks));
      for (size_t r = 0; r < rows; ++r) {
        const uint8_t* panel = pair->b.data + r / kPanelRows * pair->b.panel_bytes;
        const int lane = static_cast<int>(r % kPanelRows);
        for (int j = 0; j < pair->b.rank; ++j)
          codes[r * static_cast<size_t>(width) + static_cast<size_t>(j)] =
              static_cast<int8_t>(kernels::low_rank_code(panel, lane, j));
        for (int c = 0; c < chunks; ++c)
          scales[r * static_cast<size_t>(chunks) + static_cast<size_t>(c)] =
              kernels::load_u16(kernels::low_rank_scales(pair->b, panel, c) + 2 * lane);
      }
      part.a = MatrixOnDevice("an adapter's A", pair->a, stream);
      part.b = DeviceArray<int8_t>(codes, stream);
      part.b_scales = DeviceArray<uint16_t>(scales, stream);
      part.scale = pair->scale;
      part.chunks = chunks;
    }
  }
}

} // namespace ptmo::cuda
