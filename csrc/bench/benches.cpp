#include "benches.h"

#include <cmath>
#include <cstring>
#include <map>

#include "common/check.h"
#include "random_inputs.h"

namespace ptmo {

using kernels::kBlock;
using kernels::kPartialHead;

namespace {

// What attention reads of a model's shape; the rest is as small as may be.
ModelConfig attention_config(const PageLayout& layout, int n_heads, int context) {
  const ModelConfig config{
      layout.n_layers, 16, n_heads, layout.n_kv_heads, layout.head_dim, 16, 1, context, 1e-5f};
  validate(config);
  return config;
}

} // namespace

VectorBench::VectorBench(const std::string& kernel, int n) {
  require(n >= kBlock && n % kBlock == 0, "n=", n, " is not a positive multiple of 32");
  const auto size = static_cast<size_t>(n);
  const size_t partials = kRows * (size + kPartialHead);
  x_ = random_floats(partials);
  weight_.assign(size, 0.5f);
  out_.resize(partials);
  for (auto* floats : {&scales_, &sums_})
    floats->resize(size);
  codes_.resize(kRows * size);
  low_.resize(size);
  packed_.resize(kRows * size);
  wide_codes_.resize(size);
  halves_.resize(size);
  code_sums_.resize(size);

  struct Entry {
    size_t bytes; // read and written
    std::function<void()> call;
  };
  const kernels::Table& k = kernels::best();
  float *x = x_.data(), *weight = weight_.data(), *out = out_.data();
  const std::map<std::string, Entry> entries = {
      {"quantize_blocks",
       {5 * size,
        [=, &k] {
          k.quantize_blocks(x, n, codes_.data(), nullptr, scales_.data(), sums_.data(),
                            code_sums_.data());
        }}},
      {"quantize_blocks_16",
       {6 * size,
        [=, &k] {
          k.quantize_blocks(x, n, codes_.data(), low_.data(), scales_.data(), sums_.data(),
                            code_sums_.data());
        }}},
      {"rms_norm", {12 * size, [=, &k] { k.rms_norm(x, weight, n, 1e-5f, out); }}},
      {"head_rms_norm", {8 * size, [=, &k] { k.head_rms_norm(out, weight, n, 1e-5f); }}},
      {"swiglu", {12 * size, [=, &k] { k.swiglu(x, weight, n, out); }}},
      {"geglu", {12 * size, [=, &k] { k.geglu(x, weight, n, out); }}},
      {"add", {12 * size, [=, &k] { k.add(weight, n, out); }}},
      {"cos_sin", {12 * size, [=, &k] { k.cos_sin(x, n, weight, out); }}},
      {"rope", {12 * size, [=, &k] { k.rope(out, x, x, n / 2); }}},
      {"quantize_row_i8", {5 * size, [=, &k] { k.quantize_row_i8(x, n, codes_.data()); }}},
      {"quantize_row_i16", {6 * size, [=, &k] { k.quantize_row_i16(x, n, wide_codes_.data()); }}},
      {"quantize_row_i4", {9 * size / 2, [=, &k] { k.quantize_row_i4(x, n, packed_.data()); }}},
      {"unpack_rows_i4",
       {kRows * 3 * size / 2,
        [=, &k] { k.unpack_rows_i4(packed_.data(), kRows, n, codes_.data()); }}},
      {"fold_partials", {12 * partials, [=, &k] { k.fold_partials(x, kRows, n, out); }}},
      {"to_f16", {6 * size, [=, &k] { k.to_f16(x, n, halves_.data()); }}},
  };
  const auto found = entries.find(kernel);
  require(found != entries.end(), kernel, " is not a kernel of the table without weights");
  call_ = found->second.call;
  call_bytes_ = found->second.bytes;
}

void VectorBench::run(int repeats) {
  for (int i = 0; i < repeats; ++i)
    call_();
}

AttentionBench::AttentionBench(KvSession& session, int n_heads, int context, int tokens,
                               int threads)
    : kernels_(kernels::best()), config_(attention_config(session.layout(), n_heads, context)),
      session_(session), pool_(threads), attention_(config_, session.layout(), threads),
      tokens_(tokens) {
  require(session.length() == 0, "the session has ", session.length(), " rows already");
  require(tokens >= 1 && tokens <= context, "tokens=", tokens, " is not in 1..context=", context);
  fill(context);
  q_ = random_floats(static_cast<size_t>(tokens) * config_.q_size());
  out_.resize(q_.size());
  call_bytes_ = static_cast<size_t>(context) * session.layout().bytes_per_token();
}

void AttentionBench::fill(int context) {
  const PageLayout& layout = session_.layout();
  // The same row in K and V everywhere: codes of any value, floats below one.
  std::vector<int8_t> codes = random_codes(layout.row_bytes());
  const std::vector<float> values = random_floats(static_cast<size_t>(layout.head_dim));
  auto* row = reinterpret_cast<uint8_t*>(codes.data());
  if (layout.type == KvType::kF32)
    std::memcpy(row, values.data(), layout.row_bytes());
  if (layout.type == KvType::kF16)
    kernels_.to_f16(values.data(), layout.head_dim, reinterpret_cast<uint16_t*>(row));
  const float scales[2] = {0.01f, 0.01f};
  session_.append(context);
  for (int layer = 0; layer < layout.n_layers; ++layer)
    for (int head = 0; head < layout.n_kv_heads; ++head)
      for (int position = 0; position < context; ++position)
        session_.write(layer, head, position, row, row, layout.has_scales() ? scales : nullptr);
}

void AttentionBench::run(int repeats) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  const AttentionJob job{&session_, q_.data(), session_.length() - tokens_, tokens_, out_.data()};
  for (int i = 0; i < repeats; ++i)
    for (int layer = 0; layer < config_.n_layers; ++layer)
      attention_.run(kernels_, pool_, &job, 1, layer, 0, scale);
}

KeystreamBench::KeystreamBench(int rows, size_t row_bytes, const std::string& level)
    : row_bytes_(row_bytes) {
  require(rows >= 1 && row_bytes >= 1, "rows=", rows, " of ", row_bytes, " bytes");
  for (const AesLevel& one : aes_hardware_levels())
    if (one.name == level)
      level_ = one;
  require(level_.ctr_xor != nullptr, "level=", level, " is none of this CPU's AES levels");
  const uint8_t key[16] = {1};
  aes128_expand(key, &keys_);
  for (int i = 0; i < rows; ++i)
    seqs_.push_back(static_cast<uint64_t>(i));
  tile_ = AlignedBuffer(static_cast<size_t>(rows) * (2 * row_bytes + 8));
}

void KeystreamBench::run(int repeats) {
  const size_t tile = seqs_.size() * row_bytes_;
  uint8_t* at = tile_.data();
  const KvRows rows{seqs_.data(),
                    static_cast<int>(seqs_.size()),
                    {at, at + tile, at + 2 * tile},
                    {at, at + tile, at + 2 * tile}};
  for (int i = 0; i < repeats; ++i)
    level_.ctr_xor(keys_, 0, 0, &rows, 1, row_bytes_);
}

} // namespace ptmo
