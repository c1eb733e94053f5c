// What a chunk of rows needs on the device: its buffers, and what the host tells the device of it.
#pragma once

#include <array>
#include <type_traits>
#include <utility>
#include <vector>

#include "device_decoder.h"

namespace ptmo::cuda {

constexpr int kLogitRows = 16; // whose logits are computed together

// A device array that grows.
template <typename T> class Growing {
public:
  // At least `count` elements; what was there is lost where it grows.
  void reserve(size_t count) {
    if (count > array_.size())
      array_ = DeviceArray<T>(count + count / 2);
  }
  T* data() const { return array_.data(); }
  size_t bytes() const { return array_.bytes(); }

private:
  DeviceArray<T> array_;
};

// What the host tells the device of a chunk, array beside array. One copy takes all of them, of a
// size that changes seldom.
class Parcel {
public:
  static constexpr size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }
  // Starts anew with room for `bytes`: of each array its padded() size.
  void begin(size_t bytes);
  // Puts an array behind the others; returns where it will stand on the device.
  template <typename T> const T* put(const std::vector<T>& values) {
    // Nothing to be copied has padding: it would take along what stood in the host's memory.
    static_assert(std::has_unique_object_representations_v<T> || std::is_same_v<T, DeviceShrink>);
    static_assert(sizeof(DeviceShrink) == 3 * sizeof(void*) + sizeof(float) + 3 * sizeof(int));
    return static_cast<const T*>(put(values.data(), values.size() * sizeof(T)));
  }
  // Where an array would stand that is put when the arrays so far take `bytes`.
  template <typename T> const T* at(size_t bytes) const {
    return reinterpret_cast<const T*>(device_.data() + bytes);
  }
  void send(const Stream& stream) const;
  void wipe() { host_.wipe(room_); } // the host's side

  uint32_t* data() const { return reinterpret_cast<uint32_t*>(device_.data()); }
  const void* host_data() const { return host_.data(); }
  size_t bytes() const { return room_; } // that are copied

private:
  const void* put(const void* values, size_t bytes);

  HostBuffer host_;
  DeviceMemory device_;
  size_t room_ = 0, used_ = 0;
};

struct DeviceDecoder::Buffers {
  // Activations [rows, width] and logits; zeroed after every chunk.
  DeviceArray<float> x[2], q, k, v, attended, out, gate, up, cosine[2], sine[2], logits;
  DeviceArray<int8_t> codes;
  DeviceArray<float2> scales;
  Growing<float> scratch, u; // attention's partials; A x of adapters
  Parcel parcel;
  HostBuffer host_logits;

  Buffers(const ModelConfig& config, int chunk_tokens);
};

struct Range {
  int first = 0, count = 0;
};

// Spans that go in one launch: a launch has room for some keys only. `keys[i]` is that of the i-th
// sealed session of the group, in the secret arena.
struct KeyGroup {
  int first_span = 0, spans = 0, row = 0, rows = 0;
  int longest = 0;     // positions of the longest sequence that decodes, rounded up
  int most_tokens = 0; // of a sequence that does not
  std::vector<const kernels::ChaChaKey*> keys;
};

// A group's keys where a launch reads them, wiped when this goes, whichever way.
class LaunchKeys {
public:
  explicit LaunchKeys(const KeyGroup& group);
  ~LaunchKeys();
  LaunchKeys(const LaunchKeys&) = delete;
  LaunchKeys& operator=(const LaunchKeys&) = delete;
  const SealKeys& operator*() const { return keys_; }

private:
  SealKeys keys_{};
};

struct DeviceDecoder::Chunk {
  int rows = 0;
  std::vector<OutputRow> outputs; // by address
  LogitsIn logits_in = LogitsIn::kHost;
  KvPages cache{};
  std::vector<KeyGroup> groups;
  bool one_token_each = true; // no sequence has more
  size_t u_floats = 0;        // of A x, at most at a time
  // In the parcel, on the device.
  const int32_t *tokens = nullptr, *positions = nullptr, *output_rows = nullptr;
  const KvPlace* places = nullptr;
  const DeviceSequence *decoding = nullptr, *prefilling = nullptr;
  const DeviceShrink* shrinks_on_device = nullptr;
  const DeviceLowRankTerm* terms = nullptr;
  // By layer and linear; shrinks of the linears that read one input stand side by side.
  std::vector<DeviceShrink> shrinks;
  std::vector<std::array<Range, kLinears>> shrink_ranges, term_ranges;

  // The residual stream: x, and what is still to be added to it, normed first if it has a weight.
  float* x = nullptr;
  float* other = nullptr; // where the sum goes
  const float* added = nullptr;
  const float* added_weight = nullptr;

  int logit_rows() const { return static_cast<int>(outputs.size()); }
  // How many outputs from `first` on go in one launch of the head: on the device they are written
  // where they are wanted, row behind row.
  int logits_together(int first, int vocab_size) const;
  int add_span(const Span& span, const kernels::ChaChaKey* key);
  void add(const float* out, const float* weight) {
    added = out;
    added_weight = weight;
  }
  PrepareJob normed(const float* weight, const ModelConfig& config, int planes) const;
  // Where the launch of `job` puts x + added, which is x from then on; null if it adds nothing.
  float* take_sum(const PrepareJob& job);

  const Range& shrinks_of(int layer, Linear first) const {
    return shrink_ranges[static_cast<size_t>(layer)][static_cast<size_t>(first)];
  }
  const Range& terms_of(int layer, Linear linear) const {
    return term_ranges[static_cast<size_t>(layer)][static_cast<size_t>(linear)];
  }
};

// A step whose launches came before; its graph, once they came again.
struct DeviceDecoder::Step {
  Step(std::vector<uint64_t> of, const Stream& stream) : launches(std::move(of)), graph(stream) {}
  const std::vector<uint64_t> launches;
  Graph graph;
  int failures = 0; // recordings that broke off
};

} // namespace ptmo::cuda
