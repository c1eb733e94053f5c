// The whole forward pass of a tiny model: right against float64, and the same bits however the
// work is split, chunked or sealed. Runs itself once for every kernel level of this CPU.
#include "check.h"
#include "every_level.h"
#include "sealed_session.h"
#include "tiny_model.h"

#include <algorithm>
#include <set>
#include <stdexcept>

namespace ptmo::test {
namespace {

constexpr int kTokens = 45; // three pages of 16 rows, the last one partly filled

std::vector<int32_t> prompt() {
  Random random(80);
  std::vector<int32_t> out;
  for (int i = 0; i < kTokens; ++i)
    out.push_back(random.below(50));
  return out;
}

struct Setting {
  KvType type;
  bool integer;
  int threads = 1, chunk = 128, step = kTokens; // tokens a forward call
  bool sealed = false;
};

std::vector<float> logits_of(const TinyModel& model, const Setting& s) {
  const auto decoder = model.decoder(s.type, s.threads, s.integer, s.chunk);
  PageArena pages(model.layout(s.type), 4);
  SecretArena secrets(4096);
  const auto session =
      s.sealed ? sealed_session(pages, secrets, 1, 9) : std::make_unique<KvSession>(pages, 1);
  const std::vector<int32_t> tokens = prompt();
  std::vector<float> out(static_cast<size_t>(kTokens) * 50);
  for (int done = 0; done < kTokens; done += s.step)
    feed(*decoder, *session, tokens.data() + done, std::min(s.step, kTokens - done), Logits::kAll,
         out.data() + static_cast<size_t>(done) * 50, {});
  CHECK_EQ(session->length(), kTokens);
  return out;
}

// A model in which one channel of every block of the readers' input is 200 times the others, and
// the readers' weights on it are zero: 8 bits leave the others next to no codes. `raised` is the
// norm or the matrix that makes this input. Only the readers read integers.
TinyModel with_large_channels(const std::string& raised, const std::set<std::string>& readers) {
  constexpr int kChannel = 5;
  TinyModel model(89, ModelConfig{1, 64, 4, 2, 32, 96, 50, 300, 1e-5f});
  Random random(90);
  for (auto& [name, w] : model.matrices) {
    if (readers.count(name) != 0) {
      w = random_matrix(random, WeightType::kInt8, w.rows, w.cols, 32);
      for (size_t i = kChannel; i < w.codes.size(); i += 32)
        w.codes[i] = 0;
      continue;
    }
    PlainMatrix floats{WeightType::kF32, w.rows, w.cols, 0, {}, {}, {}, {}};
    for (int r = 0; r < w.rows; ++r) {
      const float factor = name == raised && r % 32 == kChannel ? 200.0f : 1.0f;
      for (int c = 0; c < w.cols; ++c)
        floats.values.push_back(static_cast<float>(w.weight(r, c)) * factor);
    }
    w = floats;
  }
  const auto norm = model.vectors.find(raised);
  for (size_t i = kChannel; norm != model.vectors.end() && i < norm->second.size(); i += 32)
    norm->second[i] *= 200.0f;
  return model;
}

} // namespace

TEST(logits_are_those_of_the_float64_decoder) {
  for (const int dim : {16, 32}) {
    const TinyModel model(81, dim);
    const std::vector<double> want = model.logits(prompt());
    const auto error = [&](KvType type, bool integer) {
      return relative_error(logits_of(model, {type, integer}), want);
    };
    set_context("head_dim ", dim);
    CHECK_NEAR(error(KvType::kF32, false), 0.0, 1e-5);  // float roundings over two layers
    CHECK_NEAR(error(KvType::kF16, false), 0.0, 2e-3);  // K and V of 11 bits
    CHECK_NEAR(error(KvType::kInt8, false), 0.0, 3e-2); // K and V of 8 bits
    CHECK_NEAR(error(KvType::kInt4, false), 0.0, 0.5);  // K and V of 4 bits
    CHECK_NEAR(error(KvType::kInt8, true), 0.0, 5e-2);  // and integer activations
  }
}

TEST(other_families_give_the_logits_of_the_float64_decoder) {
  const auto check = [](const ModelConfig& config) {
    const TinyModel model(88, config);
    const std::vector<double> want = model.logits(prompt());
    set_context("head_dim ", config.head_dim, " window ", config.sliding_window);
    CHECK_NEAR(relative_error(logits_of(model, {KvType::kF32, false}), want), 0.0, 1e-5);
    CHECK_NEAR(relative_error(logits_of(model, {KvType::kInt8, true}), want), 0.0, 5e-2);
  };
  for (const int dim : {16, 32})
    check(qwen3_config(dim));
  // Windows that end inside a page of 16 rows, at its edges, at the prompt's end and beyond.
  for (const int window : {1, 7, 15, 16, 17, 31, 32, 33, kTokens - 1, kTokens, kTokens + 1, 200})
    check(gemma3_config(32, window));
}

TEST(inputs_of_16_bits_keep_what_stands_beside_a_large_channel) {
  const auto error = [](const std::string& raised, const std::set<std::string>& readers) {
    const TinyModel model = with_large_channels(raised, readers);
    set_context(raised);
    return relative_error(logits_of(model, {KvType::kF32, true}), model.logits(prompt()));
  };
  // 16 bits give 0.010, 0.0003 and 0.002; 8 bits would give 0.95, 0.06 and 0.44.
  CHECK_NEAR(error("layers.0.attn_norm", {"layers.0.q", "layers.0.k", "layers.0.v"}), 0.0, 3e-2);
  CHECK_NEAR(error("layers.0.up", {"layers.0.down"}), 0.0, 1e-2);
  CHECK_NEAR(error("final_norm", {"head"}), 0.0, 1e-2);
}

TEST(a_window_one_token_shorter_gives_other_logits) {
  const TinyModel model(88, gemma3_config(32, 20)), shorter(88, gemma3_config(32, 19));
  const std::vector<double> want = shorter.logits(prompt());
  CHECK(relative_error(logits_of(model, {KvType::kF32, false}), want) > 1e-3);
}

TEST(parameters_that_a_family_needs_are_missed) {
  TinyModel model(88, gemma3_config(32, 20));
  for (const std::string name : {"layers.1.q_norm", "layers.0.k_norm", "layers.1.attn_post_norm",
                                 "layers.0.ffn_post_norm", "inv_freq_local"}) {
    TinyModel without = model;
    without.vectors.erase(name);
    set_context(name);
    CHECK_THROWS(logits_of(without, {KvType::kF32, false}), std::invalid_argument,
                 name == "inv_freq_local" ? name : std::string("lacks a"));
  }
  model.config.local_layers = {true};
  CHECK_THROWS(logits_of(model, {KvType::kF32, false}), std::invalid_argument,
               "local_layers has 1 entries, not 2");
}

TEST(threads_chunks_calls_and_sealing_change_no_bit_of_the_logits) {
  const ModelConfig shapes[] = {TinyModel(82, 16).config, TinyModel(82, 32).config,
                                qwen3_config(32), gemma3_config(32, 20)};
  for (const ModelConfig& shape : shapes) {
    const TinyModel model(82, shape);
    for (const KvType type : {KvType::kInt8, KvType::kInt4, KvType::kF16, KvType::kF32}) {
      for (const bool integer : {true, false}) {
        const std::vector<float> want = logits_of(model, {type, integer});
        const auto same = [&](const Setting& s) {
          set_context("head_dim ", shape.head_dim, " window ", shape.sliding_window, " kv ",
                      static_cast<int>(type), " integer ", integer, " threads ", s.threads,
                      " chunk ", s.chunk, " step ", s.step, " sealed ", s.sealed);
          CHECK(same_bits(logits_of(model, s), want));
        };
        same({type, integer, 2});
        same({type, integer, 3});
        same({type, integer, 1, 128, kTokens, true});
        same({type, integer, 3, 7, kTokens, true});
        same({type, integer, 1, 1});
        same({type, integer, 2, 7});
        same({type, integer, 1, 128, 1}); // token by token, as in decoding
        same({type, integer, 2, 7, 20, true});
      }
    }
  }
}

TEST(the_last_logits_alone_equal_the_last_of_all) {
  const TinyModel model(83, 16);
  const std::vector<float> all = logits_of(model, {KvType::kInt8, true});
  const auto decoder = model.decoder(KvType::kInt8, 2, true, 7);
  PageArena pages(model.layout(KvType::kInt8), 4);
  KvSession session(pages, 1);
  std::vector<float> last(50);
  feed(*decoder, session, prompt().data(), kTokens, Logits::kLast, last.data(), {});
  CHECK(same_bits(last, {all.end() - 50, all.end()}));
}

TEST(heads_of_every_type_give_close_logits_with_integer_activations) {
  for (const WeightType type :
       {WeightType::kInt4, WeightType::kInt8, WeightType::kF16, WeightType::kF32}) {
    const TinyModel model(84, 16, type);
    set_context("head type ", static_cast<int>(type));
    CHECK_NEAR(relative_error(logits_of(model, {KvType::kInt8, true}), model.logits(prompt())), 0.0,
               5e-2);
    CHECK(same_bits(logits_of(model, {KvType::kInt8, true, 1, 1}),
                    logits_of(model, {KvType::kInt8, true, 2, 128})));
  }
}

TEST(a_restore_hook_that_changes_nothing_changes_no_logit_and_sees_every_layer_and_chunk) {
  const TinyModel model(85, 32);
  const auto decoder = model.decoder(KvType::kInt8, 2, true, 20);
  PageArena pages(model.layout(KvType::kInt8), 4);
  KvSession session(pages, 1);
  std::vector<float> out(kTokens * 50), buffer(20 * 128);
  std::string seen;
  const AttentionRestore hook{buffer.data(), 20, [&](int layer, int tokens) {
                                seen += std::to_string(layer) + ":" + std::to_string(tokens) + " ";
                              }};
  feed(*decoder, session, prompt().data(), kTokens, Logits::kAll, out.data(), hook);
  CHECK(same_bits(out, logits_of(model, {KvType::kInt8, true})));
  CHECK_EQ(seen, std::string("0:20 1:20 0:20 1:20 0:5 1:5 "));
}

TEST(refused_calls_leave_the_session_unchanged) {
  const TinyModel model(86, 16);
  const auto decoder = model.decoder(KvType::kInt8, 1, true, 8);
  PageArena pages(model.layout(KvType::kInt8), 2);
  KvSession session(pages, 1);
  std::vector<float> out(50);
  std::vector<int32_t> tokens = prompt();
  const auto forward = [&](int n) {
    feed(*decoder, session, tokens.data(), n, Logits::kLast, out.data(), {});
  };
  forward(10);
  CHECK_THROWS(forward(0), std::invalid_argument, "no tokens");
  CHECK_THROWS(forward(291), std::invalid_argument, "exceed the context");
  CHECK_THROWS(forward(40), std::runtime_error, "KV cache is full"); // in its third chunk
  CHECK_EQ(session.length(), 10);
  CHECK_EQ(session.page_count(), 1);
  for (const int32_t bad : {-1, 50, 1 << 30}) {
    tokens[3] = bad;
    CHECK_THROWS(forward(5), std::invalid_argument, "token id " + std::to_string(bad));
  }
  CHECK_EQ(session.length(), 10);
  session.close();
  CHECK_THROWS(forward(1), std::invalid_argument, "closed");
}

TEST(a_session_of_another_layout_is_refused) {
  const TinyModel model(87, 16);
  const auto decoder = model.decoder(KvType::kInt8, 1, true, 8);
  PageArena pages(PageLayout(2, 2, 16, 32, KvType::kInt8), 2);
  KvSession session(pages, 1);
  std::vector<float> out(50);
  CHECK_THROWS(feed(*decoder, session, prompt().data(), 5, Logits::kLast, out.data(), {}),
               std::invalid_argument, "layout");
  CHECK_THROWS(Decoder(model.config, PageLayout(2, 2, 32, 16, KvType::kInt8), 1, true, 8),
               std::invalid_argument, "layout");
}

} // namespace ptmo::test

int main(int argc, char** argv) {
  return ptmo::test::run_on_every_level(argc, argv);
}
