// A small seeded random decoder, and the same forward pass in plain float64.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "model/decoder.h"
#include "samples.h"

namespace ptmo::test {

// One session's tokens through a decoder.
inline void feed(Decoder& decoder, KvSession& session, const int32_t* tokens, int n, Logits which,
                 float* logits, const AttentionRestore& restore) {
  const Sequence sequence{&session, tokens, n, which, logits};
  decoder.forward(&sequence, 1, restore);
}

// A prompt within the vocabulary of 50 tokens.
inline std::vector<int32_t> tokens_of(int seed, int n) {
  std::vector<int32_t> out;
  for (int i = 0; i < n; ++i)
    out.push_back((seed * 31 + i * 7) % 50);
  return out;
}

// Root mean square of the difference over that of the float64 logits.
inline double relative_error(const std::vector<float>& got, const std::vector<double>& want) {
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(error / size);
}

// A family's departures from Llama, as tests of the decoder want them: small windows, both kinds of
// layer among the first two.
inline ModelConfig qwen3_config(int head_dim) {
  ModelConfig c{2, 64, 4, 2, head_dim, 96, 50, 300, 1e-5f};
  c.qk_norm = true;
  return c;
}
inline ModelConfig gemma3_config(int head_dim, int sliding_window) {
  ModelConfig c = qwen3_config(head_dim);
  c.post_norms = true;
  c.activation = Activation::kGeluTanh;
  c.embed_scale = 8.0f;
  c.attention_scale = 0.2f;
  c.sliding_window = sliding_window;
  c.local_layers = {true, false};
  return c;
}

struct TinyModel {
  ModelConfig config;
  std::map<std::string, PlainMatrix> matrices;
  std::map<std::string, std::vector<float>> vectors;
  std::map<std::string, std::vector<double>> updates; // [rows, cols], for logits() alone

  TinyModel(uint64_t seed, int head_dim, WeightType head_type = WeightType::kInt8)
      : TinyModel(seed, ModelConfig{2, 64, 4, 2, head_dim, 96, 50, 300, 1e-5f}, head_type) {}

  TinyModel(uint64_t seed, const ModelConfig& shape, WeightType head_type = WeightType::kInt8)
      : config(shape) {
    Random random(seed);
    const int d = config.d_model, q = config.q_size(), kv = config.kv_size(), ff = config.d_ff;
    const auto matrix = [&](const std::string& name, WeightType type, int rows, int cols) {
      const bool integer = kernels::is_integer(type);
      matrices.emplace(name, random_matrix(random, type, rows, cols, integer ? 32 : 0));
    };
    const auto vector = [&](const std::string& name, int n, float around) {
      std::vector<float> x = random.normals(static_cast<size_t>(n), 0.1f);
      for (float& v : x)
        v += around;
      vectors[name] = x;
    };
    matrix("embed", WeightType::kInt8, config.vocab_size, d);
    matrix("head", head_type, config.vocab_size, d);
    vector("final_norm", d, 1.0f);
    const auto frequencies = [&](const std::string& name, float theta) {
      for (int i = 0; i < config.head_dim; i += 2)
        vectors[name].push_back(std::pow(theta, -static_cast<float>(i) / config.head_dim));
    };
    frequencies("inv_freq", 10000.0f);
    if (config.has_local_layers())
      frequencies("inv_freq_local", 100.0f);
    for (int layer = 0; layer < config.n_layers; ++layer) {
      const std::string at = "layers." + std::to_string(layer) + ".";
      vector(at + "attn_norm", d, 1.0f);
      vector(at + "ffn_norm", d, 1.0f);
      matrix(at + "q", WeightType::kInt4, q, d);
      matrix(at + "k", WeightType::kInt4, kv, d);
      matrix(at + "v", WeightType::kInt8, kv, d);
      matrix(at + "o", WeightType::kInt4, d, q);
      matrix(at + "gate", WeightType::kInt4Symmetric, ff, d);
      matrix(at + "up", WeightType::kF16, ff, d);
      matrix(at + "down", WeightType::kInt4, d, ff);
      vector(at + "q_bias", q, 0.0f);
      vector(at + "k_bias", kv, 0.0f);
      vector(at + "v_bias", kv, 0.0f);
      if (config.qk_norm) {
        vector(at + "q_norm", kv, 1.0f);
        vector(at + "k_norm", kv, 1.0f);
      }
      if (config.post_norms) {
        vector(at + "attn_post_norm", d, 1.0f);
        vector(at + "ffn_post_norm", d, 1.0f);
      }
    }
  }

  PageLayout layout(KvType type) const {
    return {config.n_layers, config.n_kv_heads, config.head_dim, 16, type};
  }

  std::unique_ptr<Decoder> decoder(KvType type, int threads, bool integer, int chunk) const {
    auto out = std::make_unique<Decoder>(config, layout(type), threads, integer, chunk);
    for (const auto& [name, plain] : matrices) {
      const PanelMatrix panels(plain);
      const Matrix& to =
          out->weights().prepare(name, plain.type, plain.rows, plain.cols, plain.group);
      std::memcpy(to.data, panels.buffer.data(), to.bytes);
    }
    for (const auto& [name, values] : vectors) {
      out->weights().expect_shape(name, static_cast<int>(values.size()), 1);
      *out->weights().vector(name) = values;
    }
    return out;
  }

  // Logits [tokens, vocab_size] in float64, every formula written out.
  std::vector<double> logits(const std::vector<int32_t>& tokens) const;

private:
  using Vector = std::vector<double>;

  // [rows, cols]: a matrix with its update.
  Vector exact_weights(const std::string& name) const {
    const PlainMatrix& w = matrices.at(name);
    const auto update = updates.find(name);
    Vector out;
    for (int r = 0; r < w.rows; ++r)
      for (int c = 0; c < w.cols; ++c)
        out.push_back(w.weight(r, c) +
                      (update == updates.end() ? 0.0 : update->second[w.at(r, c)]));
    return out;
  }
  Vector plus(Vector x, const std::string& name) const {
    for (size_t i = 0; i < x.size(); ++i)
      x[i] += vectors.at(name)[i];
    return x;
  }
  Vector norm(const Vector& x, const std::string& name) const {
    double sum = 0.0;
    for (const double v : x)
      sum += v * v;
    Vector y = x;
    for (size_t i = 0; i < x.size(); ++i)
      y[i] *= vectors.at(name)[i] / std::sqrt(sum / static_cast<double>(x.size()) + 1e-5);
    return y;
  }
  // Every head of a query or key row takes the norm of its KV head.
  Vector head_normed(Vector x, const std::string& name) const {
    const size_t dim = static_cast<size_t>(config.head_dim);
    const size_t group = x.size() / dim / static_cast<size_t>(config.n_kv_heads);
    for (size_t h = 0; config.qk_norm && h * dim < x.size(); ++h) {
      double sum = 0.0;
      for (size_t i = 0; i < dim; ++i)
        sum += x[h * dim + i] * x[h * dim + i];
      for (size_t i = 0; i < dim; ++i)
        x[h * dim + i] *= vectors.at(name)[h / group * dim + i] /
                          std::sqrt(sum / static_cast<double>(dim) + config.rms_eps);
    }
    return x;
  }
  double activated(double gate) const {
    const double cube = gate + 0.044715 * gate * gate * gate; // sqrt(8 / pi) = 1.5957...
    const double x = config.activation == Activation::kGeluTanh ? 1.5957691216057308 * cube : gate;
    return gate / (1.0 + std::exp(-x));
  }
  // Pair (i, i + half) of every head turns by position * inv_freq[i] (a float32 product).
  Vector rotated(Vector x, size_t position, int layer) const {
    const auto& freq = vectors.at(config.is_local(layer) ? "inv_freq_local" : "inv_freq");
    const size_t dim = static_cast<size_t>(config.head_dim), half = dim / 2;
    for (size_t h = 0; h < x.size(); h += dim) {
      for (size_t i = 0; i < half; ++i) {
        const double angle = static_cast<float>(position) * freq[i];
        const double a = x[h + i], b = x[h + i + half];
        x[h + i] = a * std::cos(angle) - b * std::sin(angle);
        x[h + i + half] = b * std::cos(angle) + a * std::sin(angle);
      }
    }
    return x;
  }
};

inline std::vector<double> TinyModel::logits(const std::vector<int32_t>& tokens) const {
  std::map<std::string, Vector> weights; // each decoded once
  for (const auto& [name, matrix] : matrices)
    weights[name] = exact_weights(name);
  const auto times = [&](const std::string& name, const Vector& x) {
    const double* w = weights.at(name).data();
    Vector y(weights.at(name).size() / x.size(), 0.0);
    for (double& sum : y)
      for (const double value : x)
        sum += *w++ * value;
    return y;
  };
  std::vector<Vector> x;
  for (const int32_t token : tokens) {
    x.emplace_back();
    for (int c = 0; c < config.d_model; ++c)
      x.back().push_back(matrices.at("embed").weight(token, c) * config.embed_scale);
  }
  const int dim = config.head_dim, group = config.n_heads / config.n_kv_heads;
  for (int layer = 0; layer < config.n_layers; ++layer) {
    const std::string at = "layers." + std::to_string(layer) + ".";
    std::vector<Vector> keys, values;
    for (size_t t = 0; t < x.size(); ++t) {
      const Vector h = norm(x[t], at + "attn_norm");
      const auto head_row = [&](const std::string& name) {
        const Vector row = plus(times(at + name, h), at + name + "_bias");
        return rotated(head_normed(row, at + name + "_norm"), t, layer);
      };
      const Vector q = head_row("q");
      keys.push_back(head_row("k"));
      values.push_back(plus(times(at + "v", h), at + "v_bias"));
      Vector attended(q.size(), 0.0);
      for (int head = 0; head < config.n_heads; ++head) {
        const int from = head / group * dim; // the KV head's elements
        Vector weight;
        double sum = 0.0;
        for (size_t s = 0; s <= t; ++s) {
          double score = 0.0;
          for (int i = 0; i < dim; ++i)
            score += q[head * dim + i] * keys[s][from + i];
          const bool seen = config.window(layer) == 0 || s + config.window(layer) > t;
          weight.push_back(seen ? std::exp(score * config.score_scale()) : 0.0);
          sum += weight.back();
        }
        for (size_t s = 0; s <= t; ++s)
          for (int i = 0; i < dim; ++i)
            attended[head * dim + i] += weight[s] / sum * values[s][from + i];
      }
      Vector o = times(at + "o", attended);
      if (config.post_norms)
        o = norm(o, at + "attn_post_norm");
      for (size_t i = 0; i < o.size(); ++i)
        x[t][i] += o[i];
      const Vector f = norm(x[t], at + "ffn_norm");
      Vector gate = times(at + "gate", f);
      const Vector up = times(at + "up", f);
      for (size_t i = 0; i < gate.size(); ++i)
        gate[i] = activated(gate[i]) * up[i];
      Vector down = times(at + "down", gate);
      if (config.post_norms)
        down = norm(down, at + "ffn_post_norm");
      for (size_t i = 0; i < down.size(); ++i)
        x[t][i] += down[i];
    }
  }
  std::vector<double> out;
  for (const Vector& v : x)
    for (const double logit : times("head", norm(v, "final_norm")))
      out.push_back(logit);
  return out;
}

} // namespace ptmo::test
