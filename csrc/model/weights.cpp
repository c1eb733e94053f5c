#include "weights.h"

#include <map>
#include <utility>

#include "common/check.h"
#include "kernels/reference/panels.h"
#include "quant/int4.h"

namespace ptmo {

void validate(const ModelConfig& c) {
  require(c.n_layers >= 1 && c.n_layers <= 1024, "n_layers=", c.n_layers, " is not in 1..1024");
  require(c.d_model >= 16 && c.d_model <= 65536, "d_model=", c.d_model, " is not in 16..65536");
  require(c.n_heads >= 1 && c.n_heads <= 1024, "n_heads=", c.n_heads, " is not in 1..1024");
  require(c.n_kv_heads >= 1 && c.n_heads % c.n_kv_heads == 0, "n_kv_heads=", c.n_kv_heads,
          " does not divide n_heads=", c.n_heads);
  require(c.head_dim >= 16 && c.head_dim <= 512 && c.head_dim % 16 == 0, "head_dim=", c.head_dim,
          " is not a multiple of 16 in 16..512");
  require(c.d_ff >= 16 && c.d_ff <= (1 << 20) && c.d_ff % 16 == 0, "d_ff=", c.d_ff,
          " is not a multiple of 16 in 16..2^20");
  require(c.vocab_size >= 1 && c.vocab_size <= (1 << 24), "vocab_size=", c.vocab_size,
          " is not in 1..2^24");
  require(c.context_length >= 1 && c.context_length <= (1 << 22),
          "context_length=", c.context_length, " is not in 1..2^22");
  require(c.rms_eps > 0.0f && c.rms_eps < 1.0f, "rms_eps=", c.rms_eps, " is not in (0, 1)");
  require(c.attention_scale >= 0.0f && c.attention_scale < 1e6f,
          "attention_scale=", c.attention_scale, " is not in [0, 10^6)");
  require(c.embed_scale > 0.0f && c.embed_scale < 1e6f, "embed_scale=", c.embed_scale,
          " is not in (0, 10^6)");
  require(c.local_layers.empty() || c.local_layers.size() == static_cast<size_t>(c.n_layers),
          "local_layers has ", c.local_layers.size(), " entries, not ", c.n_layers);
  require(!c.has_local_layers() || c.sliding_window >= 1, "sliding_window=", c.sliding_window,
          " is below 1");
}

Weights::Weights(const ModelConfig& config)
    : layers(static_cast<size_t>(config.n_layers)), config_(config) {}

namespace {

// Splits "layers.3.q" into layer 3 and "q"; layer is -1 for a name of the whole model.
std::pair<int, std::string> split_name(const std::string& name, size_t n_layers) {
  if (name.rfind("layers.", 0) != 0)
    return {-1, name};
  const size_t dot = name.find('.', 7);
  require(dot != std::string::npos && dot > 7 && dot - 7 <= 4, "unknown parameter ", name);
  const std::string digits = name.substr(7, dot - 7);
  require(digits.find_first_not_of("0123456789") == std::string::npos, "unknown parameter ", name);
  const int layer = std::stoi(digits);
  require(static_cast<size_t>(layer) < n_layers, "parameter ", name, ": the model has ", n_layers,
          " layers");
  return {layer, name.substr(dot + 1)};
}

} // namespace

Matrix& Weights::prepare(const std::string& name, kernels::WeightType type, int rows, int cols,
                         int group) {
  Matrix* m = matrix(name);
  require(m != nullptr, name, " is not a matrix of this model");
  expect_shape(name, rows, cols);
  const size_t stride = panel_bytes(type, cols, group);
  const size_t bytes = stride * static_cast<size_t>(kernels::panels(rows));
  if (m->bytes != bytes) {
    m->data = arena_.allocate(bytes);
    m->bytes = bytes;
  }
  m->packed = {type, rows, cols, group, m->data, stride};
  return *m;
}

void Weights::set_vector(const std::string& name, std::vector<float> values) {
  std::vector<float>* out = vector(name);
  require(out != nullptr, name, " is not a vector of this model");
  expect_shape(name, static_cast<int>(values.size()), 1);
  *out = std::move(values);
}

Matrix* Weights::matrix(const std::string& name) {
  const auto [layer, part] = split_name(name, layers.size());
  if (layer < 0)
    return part == "embed" ? &embed : part == "head" ? &head : nullptr;
  LayerWeights& l = layers[static_cast<size_t>(layer)];
  const std::map<std::string, Matrix*> parts = {{"q", &l.q},      {"k", &l.k},       {"v", &l.v},
                                                {"o", &l.o},      {"gate", &l.gate}, {"up", &l.up},
                                                {"down", &l.down}};
  const auto found = parts.find(part);
  return found == parts.end() ? nullptr : found->second;
}

std::vector<float>* Weights::vector(const std::string& name) {
  const auto [layer, part] = split_name(name, layers.size());
  if (layer < 0)
    return part == "final_norm"       ? &final_norm
           : part == "inv_freq"       ? &inv_freq
           : part == "inv_freq_local" ? &inv_freq_local
                                      : nullptr;
  LayerWeights& l = layers[static_cast<size_t>(layer)];
  const std::map<std::string, std::vector<float>*> parts = {{"attn_norm", &l.attn_norm},
                                                            {"ffn_norm", &l.ffn_norm},
                                                            {"q_bias", &l.q_bias},
                                                            {"k_bias", &l.k_bias},
                                                            {"v_bias", &l.v_bias},
                                                            {"inv_freq", &l.inv_freq},
                                                            {"q_norm", &l.q_norm},
                                                            {"k_norm", &l.k_norm},
                                                            {"attn_post_norm", &l.attn_post_norm},
                                                            {"ffn_post_norm", &l.ffn_post_norm}};
  const auto found = parts.find(part);
  return found == parts.end() ? nullptr : found->second;
}

void Weights::expect_shape(const std::string& name, int rows, int cols) const {
  const ModelConfig& c = config_;
  const int half = c.head_dim / 2;
  const std::map<std::string, std::pair<int, int>> shapes = {
      {"embed", {c.vocab_size, c.d_model}}, {"head", {c.vocab_size, c.d_model}},
      {"final_norm", {c.d_model, 1}},       {"q", {c.q_size(), c.d_model}},
      {"k", {c.kv_size(), c.d_model}},      {"v", {c.kv_size(), c.d_model}},
      {"o", {c.d_model, c.q_size()}},       {"gate", {c.d_ff, c.d_model}},
      {"up", {c.d_ff, c.d_model}},          {"down", {c.d_model, c.d_ff}},
      {"attn_norm", {c.d_model, 1}},        {"ffn_norm", {c.d_model, 1}},
      {"q_bias", {c.q_size(), 1}},          {"k_bias", {c.kv_size(), 1}},
      {"v_bias", {c.kv_size(), 1}},         {"q_norm", {c.kv_size(), 1}},
      {"k_norm", {c.kv_size(), 1}},         {"attn_post_norm", {c.d_model, 1}},
      {"ffn_post_norm", {c.d_model, 1}},    {"inv_freq_local", {half, 1}}};
  const auto [layer, part] = split_name(name, layers.size());
  std::pair<int, int> want;
  if (part == "inv_freq") {
    want = {layer < 0 ? half : c.n_kv_heads * half, 1};
  } else {
    const auto found = shapes.find(part);
    require(found != shapes.end(), "unknown parameter ", name);
    want = found->second;
  }
  require(rows == want.first && cols == want.second, "parameter ", name, " has shape [", rows, ", ",
          cols, "], not [", want.first, ", ", want.second, "]");
}

void Weights::require_complete() const {
  require(!embed.empty(), "parameter embed was not set");
  require(!final_norm.empty() && !inv_freq.empty(), "parameter final_norm or inv_freq was not set");
  require(!config_.has_local_layers() || !inv_freq_local.empty(),
          "parameter inv_freq_local was not set");
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerWeights& l = layers[i];
    for (const Matrix* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down})
      require(!m->empty(), "layer ", i, " lacks one of its seven matrices");
    require(!l.attn_norm.empty() && !l.ffn_norm.empty(), "layer ", i, " lacks a norm");
    require(!config_.qk_norm || (!l.q_norm.empty() && !l.k_norm.empty()), "layer ", i,
            " lacks a QK-norm");
    require(!config_.post_norms || (!l.attn_post_norm.empty() && !l.ffn_post_norm.empty()),
            "layer ", i, " lacks a norm before a residual sum");
  }
}

size_t Weights::bytes() const {
  size_t total = embed.bytes + head.bytes;
  for (const LayerWeights& l : layers)
    for (const Matrix* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down})
      total += m->bytes;
  return total;
}

void copy_row(const kernels::PackedMatrix& m, int index, float* out) {
  const uint8_t* panel = m.data + static_cast<size_t>(index / kernels::kPanelRows) * m.panel_bytes;
  for (int c = 0; c < m.cols; ++c)
    out[c] = kernels::panel_weight(m, panel, index % kernels::kPanelRows, c);
}

} // namespace ptmo
