// A small model on a device, for tests of the whole engine.
#pragma once

#include "check.h"
#include "cuda/device_decoder.h"
#include "random_adapter.h"
#include "sealed_session.h"
#include "tiny_model.h"

#include <algorithm>

namespace ptmo::test {

constexpr int kTokens = 37; // three pages of 16 rows, the last one partly filled
constexpr int kVocab = 50;
constexpr KvType kTypes[] = {KvType::kInt8, KvType::kInt4, KvType::kF16};

// A device has no float matrices.
inline TinyModel integer_model(uint64_t seed, const ModelConfig& config) {
  TinyModel model(seed, config);
  Random random(seed + 1);
  for (auto& [name, w] : model.matrices)
    if (!w.integer())
      w = random_matrix(random, WeightType::kInt8, w.rows, w.cols, 32);
  return model;
}

inline ModelConfig llama_config(int head_dim) {
  return {2, 64, 4, 2, head_dim, 96, kVocab, 300, 1e-5f};
}

// A device with a model on it, and a secret arena.
struct Device {
  const TinyModel& model;
  cuda::DevicePages pages;
  cuda::DeviceDecoder decoder;
  SecretArena secrets{8192};
  uint32_t next_id = 1;

  Device(const TinyModel& of, KvType type, int chunk = 64, int page_count = 20)
      : model(of), pages(of.layout(type), page_count), decoder(of.config, pages, chunk) {
    cuda::WeightsOnDevice& weights = decoder.weights();
    for (const auto& [name, plain] : model.matrices) {
      const PanelMatrix panels(plain);
      const Matrix& to = weights.prepare(name, plain.type, plain.rows, plain.cols, plain.group);
      std::memcpy(to.data, panels.buffer.data(), to.bytes);
      weights.finish(name);
    }
    for (const auto& [name, values] : model.vectors)
      weights.set_vector(name, values);
  }
  std::unique_ptr<KvSession> open(bool sealed) {
    const uint32_t id = next_id++;
    return sealed ? sealed_session(pages, secrets, id, 9) : std::make_unique<KvSession>(pages, id);
  }
  // Logits of all of a session's next tokens, `step` a call.
  std::vector<float> feed(KvSession& session, const std::vector<int32_t>& tokens, int step,
                          const AdapterSet* adapters = nullptr) {
    std::vector<float> out(tokens.size() * kVocab);
    const int n = static_cast<int>(tokens.size());
    for (int done = 0; done < n; done += step) {
      const Sequence sequence{&session,
                              tokens.data() + done,
                              std::min(step, n - done),
                              Logits::kAll,
                              out.data() + static_cast<size_t>(done) * kVocab,
                              adapters};
      decoder.forward(&sequence, 1, {});
    }
    return out;
  }
};

// Calls `work(device, tokens, next)` for each KV type, on a device of its own: `tokens` to fill the
// cache with, `next` to go on with.
template <typename Work> void on_each_type(uint64_t seed, const Work& work) {
  const TinyModel model = integer_model(seed, llama_config(32));
  const std::vector<int32_t> tokens = tokens_of(1, kTokens), next = tokens_of(2, 5);
  for (const KvType type : kTypes) {
    set_context("type ", static_cast<int>(type));
    Device device(model, type);
    work(device, tokens, next);
  }
}

inline std::vector<float> cpu_logits(const TinyModel& model, KvType type,
                                     const std::vector<int32_t>& tokens,
                                     const AdapterSet* adapters = nullptr) {
  const auto decoder = model.decoder(type, 1, true, 64);
  PageArena pages(model.layout(type), 20);
  KvSession session(pages, 1);
  std::vector<float> out(tokens.size() * kVocab);
  const Sequence sequence{&session,     tokens.data(), static_cast<int>(tokens.size()),
                          Logits::kAll, out.data(),    adapters};
  decoder->forward(&sequence, 1, {});
  return out;
}

inline double difference(const std::vector<float>& a, const std::vector<float>& b) {
  return relative_error(a, {b.begin(), b.end()});
}

} // namespace ptmo::test
