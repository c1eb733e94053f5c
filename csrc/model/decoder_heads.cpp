// What happens to a layer's Q, K and V rows between the projections and attention: QK-norm, RoPE,
// and K and V into the cache.
#include <algorithm>
#include <cstring>

#include "decoder.h"

namespace ptmo {

// The angle is position * inv_freq in float32, as the models were trained with.
void Decoder::fill_rotary_table(const std::vector<float>& freq, RotaryTable& table) {
  const size_t width = table.width = freq.size();
  pool_.parallel_for(rows_, [&](int begin, int end, int) {
    for (auto t = static_cast<size_t>(begin); t < static_cast<size_t>(end); ++t) {
      float* angles = angles_.data() + t * width;
      for (size_t i = 0; i < width; ++i)
        angles[i] = static_cast<float>(positions_[t]) * freq[i];
      kernels_.cos_sin(angles, static_cast<int>(width), table.cosine.data() + t * width,
                       table.sine.data() + t * width);
    }
  });
}

// The model's table for a layer, or that of the layer's own permuted frequencies.
const Decoder::RotaryTable& Decoder::rotary_table(int layer) {
  const std::vector<float>& own = weights_.layers[static_cast<size_t>(layer)].inv_freq;
  if (own.empty())
    return config_.is_local(layer) ? rotary_local_ : rotary_;
  fill_rotary_table(own, rotary_);
  return rotary_;
}

// QK-norm, where the model has it, and RoPE on the q_ and k_ rows of a chunk. A query head takes
// its KV head's norm weights and frequencies.
void Decoder::finish_heads(const LayerWeights& w, const RotaryTable& table) {
  const int half = config_.head_dim / 2, kv = config_.n_kv_heads, dim = config_.head_dim;
  const int group = config_.n_heads / kv;
  const bool per_head = table.width > static_cast<size_t>(half);
  const auto finish = [&](float* head, const std::vector<float>& norm, size_t kv_head, size_t at) {
    if (!norm.empty())
      kernels_.head_rms_norm(head, norm.data() + kv_head * dim, dim, config_.rms_eps);
    kernels_.rope(head, table.cosine.data() + at, table.sine.data() + at, half);
  };
  pool_.parallel_for(rows_, [&](int begin, int end, int) {
    for (auto t = static_cast<size_t>(begin); t < static_cast<size_t>(end); ++t) {
      for (int h = 0; h < kv; ++h) {
        const size_t at = t * table.width + static_cast<size_t>(per_head ? h * half : 0);
        finish(k_.data() + (t * kv + h) * dim, w.k_norm, h, at);
        for (int g = 0; g < group; ++g)
          finish(q_.data() + (t * config_.n_heads + h * group + g) * dim, w.q_norm, h, at);
      }
    }
  });
}

// Encodes the chunk's K and V rows and hands them to the shield.
void Decoder::store_kv(int layer) {
  const int kv = config_.n_kv_heads, dim = config_.head_dim;
  const auto encode = [&](KvSession& session, int item, int position, uint8_t* const rows[2]) {
    const float* from[2] = {k_.data() + static_cast<size_t>(item) * dim,
                            v_.data() + static_cast<size_t>(item) * dim};
    float scales[2] = {0.0f, 0.0f};
    for (int i = 0; i < 2; ++i) {
      if (layout_.type == KvType::kInt8) {
        scales[i] = kernels_.quantize_row_i8(from[i], dim, reinterpret_cast<int8_t*>(rows[i]));
      } else if (layout_.type == KvType::kInt4) {
        scales[i] = kernels_.quantize_row_i4(from[i], dim, rows[i]);
      } else if (layout_.type == KvType::kF16) {
        kernels_.to_f16(from[i], dim, reinterpret_cast<uint16_t*>(rows[i]));
      } else {
        std::memcpy(rows[i], from[i], layout_.row_bytes());
      }
    }
    session.write(layer, item % kv, position, rows[0], rows[1], scales);
    secure_wipe(scales, sizeof(scales));
  };
  pool_.parallel_for(rows_ * kv, [&](int begin, int end, int thread) {
    std::vector<uint8_t>& codes = row_codes_[static_cast<size_t>(thread)];
    uint8_t* const rows[2] = {codes.data(), codes.data() + codes.size() / 2};
    for (const Span& span : spans_) {
      const int from = std::max(begin, span.row * kv), to = std::min(end, (span.row + span.n) * kv);
      for (int item = from; item < to; ++item)
        encode(*span.sequence->session, item, positions_[static_cast<size_t>(item / kv)], rows);
    }
  });
}

} // namespace ptmo
