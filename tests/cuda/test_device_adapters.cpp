// Adapters on the device: the merged weights in float64, the CPU's engine, and batches in which
// every request has a set of its own.
#include "device_model.h"
#include "device_under_test.h"

#include <stdexcept>

namespace ptmo::test {
namespace {

const std::vector<std::vector<Linear>> kSubsets = {{Linear::kQ, Linear::kV},
                                                   {Linear::kK},
                                                   {Linear::kO, Linear::kDown},
                                                   {Linear::kGate},
                                                   {Linear::kUp, Linear::kDown}};

// The bounds of the base model (test_device_decoder.cpp). Without the adapters the logits are
// somewhere else.
void check_merged(const TinyModel& model, const std::vector<const RandomAdapter*>& adapters) {
  const AdapterSet set = set_of(adapters);
  const std::vector<int32_t> tokens = tokens_of(3, kTokens);
  const std::vector<double> want = merged(model, adapters).logits(tokens);
  Device device(model, KvType::kInt8);
  const std::vector<float> got = device.feed(*device.open(true), tokens, kTokens, &set);
  CHECK_NEAR(relative_error(got, want), 0.0, 5e-2);
  CHECK_NEAR(difference(got, cpu_logits(model, KvType::kInt8, tokens, &set)), 0.0, 2e-2);
  CHECK(relative_error(cpu_logits(model, KvType::kInt8, tokens), want) > 1e-1);
}

} // namespace

TEST(logits_are_those_of_the_merged_weights_at_every_rank) {
  for (const int dim : {16, 32}) {
    const TinyModel model = integer_model(201, llama_config(dim));
    for (const int rank : {1, 16, 23, 64}) {
      set_context("head_dim ", dim, " rank ", rank);
      const RandomAdapter adapter(model.config, 7, rank, true);
      check_merged(model, {&adapter});
    }
  }
}

TEST(logits_are_those_of_the_merged_weights_on_some_linears) {
  const TinyModel model = integer_model(202, llama_config(16));
  for (size_t i = 0; i < kSubsets.size(); ++i) {
    set_context("subset ", i);
    const RandomAdapter adapter(model.config, 8, 16, true, kSubsets[i], 1.5f);
    check_merged(model, {&adapter});
  }
}

TEST(three_adapters_add_up) {
  for (const ModelConfig& config : {llama_config(16), qwen3_config(32), gemma3_config(32, 7)}) {
    const TinyModel model = integer_model(203, config);
    const RandomAdapter all(config, 1, 23, true), some(config, 2, 64, true, kSubsets[0]),
        other(config, 3, 1, true, kSubsets[4]);
    set_context("qk_norm ", config.qk_norm, " window ", config.sliding_window);
    check_merged(model, {&all, &some, &other});
    const AdapterSet set = set_of({&other, &all});
    const std::vector<int32_t> tokens = tokens_of(2, 20);
    Device device(model, KvType::kInt4, 16);
    CHECK(same_bits(device.feed(*device.open(true), tokens, 20, &set),
                    device.feed(*device.open(false), tokens, 20, &set)));
  }
}

// 16 sequences with sets of up to 5 adapters: more terms of one linear than any launch counts.
TEST(every_request_of_a_batch_has_a_set_of_its_own) {
  const TinyModel model = integer_model(204, llama_config(16));
  std::vector<std::unique_ptr<RandomAdapter>> adapters;
  for (int i = 0; i < 5; ++i)
    adapters.push_back(std::make_unique<RandomAdapter>(
        model.config, i, 1 + 13 * i, true,
        i % 2 ? kSubsets[static_cast<size_t>(i)]
              : std::vector<Linear>{std::begin(kAllLinears), std::end(kAllLinears)}));
  constexpr int kSequences = 16;
  std::vector<AdapterSet> sets(kSequences);
  for (int i = 0; i < kSequences; ++i)
    for (int j = 0; j < i % 6; ++j)
      sets[static_cast<size_t>(i)].adapters.push_back(
          adapters[static_cast<size_t>((i + j) % 5)]->adapter);
  for (const int chunk : {13, 64}) {
    Device device(model, KvType::kInt8, chunk);
    std::vector<std::unique_ptr<KvSession>> sessions;
    std::vector<std::vector<int32_t>> tokens;
    std::vector<Sequence> batch;
    std::vector<float> got(kSequences * kVocab);
    for (int i = 0; i < kSequences; ++i) {
      sessions.push_back(device.open(true));
      tokens.push_back(tokens_of(i, 1 + i % 3 * 4));
    }
    for (size_t i = 0; i < kSequences; ++i)
      batch.push_back({sessions[i].get(), tokens[i].data(), static_cast<int>(tokens[i].size()),
                       Logits::kLast, got.data() + i * kVocab, i == 9 ? nullptr : &sets[i]});
    device.decoder.forward(batch.data(), kSequences, {});
    for (size_t i = 0; i < kSequences; ++i) {
      const auto alone = device.open(false);
      const std::vector<float> all =
          device.feed(*alone, tokens[i], 64, i == 9 ? nullptr : &sets[i]);
      set_context("chunk ", chunk, " sequence ", i);
      CHECK_NEAR(difference({got.begin() + static_cast<long>(i) * kVocab,
                             got.begin() + static_cast<long>(i + 1) * kVocab},
                            {all.end() - kVocab, all.end()}),
                 0.0, 1e-2); // sums of other shapes: a code at a half turns
    }
  }
}

TEST(adapters_change_between_calls_and_leave_the_device_with_the_hosts_form) {
  const TinyModel model = integer_model(205, llama_config(16));
  const std::vector<int32_t> tokens = tokens_of(4, 9);
  Device device(model, KvType::kInt8);
  const std::vector<float> plain = device.feed(*device.open(false), tokens, 9);
  const size_t before = device_blocks().size();
  {
    const RandomAdapter a(model.config, 1, 16, true), b(model.config, 2, 16, true);
    const AdapterSet sets[] = {set_of({&a}), set_of({&b})};
    std::vector<std::vector<float>> got;
    for (const int i : {0, 1, 0})
      got.push_back(device.feed(*device.open(false), tokens, 9, &sets[i]));
    CHECK(same_bits(got[0], got[2]));
    CHECK(!same_bits(got[0], got[1]));
    CHECK(device_blocks().size() > before + 2 * 14 * 4 - 1);
  }
  const RandomAdapter last(model.config, 3, 1, true, {Linear::kUp});
  const AdapterSet set = set_of({&last});
  device.feed(*device.open(false), tokens, 9, &set);
  CHECK(device_blocks().size() < before + 2 * 4 + 4); // of `last`, and three lists
  CHECK(same_bits(device.feed(*device.open(false), tokens, 9), plain));
}

TEST(adapters_that_a_device_has_no_kernel_for_are_refused_and_the_session_is_as_it_was) {
  const TinyModel model = integer_model(206, llama_config(16));
  const RandomAdapter codes(model.config, 1, 8, true), floats(model.config, 1, 8, false);
  const AdapterSet good = set_of({&codes}), mixed = set_of({&codes, &floats});
  AdapterSet many;
  for (int i = 0; i < 9; ++i)
    many.adapters.push_back(codes.adapter);
  Device device(model, KvType::kInt8);
  const auto session = device.open(true);
  const std::vector<int32_t> tokens = tokens_of(5, 12);
  device.feed(*session, tokens, 12, &good);
  CHECK_THROWS(device.feed(*session, tokens, 12, &mixed), std::invalid_argument,
               "a CUDA device needs INT8 adapters");
  CHECK_THROWS(device.feed(*session, tokens, 12, &many), std::invalid_argument, "more than 8");
  CHECK_EQ(session->length(), 12);
  const auto calm = device.open(true);
  device.feed(*calm, tokens, 12, &good);
  CHECK(same_bits(device.feed(*session, tokens, 12, &good), device.feed(*calm, tokens, 12, &good)));
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
