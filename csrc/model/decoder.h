// One Llama-family forward pass, readable top to bottom in decoder.cpp.
//
// Equal by construction for every shield and thread count at integer activations and INT8 KV: rows
// are what threads split; integer sums do not depend on order; P.V adds rows in order, each
// element in its own lane; a permutation folded into W_o stays inside its 32-column blocks.
#pragma once

#include <initializer_list>
#include <vector>

#include "attention.h"
#include "batch.h"
#include "common/owner_process.h"
#include "common/thread_pool.h"
#include "kv/permute.h"
#include "low_rank_pass.h"
#include "weights.h"

namespace ptmo {

class Decoder {
public:
  // `integer_activations`: blocks of 32 codes before every INT4/INT8 matrix; else float32.
  Decoder(const ModelConfig& config, const PageLayout& layout, int threads,
          bool integer_activations, int chunk_tokens);

  const ModelConfig& config() const { return config_; }
  Weights& weights() { return weights_; }

  // Runs the rows of all sequences as one batch, chunk_tokens rows at a time: the weights are read
  // once a chunk. A sequence's logits do not depend on what else is in the batch (integer
  // activations and INT8 cache: bit for bit). K and V of the chunk in hand stand in a scratch of
  // one layer, wiped before this returns or throws; a throw also takes every session back to its
  // length.
  void forward(const Sequence* sequences, int count, const AttentionRestore& restore);

private:
  static constexpr int kOutputRows = 8;    // tokens whose logits are computed together
  static constexpr int kOutputPanels = 32; // panels of the head whose products a thread holds

  // cos and sin of the chunk's angles, [rows, width]: head_dim / 2 values that serve every head, or
  // as many a KV head.
  struct RotaryTable {
    std::vector<float> cosine, sine;
    size_t width = 0;
  };
  // y [rows of the chunk, w.rows] = W x (+ bias) (+ the updates of the rows' adapters).
  struct Projection {
    Linear linear;
    const Matrix& w;
    const std::vector<float>& bias;
    float* y;
  };

  void forward_chunk(const Batch& batch, const AttentionRestore& restore);
  void attention_layer(int layer, const AttentionRestore& restore);
  void mlp_layer(int layer, const Matrix& next);
  void fill_rotary_table(const std::vector<float>& freq, RotaryTable& table);
  const RotaryTable& rotary_table(int layer);
  void finish_heads(const LayerWeights& w, const RotaryTable& table);
  void store_kv(int layer);
  void chunk_logits(const Batch& batch);
  void output(const OutputRow* rows, int n);

  // Rows of a matrix product's input, quantised where a matrix reads integers: to 16 bits where the
  // logits feel it most (kernels/README.md has what each input costs and gives).
  enum class Bits { k8, k16 };
  struct Input {
    std::vector<int8_t> codes, low;
    std::vector<float> scales, sums;
    std::vector<int32_t> code_sums;
    kernels::Activations view{};
  };

  // Matrices that read the same input, their rows split over the threads. `next` is the matrix that
  // is read after them: each thread asks memory for the beginning of its share ahead of time.
  void project(const Input& input, std::initializer_list<Projection> projections, int n,
               const Matrix& next);
  // Panels [from, to) of one of them.
  void multiply(const Input& input, const Projection& p, int from, int to, int n);
  void prefetch_share(const Matrix& next, int share) const;
  void begin_input(Input& input, Bits bits, const float* x, int cols) const;
  void set_input(Input& input, Bits bits, const float* x, int cols, int n);
  // Quantises columns [from, to) of row t of the input's floats.
  void quantize_row(Input& input, int t, int from, int to) const;
  void normalise(const std::vector<float>& x, const std::vector<float>& weight);
  void add_normed(const std::vector<float>& post_norm);
  void wipe_scratch(int n);

  const ModelConfig config_;
  const PageLayout layout_;
  const bool integer_;
  const int chunk_;
  const OwnerProcess owner_;
  const kernels::Table& kernels_;
  ThreadPool pool_;
  Weights weights_;
  Attention attention_;
  LowRankPass low_rank_;

  // Of the chunk in hand.
  std::vector<Span> spans_;
  std::vector<int32_t> positions_;
  int rows_ = 0;
  std::vector<AdapterRows> adapter_rows_;
  std::vector<AttentionJob> jobs_;
  std::vector<float> x_, normed_, q_, k_, v_, attended_, gate_, up_, angles_;
  RotaryTable rotary_, rotary_local_;
  Input input_, hidden_;                         // of W_down: hidden_
  std::vector<std::vector<float>> output_slabs_; // a thread's piece of the logits
  std::vector<std::vector<uint8_t>> row_codes_;  // one encoded K and V row a thread
};

} // namespace ptmo
