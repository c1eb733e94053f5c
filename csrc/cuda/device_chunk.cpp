#include "device_chunk.h"

#include <algorithm>
#include <iterator>

#include "kv/seal_chacha.h"
#include "secmem/secret_arena.h"

namespace ptmo::cuda {
namespace {

// First and last of the linears that read the same input.
constexpr std::pair<Linear, Linear> kReadTogether[] = {{Linear::kQ, Linear::kV},
                                                       {Linear::kO, Linear::kO},
                                                       {Linear::kGate, Linear::kUp},
                                                       {Linear::kDown, Linear::kDown}};

const kernels::ChaChaKey* key_of(const KvSession& session) {
  return session.sealed() ? &static_cast<const ChaChaShield&>(session.shield()).key() : nullptr;
}

} // namespace

DeviceDecoder::Buffers::Buffers(const ModelConfig& c, int chunk_tokens, int logit_rows) {
  const auto n = static_cast<size_t>(chunk_tokens), head_rows = static_cast<size_t>(logit_rows);
  const auto d = static_cast<size_t>(c.d_model), ff = static_cast<size_t>(c.d_ff);
  const auto wide_q = static_cast<size_t>(c.q_size()), wide_kv = static_cast<size_t>(c.kv_size());
  const auto widest = static_cast<size_t>(padded(std::max({c.d_model, c.d_ff, c.q_size()})));
  const size_t angles = n * static_cast<size_t>(c.n_kv_heads) * static_cast<size_t>(c.head_dim / 2);
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

// A word at a time: a key that stood in a vector register would go to the stack with all of them
// where the dynamic linker finds a function.
LaunchKeys::LaunchKeys(const KeyGroup& group, SealKeys& place) : place_(place) {
  for (size_t i = 0; i < group.keys.size(); ++i)
    for (size_t word = 0; word < std::size(place.keys[i].words); ++word)
      static_cast<volatile uint32_t&>(place.keys[i].words[word]) = group.keys[i]->words[word];
}

LaunchKeys::~LaunchKeys() {
  secure_wipe(&place_, sizeof(place_));
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

void DeviceDecoder::upload(const Batch& batch, Chunk& chunk) {
  Buffers& b = *b_;
  const PageLayout& l = pages_.layout();
  chunk.rows = batch.rows();
  chunk.cache = {static_cast<KvElement>(l.type), l.n_kv_heads, l.head_dim, l.rows};
  std::vector<int32_t> tokens;
  std::vector<KvPlace> places;
  std::vector<const uint8_t*> lists;
  std::vector<std::pair<DeviceSequence, size_t>> sequences; // and where its list begins
  for (const Span& span : batch.spans()) {
    const KvSession& session = *span.sequence->session;
    const kernels::ChaChaKey* key = key_of(session);
    if (chunk.groups.empty() ||
        (key != nullptr && chunk.groups.back().keys.size() == kMaxSealKeys)) {
      chunk.groups.emplace_back();
      chunk.groups.back().first_span = static_cast<int>(sequences.size());
      chunk.groups.back().row = span.row;
    }
    KeyGroup& group = chunk.groups.back();
    const int index = key == nullptr ? -1 : static_cast<int>(group.keys.size());
    if (key != nullptr)
      group.keys.push_back(key);
    ++group.spans;
    group.rows += span.n;
    if (span.n == 1)
      group.longest = std::max(group.longest, span.first + 1);
    else
      group.most_tokens = std::max(group.most_tokens, span.n);
    sequences.push_back({{nullptr, span.first, span.n, span.row, index}, lists.size()});
    for (int i = 0; i < session.page_count(); ++i)
      lists.push_back(pages_.device_page(session.page_id(i)));
    for (int t = 0; t < span.n; ++t) {
      tokens.push_back(span.sequence->tokens[span.begin + t]);
      const int position = span.first + t, page = position / l.rows, row = position % l.rows;
      const auto* seqs = reinterpret_cast<const uint64_t*>(session.page(page) + sizeof(PageHeader));
      places.push_back({pages_.device_page(session.page_id(page)), seqs[row], row, index});
    }
  }
  b.page_lists.put(lists, stream_);
  std::vector<DeviceSequence> decoding, prefilling;
  for (auto& [sequence, list] : sequences) {
    sequence.pages = b.page_lists.data() + list;
    for (auto* kind : {&decoding, &prefilling}) {
      kind->push_back(sequence);
      if ((sequence.tokens == 1) != (kind == &decoding))
        kind->back().tokens = 0;
    }
  }
  b.decoding.put(decoding, stream_);
  b.prefilling.put(prefilling, stream_);
  b.tokens.put(tokens, stream_);
  b.positions.put(batch.positions(), stream_);
  b.places.put(places, stream_);
  upload_adapters(batch, chunk);
}

// The chunk's updates of every layer. u of the linears that read one input stand in one buffer,
// which the next input's take over.
void DeviceDecoder::upload_adapters(const Batch& batch, Chunk& chunk) {
  const auto layers = static_cast<size_t>(config_.n_layers);
  chunk.shrink_ranges.resize(layers);
  chunk.term_ranges.resize(layers);
  std::vector<DeviceLowRankTerm> terms;
  std::vector<size_t> shrink_u, term_u; // where in the buffer each one's u begins
  size_t most = 0;
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
            shrink_u.push_back(used);
            term_u.push_back(used);
            used += static_cast<size_t>(segment.n) *
                    static_cast<size_t>(part.chunks * kernels::kRankChunk);
          }
        }
        range.count = static_cast<int>(terms.size()) - range.first;
      }
      shrinks.count = static_cast<int>(chunk.shrinks.size()) - shrinks.first;
      most = std::max(most, used);
    }
  }
  b_->u.reserve(most);
  for (size_t i = 0; i < terms.size(); ++i) {
    chunk.shrinks[i].u = b_->u.data() + shrink_u[i];
    terms[i].u = b_->u.data() + term_u[i];
  }
  b_->shrinks.put(chunk.shrinks, stream_);
  b_->terms.put(terms, stream_);
}

// What a pass wrote of activations, and what it was told of tokens.
void DeviceDecoder::wipe() {
  Buffers& b = *b_;
  const auto zero = [&](const auto& array) {
    if (array.bytes() > 0)
      cudaMemsetAsync(array.data(), 0, array.bytes(), stream_);
  };
  for (const auto* a : {&b.x[0], &b.x[1], &b.q, &b.k, &b.v, &b.attended, &b.out, &b.gate, &b.up,
                        &b.cosine[0], &b.cosine[1], &b.sine[0], &b.sine[1], &b.logits})
    zero(*a);
  zero(b.codes);
  zero(b.scales);
  zero(b.scratch);
  zero(b.u);
  zero(b.tokens);
  cudaStreamSynchronize(stream_);
}

} // namespace ptmo::cuda
