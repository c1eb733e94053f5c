// Adapters beside the weights: y = W x + sum_i s_i B_i (A_i x) against float64, the same bits
// however the work is split, and a set for every request of a batch.
#include "every_level.h"
#include "kernels/reference/panels.h"
#include "model/low_rank_pass.h"
#include "random_adapter.h"
#include "sealed_session.h"

#include <stdexcept>

namespace ptmo::test {
namespace {

constexpr int kTokens = 37, kVocab = 50;

std::vector<int32_t> prompt(int seed = 0) {
  Random random(90 + seed);
  std::vector<int32_t> out;
  for (int i = 0; i < kTokens; ++i)
    out.push_back(random.below(kVocab));
  return out;
}

struct Setting {
  bool integer = true;
  int threads = 1, chunk = 128, step = kTokens; // tokens a forward call
  bool sealed = false;
};

std::vector<float> logits_of(const TinyModel& model, const AdapterSet* set, const Setting& s) {
  const KvType type = s.integer ? KvType::kInt8 : KvType::kF32;
  const auto decoder = model.decoder(type, s.threads, s.integer, s.chunk);
  PageArena pages(model.layout(type), 4);
  SecretArena secrets(4096);
  const auto session =
      s.sealed ? sealed_session(pages, secrets, 1, 9) : std::make_unique<KvSession>(pages, 1);
  const std::vector<int32_t> tokens = prompt();
  std::vector<float> out(static_cast<size_t>(kTokens) * kVocab);
  for (int done = 0; done < kTokens; done += s.step) {
    const Sequence sequence{session.get(),
                            tokens.data() + done,
                            std::min(s.step, kTokens - done),
                            Logits::kAll,
                            out.data() + static_cast<size_t>(done) * kVocab,
                            set};
    decoder->forward(&sequence, 1, {});
  }
  return out;
}

// Logits with these adapters against those of the merged weights in float64. The bounds are the
// base model's own (test_decoder.cpp); without the adapters the logits are somewhere else.
void check_merged(const TinyModel& model, const std::vector<const RandomAdapter*>& adapters,
                  bool integer, double bound) {
  const AdapterSet set = set_of(adapters);
  const std::vector<double> want = merged(model, adapters).logits(prompt());
  CHECK_NEAR(relative_error(logits_of(model, &set, {integer}), want), 0.0, bound);
  CHECK(relative_error(logits_of(model, nullptr, {integer}), want) > 2 * bound);
}

const std::vector<std::vector<Linear>> kSubsets = {
    {Linear::kQ, Linear::kV},     {Linear::kK},
    {Linear::kO, Linear::kDown},  {Linear::kGate},
    {Linear::kUp, Linear::kDown}, {Linear::kQ, Linear::kK, Linear::kV, Linear::kO}};

} // namespace

TEST(logits_are_those_of_the_merged_weights_at_every_rank) {
  for (const int dim : {16, 32}) {
    const TinyModel model(101, dim);
    for (const int rank : {1, 8, 16, 23, 64}) {
      set_context("head_dim ", dim, " rank ", rank);
      const RandomAdapter floats(model.config, 7, rank, false), codes(model.config, 7, rank, true);
      check_merged(model, {&floats}, false, 1e-5);
      check_merged(model, {&codes}, true, 5e-2);
    }
  }
}

TEST(logits_are_those_of_the_merged_weights_on_any_linears) {
  const TinyModel model(102, 16);
  for (size_t i = 0; i < kSubsets.size(); ++i) {
    set_context("subset ", i);
    const RandomAdapter floats(model.config, 8, 16, false, kSubsets[i], 1.5f),
        codes(model.config, 8, 16, true, kSubsets[i], 1.5f);
    check_merged(model, {&floats}, false, 1e-5);
    check_merged(model, {&codes}, true, 5e-2);
  }
}

TEST(eight_adapters_add_up) {
  const TinyModel model(103, 16);
  for (const bool integer : {false, true}) {
    std::vector<std::unique_ptr<RandomAdapter>> adapters;
    std::vector<const RandomAdapter*> all;
    for (int i = 0; i < 8; ++i) {
      adapters.push_back(std::make_unique<RandomAdapter>(
          model.config, i, 1 + 9 * i, integer, i % 3 ? kSubsets[i % kSubsets.size()] : kSubsets[5],
          0.2f));
      all.push_back(adapters.back().get());
    }
    check_merged(model, all, integer, integer ? 5e-2 : 1e-5);
  }
}

// One linear's update alone: within half a code of every u, and float roundings.
TEST(an_update_is_within_half_a_code_of_its_inputs) {
  const kernels::Table& level = kernels::best();
  ModelConfig config{1, 96, 3, 1, 32, 64, 50, 300, 1e-5f};
  Random random(104);
  for (const int rank : {1, 16, 33, 64}) {
    for (const int tokens : {1, 4, 40}) {
      const RandomAdapter adapter(config, 5, rank, true, {Linear::kUp});
      const AdapterSet set = set_of({&adapter});
      const Inputs in(level, random.normals(static_cast<size_t>(tokens) * 96), 96);
      LowRankPass pass;
      pass.begin({{&set, 0, tokens}}, 0, {Linear::kGate, Linear::kUp}, in.integers());
      CHECK(!pass.has(Linear::kGate));
      CHECK(pass.has(Linear::kUp));
      std::vector<float> y(static_cast<size_t>(tokens) * 64);
      CHECK(!pass.ready(level, Linear::kUp, false));
      CHECK(pass.ready(level, Linear::kUp, true));
      pass.expand(level, Linear::kUp, 0, 4, y.data(), 64);
      const LowRankPair& pair = *adapter.adapter->find(0, Linear::kUp);
      const std::vector<double>& update = adapter.updates.at("layers.0.up");
      set_context("rank ", rank, " tokens ", tokens);
      for (int t = 0; t < tokens; ++t) {
        std::vector<double> x, u;
        for (size_t c = static_cast<size_t>(t) * 96; c < static_cast<size_t>(t + 1) * 96; ++c)
          x.push_back(static_cast<double>(in.scales[c / 32]) * in.codes[c]);
        for (int k = 0; k < rank; ++k) {
          const uint8_t* panel = pair.a.data + static_cast<size_t>(k / 16) * pair.a.panel_bytes;
          u.push_back(0.0);
          for (int c = 0; c < 96; ++c)
            u.back() += kernels::panel_weight(pair.a, panel, k % 16, c) * x[c];
        }
        for (int r = 0; r < 64; ++r) {
          double want = 0.0, off = 0.0;
          for (int c = 0; c < 96; ++c)
            want += update[static_cast<size_t>(r) * 96 + c] * x[c];
          for (int k = 0; k < rank; ++k) { // half of a 127th of the chunk's largest u
            const auto chunk = u.begin() + k / 16 * 16,
                       end = u.begin() + std::min(k / 16 * 16 + 16, rank);
            double largest = 0.0;
            for (auto at = chunk; at < end; ++at)
              largest = std::max(largest, std::fabs(*at));
            const uint8_t* panel = pair.b.data + static_cast<size_t>(r / 16) * pair.b.panel_bytes;
            off += std::fabs(kernels::low_rank_weight(pair.b, panel, r % 16, k)) * largest / 254;
          }
          CHECK_NEAR(y[static_cast<size_t>(t) * 64 + r], want, 1.001 * pair.scale * off + 1e-6);
        }
      }
    }
  }
}

TEST(threads_chunks_calls_and_sealing_change_no_bit_of_the_logits) {
  for (const int dim : {16, 32}) {
    const TinyModel model(105, dim);
    const RandomAdapter first(model.config, 1, 16, true), second(model.config, 2, 5, true),
        third(model.config, 3, 64, true, {Linear::kV, Linear::kO});
    for (const auto& adapters :
         {set_of({&first}), set_of({&first, &second, &third}), set_of({&third})}) {
      const std::vector<float> want = logits_of(model, &adapters, {});
      for (const Setting& s : {Setting{true, 2}, Setting{true, 3}, Setting{true, 8},
                               Setting{true, 1, 1}, Setting{true, 2, 7}, Setting{true, 1, 128, 1},
                               Setting{true, 3, 128, 1}, Setting{true, 2, 7, 20, true}}) {
        set_context("head_dim ", dim, " adapters ", adapters.adapters.size(), " threads ",
                    s.threads, " chunk ", s.chunk, " step ", s.step, " sealed ", s.sealed);
        CHECK(same_bits(logits_of(model, &adapters, s), want));
      }
    }
  }
}

TEST(every_request_of_a_batch_has_adapters_of_its_own) {
  const TinyModel model(106, 16);
  const RandomAdapter a(model.config, 1, 16, true), b(model.config, 2, 24, true, {Linear::kGate});
  const AdapterSet first = set_of({&a}), both = set_of({&b, &a}), other = set_of({&b});
  const AdapterSet* const sets[] = {&first, nullptr, &both, &first, &other, nullptr};
  std::vector<std::vector<float>> want;
  for (const AdapterSet* set : sets)
    want.push_back(logits_of(model, set, {}));
  for (const int threads : {1, 2, 5}) {
    for (const int chunk : {3, 16, 128}) {
      const auto decoder = model.decoder(KvType::kInt8, threads, true, chunk);
      PageArena pages(model.layout(KvType::kInt8), 32);
      std::vector<std::unique_ptr<KvSession>> sessions;
      std::vector<std::vector<float>> got(6);
      for (int i = 0; i < 6; ++i) {
        sessions.push_back(std::make_unique<KvSession>(pages, i));
        got[i].resize(kTokens * kVocab);
      }
      const std::vector<int32_t> tokens = prompt();
      const int prefill = kTokens - 3; // then three steps of one token each
      for (int done = 0; done < kTokens; done += done == 0 ? prefill : 1) {
        std::vector<Sequence> batch;
        for (int i = 0; i < 6; ++i)
          batch.push_back({sessions[i].get(), tokens.data() + done, done == 0 ? prefill : 1,
                           Logits::kAll, got[i].data() + done * kVocab, sets[i]});
        decoder->forward(batch.data(), 6, {});
      }
      for (int i = 0; i < 6; ++i) {
        set_context("threads ", threads, " chunk ", chunk, " sequence ", i);
        CHECK(same_bits(got[i], want[i]));
      }
    }
  }
}

TEST(adapters_change_between_calls_as_pointers_do) {
  const TinyModel model(107, 16);
  const RandomAdapter a(model.config, 1, 16, true), b(model.config, 2, 16, true);
  const AdapterSet sets[] = {set_of({&a}), set_of({&b})};
  const auto decoder = model.decoder(KvType::kInt8, 2, true, 128);
  for (const int i : {0, 1, 0}) {
    PageArena pages(model.layout(KvType::kInt8), 4);
    KvSession session(pages, 1);
    std::vector<float> out(kTokens * kVocab);
    const std::vector<int32_t> tokens = prompt();
    const Sequence sequence{&session, tokens.data(), kTokens, Logits::kAll, out.data(), &sets[i]};
    decoder->forward(&sequence, 1, {});
    CHECK(same_bits(out, logits_of(model, &sets[i], {})));
  }
}

TEST(an_empty_set_and_an_adapter_without_parts_change_no_bit) {
  const TinyModel model(108, 16);
  const AdapterSet none;
  AdapterSet empty;
  empty.adapters.push_back(std::make_shared<Adapter>(model.config, std::vector<Adapter::Part>{}));
  const std::vector<float> want = logits_of(model, nullptr, {});
  CHECK(same_bits(logits_of(model, &none, {}), want));
  CHECK(same_bits(logits_of(model, &empty, {}), want));
}

TEST(parts_that_no_model_has_are_refused) {
  const ModelConfig config = TinyModel(109, 16).config;
  const auto make = [&](const std::vector<Adapter::Part>& parts) { Adapter(config, parts); };
  CHECK_THROWS(make({{2, Linear::kQ, 8, true}}), std::invalid_argument, "layer=2");
  CHECK_THROWS(make({{-1, Linear::kQ, 8, true}}), std::invalid_argument, "layer=-1");
  CHECK_THROWS(make({{0, static_cast<Linear>(7), 8, true}}), std::invalid_argument, "linear=7");
  CHECK_THROWS(make({{0, Linear::kQ, 0, true}}), std::invalid_argument, "rank=0");
  CHECK_THROWS(make({{0, Linear::kQ, 65, true}}), std::invalid_argument, "rank=65");
  CHECK_THROWS(make({{0, Linear::kQ, 8, true}, {0, Linear::kQ, 8, true}}), std::invalid_argument,
               "twice");
}

TEST(parts_are_filled_as_they_were_announced) {
  const ModelConfig config = TinyModel(110, 16).config;
  Adapter adapter(config, {{1, Linear::kK, 4, true}});
  std::vector<int8_t> a(4 * 64), b(32 * 16);
  const std::vector<uint16_t> scales(256);
  const std::vector<float> floats(4 * 64);
  const auto fill = [&](int layer, Linear linear, float scale) {
    adapter.set_int8(layer, linear, a.data(), scales.data(), b.data(), scales.data(), scale);
  };
  CHECK_THROWS(adapter.require_complete(config), std::invalid_argument, "never filled");
  CHECK_THROWS(fill(0, Linear::kK, 1.0f), std::invalid_argument, "has no linear");
  CHECK_THROWS(fill(5, Linear::kK, 1.0f), std::invalid_argument, "layer=5");
  CHECK_THROWS(fill(1, Linear::kK, INFINITY), std::invalid_argument, "not finite");
  CHECK_THROWS(adapter.set_float(1, Linear::kK, floats.data(), floats.data(), 1.0f),
               std::invalid_argument, "other form");
  b[3] = -128;
  CHECK_THROWS(fill(1, Linear::kK, 1.0f), std::invalid_argument, "-128");
  b[3] = 0;
  CHECK(adapter.find(1, Linear::kK) == nullptr);
  fill(1, Linear::kK, 1.0f);
  adapter.require_complete(config);
  CHECK(adapter.find(1, Linear::kK) != nullptr);
  ModelConfig other = config;
  other.d_ff += 16;
  CHECK_THROWS(adapter.require_complete(other), std::invalid_argument, "other dimensions");
}

TEST(sets_that_do_not_fit_are_refused_and_leave_the_session_unchanged) {
  const TinyModel model(111, 16);
  const RandomAdapter adapter(model.config, 1, 4, true);
  AdapterSet many;
  for (int i = 0; i < 9; ++i)
    many.adapters.push_back(adapter.adapter);
  AdapterSet unfilled;
  unfilled.adapters.push_back(std::make_shared<Adapter>(
      model.config, std::vector<Adapter::Part>{{0, Linear::kQ, 4, true}}));
  CHECK_THROWS(logits_of(model, &many, {}), std::invalid_argument, "more than 8");
  CHECK_THROWS(logits_of(model, &unfilled, {}), std::invalid_argument, "never filled");
}

} // namespace ptmo::test

int main(int argc, char** argv) {
  return ptmo::test::run_on_every_level(argc, argv);
}
