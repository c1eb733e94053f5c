// The decoder's parameters in compute form.
#pragma once

#include <string>
#include <vector>

#include "common/huge_arena.h"
#include "config.h"
#include "kernels/kernels.h"

namespace ptmo {

// Panels in the weights' arena; `packed` describes them to the kernels.
struct Matrix {
  uint8_t* data = nullptr;
  size_t bytes = 0;
  kernels::PackedMatrix packed{};
  bool empty() const { return data == nullptr; }
  int panels() const { return kernels::panels(packed.rows); }
};

struct LayerWeights {
  Matrix q, k, v, o, gate, up, down;
  std::vector<float> attn_norm, ffn_norm;
  std::vector<float> q_bias, k_bias, v_bias; // empty when the model has none
  // QK-norm weights [n_kv_heads, head_dim], a query head's is its KV head's: permuted per KV head
  // under `permute`, else the same for all; and the norms before the residual sums. Or empty.
  std::vector<float> q_norm, k_norm, attn_post_norm, ffn_post_norm;
  // Rotary frequencies [n_kv_heads, head_dim / 2]; permuted alike under `permute`, else empty:
  // the model's own table serves every head.
  std::vector<float> inv_freq;
};

struct Weights {
  Matrix embed, head;                                      // head is empty when tied to embed
  std::vector<float> final_norm, inv_freq, inv_freq_local; // the last of local layers, or empty
  std::vector<LayerWeights> layers;

  explicit Weights(const ModelConfig& config);
  // Makes room for the panels of matrix `name`; they are the caller's to fill. Set again in the
  // same form, a matrix keeps its place. Throws std::invalid_argument on a wrong name or shape.
  Matrix& prepare(const std::string& name, kernels::WeightType type, int rows, int cols, int group);
  // The panels of `name` are filled.
  void finish(const std::string& /*name*/) {}
  // Throws std::invalid_argument on a wrong name or shape.
  void set_vector(const std::string& name, std::vector<float> values);
  // The matrix or vector called `name` ("embed", "layers.3.q", "layers.3.q_bias"), or null.
  Matrix* matrix(const std::string& name);
  std::vector<float>* vector(const std::string& name);
  // The shape `name` must have: rows and cols (cols 1 for a vector).
  void expect_shape(const std::string& name, int rows, int cols) const;
  // Throws std::invalid_argument naming the first parameter that was never set.
  void require_complete() const;
  size_t bytes() const;
  // What one token reads: all of it, but of an untied embedding a row only.
  size_t bytes_per_token() const { return bytes() - (head.empty() ? 0 : embed.bytes); }
  const Matrix& output() const { return head.empty() ? embed : head; }

private:
  ModelConfig config_;
  HugeArena arena_;
};

// out[0, cols) = row `index` of a packed matrix, as floats.
void copy_row(const kernels::PackedMatrix& m, int index, float* out);

} // namespace ptmo
