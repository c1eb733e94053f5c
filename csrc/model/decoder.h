// One Llama-family forward pass, readable top to bottom in decoder.cpp.
//
// Equal by construction for every shield and thread count at INT8 activations and INT8 KV: rows
// are what threads split; integer sums do not depend on order; P.V adds rows in order, each
// element in its own lane; a permutation folded into W_o stays inside its 32-column blocks.
#pragma once

#include <memory>
#include <vector>

#include "attention.h"
#include "common/thread_pool.h"
#include "kv/kv_cache.h"
#include "kv/permute.h"
#include "weights.h"

namespace ptmo {

enum class Logits { kLast, kAll };

class Decoder {
public:
  // `integer_activations`: INT8 blocks of 32 before every INT4/INT8 matrix; else float32.
  Decoder(const ModelConfig& config, const PageLayout& layout, int threads,
          bool integer_activations, int chunk_tokens);

  const ModelConfig& config() const { return config_; }
  Weights& weights() { return weights_; }

  // Appends `tokens` to the session and computes logits [1 or n, vocab_size] of the last or of
  // every token, chunk_tokens at a time. K and V of the chunk in hand stand in a scratch of one
  // layer, wiped before this returns or throws; a throw also takes the session back to its length.
  void forward(KvSession& session, const int32_t* tokens, int n, Logits which, float* logits,
               const AttentionRestore& restore);

private:
  void forward_chunk(KvSession& session, const int32_t* tokens, int n, const AttentionRestore& r);
  void attention_layer(KvSession& session, int layer, int first, int n, const AttentionRestore& r);
  void mlp_layer(const LayerWeights& w, int n);
  void fill_rotary_tables(const std::vector<float>& freq, int first, int n);
  void rotate(const LayerWeights& w, int n);
  void store_kv(KvSession& session, int layer, int first, int n);
  void output(int row, int n, float* logits);

  // y = W x (+ bias), rows split over the threads.
  void linear(const Matrix& w, const std::vector<float>& bias, int n, float* y);
  // Loads `linear`'s input; quantises it where a matrix reads integers.
  void set_input(const float* x, int cols, int n);
  void append_input(const float* x, int cols, int n, int at);
  void normalise(const std::vector<float>& weight, int n);
  void wipe_scratch(int n);

  const ModelConfig config_;
  const PageLayout layout_;
  const bool integer_;
  const int chunk_;
  const int owner_pid_;
  const kernels::Table& kernels_;
  ThreadPool pool_;
  Weights weights_;
  Attention attention_;

  std::vector<float> x_, normed_, q_, k_, v_, attended_, gate_, up_, angles_, cosine_, sine_;
  kernels::Activations input_{};
  std::vector<int8_t> input_codes_;
  std::vector<float> input_scales_, input_sums_, residual_, output_rows_;
  std::vector<int32_t> input_code_sums_;
  std::vector<std::vector<uint8_t>> row_codes_; // one encoded K and V row a thread
};

} // namespace ptmo
