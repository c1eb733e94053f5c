// LoRA adapters (Hu et al. 2022) in compute form: y = W x + sum_i s_i B_i (A_i x).
//
// An adapter is packed once, when it is loaded. A request names a set of them, so that changing
// adapters is a change of pointers.
#pragma once

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "common/huge_arena.h"
#include "config.h"
#include "kernels/kernels.h"

namespace ptmo {

enum class Linear : int { kQ = 0, kK, kV, kO, kGate, kUp, kDown };
constexpr int kLinears = 7;

// {rows, cols} of a linear layer's W.
std::pair<int, int> linear_shape(const ModelConfig& config, Linear linear);

// The update of one linear layer, s B A.
struct LowRankPair {
  kernels::PackedMatrix a{};  // [rank, cols]
  kernels::LowRankFactor b{}; // [rows, rank]
  float scale = 0.0f;
  bool ready = false;
};

class Adapter {
public:
  static constexpr int kMaxRank = 64;

  struct Part {
    int layer;
    Linear linear;
    int rank;
    bool integer; // INT8 codes, else float32
  };

  // Makes room for these parts, side by side in the order in which a forward pass reads them.
  // Throws std::invalid_argument for a part the model cannot have.
  Adapter(const ModelConfig& config, const std::vector<Part>& parts);

  // Fill one part; std::invalid_argument if it was not announced in this form.
  //   int8:  a [rank, cols], a_scales fp16 [rank, cols / 32], b [rows, chunks * 16] (ranks padded
  //          to whole chunks), b_scales fp16 [rows, chunks]; codes in -127..127
  //   float: a [rank, cols], b [rows, rank]
  void set_int8(int layer, Linear linear, const int8_t* a, const uint16_t* a_scales,
                const int8_t* b, const uint16_t* b_scales, float scale);
  void set_float(int layer, Linear linear, const float* a, const float* b, float scale);

  // Null where the adapter leaves a layer's linear as it is.
  const LowRankPair* find(int layer, Linear linear) const {
    const LowRankPair& p = pairs_[static_cast<size_t>(layer)][static_cast<size_t>(linear)];
    return p.ready ? &p : nullptr;
  }
  // The rank announced for a part, or 0.
  int rank(int layer, Linear linear) const;
  // Throws std::invalid_argument unless every part was filled and the model is `config`.
  void require_complete(const ModelConfig& config) const;
  const ModelConfig& config() const { return config_; }
  size_t bytes() const { return bytes_; }

private:
  LowRankPair& announced(int layer, Linear linear, kernels::WeightType type);

  const ModelConfig config_;
  HugeArena arena_;
  size_t bytes_ = 0;
  std::vector<std::array<LowRankPair, kLinears>> pairs_;
};

// The adapters of a request, added up in this order.
struct AdapterSet {
  static constexpr size_t kMax = 8;
  std::vector<std::shared_ptr<const Adapter>> adapters;
};

} // namespace ptmo
