// A batch of sequences: the same bits as each alone, and all or nothing.
#include "check.h"
#include "tiny_model.h"

namespace ptmo::test {
namespace {

constexpr int kVocab = 50;

std::vector<float> alone(const TinyModel& model, KvType type, const std::vector<int32_t>& tokens) {
  const auto decoder = model.decoder(type, 1, true, 128);
  PageArena pages(model.layout(type), 8);
  KvSession session(pages, 1);
  std::vector<float> out(tokens.size() * kVocab);
  feed(*decoder, session, tokens.data(), static_cast<int>(tokens.size()), Logits::kAll, out.data(),
       {});
  return out;
}

} // namespace

// Prompts of 1 to 40 tokens in one call, cut into chunks that split sequences at odd places, then
// three steps of one token each: batched decoding.
TEST(a_batch_gives_each_sequence_the_bits_it_gets_alone) {
  const TinyModel model(5, 32);
  const int lengths[] = {40, 1, 17, 33};
  for (const int threads : {1, 2, 3}) {
    for (const int chunk : {1, 7, 128}) {
      const auto decoder = model.decoder(KvType::kInt8, threads, true, chunk);
      PageArena pages(model.layout(KvType::kInt8), 32);
      std::vector<std::unique_ptr<KvSession>> sessions;
      std::vector<std::vector<int32_t>> tokens;
      std::vector<std::vector<float>> got;
      for (int i = 0; i < 4; ++i) {
        sessions.push_back(std::make_unique<KvSession>(pages, i));
        tokens.push_back(tokens_of(i, lengths[i] + 3));
        got.emplace_back(tokens.back().size() * kVocab);
      }
      for (int step = 0; step <= 3; ++step) {
        std::vector<Sequence> batch;
        for (int i = 0; i < 4; ++i) {
          const int at = step == 0 ? 0 : lengths[i] + step - 1;
          batch.push_back({sessions[i].get(), tokens[i].data() + at, step == 0 ? lengths[i] : 1,
                           step == 0 ? Logits::kAll : Logits::kLast, got[i].data() + at * kVocab});
        }
        decoder->forward(batch.data(), 4, {});
      }
      for (int i = 0; i < 4; ++i)
        CHECK(got[i] == alone(model, KvType::kInt8, tokens[i]));
    }
  }
}

TEST(a_batch_that_fails_takes_every_session_back) {
  const TinyModel model(5, 32);
  const auto decoder = model.decoder(KvType::kInt8, 2, true, 8);
  PageArena pages(model.layout(KvType::kInt8), 3);
  KvSession first(pages, 1), second(pages, 2);
  const std::vector<int32_t> tokens = tokens_of(1, 40);
  std::vector<float> out(2 * kVocab);
  Sequence batch[] = {{&first, tokens.data(), 5, Logits::kLast, out.data()},
                      {&second, tokens.data(), 4, Logits::kLast, out.data() + kVocab}};
  decoder->forward(batch, 2, {});
  batch[1].n = 40; // three pages, one is free
  CHECK_THROWS(decoder->forward(batch, 2, {}), std::runtime_error, "KV cache is full");
  CHECK_EQ(first.length(), 5);
  CHECK_EQ(second.length(), 4);
  batch[1] = batch[0];
  CHECK_THROWS(decoder->forward(batch, 2, {}), std::invalid_argument, "twice");
  CHECK_THROWS(decoder->forward(batch, 0, {}), std::invalid_argument, "no sequences");
}

} // namespace ptmo::test

int main(int argc, char** argv) {
  return ptmo::test::run_all(argc, argv);
}
