// The shape of a Llama-family decoder.
#pragma once

#include <cstdint>

namespace ptmo {

struct ModelConfig {
  int n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab_size, context_length;
  float rms_eps;

  int q_size() const { return n_heads * head_dim; }
  int kv_size() const { return n_kv_heads * head_dim; }
};

// Throws std::invalid_argument naming the field and its value.
void validate(const ModelConfig& config);

} // namespace ptmo
