// Seeded LoRA adapters with the exact updates they stand for.
#pragma once

#include <algorithm>

#include "model/lora.h"
#include "samples.h"
#include "tiny_model.h"

namespace ptmo::test {

// Symmetric INT8 rows with one fp16 scale for each `group` elements; cols are padded with zeros.
struct Int8Rows {
  int padded, group;
  std::vector<int8_t> codes;
  std::vector<uint16_t> scales;

  Int8Rows(const std::vector<float>& x, int rows, int cols, int group_)
      : padded((cols + group_ - 1) / group_ * group_), group(group_),
        codes(static_cast<size_t>(rows) * padded) {
    for (int r = 0; r < rows; ++r) {
      const float* row = x.data() + static_cast<size_t>(r) * cols;
      for (int g = 0; g < padded; g += group) {
        float peak = 0.0f;
        for (int c = g; c < std::min(g + group, cols); ++c)
          peak = std::max(peak, std::fabs(row[c]));
        scales.push_back(float_to_half(peak / 127.0f));
        const float scale = half_to_float(scales.back());
        for (int c = g; c < std::min(g + group, cols) && scale > 0.0f; ++c)
          codes[static_cast<size_t>(r) * padded + c] = static_cast<int8_t>(
              std::max(-127.0f, std::min(127.0f, std::nearbyint(row[c] / scale))));
      }
    }
  }
  double value(int r, int c) const {
    const size_t at = static_cast<size_t>(r) * padded + c;
    return static_cast<double>(half_to_float(scales[at / group])) * codes[at];
  }
};

const char* const kLinearNames[] = {"q", "k", "v", "o", "gate", "up", "down"};
const Linear kAllLinears[] = {Linear::kQ,    Linear::kK,  Linear::kV,   Linear::kO,
                              Linear::kGate, Linear::kUp, Linear::kDown};

// An adapter of `rank` on the given linears of every layer. `size` is about the ratio of its update
// to the output of the weights.
struct RandomAdapter {
  std::shared_ptr<Adapter> adapter;
  std::map<std::string, std::vector<double>> updates; // "layers.0.q" -> s B A as it is computed

  RandomAdapter(const ModelConfig& config, uint64_t seed, int rank, bool integer,
                const std::vector<Linear>& linears = {std::begin(kAllLinears),
                                                      std::end(kAllLinears)},
                float size = 0.3f) {
    Random random(seed);
    std::vector<Adapter::Part> parts;
    for (int layer = 0; layer < config.n_layers; ++layer)
      for (const Linear linear : linears)
        parts.push_back({layer, linear, rank, integer});
    adapter = std::make_shared<Adapter>(config, parts);
    for (const Adapter::Part& part : parts) {
      const auto [rows, cols] = linear_shape(config, part.linear);
      const std::vector<float> a = random.normals(static_cast<size_t>(rank) * cols, 0.1f);
      const std::vector<float> b = random.normals(static_cast<size_t>(rows) * rank, size);
      const float scale = random.uniform(0.5f, 2.0f) / std::sqrt(static_cast<float>(rank));
      const Int8Rows qa(a, rank, cols, 32), qb(b, rows, rank, 16);
      if (integer) {
        adapter->set_int8(part.layer, part.linear, qa.codes.data(), qa.scales.data(),
                          qb.codes.data(), qb.scales.data(), scale);
      } else {
        adapter->set_float(part.layer, part.linear, a.data(), b.data(), scale);
      }
      std::vector<double>& update = updates["layers." + std::to_string(part.layer) + "." +
                                            kLinearNames[static_cast<int>(part.linear)]];
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < cols; ++c) {
          double sum = 0.0;
          for (int k = 0; k < rank; ++k)
            sum += integer ? qb.value(r, k) * qa.value(k, c)
                           : static_cast<double>(b[static_cast<size_t>(r) * rank + k]) *
                                 a[static_cast<size_t>(k) * cols + c];
          update.push_back(sum * scale);
        }
      }
    }
  }
};

// The model that the weights and all these adapters make together.
inline TinyModel merged(TinyModel model, const std::vector<const RandomAdapter*>& adapters) {
  for (const RandomAdapter* adapter : adapters) {
    for (const auto& [name, update] : adapter->updates) {
      std::vector<double>& sum = model.updates[name];
      sum.resize(update.size());
      for (size_t i = 0; i < update.size(); ++i)
        sum[i] += update[i];
    }
  }
  return model;
}

inline AdapterSet set_of(const std::vector<const RandomAdapter*>& adapters) {
  AdapterSet set;
  for (const RandomAdapter* adapter : adapters)
    set.adapters.push_back(adapter->adapter);
  return set;
}

} // namespace ptmo::test
