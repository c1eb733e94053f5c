// What a chunk of rows needs on the device: its buffers, and what the host tells the device of it.
#pragma once

#include <array>
#include <type_traits>
#include <utility>
#include <vector>

#include "device_decoder.h"

namespace ptmo::cuda {

// A device array that grows, and takes the host's values.
template <typename T> class Growing {
public:
  explicit Growing(size_t count = 0) : array_(count) {}
  // At least `count` elements; what was there is lost where it grows.
  void reserve(size_t count) {
    if (count > array_.size())
      array_ = DeviceArray<T>(count + count / 2);
  }
  void put(const T* values, size_t count, const Stream& stream) {
    reserve(count);
    if (count == 0)
      return;
    check_call(cudaMemcpyAsync(data(), values, count * sizeof(T), cudaMemcpyHostToDevice, stream),
               "copying in");
    stream.wait(); // the values may go now
  }
  void put(const std::vector<T>& values, const Stream& stream) {
    put(values.data(), values.size(), stream);
  }
  T* data() const { return array_.data(); }
  size_t bytes() const { return array_.bytes(); }

private:
  DeviceArray<T> array_;
};

// What is copied to the device has no padding: it would take along what stood in the host's memory.
static_assert(std::has_unique_object_representations_v<KvPlace> &&
              std::has_unique_object_representations_v<DeviceSequence> &&
              std::has_unique_object_representations_v<DeviceLowRankTerm> &&
              sizeof(DeviceShrink) == 3 * sizeof(void*) + sizeof(float) + 3 * sizeof(int));

struct DeviceDecoder::Buffers {
  // Activations [rows, width] and logits; zeroed after every pass.
  DeviceArray<float> x[2], q, k, v, attended, out, gate, up, cosine[2], sine[2], logits;
  DeviceArray<int8_t> codes;
  DeviceArray<float2> scales;
  Growing<float> scratch, u; // attention's partials; A x of adapters
  Growing<int32_t> tokens, positions, output_rows;
  // What the host knows of the chunk.
  Growing<KvPlace> places;
  Growing<DeviceSequence> decoding, prefilling;
  Growing<const uint8_t*> page_lists;
  Growing<DeviceShrink> shrinks;
  Growing<DeviceLowRankTerm> terms;

  Buffers(const ModelConfig& config, int chunk_tokens, int logit_rows);
};

struct Range {
  int first = 0, count = 0;
};

// Spans that go in one launch: a launch has room for some keys only. `keys[i]` is that of the i-th
// sealed session of the group, in the secret arena.
struct KeyGroup {
  int first_span = 0, spans = 0, row = 0, rows = 0;
  int longest = 0;     // positions of the longest sequence that decodes
  int most_tokens = 0; // of a sequence that does not
  std::vector<const kernels::ChaChaKey*> keys;
};

// Puts a group's keys where a launch reads them, and wipes them when it goes, whichever way.
class LaunchKeys {
public:
  LaunchKeys(const KeyGroup& group, SealKeys& place);
  ~LaunchKeys();
  LaunchKeys(const LaunchKeys&) = delete;
  LaunchKeys& operator=(const LaunchKeys&) = delete;

private:
  SealKeys& place_;
};

struct DeviceDecoder::Chunk {
  int rows = 0;
  KvPages cache{};
  std::vector<KeyGroup> groups;
  // By layer and linear; shrinks of the linears that read one input stand side by side.
  std::vector<DeviceShrink> shrinks;
  std::vector<std::array<Range, kLinears>> shrink_ranges, term_ranges;

  // The residual stream: x, and what is still to be added to it, normed first if it has a weight.
  float* x = nullptr;
  float* other = nullptr; // where the sum goes
  const float* added = nullptr;
  const float* added_weight = nullptr;

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

} // namespace ptmo::cuda
