#include "matmul_bench.h"

#include <algorithm>
#include <random>

#include "bench/random_inputs.h"
#include "common/check.h"
#include "kernels/half.h"

namespace ptmo::cuda {
namespace {

constexpr int kUnfusedRank = 32; // columns of B as a matrix: those of a block, half of them unused

size_t aligned(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

// fp16 values that make products of some size: random scales, and mins where the type has them.
std::vector<uint16_t> random_scales(WeightType type, size_t count) {
  std::mt19937 bits(kInputSeed);
  std::vector<uint16_t> out(count);
  const size_t unit = static_cast<size_t>(scale_unit(type));
  for (size_t i = 0; i < count; ++i) {
    const float scale = 0.005f + 0.01f * static_cast<float>(bits()) * 0x1p-32f;
    out[i] = float_to_half(i % unit < 2 ? scale : -8.0f * scale);
  }
  return out;
}

} // namespace

DeviceMatmulBench::Places DeviceMatmulBench::places(const MatmulShape& s) {
  Places at{};
  size_t end = 0;
  const auto take = [&end](size_t bytes) {
    const size_t begin = end;
    end += aligned(bytes);
    return begin;
  };
  const auto rows = static_cast<size_t>(s.rows);
  at.codes = take(code_bytes(s.type, s.rows, s.cols));
  at.scales = take(2 * scale_count(s.type, s.rows, s.cols, s.group));
  // A has the rows that the unfused product needs; the fused one reads the first panel.
  at.a_codes = take(code_bytes(WeightType::kInt8, kUnfusedRank, s.cols));
  at.a_scales = take(2 * scale_count(WeightType::kInt8, kUnfusedRank, s.cols, kBlock));
  at.b_codes = take(rows * kUpdateRank);
  at.b_scales = take(2 * rows);
  at.plain_b_codes = take(code_bytes(WeightType::kInt8, s.rows, kUnfusedRank));
  at.plain_b_scales = take(2 * scale_count(WeightType::kInt8, s.rows, kUnfusedRank, kBlock));
  at.end = end;
  return at;
}

DeviceMatmulBench::DeviceMatmulBench(const MatmulShape& shape, MatmulCall what,
                                     size_t working_set_bytes)
    : shape_(shape), at_(places(shape)) {
  const MatmulShape& s = shape_;
  require(kernels::is_int4(s.type) || s.type == WeightType::kInt8, "weights are INT4 or INT8");
  require(s.rows >= 1 && s.cols >= kBlock && s.cols % kBlock == 0 && s.tokens >= 1, "rows=", s.rows,
          ", cols=", s.cols, ", tokens=", s.tokens,
          " are not positive, or cols is no multiple of 32");
  require(s.group == 32 || s.group == 64 || s.group == 128, "group=", s.group,
          " is not 32, 64 or 128");
  require(s.planes == 1 || s.planes == 2, "planes=", s.planes, " is not 1 or 2");
  const size_t matrix_bytes = at_.a_codes; // W stands first
  sets_ =
      static_cast<int>(std::max<size_t>(1, (working_set_bytes + matrix_bytes - 1) / matrix_bytes));
  weights_ = DeviceMemory(static_cast<size_t>(sets_) * at_.end);
  working_set_bytes_ = static_cast<size_t>(sets_) * matrix_bytes;
  fill(weights_.data());
  for (int i = 1; i < sets_; ++i)
    check_call(cudaMemcpyAsync(weights_.data() + static_cast<size_t>(i) * at_.end, weights_.data(),
                               at_.end, cudaMemcpyDeviceToDevice, stream_),
               "copying");

  const auto tokens = static_cast<size_t>(s.tokens), width = static_cast<size_t>(padded(s.cols));
  const auto planes = static_cast<size_t>(s.planes);
  x_ = DeviceArray<float>(random_floats(tokens * static_cast<size_t>(s.cols)), stream_);
  y_ = DeviceArray<float>(tokens * static_cast<size_t>(s.rows));
  check_call(cudaMemsetAsync(y_.data(), 0, y_.bytes(), stream_), "zeroing");
  codes_ = DeviceArray<int8_t>(tokens * planes * width);
  scales_ = DeviceArray<float2>(tokens * width / kBlock);
  const auto u_width = static_cast<size_t>(padded(kUnfusedRank));
  u_ = DeviceArray<float>(random_floats(tokens * kUnfusedRank), stream_);
  u_codes_ = DeviceArray<int8_t>(tokens * u_width);
  u_scales_ = DeviceArray<float2>(tokens * u_width / kBlock);
  prepare_terms();
  call(0, MatmulCall::kInputMatmul); // makes the input of calls that do not make their own
  PrepareJob of_u{};
  of_u.tokens = s.tokens;
  of_u.cols = kUnfusedRank;
  of_u.planes = 1;
  of_u.x = u_.data();
  of_u.codes = u_codes_.data();
  of_u.scales = u_scales_.data();
  check_call(prepare_input(of_u, stream_), "an input");

  call_bytes_ = code_bytes(s.type, s.rows, s.cols) +
                2 * scale_count(s.type, s.rows, s.cols, s.group) + codes_.bytes() +
                scales_.bytes() + y_.bytes();
  record([this, what](int turn) { call(turn, what); }, sets_);
}

// One set, made on the host.
void DeviceMatmulBench::fill(uint8_t* set) const {
  const MatmulShape& s = shape_;
  fill_random(set, at_.end, stream_);
  const auto put = [&](WeightType type, size_t at, size_t count) {
    const std::vector<uint16_t> values = random_scales(type, count);
    check_call(cudaMemcpyAsync(set + at, values.data(), 2 * count, cudaMemcpyHostToDevice, stream_),
               "copying in");
    stream_.wait();
  };
  const auto int8 = WeightType::kInt8;
  put(s.type, at_.scales, scale_count(s.type, s.rows, s.cols, s.group));
  put(int8, at_.a_scales, scale_count(int8, kUnfusedRank, s.cols, kBlock));
  put(int8, at_.b_scales, static_cast<size_t>(s.rows));
  put(int8, at_.plain_b_scales, scale_count(int8, s.rows, kUnfusedRank, kBlock));
}

void DeviceMatmulBench::prepare_terms() {
  std::vector<DeviceShrink> shrinks;
  std::vector<DeviceLowRankTerm> terms;
  for (int i = 0; i < sets_; ++i) {
    const uint8_t* set = weights_.data() + static_cast<size_t>(i) * at_.end;
    shrinks.push_back({set + at_.a_codes, reinterpret_cast<const uint16_t*>(set + at_.a_scales),
                       u_.data(), 1.0f, kUpdateRank / kernels::kRankChunk, 0, shape_.tokens});
    terms.push_back({reinterpret_cast<const int8_t*>(set + at_.b_codes),
                     reinterpret_cast<const uint16_t*>(set + at_.b_scales), u_.data(),
                     kUpdateRank / kernels::kRankChunk, 0, shape_.tokens});
  }
  units_ = shrink_units(shrinks.data(), 1, shape_.planes);
  shrinks_ = DeviceArray<DeviceShrink>(shrinks, stream_);
  terms_ = DeviceArray<DeviceLowRankTerm>(terms, stream_);
}

DeviceMatrix DeviceMatmulBench::matrix(int set, WeightType type, int rows, int cols, size_t codes,
                                       size_t scales) const {
  const uint8_t* from = weights_.data() + static_cast<size_t>(set) * at_.end;
  return {type,         rows,
          cols,         type == WeightType::kInt8 ? static_cast<int>(kBlock) : shape_.group,
          from + codes, reinterpret_cast<const uint16_t*>(from + scales)};
}

void DeviceMatmulBench::multiply(const DeviceMatrix& w, const DeviceInput& x, float* y, bool add,
                                 int set) const {
  MatmulJob job{};
  job.x = x;
  job.add = add;
  job.count = 1;
  job.parts[0] = {w,
                  nullptr,
                  update_ ? terms_.data() + set : nullptr,
                  update_ ? 1 : 0,
                  y,
                  static_cast<size_t>(w.rows)};
  check_call(matmul(job, stream_), "a matrix product");
}

void DeviceMatmulBench::call(int turn, MatmulCall what) {
  const MatmulShape& s = shape_;
  const int set = turn % sets_;
  const auto int8 = WeightType::kInt8;
  update_ = what == MatmulCall::kFusedUpdate;
  if (what != MatmulCall::kMatmul) {
    PrepareJob job{};
    job.kind = InputKind::kPlain;
    job.tokens = s.tokens;
    job.cols = s.cols;
    job.planes = s.planes;
    job.x = x_.data();
    job.codes = codes_.data();
    job.scales = scales_.data();
    job.shrinks = update_ ? shrinks_.data() + set : nullptr;
    job.shrink_count = update_ ? 1 : 0;
    job.units = update_ ? units_ : 0;
    check_call(prepare_input(job, stream_), "an input");
  }
  const DeviceInput x{s.tokens, s.cols, s.planes, codes_.data(), scales_.data()};
  // In the unfused one's favour, u is not quantised anew: B meets the codes of another u.
  if (what == MatmulCall::kUnfusedUpdate)
    multiply(matrix(set, int8, kUnfusedRank, s.cols, at_.a_codes, at_.a_scales), x, u_.data(),
             false, set);
  multiply(matrix(set, s.type, s.rows, s.cols, at_.codes, at_.scales), x, y_.data(), false, set);
  if (what == MatmulCall::kUnfusedUpdate)
    multiply(matrix(set, int8, s.rows, kUnfusedRank, at_.plain_b_codes, at_.plain_b_scales),
             {s.tokens, kUnfusedRank, 1, u_codes_.data(), u_scales_.data()}, y_.data(), true, set);
}

std::vector<float> DeviceMatmulBench::output() const {
  std::vector<float> out(y_.size());
  check_call(cudaMemcpyAsync(out.data(), y_.data(), y_.bytes(), cudaMemcpyDeviceToHost, stream_),
             "copying out");
  stream_.wait();
  return out;
}

} // namespace ptmo::cuda
