// The shape of a Llama-family decoder, and where a family departs from Llama.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace ptmo {

enum class Activation : int { kSilu = 0, kGeluTanh = 1 };

struct ModelConfig {
  int n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab_size, context_length;
  float rms_eps;
  float attention_scale = 0.0f; // factor of q.k; 0: 1 / sqrt(head_dim)
  bool qk_norm = false;         // RMS norm of every query and key head before RoPE
  bool post_norms = false;      // RMS norm of what attention and feed-forward add to x
  Activation activation = Activation::kSilu;
  float embed_scale = 1.0f;            // factor of the embeddings, not of a tied head
  int sliding_window = 0;              // tokens a local layer sees, the current one included
  std::vector<bool> local_layers = {}; // one a layer; empty: every layer sees all tokens

  int q_size() const { return n_heads * head_dim; }
  int kv_size() const { return n_kv_heads * head_dim; }
  bool has_local_layers() const {
    return std::find(local_layers.begin(), local_layers.end(), true) != local_layers.end();
  }
  bool is_local(int layer) const {
    return !local_layers.empty() && local_layers[static_cast<size_t>(layer)];
  }
  int window(int layer) const { return is_local(layer) ? sliding_window : 0; } // 0: all tokens
  float score_scale() const {
    return attention_scale != 0.0f ? attention_scale
                                   : 1.0f / std::sqrt(static_cast<float>(head_dim));
  }
};

// Throws std::invalid_argument naming the field and its value.
void validate(const ModelConfig& config);

} // namespace ptmo
