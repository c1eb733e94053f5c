#include "benches.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "common/check.h"
#include "kernels/half.h"

namespace ptmo {

using kernels::kBlock;
using kernels::kPanelRows;
using kernels::WeightType;

namespace {

constexpr uint32_t kSeed = 20240607; // any: speed does not depend on the values

std::vector<float> random_floats(size_t n) {
  std::mt19937 bits(kSeed);
  std::vector<float> out(n);
  for (float& x : out)
    x = static_cast<float>(bits()) * 0x1p-31f - 1.0f;
  return out;
}

// Codes in their type's range for `pack_int8`: -127..127.
void random_codes(std::vector<int8_t>& codes) {
  std::mt19937 bits(kSeed);
  for (int8_t& code : codes)
    code = static_cast<int8_t>(static_cast<int>(bits() % 255) - 127);
}

// One matrix in panels, from random codes.
void pack_random(WeightType type, int rows, int cols, int group, uint8_t* out) {
  const bool int4 = kernels::is_int4(type);
  const auto groups = static_cast<size_t>(rows) * static_cast<size_t>(cols / group);
  const std::vector<uint16_t> scales(groups, float_to_half(0.01f));
  const std::vector<uint16_t> mins(groups, float_to_half(-0.08f));
  std::vector<int8_t> codes(static_cast<size_t>(rows) * cols / (int4 ? 2 : 1));
  random_codes(codes);
  if (int4)
    pack_int4(reinterpret_cast<const uint8_t*>(codes.data()), scales.data(),
              type == WeightType::kInt4 ? mins.data() : nullptr, rows, cols, group, out);
  else
    pack_int8(codes.data(), scales.data(), rows, cols, out);
}

// What attention reads of a model's shape; the rest is as small as may be.
ModelConfig attention_config(const PageLayout& layout, int n_heads, int context) {
  const ModelConfig config{
      layout.n_layers, 16, n_heads, layout.n_kv_heads, layout.head_dim, 16, 1, context, 1e-5f};
  validate(config);
  return config;
}

} // namespace

MatmulBench::MatmulBench(WeightType type, int rows, int cols, int group, int tokens, int threads,
                         size_t working_set_bytes)
    : kernels_(kernels::best()), pool_(threads), tokens_(tokens) {
  require(kernels::is_integer(type), "weights are INT4 or INT8");
  require(rows >= 1 && cols >= 1 && tokens >= 1, "rows=", rows, ", cols=", cols,
          ", tokens=", tokens, " are not all positive");
  const size_t stride = panel_bytes(type, cols, group);
  matrix_bytes_ = stride * static_cast<size_t>((rows + kPanelRows - 1) / kPanelRows);
  const size_t spacing = (matrix_bytes_ + 63) / 64 * 64;
  const size_t copies =
      std::max<size_t>(1, (working_set_bytes + matrix_bytes_ - 1) / matrix_bytes_);
  uint8_t* first = weights_.allocate(spacing * copies);
  pack_random(type, rows, cols, group, first);
  for (size_t i = 0; i < copies; ++i) {
    uint8_t* at = first + i * spacing;
    if (i > 0)
      std::memcpy(at, first, matrix_bytes_);
    matrices_.push_back({type, rows, cols, group, at, stride});
  }
  const auto values = static_cast<size_t>(tokens) * static_cast<size_t>(cols);
  const std::vector<float> x = random_floats(values);
  codes_.resize(values);
  scales_.resize(values / kBlock);
  sums_.resize(values / kBlock);
  code_sums_.resize(values / kBlock);
  kernels_.quantize_blocks(x.data(), static_cast<int>(values), codes_.data(), nullptr,
                           scales_.data(), sums_.data(), code_sums_.data());
  input_ = {cols, nullptr, codes_.data(), nullptr, scales_.data(), sums_.data(), code_sums_.data()};
  y_.resize(static_cast<size_t>(tokens) * rows);
}

void MatmulBench::run(int repeats) {
  for (int i = 0; i < repeats; ++i) {
    const kernels::PackedMatrix& w = matrices_[next_];
    next_ = (next_ + 1) % matrices_.size();
    pool_.parallel_for((w.rows + kPanelRows - 1) / kPanelRows, [&](int begin, int end, int) {
      kernels_.matmul(w, begin, end, input_, tokens_, y_.data(), static_cast<size_t>(w.rows));
    });
  }
}

VectorBench::VectorBench(const std::string& kernel, int n) {
  require(n >= kBlock && n % kBlock == 0, "n=", n, " is not a positive multiple of 32");
  const auto size = static_cast<size_t>(n);
  x_ = random_floats(size);
  weight_.assign(size, 0.5f);
  for (auto* floats : {&out_, &scales_, &sums_})
    floats->resize(size);
  codes_.resize(size);
  wide_codes_.resize(size);
  halves_.resize(size);
  code_sums_.resize(size);

  struct Entry {
    size_t bytes; // read and written, an element
    std::function<void()> call;
  };
  const kernels::Table& k = kernels::best();
  float *x = x_.data(), *weight = weight_.data(), *out = out_.data();
  const std::map<std::string, Entry> entries = {
      {"quantize_blocks",
       {5,
        [=, &k] {
          k.quantize_blocks(x, n, codes_.data(), nullptr, scales_.data(), sums_.data(),
                            code_sums_.data());
        }}},
      {"rms_norm", {12, [=, &k] { k.rms_norm(x, weight, n, 1e-5f, out); }}},
      {"head_rms_norm", {8, [=, &k] { k.head_rms_norm(out, weight, n, 1e-5f); }}},
      {"swiglu", {12, [=, &k] { k.swiglu(x, weight, n, out); }}},
      {"geglu", {12, [=, &k] { k.geglu(x, weight, n, out); }}},
      {"add", {12, [=, &k] { k.add(weight, n, out); }}},
      {"cos_sin", {12, [=, &k] { k.cos_sin(x, n, weight, out); }}},
      {"rope", {12, [=, &k] { k.rope(out, x, x, n / 2); }}},
      {"quantize_row_i8", {5, [=, &k] { k.quantize_row_i8(x, n, codes_.data()); }}},
      {"quantize_row_i16", {6, [=, &k] { k.quantize_row_i16(x, n, wide_codes_.data()); }}},
      {"to_f16", {6, [=, &k] { k.to_f16(x, n, halves_.data()); }}},
  };
  const auto found = entries.find(kernel);
  require(found != entries.end(), kernel, " is not an elementwise kernel of the table");
  call_ = found->second.call;
  call_bytes_ = found->second.bytes * size;
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
  // The same code in K and V of every row: INT8 in -127..127, floats below one.
  std::vector<int8_t> codes(layout.row_bytes());
  random_codes(codes);
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

KeystreamBench::KeystreamBench(int records, size_t record_bytes) : record_bytes_(record_bytes) {
  require(records >= 1 && record_bytes >= 1, "records=", records, " of ", record_bytes, " bytes");
  const uint8_t key[16] = {1};
  aes128_expand(key, &keys_);
  for (int i = 0; i < records; ++i)
    seqs_.push_back(static_cast<uint64_t>(i));
  tile_.resize(static_cast<size_t>(records) * record_bytes);
}

void KeystreamBench::run(int repeats) {
  for (int i = 0; i < repeats; ++i)
    aes128_ctr_xor(keys_, seqs_.data(), static_cast<int>(seqs_.size()), 0, StreamKind::kKey, 0,
                   tile_.data(), record_bytes_, tile_.data());
}

} // namespace ptmo
