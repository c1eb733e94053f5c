// The forward pass of csrc/model/decoder.h on a CUDA device.
//
// What the host decides (which rows, which pages, which adapters) goes to the device once a chunk;
// then one stream runs the layers. A chunk in which every sequence decodes one token is launched as
// one graph, recorded when its shape comes for the second time. Integer activations only: blocks of
// 32 codes, 16 bits where the CPU's decoder has them. On one device every shield gives the same
// bits at an INT8 or INT4 cache.
#pragma once

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "common/owner_process.h"
#include "device_pages.h"
#include "device_weights.h"
#include "graph.h"
#include "kv/permute.h"
#include "model/batch.h"

namespace ptmo::cuda {

struct KeyGroup;

class DeviceDecoder {
public:
  // Sessions must be of `pages`, which outlives this.
  DeviceDecoder(const ModelConfig& config, DevicePages& pages, int chunk_tokens);
  ~DeviceDecoder();

  const ModelConfig& config() const { return config_; }
  WeightsOnDevice& weights() { return weights_; }
  const Stream& stream() const { return stream_; }

  enum class LogitsIn { kHost, kDevice };

  // As Decoder::forward. Logits arrive where the sequences name memory, of the host or of the
  // device. Activations of a chunk stand in the device's memory, zeroed before this returns or
  // throws.
  void forward(const Sequence* sequences, int count, const AttentionRestore& restore,
               LogitsIn memory = LogitsIn::kHost);

  // Chunks that were launched as one graph.
  uint64_t graph_launches() const { return graph_launches_; }

private:
  struct Buffers;
  struct Chunk;
  struct Step;
  using Product = std::pair<Linear, float*>; // a linear layer and where its y goes

  // Fills the parcel of the chunk that the batch has in hand, and makes room for its work.
  void plan(const Batch& batch, Chunk& chunk);
  std::vector<DeviceLowRankTerm> plan_adapters(const Batch& batch, Chunk& chunk);
  // The whole of a chunk, launch by launch.
  void compute(Chunk& chunk, const AttentionRestore& restore);
  // The same as one graph; false where there is none yet, or can be none.
  bool compute_recorded(Chunk& chunk, const AttentionRestore& restore);
  void record(Chunk& chunk, Step& step);
  std::vector<uint64_t> launches_of(const Chunk& chunk) const;
  void send_and_run_layers(Chunk& chunk, const AttentionRestore& restore);
  void attention_layer(Chunk& chunk, int layer, const AttentionRestore& restore);
  void store(const Chunk& chunk, int layer);
  void attend(const Chunk& chunk, int layer);
  AttentionJob decode_job(const Chunk& chunk, int layer, const KeyGroup& group) const;
  // Launches kernels with a group's keys; while a graph is recorded, with zeros.
  template <typename Launch>
  void with_keys(const Chunk& chunk, const KeyGroup& group, Launch launch);
  RotaryTableJob angles(const Chunk& chunk, const DeviceArray<float>& inv_freq, int table) const;
  // Logits of `count` outputs from `first` on: to where they are wanted on the device, or into the
  // host's buffer, from which take_logits() brings them there.
  void head(const Chunk& chunk, int first, int count);
  void take_logits(const Chunk& chunk, int first, int count);
  // Quantises an input and multiplies it by these linears of a layer, adapters included.
  void project(Chunk& chunk, int layer, PrepareJob job, std::initializer_list<Product> products);
  ZeroJob traces(const Chunk& chunk) const;
  void wipe();
  const AdapterOnDevice& on_device(const std::shared_ptr<const Adapter>& adapter);

  const ModelConfig config_;
  DevicePages& pages_;
  const int chunk_;
  const Stream& stream_; // the pages'
  WeightsOnDevice weights_;
  std::unique_ptr<Buffers> b_;
  std::vector<std::unique_ptr<Step>> steps_; // the latest first
  Graph* recording_ = nullptr;               // the graph that is being recorded
  uint64_t graph_launches_ = 0;
  const OwnerProcess owner_;
  // Adapters that were used, while their hosts' forms live.
  std::vector<std::pair<std::weak_ptr<const Adapter>, std::unique_ptr<AdapterOnDevice>>> adapters_;
};

} // namespace ptmo::cuda
