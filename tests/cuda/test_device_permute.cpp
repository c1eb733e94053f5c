// Shield `permute` on the device: a model whose weights the TEE has put in another order gives the
// very same logits, whether W_o's columns moved along or the TEE restores attention's output.
#include "device_model.h"

#include <numeric>

namespace ptmo::test {
namespace {

// One layer's orders, of each KV head: out[i] = in[order[i]] (tee_sim/permutation.py).
struct Orders {
  std::vector<std::vector<int>> pairs, values;

  Orders(Random& random, const ModelConfig& c, int block) {
    for (int head = 0; head < c.n_kv_heads; ++head) {
      pairs.push_back(random.permutation(c.head_dim / 2));
      values.emplace_back();
      for (int at = 0; at < c.head_dim; at += block)
        for (const int i : random.permutation(block))
          values.back().push_back(at + i);
    }
  }
  // Of all elements of `heads` heads, each by its KV head's order.
  std::vector<int> of_heads(int heads, int dim, bool rotary) const {
    std::vector<int> out;
    const int group = heads / static_cast<int>(pairs.size());
    for (int h = 0; h < heads; ++h) {
      const auto kv = static_cast<size_t>(h / group);
      for (int i = 0; i < dim; ++i)
        out.push_back(h * dim + (rotary ? pairs[kv][static_cast<size_t>(i % (dim / 2))] +
                                              i / (dim / 2) * (dim / 2)
                                        : values[kv][static_cast<size_t>(i)]));
    }
    return out;
  }
};

template <typename T>
std::vector<T> rows_of(const std::vector<T>& x, const std::vector<int>& order) {
  const size_t width = x.size() / order.size();
  std::vector<T> out;
  for (const int row : order)
    out.insert(out.end(), x.begin() + static_cast<long>(width) * row,
               x.begin() + static_cast<long>(width) * (row + 1));
  return out;
}

void move_rows(PlainMatrix& w, const std::vector<int>& order) {
  w.codes = rows_of(w.codes, order);
  w.scales = rows_of(w.scales, order);
  if (!w.mins.empty())
    w.mins = rows_of(w.mins, order);
}

void move_columns(PlainMatrix& w, const std::vector<int>& order) {
  const PlainMatrix from = w;
  for (int r = 0; r < w.rows; ++r)
    for (int c = 0; c < w.cols; ++c)
      w.codes[w.at(r, c)] = from.codes[from.at(r, order[static_cast<size_t>(c)])];
}

struct Permuted {
  TinyModel model;
  std::vector<Orders> layers;

  // `folded`: W_o's columns move along with V, inside their blocks of 32.
  Permuted(const TinyModel& plain, uint64_t seed, bool folded) : model(plain) {
    const ModelConfig& c = model.config;
    Random random(seed);
    for (int layer = 0; layer < c.n_layers; ++layer) {
      layers.emplace_back(random, c, folded ? std::min(32, c.head_dim) : c.head_dim);
      const Orders& orders = layers.back();
      const std::string at = "layers." + std::to_string(layer) + ".";
      const auto rotary = [&](int heads) { return orders.of_heads(heads, c.head_dim, true); };
      const auto values = [&](int heads) { return orders.of_heads(heads, c.head_dim, false); };
      const auto matrix = [&](const char* name) -> PlainMatrix& {
        return model.matrices.at(at + name);
      };
      const auto move = [&](const char* name, const std::vector<int>& order) {
        std::vector<float>& x = model.vectors.at(at + name);
        x = rows_of(x, order);
      };
      move_rows(matrix("q"), rotary(c.n_heads));
      move_rows(matrix("k"), rotary(c.n_kv_heads));
      move_rows(matrix("v"), values(c.n_kv_heads));
      move("q_bias", rotary(c.n_heads));
      move("k_bias", rotary(c.n_kv_heads));
      move("v_bias", values(c.n_kv_heads));
      if (c.qk_norm) {
        move("q_norm", rotary(c.n_kv_heads));
        move("k_norm", rotary(c.n_kv_heads));
      }
      if (folded)
        move_columns(matrix("o"), values(c.n_heads));
      const auto& freq = model.vectors.at(c.is_local(layer) ? "inv_freq_local" : "inv_freq");
      std::vector<float>& own = model.vectors[at + "inv_freq"];
      for (const std::vector<int>& pairs : orders.pairs)
        for (const int pair : pairs)
          own.push_back(freq[static_cast<size_t>(pair)]);
    }
  }
};

std::vector<float> restored(Device& device, const Permuted& permuted, KvSession& session,
                            const std::vector<int32_t>& tokens, int chunk) {
  const ModelConfig& c = permuted.model.config;
  const auto width = static_cast<size_t>(c.q_size());
  std::vector<float> buffer(static_cast<size_t>(chunk) * width), out(tokens.size() * kVocab);
  const auto restore = [&](int layer, int rows) {
    const std::vector<int> order =
        permuted.layers[static_cast<size_t>(layer)].of_heads(c.n_heads, c.head_dim, false);
    for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
      const std::vector<float> moved(buffer.begin() + static_cast<long>(row * width),
                                     buffer.begin() + static_cast<long>((row + 1) * width));
      for (size_t i = 0; i < width; ++i)
        buffer[row * width + static_cast<size_t>(order[i])] = moved[i];
    }
  };
  const Sequence sequence{&session, tokens.data(), static_cast<int>(tokens.size()), Logits::kAll,
                          out.data()};
  device.decoder.forward(&sequence, 1, {buffer.data(), chunk, restore});
  return out;
}

std::vector<ModelConfig> configs() {
  return {llama_config(16), llama_config(32), llama_config(64), qwen3_config(32),
          gemma3_config(32, 7)};
}

void describe(const ModelConfig& c, KvType type) {
  set_context("head_dim ", c.head_dim, " qk_norm ", c.qk_norm, " window ", c.sliding_window,
              " type ", static_cast<int>(type));
}

} // namespace

TEST(permuted_weights_with_a_folded_output_give_the_very_same_logits) {
  const std::vector<int32_t> tokens = tokens_of(7, kTokens);
  for (const ModelConfig& config : configs()) {
    const TinyModel plain = integer_model(301, config);
    const Permuted permuted(plain, 5, true);
    for (const KvType type : {KvType::kInt8, KvType::kInt4}) {
      describe(config, type);
      Device device(plain, type), moved(permuted.model, type);
      const std::vector<float> want = device.feed(*device.open(false), tokens, kTokens);
      CHECK(same_bits(moved.feed(*moved.open(false), tokens, kTokens), want));
      if (config.head_dim == 32 && config.sliding_window == 0) // token by token, sealed
        CHECK(same_bits(moved.feed(*moved.open(true), tokens, 1),
                        device.feed(*device.open(true), tokens, 1)));
    }
    describe(config, KvType::kF16); // sums of halves do depend on their order
    Device moved(permuted.model, KvType::kF16);
    CHECK_NEAR(difference(moved.feed(*moved.open(true), tokens, kTokens),
                          cpu_logits(plain, KvType::kF16, tokens)),
               0.0, 1e-2);
  }
}

TEST(permuted_weights_with_a_restored_output_give_the_very_same_logits) {
  const std::vector<int32_t> tokens = tokens_of(8, kTokens);
  for (const ModelConfig& config : configs()) {
    const TinyModel plain = integer_model(302, config);
    const Permuted permuted(plain, 6, false);
    for (const KvType type : {KvType::kInt8, KvType::kInt4}) {
      for (const int chunk : {8, 64}) {
        if (chunk == 8 && config.head_dim != 64)
          continue;
        describe(config, type);
        Device device(plain, type, chunk), moved(permuted.model, type, chunk);
        const std::vector<float> want = device.feed(*device.open(false), tokens, kTokens);
        const std::vector<int32_t> few(tokens.begin(), tokens.begin() + 5);
        CHECK(same_bits(restored(moved, permuted, *moved.open(true), tokens, chunk), want));
        // What is not restored is not the model.
        CHECK(difference(moved.feed(*moved.open(false), few, 5),
                         {want.begin(), want.begin() + 5 * kVocab}) > 0.1);
      }
    }
  }
}

TEST(the_pages_of_a_permuted_model_hold_rows_in_the_permuted_order) {
  const TinyModel plain = integer_model(303, llama_config(32));
  const Permuted permuted(plain, 7, true);
  const ModelConfig& c = plain.config;
  const std::vector<int32_t> tokens = tokens_of(9, 16);
  Device device(plain, KvType::kInt8), moved(permuted.model, KvType::kInt8);
  const auto a = device.open(true), b = moved.open(true);
  device.feed(*a, tokens, 16);
  moved.feed(*b, tokens, 16);
  std::vector<uint8_t> pages[2];
  AlignedBuffer scratch[2] = {AlignedBuffer(a->layout().head_bytes()),
                              AlignedBuffer(a->layout().head_bytes())};
  for (int layer = 0; layer < c.n_layers; ++layer) {
    const Orders& orders = permuted.layers[static_cast<size_t>(layer)];
    const std::vector<int> k_order = orders.of_heads(c.n_kv_heads, c.head_dim, true),
                           v_order = orders.of_heads(c.n_kv_heads, c.head_dim, false);
    for (int head = 0; head < c.n_kv_heads; ++head) {
      const auto open = [&](const KvSession& s, int i) {
        return s.shield().open_tile(s.page_bytes(0, pages[i]), s.layout(), layer, head, 16,
                                    scratch[i].data());
      };
      const Tile in = open(*a, 0), out = open(*b, 1);
      const int base = head * c.head_dim;
      size_t in_place = 0;
      for (int i = 0; i < 16 * c.head_dim; ++i) {
        const int row = i / c.head_dim * c.head_dim, e = base + i % c.head_dim;
        const auto k = static_cast<size_t>(k_order[static_cast<size_t>(e)] - base),
                   v = static_cast<size_t>(v_order[static_cast<size_t>(e)] - base);
        CHECK_EQ(out.k[i], in.k[row + static_cast<int>(k)]);
        CHECK_EQ(out.v[i], in.v[row + static_cast<int>(v)]);
        in_place += out.k[i] == in.k[i];
      }
      CHECK(in_place < 16u * static_cast<size_t>(c.head_dim) / 2);
    }
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
