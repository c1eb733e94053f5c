// Decode attention of one sequence over a rotation of layers whose rows store_kv wrote.
#pragma once

#include "device_bench.h"
#include "kernels/cuda/cuda_kernels.h"

namespace ptmo::cuda {

struct AttentionShape {
  KvElement element;
  int n_heads, n_kv_heads, dim;
  int context; // rows of the cache, the token's own included
  int page_rows = 32;
};

// What `permute` adds to the device's side of attention: angles of each KV head's own, in every
// layer. The order of the elements themselves is the weights' affair and changes no work.
enum class Angles {
  kShared,  // one table for all heads, made before
  kPerHead, // one for each KV head, made with the layer's input where rows are stored
};

struct AttentionCall {
  bool sealed;
  bool store; // first the layer's input is made, as a decoder does, and the token's rows stored
  Angles angles;
};

class DeviceAttentionBench : public DeviceBench {
public:
  DeviceAttentionBench(const AttentionShape& shape, const AttentionCall& call,
                       size_t working_set_bytes);
  std::vector<float> output() const; // of the last call [n_heads, dim]

private:
  size_t page_bytes() const { return cache_.head_offset(layers_, 0); }
  const SealKeys* keys() const { return what_.sealed ? &keys_ : nullptr; }
  void make_input() const;
  void store(int layer, int first, int tokens) const;
  void write_rows();
  void call(int layer);

  const AttentionShape shape_;
  const AttentionCall what_;
  const KvPages cache_;
  int layers_ = 0, chunk_ = 0;
  DeviceMemory pages_;
  SealKeys keys_{}; // random: what they seal is random too
  DeviceArray<KvPlace> places_;
  DeviceArray<const uint8_t*> page_list_;
  DeviceArray<DeviceSequence> sequence_;
  DeviceArray<float> q_, k_, v_, inv_freq_, cosine_, sine_, scratch_, out_;
  DeviceArray<int32_t> positions_;
  DeviceArray<float> hidden_, norm_; // [n_heads * dim], what the layer's input is made of
  DeviceArray<int8_t> input_codes_;
  DeviceArray<float2> input_scales_;
};

} // namespace ptmo::cuda
