// Decoding steps that are launched as one graph: the bits of launches one by one, whatever changed
// since the graph was recorded. A hook that does nothing keeps a pass from being one graph.
#include "device_model.h"
#include "device_under_test.h"
#include "kv/seal_chacha.h"
#include "memory_scan.h"

namespace ptmo::test {
namespace {

// Two sets of sessions that get the same tokens: one in graphs, one launch by launch.
class Pair {
public:
  Pair(const TinyModel& model, KvType type, int chunk = 64, int pages = 20)
      : device(model, type, chunk, pages) {}

  void open(bool sealed) {
    for (auto* sessions : {&recorded, &single})
      sessions->push_back(device.open(sealed));
  }
  void close(size_t i) {
    for (auto* sessions : {&recorded, &single})
      sessions->erase(sessions->begin() + static_cast<std::ptrdiff_t>(i));
  }
  void feed(size_t i, const std::vector<int32_t>& tokens) {
    for (auto* sessions : {&recorded, &single})
      device.feed(*(*sessions)[i], tokens, 64);
  }

  // One token for each session, the same bits in both ways; returns whether that took a graph.
  bool step(int seed, const AdapterSet* adapters = nullptr) {
    const uint64_t before = device.decoder.graph_launches();
    const std::vector<float> got = pass(recorded, seed, adapters, {});
    const uint64_t launched = device.decoder.graph_launches() - before;
    std::vector<float> buffer(64 * static_cast<size_t>(device.model.config.q_size()));
    const std::vector<float> want =
        pass(single, seed, adapters, {buffer.data(), 64, [](int, int) {}});
    CHECK_EQ(device.decoder.graph_launches() - before, launched);
    CHECK(same_bits(got, want));
    return launched == 1;
  }

  Device device;
  std::vector<std::unique_ptr<KvSession>> recorded, single;

private:
  std::vector<float> pass(const std::vector<std::unique_ptr<KvSession>>& sessions, int seed,
                          const AdapterSet* adapters, const AttentionRestore& hook) {
    const std::vector<int32_t> tokens = tokens_of(seed, static_cast<int>(sessions.size()));
    std::vector<float> out(sessions.size() * kVocab);
    std::vector<Sequence> batch;
    for (size_t i = 0; i < sessions.size(); ++i)
      batch.push_back({sessions[i].get(), tokens.data() + i, 1, Logits::kLast,
                       out.data() + i * kVocab, i % 2 == 0 ? adapters : nullptr});
    device.decoder.forward(batch.data(), static_cast<int>(batch.size()), hook);
    return out;
  }
};

} // namespace

TEST(a_graph_gives_the_bits_of_its_launches_for_one_sequence_and_for_many) {
  for (const ModelConfig& config : {llama_config(32), gemma3_config(32, 7)}) {
    const TinyModel model = integer_model(601, config);
    for (const KvType type : {KvType::kInt8, KvType::kF16}) {
      for (const int count : {1, 3}) {
        set_context("window ", config.sliding_window, " type ", static_cast<int>(type), " count ",
                    count);
        Pair pair(model, type);
        for (int i = 0; i < count; ++i) {
          pair.open(i % 3 != 1);
          pair.feed(static_cast<size_t>(i), tokens_of(i, 13 + i)); // pages have 16 rows
        }
        CHECK(!pair.step(0)); // seen for the first time
        for (int i = 1; i < 6; ++i)
          CHECK(pair.step(i));
      }
    }
  }
}

TEST(sixteen_sequences_are_a_graph_and_seventeen_are_not) {
  const TinyModel model = integer_model(602, llama_config(16));
  for (const int count : {16, 17}) {
    set_context("count ", count);
    Device device(model, KvType::kInt8);
    std::vector<std::unique_ptr<KvSession>> sessions;
    for (int i = 0; i < count; ++i)
      sessions.push_back(device.open(true));
    for (int step = 0; step < 3; ++step) {
      const std::vector<int32_t> tokens = tokens_of(step, count);
      std::vector<float> logits(static_cast<size_t>(count) * kVocab);
      std::vector<Sequence> batch;
      for (int i = 0; i < count; ++i)
        batch.push_back({sessions[static_cast<size_t>(i)].get(), tokens.data() + i, 1,
                         Logits::kLast, logits.data() + i * kVocab});
      device.decoder.forward(batch.data(), count, {});
      for (int i = 0; step == 0 && i < count; ++i)
        for (int j = 0; j < i; ++j) // first tokens: alike or not
          CHECK_EQ(tokens[static_cast<size_t>(i)] == tokens[static_cast<size_t>(j)],
                   std::equal(logits.begin() + i * kVocab, logits.begin() + (i + 1) * kVocab,
                              logits.begin() + j * kVocab));
    }
    CHECK_EQ(device.decoder.graph_launches(), count == 16 ? 2u : 0u);
  }
}

TEST(a_prompt_in_chunks_of_one_token_is_no_step) {
  const TinyModel model = integer_model(608, llama_config(32));
  const std::vector<int32_t> tokens = tokens_of(2, 5);
  Device narrow(model, KvType::kInt8, 1), wide(model, KvType::kInt8);
  const auto session = narrow.open(true), other = wide.open(true);
  for (int i = 0; i < 2; ++i) {
    std::vector<float> last(kVocab);
    const Sequence prompt{session.get(), tokens.data(), 5, Logits::kLast, last.data()};
    narrow.decoder.forward(&prompt, 1, {});
    const std::vector<float> all = wide.feed(*other, tokens, 1);
    CHECK(same_bits(last, {all.end() - kVocab, all.end()}));
  }
}

TEST(logits_stay_on_the_device_in_any_order_of_the_rows) {
  const TinyModel model = integer_model(609, llama_config(32));
  const RandomAdapter adapter(model.config, 1, 20, true);
  const AdapterSet adapters = set_of({&adapter});
  Device device(model, KvType::kInt8, 16);
  for (const int n : {1, 7}) { // of each sequence: a step, and a prompt over chunks
    set_context("tokens ", n);
    const size_t rows = 4 * static_cast<size_t>(n);
    std::vector<float> host(rows * kVocab), got(rows * kVocab);
    const cuda::Stream stream;
    const cuda::DeviceArray<float> memory(rows * kVocab);
    for (int round = 0; round < 3; ++round) {
      const auto run = [&](float* out, cuda::DeviceDecoder::LogitsIn in) {
        std::vector<std::unique_ptr<KvSession>> sessions;
        std::vector<Sequence> batch;
        const std::vector<int32_t> tokens = tokens_of(round, static_cast<int>(rows));
        for (int i = 0; i < 4; ++i) { // those with an adapter are brought together
          sessions.push_back(device.open(true));
          batch.push_back({sessions.back().get(), tokens.data() + i * n, n, Logits::kAll,
                           out + i * n * kVocab, i % 2 == 0 ? &adapters : nullptr});
        }
        device.decoder.forward(batch.data(), 4, {}, in);
      };
      run(host.data(), cuda::DeviceDecoder::LogitsIn::kHost);
      run(memory.data(), cuda::DeviceDecoder::LogitsIn::kDevice);
      cuda::check_call(cudaMemcpyAsync(got.data(), memory.data(), memory.bytes(),
                                       cudaMemcpyDeviceToHost, stream),
                       "copying out");
      stream.wait();
      CHECK(same_bits(host, got));
    }
  }
  CHECK_EQ(device.decoder.graph_launches(), 4u);
}

TEST(a_graph_serves_other_sessions_and_other_keys_of_the_same_shape) {
  const TinyModel model = integer_model(603, llama_config(32));
  Pair pair(model, KvType::kInt8);
  for (int i = 0; i < 2; ++i) {
    pair.open(true);
    pair.feed(static_cast<size_t>(i), tokens_of(i, 35)); // buffers have grown to their size
  }
  CHECK(!pair.step(0));
  CHECK(pair.step(1));
  for (int round = 0; round < 3; ++round) { // a new key in the slot of an old one
    pair.close(0);
    pair.open(true);
    pair.feed(1, tokens_of(40 + round, 30));
    CHECK(pair.step(10 + round));
  }
  pair.close(0); // other shapes, and back
  CHECK(!pair.step(20));
  pair.open(false);
  CHECK(pair.step(21)); // one is not sealed now: the launch has keys as before
  CHECK(pair.step(22));
}

// A graph is for lengths up to a multiple of 512.
TEST(a_sequence_outgrows_the_graph_of_its_length) {
  ModelConfig config = llama_config(16);
  config.n_layers = 1;
  config.context_length = 600;
  const TinyModel model = integer_model(604, config);
  Pair pair(model, KvType::kInt8, 64, 80);
  for (int i = 0; i < 4; ++i)
    pair.open(true);
  pair.step(1); // attention's partials have room for any length that follows
  for (int i = 0; i < 3; ++i)
    pair.close(1);
  for (int i = 0; i < 10; ++i)
    pair.feed(0, tokens_of(i, 50));
  std::vector<bool> recorded;
  for (int i = 501; i < 517; ++i)
    recorded.push_back(pair.step(i));
  for (int i = 0; i < 16; ++i) // its first step with 512 rows, and with one more
    CHECK_EQ(recorded[static_cast<size_t>(i)], i != 0 && i != 11);
}

TEST(adapters_may_come_and_go_between_steps) {
  const TinyModel model = integer_model(605, llama_config(32));
  const RandomAdapter first(model.config, 1, 20, true), second(model.config, 2, 4, true);
  const AdapterSet one = set_of({&first}), other = set_of({&second}),
                   both = set_of({&first, &second});
  Pair pair(model, KvType::kInt8);
  for (int i = 0; i < 3; ++i) {
    pair.open(i != 0);
    pair.feed(static_cast<size_t>(i), tokens_of(i, 4));
  }
  int seed = 0, recorded = 0;
  for (int round = 0; round < 3; ++round)
    for (const AdapterSet* adapters :
         {&one, &other, &both, static_cast<const AdapterSet*>(nullptr)})
      recorded += pair.step(seed++, adapters);
  CHECK_EQ(recorded, 8); // all but the first round
}

TEST(parameters_that_were_set_anew_are_what_the_next_step_reads) {
  const TinyModel model = integer_model(606, llama_config(32));
  Pair pair(model, KvType::kInt8);
  pair.open(true);
  for (int i = 0; i < 3; ++i)
    pair.step(i);
  std::vector<float> norm = model.vectors.at("final_norm");
  for (float& weight : norm)
    weight *= -2.0f;
  pair.device.decoder.weights().set_vector("final_norm", norm);
  CHECK(!pair.step(4));
  CHECK(pair.step(5));
}

TEST(a_graph_that_fails_takes_its_session_back_and_leaves_no_key) {
  const TinyModel model = integer_model(607, llama_config(32));
  Device device(model, KvType::kInt8);
  const auto session = device.open(true), calm = device.open(true);
  const std::vector<int32_t> tokens = tokens_of(9, 12);
  std::vector<float> want = device.feed(*calm, tokens, 1), out(kVocab);
  device.feed(*session, {tokens.begin(), tokens.begin() + 11}, 1);
  fail_after(DeviceCall::kGraphLaunch, 0);
  const Sequence step{session.get(), tokens.data() + 11, 1, Logits::kLast, out.data()};
  CHECK_THROWS(device.decoder.forward(&step, 1, {}), std::runtime_error, "failed at a graph");
  CHECK_EQ(session->length(), 11);
  fail_after(DeviceCall::kGraphLaunch, -1);
  if (!kSanitized) {
    const auto& key = static_cast<const ChaChaShield&>(session->shield()).key();
    CHECK_EQ(occurrences(inverted(reinterpret_cast<const uint8_t*>(&key))), 0);
  }
  device.decoder.forward(&step, 1, {});
  CHECK(same_bits(out, {want.end() - kVocab, want.end()}));
}

TEST(a_recording_that_broke_off_is_tried_again) {
  const TinyModel model = integer_model(611, llama_config(32));
  Pair pair(model, KvType::kInt8);
  pair.open(true);
  fail_after(DeviceCall::kInstantiate, 0);
  CHECK(!pair.step(0));
  CHECK(!pair.step(1));
  fail_after(DeviceCall::kInstantiate, -1);
  CHECK(pair.step(2));
  CHECK(pair.step(3));
}

TEST(a_step_that_cannot_be_recorded_is_launched_one_by_one) {
  const TinyModel model = integer_model(610, llama_config(32));
  Pair pair(model, KvType::kInt8);
  pair.open(true);
  fail_after(DeviceCall::kInstantiate, 0);
  for (int i = 0; i < 4; ++i)
    CHECK(!pair.step(i));
  fail_after(DeviceCall::kInstantiate, -1);
  CHECK(!pair.step(5)); // nor is it tried for ever
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
