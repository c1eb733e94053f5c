#include "device_chunk.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "common/check.h"
#include "kv/seal_chacha.h"
#include "secmem/secret_arena.h"

namespace ptmo::cuda {
namespace {

// First and last of the linears that read the same input.
constexpr std::pair<Linear, Linear> kReadTogether[] = {{Linear::kQ, Linear::kV},
                                                       {Linear::kO, Linear::kO},
                                                       {Linear::kGate, Linear::kUp},
                                                       {Linear::kDown, Linear::kDown}};

int widest_input(const ModelConfig& c) {
  return std::max({c.d_model, c.d_ff, c.q_size()});
}

const kernels::ChaChaKey* key_of(const KvSession& session) {
  return session.sealed() ? &static_cast<const ChaChaShield&>(session.shield()).key() : nullptr;
}

} // namespace

DeviceDecoder::Buffers::Buffers(const ModelConfig& c, int chunk_tokens) {
  const auto n = static_cast<size_t>(chunk_tokens), head_rows = static_cast<size_t>(kLogitRows);
  const auto d = static_cast<size_t>(c.d_model), ff = static_cast<size_t>(c.d_ff);
  const auto wide_q = static_cast<size_t>(c.q_size()), wide_kv = static_cast<size_t>(c.kv_size());
  const auto widest = static_cast<size_t>(padded(widest_input(c)));
  const size_t angles = n * wide_kv / 2;
  for (auto* a : {&x[0], &x[1], &out})
    *a = DeviceArray<float>(n * d);
  for (auto* a : {&q, &attended})
    *a = DeviceArray<float>(n * wide_q);
  for (auto* a : {&k, &v})
    *a = DeviceArray<float>(n * wide_kv);
  for (auto* a : {&gate, &up})
    *a = DeviceArray<float>(n * ff);
  for (int i = 0; i < (c.has_local_layers() ? 2 : 1); ++i) {
    cosine[i] = DeviceArray<float>(angles);
    sine[i] = DeviceArray<float>(angles);
  }
  logits = DeviceArray<float>(head_rows * static_cast<size_t>(c.vocab_size));
  codes = DeviceArray<int8_t>(std::max(n, head_rows) * 2 * widest);
  scales = DeviceArray<float2>(std::max(n, head_rows) * (widest / kBlock));
}

void Parcel::begin(size_t bytes) {
  used_ = 0;
  room_ = size_t{1} << 12;
  while (room_ < bytes)
    room_ *= 2;
  if (room_ > device_.size()) {
    host_.reserve(room_);
    device_ = DeviceMemory(room_);
  }
}

const void* Parcel::put(const void* values, size_t bytes) {
  const size_t at = used_;
  used_ += padded(bytes);
  ensure(used_ <= room_, "a parcel of ", used_, " bytes has room for ", room_);
  if (bytes > 0)
    std::memcpy(host_.data() + at, values, bytes);
  return device_.data() + at;
}

void Parcel::send(const Stream& stream) const {
  check_call(cudaMemcpyAsync(device_.data(), host_.data(), room_, cudaMemcpyHostToDevice, stream),
             "copying in");
}

// A word at a time: a key that stood in a vector register would go to the stack with all of them
// where the dynamic linker finds a function.
LaunchKeys::LaunchKeys(const KeyGroup& group) {
  for (size_t i = 0; i < group.keys.size(); ++i)
    for (size_t word = 0; word < std::size(keys_.keys[i].words); ++word)
      static_cast<volatile uint32_t&>(keys_.keys[i].words[word]) = group.keys[i]->words[word];
}

LaunchKeys::~LaunchKeys() {
  secure_wipe(&keys_, sizeof(keys_));
}

PrepareJob DeviceDecoder::Chunk::normed(const float* weight, const ModelConfig& config,
                                        int planes) const {
  PrepareJob job{};
  job.kind = InputKind::kNorm;
  job.cols = config.d_model;
  job.planes = planes;
  job.x = x;
  job.weight = weight;
  job.eps = config.rms_eps;
  job.added = added;
  job.added_weight = added_weight;
  return job;
}

float* DeviceDecoder::Chunk::take_sum(const PrepareJob& job) {
  if (job.added == nullptr)
    return nullptr;
  std::swap(x, other);
  added = added_weight = nullptr;
  return x;
}

void DeviceDecoder::plan(const Batch& batch, Chunk& chunk) {
  const PageLayout& l = pages_.layout();
  chunk.rows = batch.rows();
  chunk.cache = {static_cast<KvElement>(l.type), l.n_kv_heads, l.head_dim, l.rows};
  std::vector<int32_t> tokens, output_rows;
  std::vector<KvPlace> places;
  std::vector<const uint8_t*> lists;
  std::vector<DeviceSequence> sequences;
  std::vector<size_t> first_page; // of each sequence, in the lists
  for (const Span& span : batch.spans()) {
    const KvSession& session = *span.sequence->session;
    const int index = chunk.add_span(span, key_of(session));
    sequences.push_back({nullptr, span.first, span.n, span.row, index});
    first_page.push_back(lists.size());
    for (int i = 0; i < session.page_count(); ++i)
      lists.push_back(pages_.device_page(session.page_id(i)));
    for (int t = 0; t < span.n; ++t) {
      tokens.push_back(span.sequence->tokens[span.begin + t]);
      const int position = span.first + t, page = position / l.rows, row = position % l.rows;
      const auto* seqs = reinterpret_cast<const uint64_t*>(session.page(page) + sizeof(PageHeader));
      places.push_back({pages_.device_page(session.page_id(page)), seqs[row], row, index});
    }
  }
  chunk.outputs = batch.outputs(config_.vocab_size);
  std::sort(chunk.outputs.begin(), chunk.outputs.end(),
            [](const OutputRow& a, const OutputRow& b) { return a.logits < b.logits; });
  for (const OutputRow& output : chunk.outputs)
    output_rows.push_back(output.row);
  const std::vector<DeviceLowRankTerm> terms = plan_adapters(batch, chunk);

  Parcel& parcel = b_->parcel;
  const auto room = [](const auto& values) {
    return Parcel::padded(values.size() * sizeof(values[0]));
  };
  // The lists come last: they grow from step to step, and move nothing else.
  const size_t before_lists = room(tokens) + room(batch.positions()) + room(places) +
                              room(output_rows) + 2 * room(sequences) + room(chunk.shrinks) +
                              room(terms);
  parcel.begin(before_lists + room(lists));
  const auto* lists_on_device = parcel.at<const uint8_t*>(before_lists);
  std::vector<DeviceSequence> decoding, prefilling;
  for (size_t i = 0; i < sequences.size(); ++i) {
    sequences[i].pages = lists_on_device + first_page[i];
    for (auto* kind : {&decoding, &prefilling}) {
      kind->push_back(sequences[i]);
      if ((sequences[i].tokens == 1) != (kind == &decoding))
        kind->back().tokens = 0;
    }
  }
  chunk.tokens = parcel.put(tokens);
  chunk.positions = parcel.put(batch.positions());
  chunk.places = parcel.put(places);
  chunk.output_rows = parcel.put(output_rows);
  chunk.decoding = parcel.put(decoding);
  chunk.prefilling = parcel.put(prefilling);
  chunk.shrinks_on_device = parcel.put(chunk.shrinks);
  chunk.terms = parcel.put(terms);
  parcel.put(lists);
  secure_wipe(tokens.data(), tokens.size() * sizeof(tokens[0]));

  size_t scratch = 0;
  for (const KeyGroup& group : chunk.groups) // a layer with a window has fewer partials than others
    for (int layer = 0; group.longest > 0 && layer < config_.n_layers; ++layer)
      scratch = std::max(scratch, attention_scratch_floats(decode_job(chunk, layer, group)));
  b_->scratch.reserve(scratch);
  if (chunk.logits_in == LogitsIn::kHost)
    b_->host_logits.reserve(static_cast<size_t>(std::min(chunk.logit_rows(), kLogitRows)) *
                            static_cast<size_t>(config_.vocab_size) * sizeof(float));
}

int DeviceDecoder::Chunk::logits_together(int first, int vocab_size) const {
  const int most = std::min(kLogitRows, logit_rows() - first);
  int count = 1;
  const float* start = outputs[static_cast<size_t>(first)].logits;
  while (count < most &&
         (logits_in == LogitsIn::kHost || outputs[static_cast<size_t>(first + count)].logits ==
                                              start + static_cast<ptrdiff_t>(count) * vocab_size))
    ++count;
  return count;
}

// Counts a span to a group that has room for its key; returns which of the group's keys it has.
int DeviceDecoder::Chunk::add_span(const Span& span, const kernels::ChaChaKey* key) {
  // A step's launches are the same until its longest sequence has grown by this much.
  constexpr int kLengths = 512;
  if (groups.empty() || (key != nullptr && groups.back().keys.size() == kMaxSealKeys)) {
    const int first = groups.empty() ? 0 : groups.back().first_span + groups.back().spans;
    groups.push_back({first, 0, span.row, 0, 0, 0, {}});
  }
  KeyGroup& group = groups.back();
  ++group.spans;
  group.rows += span.n;
  if (span.n == 1)
    group.longest = std::max(group.longest, (span.first + kLengths) / kLengths * kLengths);
  else
    group.most_tokens = std::max(group.most_tokens, span.n);
  one_token_each = one_token_each && span.n == 1;
  if (key == nullptr)
    return -1;
  group.keys.push_back(key);
  return static_cast<int>(group.keys.size()) - 1;
}

// The chunk's updates of every layer. u of the linears that read one input stand in one buffer,
// which the next input's take over.
std::vector<DeviceLowRankTerm> DeviceDecoder::plan_adapters(const Batch& batch, Chunk& chunk) {
  const auto layers = static_cast<size_t>(config_.n_layers);
  chunk.shrink_ranges.resize(layers);
  chunk.term_ranges.resize(layers);
  std::vector<DeviceLowRankTerm> terms;
  std::vector<size_t> u_at; // where in the buffer each one's u begins
  const std::vector<AdapterRows> segments = batch.adapter_rows();
  for (size_t layer = 0; layer < layers; ++layer) {
    for (const auto& [first, last] : kReadTogether) {
      size_t used = 0;
      Range& shrinks = chunk.shrink_ranges[layer][static_cast<size_t>(first)];
      shrinks.first = static_cast<int>(chunk.shrinks.size());
      for (int i = static_cast<int>(first); i <= static_cast<int>(last); ++i) {
        Range& range = chunk.term_ranges[layer][static_cast<size_t>(i)];
        range.first = static_cast<int>(terms.size());
        for (const AdapterRows& segment : segments) {
          for (const auto& adapter : segment.set->adapters) {
            const AdapterOnDevice::Part& part =
                on_device(adapter).part(static_cast<int>(layer), static_cast<Linear>(i));
            if (part.chunks == 0)
              continue;
            chunk.shrinks.push_back({part.a.view().codes, part.a.view().scales, nullptr, part.scale,
                                     part.chunks, segment.row, segment.n});
            terms.push_back({part.b.data(), part.b_scales.data(), nullptr, part.chunks, segment.row,
                             segment.n});
            u_at.push_back(used);
            used += static_cast<size_t>(segment.n) *
                    static_cast<size_t>(part.chunks * kernels::kRankChunk);
          }
        }
        range.count = static_cast<int>(terms.size()) - range.first;
      }
      shrinks.count = static_cast<int>(chunk.shrinks.size()) - shrinks.first;
      chunk.u_floats = std::max(chunk.u_floats, used);
    }
  }
  b_->u.reserve(chunk.u_floats);
  for (size_t i = 0; i < terms.size(); ++i) {
    chunk.shrinks[i].u = b_->u.data() + u_at[i];
    terms[i].u = b_->u.data() + u_at[i];
  }
  return terms;
}

// What a chunk leaves of activations, and of what the device was told of tokens.
ZeroJob DeviceDecoder::traces(const Chunk& chunk) const {
  const Buffers& b = *b_;
  const auto n = static_cast<size_t>(chunk.rows),
             heads = static_cast<size_t>(std::min(chunk.logit_rows(), kLogitRows));
  const bool on_host = chunk.logits_in == LogitsIn::kHost; // else they are the caller's
  const auto widest = static_cast<size_t>(padded(widest_input(config_)));
  ZeroJob job{};
  for (const auto* a : {&b.x[0], &b.x[1], &b.out})
    job.add(a->data(), n * static_cast<size_t>(config_.d_model));
  for (const auto* a : {&b.q, &b.attended})
    job.add(a->data(), n * static_cast<size_t>(config_.q_size()));
  for (const auto* a : {&b.k, &b.v})
    job.add(a->data(), n * static_cast<size_t>(config_.kv_size()));
  for (const auto* a : {&b.gate, &b.up})
    job.add(a->data(), n * static_cast<size_t>(config_.d_ff));
  for (const auto* tables : {b.cosine, b.sine})
    for (int i = 0; i < (config_.has_local_layers() ? 2 : 1); ++i)
      job.add(tables[i].data(), n * static_cast<size_t>(config_.kv_size() / 2));
  job.add(b.logits.data(), on_host ? heads * static_cast<size_t>(config_.vocab_size) : 0);
  job.add(b.codes.data(), std::max(n, heads) * 2 * widest);
  job.add(b.scales.data(), std::max(n, heads) * (widest / kBlock));
  job.add(b.u.data(), chunk.u_floats);
  job.add(b.parcel.data(), b.parcel.bytes() / sizeof(uint32_t));
  return job;
}

// After a failure: all that there is.
void DeviceDecoder::wipe() {
  Buffers& b = *b_;
  const auto zero_all = [&](const auto& array) {
    if (array.bytes() > 0)
      cudaMemsetAsync(array.data(), 0, array.bytes(), stream_);
  };
  for (const auto* a : {&b.x[0], &b.x[1], &b.q, &b.k, &b.v, &b.attended, &b.out, &b.gate, &b.up,
                        &b.cosine[0], &b.cosine[1], &b.sine[0], &b.sine[1], &b.logits})
    zero_all(*a);
  zero_all(b.codes);
  zero_all(b.scales);
  zero_all(b.scratch);
  zero_all(b.u);
  zero_all(b.parcel);
  cudaStreamSynchronize(stream_);
  b.parcel.wipe();
  b.host_logits.wipe(b.host_logits.size());
}

} // namespace ptmo::cuda
