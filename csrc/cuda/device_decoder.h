// The forward pass of csrc/model/decoder.h on a CUDA device.
//
// What the host decides (which rows, which pages, which adapters) goes to the device once a chunk;
// then one stream runs the layers. Integer activations only: blocks of 32 codes, 16 bits where the
// CPU's decoder has them. On one device every shield gives the same bits at an INT8 or INT4 cache.
#pragma once

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "device_pages.h"
#include "device_weights.h"
#include "kv/permute.h"
#include "model/batch.h"

namespace ptmo::cuda {

class DeviceDecoder {
public:
  // Sessions must be of `pages`, which outlives this.
  DeviceDecoder(const ModelConfig& config, DevicePages& pages, int chunk_tokens);
  ~DeviceDecoder();

  const ModelConfig& config() const { return config_; }
  WeightsOnDevice& weights() { return weights_; }

  // As Decoder::forward; logits arrive in the host's memory. Activations of a chunk stand in the
  // device's memory, zeroed before this returns or throws.
  void forward(const Sequence* sequences, int count, const AttentionRestore& restore);

private:
  struct Buffers;
  struct Chunk;
  using Product = std::pair<Linear, float*>; // a linear layer and where its y goes

  void check(const Sequence* sequences, int count, const AttentionRestore& restore) const;
  void upload(const Batch& batch, Chunk& chunk);
  void upload_adapters(const Batch& batch, Chunk& chunk);
  void forward_chunk(Chunk& chunk, const AttentionRestore& restore);
  void attention_layer(Chunk& chunk, int layer, const AttentionRestore& restore);
  void attend(const Chunk& chunk, int layer, float* out);
  void rotary_tables(const Chunk& chunk, const DeviceArray<float>& inv_freq, int table);
  void chunk_logits(const Batch& batch, const Chunk& chunk);
  // Quantises an input and multiplies it by these linears of a layer, adapters included.
  void project(Chunk& chunk, int layer, PrepareJob job, std::initializer_list<Product> products);
  void wipe();
  const AdapterOnDevice& on_device(const std::shared_ptr<const Adapter>& adapter);

  const ModelConfig config_;
  DevicePages& pages_;
  const int chunk_;
  Stream stream_;
  WeightsOnDevice weights_;
  std::unique_ptr<Buffers> b_;
  // Adapters that were used, while their hosts' forms live.
  std::vector<std::pair<std::weak_ptr<const Adapter>, std::unique_ptr<AdapterOnDevice>>> adapters_;
};

} // namespace ptmo::cuda
