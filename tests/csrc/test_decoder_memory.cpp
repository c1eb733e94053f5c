// What a forward pass leaves behind, looked for in all of the process's own memory.
#include "check.h"
#include "memory_scan.h"
#include "random_adapter.h"
#include "sealed_session.h"
#include "tiny_model.h"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace ptmo::test {
namespace {

// The first 16 bytes of the plain K and V rows of (layer, head, position).
std::array<Pattern, 2> row_patterns(const KvSession& session, int layer, int head, int position) {
  const PageLayout& l = session.layout();
  AlignedBuffer scratch(l.head_bytes());
  const int rows = std::min(l.rows, session.length() - position / l.rows * l.rows);
  const Tile tile = session.shield().open_tile(session.page(position / l.rows), l, layer, head,
                                               rows, scratch.data());
  const size_t at = static_cast<size_t>(position % l.rows) * l.row_bytes();
  const std::array<Pattern, 2> out = {inverted(tile.k + at), inverted(tile.v + at)};
  secure_wipe(scratch.data(), scratch.size());
  return out;
}

struct Stop : std::runtime_error {
  Stop() : std::runtime_error("stopped by the hook") {}
};

// 5 tokens, then 15 in chunks of 8; the hook looks at the rows of the second chunk in hand.
void check_run(KvType type, int threads, bool integer, bool stop) {
  const TinyModel model(91, 32);
  const auto decoder = model.decoder(type, threads, integer, 8);
  PageArena pages(model.layout(type), 4);
  SecretArena secrets(4096);
  const auto session = sealed_session(pages, secrets, 1, 12);
  const std::vector<int32_t> tokens = {5, 9, 2, 49, 0, 17, 33, 8, 21, 3, 11, 40, 7, 7, 26};
  std::vector<float> out(50), buffer(8 * 128);
  const auto forward = [&](int n, const AttentionRestore& hook) {
    feed(*decoder, *session, tokens.data(), n, Logits::kLast, out.data(), hook);
  };
  forward(5, {});
  std::vector<Pattern> patterns;
  int during = 0, calls = 0;
  const AttentionRestore hook{buffer.data(), 8, [&](int layer, int) {
                                if (++calls != 4) // the second chunk's layer 1
                                  return;
                                for (const int position : {14, 17}) {
                                  for (const Pattern& p :
                                       row_patterns(*session, layer, 1, position))
                                    patterns.push_back(p);
                                }
                                for (const Pattern& p : patterns)
                                  during += occurrences(p) > 0;
                                if (stop)
                                  throw Stop();
                              }};
  set_context("kv ", static_cast<int>(type), " threads ", threads, integer ? " integer" : " float",
              stop ? " stopped" : " to the end");
  if (stop) {
    CHECK_THROWS(forward(15, hook), Stop, "stopped");
    CHECK_EQ(session->length(), 5);
  } else {
    forward(15, hook);
    CHECK_EQ(session->length(), 20);
  }
  CHECK_EQ(patterns.size(), 4u);
  // The search works: in float32 the rows stand as they are in the layer's scratch.
  if (type == KvType::kF32)
    CHECK_EQ(during, 4);
  for (const Pattern& p : patterns)
    CHECK(kRegistersOnStacks || occurrences(p) == 0);
}

// Attention and the MLP add nothing, all norms are one, and the layers are alike: so the inputs of
// q, k and v and of the head are the same at every layer, and so are those of W_down.
TinyModel model_of_one_input() {
  TinyModel model(93, 32);
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    for (const std::string name : {"o", "down"}) {
      PlainMatrix& w = model.matrices.at(layer + name);
      w.scales.assign(w.scales.size(), 0);
      w.mins.assign(w.mins.size(), 0);
    }
    for (const std::string name : {"gate", "up"})
      model.matrices.at(layer + name) = model.matrices.at("layers.0." + name);
    for (const std::string name : {"attn_norm", "ffn_norm"})
      model.vectors.at(layer + name) = model.vectors.at("final_norm");
  }
  return model;
}

template <typename T> Pattern taken(std::vector<T>& codes) {
  const Pattern out = inverted(reinterpret_cast<const uint8_t*>(codes.data()));
  secure_wipe(codes.data(), codes.size() * sizeof(T));
  return out;
}

// What a token's codes begin with in such a model: both bytes of q's, k's and v's input and of
// W_down's, and u of layer 1's q.
std::vector<Pattern> code_patterns(Decoder& decoder, const Adapter& adapter, int32_t token) {
  const kernels::Table& level = kernels::best();
  const ModelConfig& config = decoder.config();
  const Weights& w = decoder.weights();
  const LayerWeights& layer = w.layers[1];
  std::vector<float> x(static_cast<size_t>(config.d_model));
  copy_row(w.embed.packed, token, x.data());
  level.rms_norm(x.data(), w.final_norm.data(), config.d_model, config.rms_eps, x.data());
  Inputs wide(level, x, config.d_model, 16), narrow(level, x, config.d_model);
  std::vector<float> gate(static_cast<size_t>(config.d_ff)), up(gate.size());
  level.matmul(layer.gate.packed, 0, layer.gate.panels(), narrow.integers(), 1, gate.data(), 0);
  level.matmul(layer.up.packed, 0, layer.up.panels(), narrow.integers(), 1, up.data(), 0);
  level.swiglu(gate.data(), up.data(), config.d_ff, gate.data());
  Inputs hidden(level, gate, config.d_ff, 16);
  std::vector<float> u(kernels::kRankChunk);
  std::vector<int8_t> u_codes(u.size());
  level.matmul(adapter.find(1, Linear::kQ)->a, 0, 1, wide.integers(), 1, u.data(), 0);
  level.quantize_row_i8(u.data(), kernels::kRankChunk, u_codes.data());
  return {taken(wide.codes), taken(wide.low), taken(hidden.codes), taken(hidden.low),
          taken(u_codes)};
}

} // namespace

TEST(no_plain_row_is_in_memory_after_a_sealed_forward_pass) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kInt8, KvType::kInt4})
    for (const int threads : {1, 2})
      for (const bool integer : {true, false})
        check_run(type, threads, integer, false);
}

TEST(no_plain_row_is_in_memory_after_the_restore_hook_throws_and_the_length_is_the_old_one) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kInt8, KvType::kInt4})
    for (const int threads : {1, 2})
      for (const bool integer : {true, false})
        check_run(type, threads, integer, true);
}

TEST(no_codes_of_an_input_or_of_a_low_rank_update_are_in_memory_after_a_forward_pass) {
  if (kRegistersOnStacks)
    return;
  const TinyModel model = model_of_one_input();
  const RandomAdapter adapter(model.config, 94, kernels::kRankChunk, true, {Linear::kQ});
  const AdapterSet set = set_of({&adapter});
  const std::vector<int32_t> tokens = {5, 9, 2, 49, 0, 17, 33, 8, 21, 3, 11, 40, 7, 12, 26};
  for (const int threads : {1, 2}) {
    const auto decoder = model.decoder(KvType::kInt8, threads, true, 8);
    PageArena pages(model.layout(KvType::kInt8), 4);
    KvSession session(pages, 1);
    const std::vector<Pattern> patterns = code_patterns(*decoder, *adapter.adapter, tokens.back());
    std::vector<float> out(50), buffer(8 * 128);
    int calls = 0, during = 0;
    const AttentionRestore hook{buffer.data(), 8, [&](int, int) {
                                  if (++calls == 4) // layer 1 of the second chunk, the last token's
                                    for (const Pattern& p : patterns)
                                      during += occurrences(p) > 0;
                                }};
    set_context("threads ", threads);
    for (const Pattern& p : patterns)
      CHECK_EQ(occurrences(p), 0);
    const Sequence sequence{&session, tokens.data(), 15, Logits::kLast, out.data(), &set};
    decoder->forward(&sequence, 1, hook);
    CHECK_EQ(during, 5); // the search works
    for (const Pattern& p : patterns)
      CHECK_EQ(occurrences(p), 0);
  }
}

TEST(a_stopped_session_goes_on_as_if_the_call_had_not_been) {
  const TinyModel model(92, 16);
  const auto decoder = model.decoder(KvType::kInt8, 2, true, 8);
  PageArena pages(model.layout(KvType::kInt8), 4);
  KvSession stopped(pages, 1), calm(pages, 2);
  const std::vector<int32_t> tokens = {5, 9, 2, 49, 0, 17, 33, 8, 21, 3, 11, 40};
  std::vector<float> buffer(8 * 64), first(50), second(50);
  const AttentionRestore hook{buffer.data(), 8, [](int, int) { throw Stop(); }};
  for (KvSession* session : {&stopped, &calm})
    feed(*decoder, *session, tokens.data(), 12, Logits::kLast, first.data(), {});
  CHECK_THROWS(feed(*decoder, stopped, tokens.data(), 12, Logits::kLast, first.data(), hook), Stop,
               "hook");
  CHECK_EQ(stopped.length(), 12);
  feed(*decoder, stopped, tokens.data(), 12, Logits::kLast, first.data(), {});
  feed(*decoder, calm, tokens.data(), 12, Logits::kLast, second.data(), {});
  CHECK(same_bits(first, second));
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
