#include "attention_bench.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "bench/random_inputs.h"
#include "common/check.h"

namespace ptmo::cuda {
namespace {

constexpr int kStoredTogether = 512;

} // namespace

DeviceAttentionBench::DeviceAttentionBench(const AttentionShape& shape, const AttentionCall& what,
                                           size_t working_set_bytes)
    : shape_(shape), what_(what),
      cache_{shape.element, shape.n_kv_heads, shape.dim, shape.page_rows} {
  const AttentionShape& s = shape_;
  require(s.context >= 1 && s.n_kv_heads >= 1 && s.n_heads % s.n_kv_heads == 0,
          "context=", s.context, ", n_heads=", s.n_heads, ", n_kv_heads=", s.n_kv_heads,
          " do not fit");
  require(s.page_rows == 16 || s.page_rows == 32 || s.page_rows == 64, "page_rows=", s.page_rows,
          " is not 16, 32 or 64");
  const auto context = static_cast<size_t>(s.context), heads = static_cast<size_t>(s.n_kv_heads);
  const size_t layer_bytes =
      context * heads * (2 * cache_.row_bytes() + (cache_.has_scales() ? 8 : 0));
  layers_ =
      static_cast<int>(std::max<size_t>(1, (working_set_bytes + layer_bytes - 1) / layer_bytes));
  chunk_ = std::min(s.context, kStoredTogether);
  working_set_bytes_ = static_cast<size_t>(layers_) * layer_bytes;
  const int page_count = (s.context + s.page_rows - 1) / s.page_rows;
  pages_ = DeviceMemory(static_cast<size_t>(page_count) * page_bytes());
  check_call(cudaMemsetAsync(pages_.data(), 0, pages_.size(), stream_), "zeroing");

  std::mt19937 bits(kInputSeed);
  for (uint32_t& word : keys_.keys[0].words)
    word = static_cast<uint32_t>(bits());
  const int key = what_.sealed ? 0 : -1;
  std::vector<const uint8_t*> list;
  std::vector<KvPlace> places;
  for (int page = 0; page < page_count; ++page)
    list.push_back(pages_.data() + static_cast<size_t>(page) * page_bytes());
  for (int t = 0; t < s.context; ++t)
    places.push_back({pages_.data() + static_cast<size_t>(t / s.page_rows) * page_bytes(),
                      static_cast<uint64_t>(t), t % s.page_rows, key});
  page_list_ = DeviceArray<const uint8_t*>(list, stream_);
  places_ = DeviceArray<KvPlace>(places, stream_);
  sequence_ = DeviceArray<DeviceSequence>({{page_list_.data(), s.context - 1, 1, 0, key}}, stream_);

  const auto chunk = static_cast<size_t>(chunk_), dim = static_cast<size_t>(s.dim);
  q_ = DeviceArray<float>(random_floats(chunk * static_cast<size_t>(s.n_heads) * dim), stream_);
  k_ = DeviceArray<float>(random_floats(chunk * heads * dim), stream_);
  v_ = DeviceArray<float>(random_floats(chunk * heads * dim), stream_);
  // Every head's own frequencies, the same for all: what they are costs nothing.
  const size_t half = dim / 2, width = half * (what_.angles == Angles::kShared ? 1 : heads);
  std::vector<float> inv_freq(width), cosine(chunk * width), sine(chunk * width);
  for (size_t i = 0; i < width; ++i)
    inv_freq[i] = std::pow(10000.0f, -static_cast<float>(i % half) / static_cast<float>(half));
  for (size_t i = 0; i < chunk * width; ++i) {
    const float angle = static_cast<float>(i / width) * inv_freq[i % width];
    cosine[i] = std::cos(angle);
    sine[i] = std::sin(angle);
  }
  inv_freq_ = DeviceArray<float>(inv_freq, stream_);
  cosine_ = DeviceArray<float>(cosine, stream_);
  sine_ = DeviceArray<float>(sine, stream_);
  positions_ = DeviceArray<int32_t>({s.context - 1}, stream_);
  const size_t hidden = static_cast<size_t>(s.n_heads) * dim;
  out_ = DeviceArray<float>(hidden);
  hidden_ = DeviceArray<float>(random_floats(hidden), stream_);
  norm_ = DeviceArray<float>(random_floats(hidden), stream_);
  input_codes_ = DeviceArray<int8_t>(2 * static_cast<size_t>(padded(static_cast<int>(hidden))));
  input_scales_ = DeviceArray<float2>(input_codes_.size() / 2 / kBlock);
  write_rows();

  call_bytes_ = layer_bytes + (what_.sealed ? 8 * context : 0) +
                2 * static_cast<size_t>(s.n_heads) * dim * sizeof(float);
  record([this](int turn) { call(turn % layers_); }, layers_);
}

// The projections' input, which nobody reads here; on its way the angles, where `permute` has them.
void DeviceAttentionBench::make_input() const {
  PrepareJob job{};
  job.kind = InputKind::kNorm;
  job.tokens = 1;
  job.cols = static_cast<int>(hidden_.size());
  job.planes = 2;
  job.x = hidden_.data();
  job.weight = norm_.data();
  job.eps = 1e-6f;
  job.codes = input_codes_.data();
  job.scales = input_scales_.data();
  if (what_.angles == Angles::kPerHead)
    job.angles = {1,
                  static_cast<int>(inv_freq_.size()),
                  positions_.data(),
                  inv_freq_.data(),
                  cosine_.data(),
                  sine_.data()};
  check_call(prepare_input(job, stream_), "a layer's input");
}

void DeviceAttentionBench::store(int layer, int first, int tokens) const {
  StoreKvJob job{};
  job.tokens = tokens;
  job.n_heads = shape_.n_heads;
  job.layer = layer;
  job.pages = cache_;
  job.q = q_.data();
  job.k = k_.data();
  job.v = v_.data();
  job.eps = 1e-6f;
  job.cosine = cosine_.data();
  job.sine = sine_.data();
  job.table_width = static_cast<int>(inv_freq_.size());
  job.places = places_.data() + first;
  check_call(store_kv(job, keys(), stream_), "storing K and V");
}

// All rows of all layers, a chunk at a time; the chunks' values are the same.
void DeviceAttentionBench::write_rows() {
  for (int layer = 0; layer < layers_; ++layer)
    for (int first = 0; first < shape_.context; first += chunk_)
      store(layer, first, std::min(chunk_, shape_.context - first));
  AttentionJob job{};
  job.cache = cache_;
  job.n_heads = shape_.n_heads;
  job.count = 1;
  job.most = shape_.context;
  scratch_ = DeviceArray<float>(attention_scratch_floats(job));
  check_call(cudaMemsetAsync(scratch_.data(), 0, scratch_.bytes(), stream_), "zeroing");
  stream_.wait();
}

void DeviceAttentionBench::call(int layer) {
  if (what_.store) {
    make_input();
    store(layer, shape_.context - 1, 1);
  }
  AttentionJob job{};
  job.cache = cache_;
  job.layer = layer;
  job.n_heads = shape_.n_heads;
  job.scale = 1.0f / std::sqrt(static_cast<float>(shape_.dim));
  job.sequences = sequence_.data();
  job.count = 1;
  job.most = shape_.context;
  job.q = q_.data();
  job.out = out_.data();
  job.scratch = scratch_.data();
  check_call(attention_split(job, keys(), stream_), "attention");
  check_call(attention_fold(job, stream_), "attention");
}

std::vector<float> DeviceAttentionBench::output() const {
  std::vector<float> out(out_.size());
  check_call(
      cudaMemcpyAsync(out.data(), out_.data(), out_.bytes(), cudaMemcpyDeviceToHost, stream_),
      "copying out");
  stream_.wait();
  return out;
}

} // namespace ptmo::cuda
