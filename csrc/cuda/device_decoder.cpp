#include "device_decoder.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "device_chunk.h"
#include "kv/seal_chacha.h"
#include "secmem/secret_arena.h"

namespace ptmo::cuda {
namespace {

// More than the runtime's calls take, which see the keys of a launch.
constexpr size_t kStackBytes = 1 << 15;

InputKind gate_of(const ModelConfig& config) {
  return config.activation == Activation::kGeluTanh ? InputKind::kGeluTanh : InputKind::kSilu;
}

} // namespace

DeviceDecoder::DeviceDecoder(const ModelConfig& config, DevicePages& pages, int chunk_tokens)
    : config_((validate(config), config)), pages_(pages), chunk_(chunk_tokens),
      stream_(pages.stream()), weights_(config, stream_) {
  const PageLayout& l = pages.layout();
  require(chunk_tokens >= 1 && chunk_tokens <= 4096, "chunk_tokens=", chunk_tokens,
          " is not in 1..4096");
  require(l.n_layers == config.n_layers && l.n_kv_heads == config.n_kv_heads &&
              l.head_dim == config.head_dim,
          "the page layout is not this model's");
  require(l.type != KvType::kF32, "a CUDA device has no fp32 cache");
  require(config.head_dim <= 256, "head_dim=", config.head_dim, " is above 256, a CUDA device's");
  for (const int width : {config.d_model, config.d_ff, config.q_size()})
    require(width % kBlock == 0, "a width of ", width, " is not a multiple of ", kBlock,
            ", as a CUDA device needs");
  b_ = std::make_unique<Buffers>(config, chunk_tokens);
}

DeviceDecoder::~DeviceDecoder() = default;

void DeviceDecoder::forward(const Sequence* sequences, int count, const AttentionRestore& restore,
                            LogitsIn memory) {
  owner_.require_here();
  const OnDevice here(stream_.device());
  pages_.require_usable();
  weights_.require_complete();
  Batch::check(config_, pages_.layout(), sequences, count, chunk_, restore);
  for (int i = 0; i < count; ++i)
    require(&sequences[i].session->arena() == &pages_,
            "the session's pages are not on the decoder's device");
  Batch batch(sequences, count, chunk_);
  try {
    while (batch.next()) {
      Chunk chunk;
      chunk.logits_in = memory;
      plan(batch, chunk);
      pages_.require_usable();
      if (!compute_recorded(chunk, restore))
        compute(chunk, restore);
      b_->parcel.wipe();
    }
  } catch (...) {
    wipe();
    burn_stack(kStackBytes);
    batch.roll_back();
    throw;
  }
  burn_stack(kStackBytes);
}

void DeviceDecoder::compute(Chunk& chunk, const AttentionRestore& restore) {
  send_and_run_layers(chunk, restore);
  for (int first = 0, count; first < chunk.logit_rows(); first += count) {
    count = chunk.logits_together(first, config_.vocab_size);
    head(chunk, first, count);
    stream_.wait();
    take_logits(chunk, first, count);
  }
  check_call(zero(traces(chunk), stream_), "zeroing");
  stream_.wait();
}

const AdapterOnDevice& DeviceDecoder::on_device(const std::shared_ptr<const Adapter>& adapter) {
  const auto gone = [](const auto& entry) { return entry.first.expired(); };
  adapters_.erase(std::remove_if(adapters_.begin(), adapters_.end(), gone), adapters_.end());
  for (const auto& [host, device] : adapters_)
    if (host.lock() == adapter)
      return *device;
  adapters_.emplace_back(adapter, std::make_unique<AdapterOnDevice>(*adapter, stream_));
  return *adapters_.back().second;
}

void DeviceDecoder::send_and_run_layers(Chunk& chunk, const AttentionRestore& restore) {
  Buffers& b = *b_;
  b.parcel.send(stream_);
  check_call(embed(weights_.embed.view(), chunk.tokens, chunk.rows, config_.embed_scale,
                   b.x[0].data(), stream_),
             "embedding");
  chunk.x = b.x[0].data();
  chunk.other = b.x[1].data();
  chunk.add(nullptr, nullptr);               // left by a recording that broke off
  if (weights_.layers[0].inv_freq.empty()) { // not permuted: the model's tables serve all layers
    check_call(fill_rotary_table(angles(chunk, weights_.inv_freq, 0), stream_), "rotary angles");
    if (config_.has_local_layers())
      check_call(fill_rotary_table(angles(chunk, weights_.inv_freq_local, 1), stream_),
                 "rotary angles");
  }
  for (int layer = 0; layer < config_.n_layers; ++layer) {
    const LayerOnDevice& w = weights_.layers[static_cast<size_t>(layer)];
    attention_layer(chunk, layer, restore);
    chunk.add(b.out.data(), w.attn_post_norm.data());
    project(chunk, layer, chunk.normed(w.ffn_norm.data(), config_, 1),
            {{Linear::kGate, b.gate.data()}, {Linear::kUp, b.up.data()}});
    PrepareJob gated{};
    gated.kind = gate_of(config_);
    gated.cols = config_.d_ff;
    gated.planes = 2;
    gated.x = b.gate.data();
    gated.up = b.up.data();
    project(chunk, layer, gated, {{Linear::kDown, b.out.data()}});
    chunk.add(b.out.data(), w.ffn_post_norm.data());
  }
}

RotaryTableJob DeviceDecoder::angles(const Chunk& chunk, const DeviceArray<float>& inv_freq,
                                     int table) const {
  return {chunk.rows,      static_cast<int>(inv_freq.size()), chunk.positions,
          inv_freq.data(), b_->cosine[table].data(),          b_->sine[table].data()};
}

void DeviceDecoder::attention_layer(Chunk& chunk, int layer, const AttentionRestore& restore) {
  Buffers& b = *b_;
  const LayerOnDevice& w = weights_.layers[static_cast<size_t>(layer)];
  PrepareJob input = chunk.normed(w.attn_norm.data(), config_, 2);
  if (!w.inv_freq.empty()) // permuted: every layer has angles of its own
    input.angles = angles(chunk, w.inv_freq, 0);
  project(chunk, layer, input,
          {{Linear::kQ, b.q.data()}, {Linear::kK, b.k.data()}, {Linear::kV, b.v.data()}});
  store(chunk, layer);
  attend(chunk, layer);
  if (restore.buffer != nullptr) {
    const size_t bytes =
        static_cast<size_t>(chunk.rows) * static_cast<size_t>(config_.q_size()) * sizeof(float);
    check_call(
        cudaMemcpyAsync(restore.buffer, b.attended.data(), bytes, cudaMemcpyDeviceToHost, stream_),
        "copying out");
    stream_.wait();
    restore.restore(layer, chunk.rows);
    check_call(
        cudaMemcpyAsync(b.attended.data(), restore.buffer, bytes, cudaMemcpyHostToDevice, stream_),
        "copying in");
  }
  PrepareJob plain{};
  plain.kind = InputKind::kPlain;
  plain.cols = config_.q_size();
  plain.planes = 1;
  plain.x = b.attended.data();
  project(chunk, layer, plain, {{Linear::kO, b.out.data()}});
}

template <typename Launch>
void DeviceDecoder::with_keys(const Chunk& chunk, const KeyGroup& group, Launch launch) {
  if (group.keys.empty()) {
    launch(nullptr);
  } else if (recording_ == nullptr) {
    const LaunchKeys keys(group);
    launch(&*keys);
  } else {
    const SealKeys none{};
    launch(&none);
    recording_->note_keys(static_cast<int>(&group - chunk.groups.data()));
  }
}

void DeviceDecoder::store(const Chunk& chunk, int layer) {
  const Buffers& b = *b_;
  const LayerOnDevice& w = weights_.layers[static_cast<size_t>(layer)];
  const bool permuted = !w.inv_freq.empty();
  const int table = !permuted && config_.is_local(layer) ? 1 : 0;
  const int half = config_.head_dim / 2, width = permuted ? config_.n_kv_heads * half : half;
  for (const KeyGroup& group : chunk.groups) {
    const auto row = static_cast<size_t>(group.row);
    const StoreKvJob job{group.rows,
                         config_.n_heads,
                         layer,
                         chunk.cache,
                         b.q.data() + row * static_cast<size_t>(config_.q_size()),
                         b.k.data() + row * static_cast<size_t>(config_.kv_size()),
                         b.v.data() + row * static_cast<size_t>(config_.kv_size()),
                         w.q_norm.data(),
                         w.k_norm.data(),
                         config_.rms_eps,
                         b.cosine[table].data() + row * static_cast<size_t>(width),
                         b.sine[table].data() + row * static_cast<size_t>(width),
                         width,
                         chunk.places + row};
    with_keys(chunk, group, [&](const SealKeys* keys) {
      check_call(store_kv(job, keys, stream_), "storing K and V");
    });
  }
}

AttentionJob DeviceDecoder::decode_job(const Chunk& chunk, int layer, const KeyGroup& group) const {
  return {chunk.cache,           layer,
          config_.n_heads,       config_.window(layer),
          config_.score_scale(), chunk.decoding + group.first_span,
          group.spans,           group.longest,
          b_->q.data(),          b_->attended.data(),
          b_->scratch.data()};
}

void DeviceDecoder::attend(const Chunk& chunk, int layer) {
  for (const KeyGroup& group : chunk.groups) {
    AttentionJob job = decode_job(chunk, layer, group);
    if (group.longest > 0) {
      with_keys(chunk, group, [&](const SealKeys* keys) {
        check_call(attention_split(job, keys, stream_), "attention");
      });
      check_call(attention_fold(job, stream_), "attention");
    }
    if (group.most_tokens > 0) {
      job.sequences = chunk.prefilling + group.first_span;
      job.most = group.most_tokens;
      with_keys(chunk, group, [&](const SealKeys* keys) {
        check_call(attention_prefill(job, keys, stream_), "attention");
      });
    }
  }
}

void DeviceDecoder::project(Chunk& chunk, int layer, PrepareJob job,
                            std::initializer_list<Product> products) {
  Buffers& b = *b_;
  const Range& shrinks = chunk.shrinks_of(layer, products.begin()->first);
  job.tokens = chunk.rows;
  job.codes = b.codes.data();
  job.scales = b.scales.data();
  job.shrinks = chunk.shrinks_on_device + shrinks.first;
  job.shrink_count = shrinks.count;
  job.units = shrink_units(chunk.shrinks.data() + shrinks.first, shrinks.count, job.planes);
  job.sum = chunk.take_sum(job);
  check_call(prepare_input(job, stream_), "a layer's input");
  const LayerOnDevice& w = weights_.layers[static_cast<size_t>(layer)];
  MatmulJob product{
      {chunk.rows, job.cols, job.planes, b.codes.data(), b.scales.data()}, false, 0, {}};
  for (const auto& [linear, y] : products) {
    const DeviceMatrix& m = w.linears[static_cast<size_t>(linear)].view();
    const Range& terms = chunk.terms_of(layer, linear);
    const float* bias = linear == Linear::kQ   ? w.q_bias.data()
                        : linear == Linear::kK ? w.k_bias.data()
                        : linear == Linear::kV ? w.v_bias.data()
                                               : nullptr;
    product.parts[product.count++] = {m,           bias, chunk.terms + terms.first,
                                      terms.count, y,    static_cast<size_t>(m.rows)};
  }
  check_call(matmul(product, stream_), "a layer's products");
}

void DeviceDecoder::head(const Chunk& chunk, int first, int count) {
  Buffers& b = *b_;
  const auto vocab = static_cast<size_t>(config_.vocab_size);
  PrepareJob job = chunk.normed(weights_.final_norm.data(), config_, 2);
  job.tokens = count;
  job.rows = chunk.output_rows + first;
  job.codes = b.codes.data();
  job.scales = b.scales.data();
  check_call(prepare_input(job, stream_), "the head's input");
  const bool on_host = chunk.logits_in == LogitsIn::kHost;
  float* logits = on_host ? b.logits.data() : chunk.outputs[static_cast<size_t>(first)].logits;
  const MatmulJob product{{count, config_.d_model, 2, b.codes.data(), b.scales.data()},
                          false,
                          1,
                          {{weights_.output().view(), nullptr, nullptr, 0, logits, vocab}}};
  check_call(matmul(product, stream_), "the head");
  if (on_host)
    check_call(cudaMemcpyAsync(b.host_logits.data(), b.logits.data(),
                               static_cast<size_t>(count) * vocab * sizeof(float),
                               cudaMemcpyDeviceToHost, stream_),
               "copying logits");
}

void DeviceDecoder::take_logits(const Chunk& chunk, int first, int count) {
  if (chunk.logits_in == LogitsIn::kDevice)
    return;
  const size_t bytes = static_cast<size_t>(config_.vocab_size) * sizeof(float);
  for (int i = 0; i < count; ++i)
    std::memcpy(chunk.outputs[static_cast<size_t>(first + i)].logits,
                b_->host_logits.data() + static_cast<size_t>(i) * bytes, bytes);
  b_->host_logits.wipe(static_cast<size_t>(count) * bytes);
}

} // namespace ptmo::cuda
