#include "decoder.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"

namespace ptmo {
namespace {

const std::vector<float> kNoBias;

} // namespace

Decoder::Decoder(const ModelConfig& config, const PageLayout& layout, int threads,
                 bool integer_activations, int chunk_tokens)
    : config_((validate(config), config)), layout_(layout), integer_(integer_activations),
      chunk_(chunk_tokens), kernels_(kernels::best()), pool_(threads), weights_(config),
      attention_(config, layout, threads) {
  require(chunk_tokens >= 1 && chunk_tokens <= 4096, "chunk_tokens=", chunk_tokens,
          " is not in 1..4096");
  require(layout.n_layers == config.n_layers && layout.n_kv_heads == config.n_kv_heads &&
              layout.head_dim == config.head_dim,
          "the page layout is not this model's");
  const auto n = static_cast<size_t>(chunk_tokens);
  const size_t widest =
      static_cast<size_t>(std::max({config.d_model, config.d_ff, config.q_size()}));
  const size_t half = static_cast<size_t>(config.head_dim / 2);
  for (auto* v : {&x_, &normed_})
    v->resize(std::max<size_t>(n, kOutputRows) * config.d_model);
  for (auto* v : {&q_, &attended_})
    v->resize(n * config.q_size());
  for (auto* v : {&k_, &v_})
    v->resize(n * config.kv_size());
  for (auto* v : {&gate_, &up_})
    v->resize(n * config.d_ff);
  angles_.resize(n * config.n_kv_heads * half);
  for (RotaryTable* table : {&rotary_, &rotary_local_}) {
    if (table == &rotary_local_ && !config.has_local_layers())
      continue;
    for (auto* v : {&table->cosine, &table->sine})
      v->resize(n * config.n_kv_heads * half);
  }
  const size_t input_rows = std::max<size_t>(n, kOutputRows);
  for (Input* input : {&input_, &hidden_}) {
    for (auto* v : {&input->codes, &input->low})
      v->resize(input_rows * widest);
    for (auto* v : {&input->scales, &input->sums})
      v->resize(input_rows * (widest / kernels::kBlock));
    input->code_sums.resize(input_rows * (widest / kernels::kBlock));
  }
  output_slabs_.assign(
      static_cast<size_t>(threads),
      std::vector<float>(kOutputRows * kOutputPanels * static_cast<size_t>(kernels::kPanelRows)));
  // Of K and of V; INT4 packs a row of bytes.
  const size_t row_bytes = static_cast<size_t>(layout.head_dim) * layout.element_bytes();
  row_codes_.assign(static_cast<size_t>(threads), std::vector<uint8_t>(2 * row_bytes));
}

void Decoder::forward(const Sequence* sequences, int count, const AttentionRestore& restore) {
  owner_.require_here();
  weights_.require_complete();
  Batch::check(config_, layout_, sequences, count, chunk_, restore);
  Batch batch(sequences, count, chunk_);
  try {
    while (batch.next()) {
      forward_chunk(batch, restore);
      chunk_logits(batch);
    }
  } catch (...) {
    wipe_scratch(batch.widest()); // first: taking sessions back may need memory
    batch.roll_back();
    throw;
  }
  wipe_scratch(batch.widest());
}

void Decoder::forward_chunk(const Batch& batch, const AttentionRestore& restore) {
  spans_ = batch.spans();
  positions_ = batch.positions();
  rows_ = batch.rows();
  adapter_rows_ = batch.adapter_rows();
  for (const Span& span : spans_) {
    for (int t = 0; t < span.n; ++t) {
      float* x = x_.data() + static_cast<size_t>(span.row + t) * config_.d_model;
      copy_row(weights_.embed.packed, span.sequence->tokens[span.begin + t], x);
      for (int i = 0; config_.embed_scale != 1.0f && i < config_.d_model; ++i)
        x[i] *= config_.embed_scale;
    }
  }
  if (weights_.layers[0].inv_freq.empty()) { // not permuted: the model's tables serve all layers
    fill_rotary_table(weights_.inv_freq, rotary_);
    if (config_.has_local_layers())
      fill_rotary_table(weights_.inv_freq_local, rotary_local_);
  }
  for (int layer = 0; layer < config_.n_layers; ++layer) {
    const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
    normalise(x_, w.attn_norm);
    attention_layer(layer, restore);
    normalise(x_, w.ffn_norm);
    mlp_layer(layer, layer + 1 < config_.n_layers
                         ? weights_.layers[static_cast<size_t>(layer) + 1].q
                         : weights_.output());
  }
}

// x += W_o attention(W_q h, W_k h, W_v h), h = the normed x.
void Decoder::attention_layer(int layer, const AttentionRestore& restore) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  set_input(input_, Bits::k16, normed_.data(), config_.d_model, rows_);
  low_rank_.begin(adapter_rows_, layer, {Linear::kQ, Linear::kK, Linear::kV}, input_.view);
  project(input_,
          {{Linear::kQ, w.q, w.q_bias, q_.data()},
           {Linear::kK, w.k, w.k_bias, k_.data()},
           {Linear::kV, w.v, w.v_bias, v_.data()}},
          rows_, w.o);
  finish_heads(w, rotary_table(layer));
  store_kv(layer);
  float* attended = restore.buffer != nullptr ? restore.buffer : attended_.data();
  const auto width = static_cast<size_t>(config_.q_size());
  jobs_.clear();
  for (const Span& span : spans_)
    jobs_.push_back({span.sequence->session, q_.data() + span.row * width, span.first, span.n,
                     attended + span.row * width});
  attention_.run(kernels_, pool_, jobs_.data(), static_cast<int>(jobs_.size()), layer,
                 config_.window(layer), config_.score_scale());
  if (restore.buffer != nullptr)
    restore.restore(layer, rows_);
  set_input(input_, Bits::k8, attended, config_.q_size(), rows_);
  low_rank_.begin(adapter_rows_, layer, {Linear::kO}, input_.view);
  project(input_, {{Linear::kO, w.o, kNoBias, normed_.data()}}, rows_, w.gate);
  add_normed(w.attn_post_norm);
}

// x += W_down (silu(W_gate h) * W_up h), h = the normed x; under Gemma, gelu. A share is whole
// activation blocks (two panels each): whoever computes them finishes their part of W_down's input.
void Decoder::mlp_layer(int layer, const Matrix& next) {
  constexpr int kPanels = kernels::kBlock / kernels::kPanelRows;
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const Projection gate{Linear::kGate, w.gate, kNoBias, gate_.data()},
      up{Linear::kUp, w.up, kNoBias, up_.data()};
  const auto gated = config_.activation == Activation::kGeluTanh ? kernels_.geglu : kernels_.swiglu;
  const int panels = w.gate.panels();
  set_input(input_, Bits::k8, normed_.data(), config_.d_model, rows_);
  begin_input(hidden_, Bits::k16, gate_.data(), config_.d_ff);
  low_rank_.begin(adapter_rows_, layer, {Linear::kGate, Linear::kUp}, input_.view);
  const int lead = low_rank_.lead(2 * kPanels);
  pool_.parallel_for(lead + (panels + kPanels - 1) / kPanels, [&](int begin, int end, int share) {
    low_rank_.shrink_share(kernels_, begin, end, 2 * kPanels);
    const int from = std::max(begin - lead, 0) * kPanels,
              to = std::min((end - lead) * kPanels, panels);
    if (from >= to)
      return;
    multiply(input_, gate, from, to, rows_);
    multiply(input_, up, from, to, rows_);
    const int column = from * kernels::kPanelRows, count = (to - from) * kernels::kPanelRows;
    for (int t = 0; t < rows_; ++t) {
      const size_t at = static_cast<size_t>(t) * config_.d_ff + column;
      gated(gate_.data() + at, up_.data() + at, count, gate_.data() + at);
      if (hidden_.view.codes != nullptr)
        quantize_row(hidden_, t, column, column + count);
    }
    prefetch_share(w.down, share);
  });
  low_rank_.begin(adapter_rows_, layer, {Linear::kDown}, hidden_.view);
  project(hidden_, {{Linear::kDown, w.down, kNoBias, normed_.data()}}, rows_, next);
  add_normed(w.ffn_post_norm);
}

// x += normed_, which takes one more norm under Gemma.
void Decoder::add_normed(const std::vector<float>& post_norm) {
  if (!post_norm.empty())
    normalise(normed_, post_norm);
  kernels_.add(normed_.data(), rows_ * config_.d_model, x_.data());
}

// normed_ = the RMS norm of x, which may be normed_.
void Decoder::normalise(const std::vector<float>& x, const std::vector<float>& weight) {
  const int d = config_.d_model;
  pool_.parallel_for(rows_, [&](int begin, int end, int) {
    for (int t = begin; t < end; ++t) {
      const size_t at = static_cast<size_t>(t) * d;
      kernels_.rms_norm(x.data() + at, weight.data(), d, config_.rms_eps, normed_.data() + at);
    }
  });
}

// Wipes what chunks of at most `n` rows wrote: the first rows of every buffer.
void Decoder::wipe_scratch(int n) {
  const auto rows = static_cast<size_t>(n);
  const auto wipe = [rows](auto& buffer, size_t width) {
    secure_wipe(buffer.data(), std::min(rows * width, buffer.size()) * sizeof(buffer[0]));
  };
  const auto d = static_cast<size_t>(config_.d_model), ff = static_cast<size_t>(config_.d_ff);
  const auto q = static_cast<size_t>(config_.q_size()), kv = static_cast<size_t>(config_.kv_size());
  const size_t widest = std::max({d, ff, q});
  for (auto* v : {&x_, &normed_})
    wipe(*v, d);
  for (auto* v : {&q_, &attended_})
    wipe(*v, q);
  for (auto* v : {&k_, &v_})
    wipe(*v, kv);
  for (auto* v : {&gate_, &up_})
    wipe(*v, ff);
  for (Input* input : {&input_, &hidden_}) {
    wipe(input->codes, widest);
    wipe(input->low, widest);
    wipe(input->code_sums, widest / kernels::kBlock);
    for (auto* v : {&input->scales, &input->sums})
      wipe(*v, widest / kernels::kBlock);
  }
  for (auto& slab : output_slabs_)
    wipe(slab, kOutputPanels * static_cast<size_t>(kernels::kPanelRows));
  for (auto& row : row_codes_)
    secure_wipe(row.data(), row.size());
  low_rank_.wipe();
}

} // namespace ptmo
