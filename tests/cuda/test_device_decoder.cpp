// The device's whole forward pass, on the emulator, against float64 and against the CPU's.
#include "device_model.h"

namespace ptmo::test {

TEST(logits_are_those_of_the_float64_decoder_and_of_the_cpu) {
  for (const ModelConfig& config : {llama_config(16), llama_config(32), qwen3_config(32),
                                    gemma3_config(32, 7), gemma3_config(32, 16)}) {
    const TinyModel model = integer_model(81, config);
    const std::vector<int32_t> tokens = tokens_of(3, kTokens);
    const std::vector<double> want = model.logits(tokens);
    for (const KvType type : {KvType::kInt8, KvType::kF16}) {
      Device device(model, type);
      const auto session = device.open(false);
      const std::vector<float> got = device.feed(*session, tokens, kTokens);
      set_context("head_dim ", config.head_dim, " qk_norm ", config.qk_norm, " window ",
                  config.sliding_window, " type ", static_cast<int>(type));
      CHECK_NEAR(relative_error(got, want), 0.0, 5e-2);
      CHECK_NEAR(difference(got, cpu_logits(model, type, tokens)), 0.0, 1e-2); // codes at a half
    }
  }
}

TEST(a_sealed_cache_gives_the_very_same_logits_however_tokens_come) {
  const TinyModel model = integer_model(82, llama_config(32));
  const std::vector<int32_t> tokens = tokens_of(5, kTokens);
  for (const KvType type : {KvType::kInt8, KvType::kInt4, KvType::kF16}) {
    for (const int step : {1, 7, kTokens}) {
      Device device(model, type, 16);
      const auto plain = device.open(false), sealed = device.open(true);
      set_context("type ", static_cast<int>(type), " step ", step);
      CHECK(same_bits(device.feed(*plain, tokens, step), device.feed(*sealed, tokens, step)));
    }
  }
}

// The first layer sees seven rows, the second all: its partials take more room.
TEST(a_long_sequence_decodes_behind_a_layer_with_a_window) {
  ModelConfig config = gemma3_config(16, 7);
  config.context_length = 600;
  const TinyModel model = integer_model(84, config);
  const std::vector<int32_t> tokens = tokens_of(6, 520);
  Device device(model, KvType::kInt8, 64, 70);
  const auto prompt = device.open(true), stepped = device.open(true);
  const std::vector<float> all = device.feed(*prompt, tokens, 520);
  device.feed(*stepped, {tokens.begin(), tokens.end() - 1}, 519);
  const std::vector<float> got = device.feed(*stepped, {tokens.back()}, 1);
  CHECK_NEAR(difference(got, {all.end() - kVocab, all.end()}), 0.0, 1e-2);
}

TEST(many_sealed_sequences_decode_together_as_plain_ones_and_as_alone) {
  constexpr int kSequences = 19; // more keys than a launch has room for
  const TinyModel model = integer_model(83, llama_config(16));
  Device device(model, KvType::kInt8, 128);
  std::vector<std::vector<int32_t>> tokens;
  for (int i = 0; i < kSequences; ++i)
    tokens.push_back(tokens_of(i, 1 + i % 4 * 5));
  const auto together = [&](bool seal) {
    std::vector<std::unique_ptr<KvSession>> sessions;
    std::vector<Sequence> batch;
    std::vector<float> logits(kSequences * kVocab);
    for (size_t i = 0; i < kSequences; ++i) {
      sessions.push_back(device.open(seal && i % 5 != 4));
      batch.push_back({sessions[i].get(), tokens[i].data(), static_cast<int>(tokens[i].size()),
                       Logits::kLast, logits.data() + i * kVocab});
    }
    device.decoder.forward(batch.data(), kSequences, {});
    return logits;
  };
  const std::vector<float> sealed = together(true);
  CHECK(same_bits(sealed, together(false)));
  for (int i = 0; i < kSequences; ++i) {
    const auto alone = device.open(true);
    const std::vector<float> all = device.feed(*alone, tokens[static_cast<size_t>(i)], 300);
    const std::vector<float> want(all.end() - kVocab, all.end());
    const std::vector<float> got(sealed.begin() + i * kVocab, sealed.begin() + (i + 1) * kVocab);
    set_context("sequence ", i);
    // Sums of another shape have another order; a code at a half then falls to the other side.
    CHECK_NEAR(difference(got, want), 0.0, 1e-2);
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
