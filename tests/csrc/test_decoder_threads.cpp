// What may run at the same time: a decoder's own workers, readers of sizes, and other engines; and
// what takes turns under one lock, as the Python engine does it: forward passes, forks, dumps.
// Most of its worth it has under ThreadSanitizer.
#include "check.h"
#include "sealed_session.h"
#include "tiny_model.h"

#include <atomic>
#include <mutex>
#include <thread>

namespace ptmo::test {
namespace {

constexpr int kVocab = 50, kPrompt = 21, kSteps = 6;

// What one engine holds.
struct TinyEngine {
  std::unique_ptr<Decoder> decoder;
  PageArena pages;
  SecretArena secrets{4096};
  std::unique_ptr<KvSession> session;

  TinyEngine(const TinyModel& model, int threads)
      : decoder(model.decoder(KvType::kInt8, threads, true, 8)),
        pages(model.layout(KvType::kInt8), 16), session(sealed_session(pages, secrets, 1, 41)) {}

  // Feeds a prompt, then token by token; `turn` runs each forward pass it is given.
  template <typename Turn> std::vector<float> run(Turn turn) {
    const std::vector<int32_t> tokens = tokens_of(3, kPrompt + kSteps);
    std::vector<float> out(tokens.size() * kVocab);
    for (int at = 0; at < kPrompt + kSteps; at += at == 0 ? kPrompt : 1)
      turn([&] {
        feed(*decoder, *session, tokens.data() + at, at == 0 ? kPrompt : 1, Logits::kAll,
             out.data() + static_cast<size_t>(at) * kVocab, {});
      });
    return out;
  }
  std::vector<float> run() {
    return run([](const auto& forward) { forward(); });
  }
};

} // namespace

TEST(readers_of_sizes_do_not_disturb_a_forward_pass) {
  const TinyModel model(6, 32);
  const std::vector<float> want = TinyEngine(model, 1).run();
  for (const int threads : {2, 4}) {
    set_context("threads ", threads);
    TinyEngine engine(model, threads);
    const size_t bytes = engine.decoder->weights().bytes();
    std::atomic<bool> stop{false};
    std::atomic<int> reads{0}, wrong{0};
    std::thread reader([&] {
      while (!stop.load()) {
        wrong += engine.decoder->weights().bytes() != bytes;
        wrong += engine.decoder->config().vocab_size != kVocab || !engine.session->sealed();
        wrong += engine.pages.layout().bytes_per_token() == 0;
        ++reads;
      }
    });
    while (reads.load() == 0)
      std::this_thread::yield();
    const std::vector<float> got = engine.run();
    stop = true;
    reader.join();
    CHECK_EQ(wrong.load(), 0);
    CHECK(same_bits(got, want));
  }
}

TEST(dumps_and_forks_take_turns_with_forward_passes_under_the_engines_lock) {
  const TinyModel model(6, 32);
  const std::vector<float> want = TinyEngine(model, 1).run();
  for (const int threads : {2, 4}) {
    set_context("threads ", threads);
    TinyEngine engine(model, threads);
    std::mutex lock;
    std::atomic<bool> stop{false};
    std::atomic<int> turns{0};
    std::thread other([&] {
      std::vector<uint8_t> dump;
      for (uint32_t id = 2; !stop.load(); ++id) {
        const std::lock_guard<std::mutex> turn(lock);
        dump.clear();
        for (const int page : engine.pages.pages_in_use())
          dump.insert(dump.end(), engine.pages.page(page), engine.pages.page(page + 1));
        const auto fork = engine.session->fork(id);
        fork->truncate(fork->length() / 2);
        fork->append(1);
        ++turns;
      }
    });
    const std::vector<float> got = engine.run([&](const auto& forward) {
      for (const int seen = turns.load(); turns.load() == seen;)
        std::this_thread::yield(); // the other one's turn
      const std::lock_guard<std::mutex> turn(lock);
      forward();
    });
    stop = true;
    other.join();
    CHECK(same_bits(got, want));
  }
}

TEST(engines_of_their_own_run_at_the_same_time) {
  const TinyModel model(6, 32);
  const std::vector<float> want = TinyEngine(model, 1).run();
  std::vector<std::vector<float>> got(3);
  std::vector<std::thread> engines;
  for (size_t i = 0; i < got.size(); ++i)
    engines.emplace_back([&, i] { got[i] = TinyEngine(model, 1 + static_cast<int>(i)).run(); });
  for (std::thread& engine : engines)
    engine.join();
  for (const std::vector<float>& out : got)
    CHECK(same_bits(out, want));
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
