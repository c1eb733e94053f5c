#include "decoder.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "common/check.h"

namespace ptmo {
namespace {

constexpr int kOutputRows = 8; // tokens whose logits are computed together

bool reads_integers(const Matrix& w) {
  return w.packed.type == kernels::WeightType::kInt4 || w.packed.type == kernels::WeightType::kInt8;
}

bool same_layout(const PageLayout& a, const PageLayout& b) {
  return a.n_layers == b.n_layers && a.n_kv_heads == b.n_kv_heads && a.head_dim == b.head_dim &&
         a.rows == b.rows && a.type == b.type;
}

} // namespace

Decoder::Decoder(const ModelConfig& config, const PageLayout& layout, int threads,
                 bool integer_activations, int chunk_tokens)
    : config_((validate(config), config)), layout_(layout), integer_(integer_activations),
      chunk_(chunk_tokens), owner_pid_(static_cast<int>(getpid())), kernels_(kernels::best()),
      pool_(threads), weights_(config), attention_(config, layout, threads) {
  require(chunk_tokens >= 1 && chunk_tokens <= 4096, "chunk_tokens=", chunk_tokens,
          " is not in 1..4096");
  require(layout.n_layers == config.n_layers && layout.n_kv_heads == config.n_kv_heads &&
              layout.head_dim == config.head_dim,
          "the page layout is not this model's");
  const auto n = static_cast<size_t>(chunk_tokens);
  const size_t widest =
      static_cast<size_t>(std::max({config.d_model, config.d_ff, config.q_size()}));
  const size_t half = static_cast<size_t>(config.head_dim / 2);
  for (auto* v : {&x_, &normed_})
    v->resize(std::max<size_t>(n, kOutputRows) * config.d_model);
  for (auto* v : {&q_, &attended_})
    v->resize(n * config.q_size());
  for (auto* v : {&k_, &v_})
    v->resize(n * config.kv_size());
  for (auto* v : {&gate_, &up_})
    v->resize(n * config.d_ff);
  for (auto* v : {&angles_, &cosine_, &sine_})
    v->resize(n * config.n_kv_heads * half);
  const size_t input_rows = std::max<size_t>(n, 2 * kOutputRows);
  input_codes_.resize(input_rows * widest);
  for (auto* v : {&input_scales_, &input_sums_})
    v->resize(input_rows * (widest / kernels::kBlock));
  input_code_sums_.resize(input_rows * (widest / kernels::kBlock));
  residual_.resize(static_cast<size_t>(kOutputRows) * config.d_model);
  output_rows_.resize(2 * static_cast<size_t>(kOutputRows) * config.vocab_size);
  row_codes_.assign(static_cast<size_t>(threads), std::vector<uint8_t>(2 * layout.row_bytes()));
}

void Decoder::forward(KvSession& session, const int32_t* tokens, int n, Logits which, float* logits,
                      const AttentionRestore& restore) {
  ensure(static_cast<int>(getpid()) == owner_pid_, "this engine belongs to process ", owner_pid_,
         ": load one of your own after a fork");
  weights_.require_complete();
  require(!session.closed(), "the session is closed");
  require(same_layout(session.layout(), layout_), "the session's page layout is not the decoder's");
  require(restore.buffer == nullptr || restore.max_tokens >= std::min(n, chunk_),
          "the attention buffer holds ", restore.max_tokens, " rows, a chunk has ",
          std::min(n, chunk_));
  require(n >= 1, "n=", n, ": no tokens");
  require(n <= config_.context_length - session.length(),
          "the prompt does not fit: ", session.length(), " + ", n, " tokens exceed the context of ",
          config_.context_length);
  for (int i = 0; i < n; ++i) {
    require(tokens[i] >= 0 && tokens[i] < config_.vocab_size, "token id ", tokens[i],
            " is not in 0..", config_.vocab_size - 1);
  }
  const int length_before = session.length();
  try {
    for (int done = 0; done < n; done += chunk_) {
      const int now = std::min(chunk_, n - done);
      forward_chunk(session, tokens + done, now, restore);
      if (which == Logits::kAll) {
        output(0, now, logits + static_cast<size_t>(done) * config_.vocab_size);
      } else if (done + now == n) {
        output(now - 1, 1, logits);
      }
    }
  } catch (...) {
    session.truncate(length_before);
    wipe_scratch(n);
    throw;
  }
  wipe_scratch(n);
}

void Decoder::forward_chunk(KvSession& session, const int32_t* tokens, int n,
                            const AttentionRestore& restore) {
  const int first = session.length();
  session.append(n);
  for (int t = 0; t < n; ++t)
    copy_row(weights_.embed.packed, tokens[t],
             x_.data() + static_cast<size_t>(t) * config_.d_model);
  if (weights_.layers[0].inv_freq.empty())
    fill_rotary_tables(weights_.inv_freq, first, n);
  for (int layer = 0; layer < config_.n_layers; ++layer) {
    const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
    normalise(w.attn_norm, n);
    attention_layer(session, layer, first, n, restore);
    normalise(w.ffn_norm, n);
    mlp_layer(w, n);
  }
}

// x += W_o attention(W_q h, W_k h, W_v h), h = the normed x.
void Decoder::attention_layer(KvSession& session, int layer, int first, int n,
                              const AttentionRestore& restore) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  set_input(normed_.data(), config_.d_model, n);
  linear(w.q, w.q_bias, n, q_.data());
  linear(w.k, w.k_bias, n, k_.data());
  linear(w.v, w.v_bias, n, v_.data());
  if (!w.inv_freq.empty())
    fill_rotary_tables(w.inv_freq, first, n);
  rotate(w, n);
  store_kv(session, layer, first, n);
  float* attended = restore.buffer != nullptr ? restore.buffer : attended_.data();
  attention_.run(kernels_, pool_, session, layer, q_.data(), first, n, attended);
  if (restore.buffer != nullptr)
    restore.restore(layer, n);
  set_input(attended, config_.q_size(), n);
  linear(w.o, {}, n, normed_.data());
  kernels_.add(normed_.data(), n * config_.d_model, x_.data());
}

// x += W_down (silu(W_gate h) * W_up h), h = the normed x.
void Decoder::mlp_layer(const LayerWeights& w, int n) {
  set_input(normed_.data(), config_.d_model, n);
  linear(w.gate, {}, n, gate_.data());
  linear(w.up, {}, n, up_.data());
  pool_.parallel_for(n * (config_.d_ff / 16), [&](int begin, int end, int) {
    const int from = begin * 16, count = (end - begin) * 16;
    kernels_.swiglu(gate_.data() + from, up_.data() + from, count, gate_.data() + from);
  });
  set_input(gate_.data(), config_.d_ff, n);
  linear(w.down, {}, n, normed_.data());
  kernels_.add(normed_.data(), n * config_.d_model, x_.data());
}

void Decoder::normalise(const std::vector<float>& weight, int n) {
  const int d = config_.d_model;
  pool_.parallel_for(n, [&](int begin, int end, int) {
    for (int t = begin; t < end; ++t) {
      const size_t at = static_cast<size_t>(t) * d;
      kernels_.rms_norm(x_.data() + at, weight.data(), d, config_.rms_eps, normed_.data() + at);
    }
  });
}

// The angle is position * inv_freq in float32, as the models were trained with. `freq` holds one
// table for all heads or one a KV head; cosine_ and sine_ become [n, freq.size()].
void Decoder::fill_rotary_tables(const std::vector<float>& freq, int first, int n) {
  const size_t width = freq.size();
  pool_.parallel_for(n, [&](int begin, int end, int) {
    for (int t = begin; t < end; ++t) {
      float* angles = angles_.data() + static_cast<size_t>(t) * width;
      for (size_t i = 0; i < width; ++i)
        angles[i] = static_cast<float>(first + t) * freq[i];
      const size_t at = static_cast<size_t>(t) * width;
      kernels_.cos_sin(angles, static_cast<int>(width), cosine_.data() + at, sine_.data() + at);
    }
  });
}

// RoPE on the q_ and k_ rows of a chunk: a query head turns with its KV head's frequencies.
void Decoder::rotate(const LayerWeights& w, int n) {
  const int half = config_.head_dim / 2, kv = config_.n_kv_heads, dim = config_.head_dim;
  const int group = config_.n_heads / kv, tables = w.inv_freq.empty() ? 1 : kv;
  for (int t = 0; t < n; ++t) {
    for (int h = 0; h < kv; ++h) {
      const size_t at = (static_cast<size_t>(t) * tables + (tables == 1 ? 0 : h)) * half;
      const float *c = cosine_.data() + at, *s = sine_.data() + at;
      kernels_.rope(k_.data() + (static_cast<size_t>(t) * kv + h) * dim, c, s, half);
      for (int g = 0; g < group; ++g) {
        const size_t q = (static_cast<size_t>(t) * config_.n_heads + h * group + g) * dim;
        kernels_.rope(q_.data() + q, c, s, half);
      }
    }
  }
}

// Encodes the chunk's K and V rows and hands them to the shield.
void Decoder::store_kv(KvSession& session, int layer, int first, int n) {
  const int kv = config_.n_kv_heads, dim = config_.head_dim;
  pool_.parallel_for(n * kv, [&](int begin, int end, int thread) {
    uint8_t* rows[2] = {row_codes_[static_cast<size_t>(thread)].data(),
                        row_codes_[static_cast<size_t>(thread)].data() + layout_.row_bytes()};
    for (int item = begin; item < end; ++item) {
      const float* from[2] = {k_.data() + static_cast<size_t>(item) * dim,
                              v_.data() + static_cast<size_t>(item) * dim};
      float scales[2] = {0.0f, 0.0f};
      for (int i = 0; i < 2; ++i) {
        if (layout_.type == KvType::kInt8) {
          scales[i] = kernels_.quantize_row_i8(from[i], dim, reinterpret_cast<int8_t*>(rows[i]));
        } else if (layout_.type == KvType::kF16) {
          kernels_.to_f16(from[i], dim, reinterpret_cast<uint16_t*>(rows[i]));
        } else {
          std::memcpy(rows[i], from[i], layout_.row_bytes());
        }
      }
      session.write(layer, item % kv, first + item / kv, rows[0], rows[1], scales);
      secure_wipe(scales, sizeof(scales));
    }
  });
}

void Decoder::set_input(const float* x, int cols, int n) {
  input_ = {cols, x, nullptr, nullptr, nullptr, nullptr};
  if (!integer_ || cols % kernels::kBlock != 0)
    return;
  input_.codes = input_codes_.data();
  input_.scales = input_scales_.data();
  input_.sums = input_sums_.data();
  input_.code_sums = input_code_sums_.data();
  append_input(x, cols, n, 0);
}

// Quantises rows of x into rows [at, at + n) of the input.
void Decoder::append_input(const float* x, int cols, int n, int at) {
  const auto blocks = static_cast<size_t>(cols / kernels::kBlock);
  pool_.parallel_for(n, [&](int begin, int end, int) {
    for (auto t = static_cast<size_t>(begin); t < static_cast<size_t>(end); ++t) {
      const size_t to = t + static_cast<size_t>(at);
      kernels_.quantize_blocks(x + t * cols, cols, input_codes_.data() + to * cols,
                               input_scales_.data() + to * blocks, input_sums_.data() + to * blocks,
                               input_code_sums_.data() + to * blocks);
    }
  });
}

void Decoder::linear(const Matrix& w, const std::vector<float>& bias, int n, float* y) {
  const kernels::PackedMatrix& m = w.packed;
  const int panels = (m.rows + kernels::kPanelRows - 1) / kernels::kPanelRows;
  pool_.parallel_for(panels, [&](int begin, int end, int) {
    kernels_.matmul(m, begin, end, input_, n, y, static_cast<size_t>(m.rows));
  });
  if (bias.empty())
    return;
  for (int t = 0; t < n; ++t)
    kernels_.add(bias.data(), m.rows, y + static_cast<size_t>(t) * m.rows);
}

// Logits of rows [row, row + n) of the chunk. The argmax hangs on small differences, so the head
// reads activations of about 15 bits: INT8 blocks and, as further rows of the same product, INT8
// blocks of what those left over. The weights are still read once.
void Decoder::output(int row, int n, float* logits) {
  const auto d = static_cast<size_t>(config_.d_model),
             vocab = static_cast<size_t>(config_.vocab_size);
  for (int done = 0; done < n; done += kOutputRows) {
    const int now = std::min(kOutputRows, n - done);
    for (int t = 0; t < now; ++t)
      kernels_.rms_norm(x_.data() + (static_cast<size_t>(row) + done + t) * d,
                        weights_.final_norm.data(), config_.d_model, config_.rms_eps,
                        normed_.data() + t * d);
    float* out = logits + static_cast<size_t>(done) * vocab;
    set_input(normed_.data(), config_.d_model, now);
    if (input_.codes == nullptr || !reads_integers(weights_.output())) {
      linear(weights_.output(), {}, now, out);
      continue;
    }
    for (size_t i = 0; i < static_cast<size_t>(now) * d; ++i)
      residual_[i] = normed_[i] - input_scales_[i / kernels::kBlock] * input_codes_[i];
    append_input(residual_.data(), config_.d_model, now, now);
    linear(weights_.output(), {}, 2 * now, output_rows_.data());
    pool_.parallel_for(now, [&](int begin, int end, int) {
      for (auto t = static_cast<size_t>(begin); t < static_cast<size_t>(end); ++t) {
        std::memcpy(out + t * vocab, output_rows_.data() + t * vocab, sizeof(float) * vocab);
        kernels_.add(output_rows_.data() + (now + t) * vocab, config_.vocab_size, out + t * vocab);
      }
    });
  }
}

// Wipes what a forward pass of `n` tokens wrote: the first rows of every buffer.
void Decoder::wipe_scratch(int n) {
  const size_t rows = std::max(std::min(n, chunk_), 2 * std::min(n, kOutputRows));
  const auto wipe = [rows](auto& buffer, size_t width) {
    secure_wipe(buffer.data(), std::min(rows * width, buffer.size()) * sizeof(buffer[0]));
  };
  const auto d = static_cast<size_t>(config_.d_model), ff = static_cast<size_t>(config_.d_ff);
  const auto q = static_cast<size_t>(config_.q_size()), kv = static_cast<size_t>(config_.kv_size());
  const size_t widest = std::max({d, ff, q});
  for (auto* v : {&x_, &normed_, &residual_})
    wipe(*v, d);
  for (auto* v : {&q_, &attended_})
    wipe(*v, q);
  for (auto* v : {&k_, &v_})
    wipe(*v, kv);
  for (auto* v : {&gate_, &up_})
    wipe(*v, ff);
  for (auto* v : {&input_scales_, &input_sums_})
    wipe(*v, widest / kernels::kBlock);
  wipe(input_code_sums_, widest / kernels::kBlock);
  wipe(input_codes_, widest);
  wipe(output_rows_, static_cast<size_t>(config_.vocab_size));
  for (auto& row : row_codes_)
    secure_wipe(row.data(), row.size());
}

} // namespace ptmo
