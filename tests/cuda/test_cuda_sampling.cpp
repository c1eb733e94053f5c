// The device's choice of tokens against float64.
#include "check.h"
#include "every_order.h"
#include "guarded.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace ptmo::test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity(),
                kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<int32_t> argmax(const std::vector<float>& logits, int vocab) {
  const int rows = static_cast<int>(logits.size()) / vocab;
  const DeviceArray<float> in(logits);
  return in_every_order([&] {
    const Guarded<uint64_t> scratch(cuda::argmax_scratch(rows, vocab));
    const Guarded<int32_t> out(rows);
    CHECK_EQ(cuda::argmax(in.data(), rows, vocab, scratch.data(), out.data(), nullptr),
             cudaSuccess);
    scratch.check();
    out.check();
    return out.values();
  });
}

// All rows have the same logits.
std::vector<int32_t> sample(const std::vector<float>& logits,
                            const std::vector<cuda::SampleParams>& params) {
  const size_t vocab = logits.size(), rows = params.size();
  const DeviceArray<float> in(vocab * rows);
  for (size_t r = 0; r < rows; ++r)
    std::copy(logits.begin(), logits.end(), in.data() + r * vocab);
  const DeviceArray<cuda::SampleParams> how(params);
  return in_every_order([&] {
    const Guarded<int32_t> out(rows);
    CHECK_EQ(cuda::sample(in.data(), static_cast<int>(rows), static_cast<int>(vocab), how.data(),
                          out.data(), nullptr),
             cudaSuccess);
    out.check();
    return out.values();
  });
}

// Whether sampler.py's rule draws `token`, up to what the device rounds: a weight of exp(-d) is off
// by d's two roundings and expf's, and by half a unit of 2^-44; sums are exact.
bool may_draw(const std::vector<float>& logits, const cuda::SampleParams& p, int token) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  const double max = logits[order[0]];
  size_t kept = order.size();
  if (p.top_k > 0)
    kept = std::min(kept, static_cast<size_t>(p.top_k));
  std::vector<double> cumulative;
  double mass = 0.0, error = 0.0, before = 0.0, after = -1.0;
  for (size_t i = 0; i < kept; ++i) {
    const double d = (max - logits[order[i]]) / p.temperature, weight = std::exp(-d);
    if (order[i] == token)
      before = mass;
    mass += weight;
    if (order[i] == token)
      after = mass;
    error += (weight > 0.0 ? weight * (2.0 * d + 4.0) * kEps : 0.0) + 0x1p-45;
    cumulative.push_back(mass);
  }
  double least = mass, most = mass;
  if (p.top_p < 1.0) {
    const auto at = [&](double wanted) {
      const auto found = std::lower_bound(cumulative.begin(), cumulative.end(), wanted);
      return found == cumulative.end() ? mass : *found;
    };
    least = at(p.top_p * mass - 2.0 * error);
    most = at(p.top_p * mass + 2.0 * error);
  }
  return after >= 0.0 && before - 2.0 * error <= p.uniform * most &&
         p.uniform * least <= after + 2.0 * error;
}

void check_draws(const std::vector<float>& logits, const std::vector<cuda::SampleParams>& params) {
  const std::vector<int32_t> got = sample(logits, params);
  for (size_t i = 0; i < got.size(); ++i) {
    const cuda::SampleParams& p = params[i];
    set_context("vocab ", logits.size(), " temperature ", p.temperature, " top_k ", p.top_k,
                " top_p ", p.top_p, " uniform ", p.uniform, " token ", got[i]);
    CHECK(may_draw(logits, p, got[i]));
  }
}

const double kLast = 1.0 - 0x1p-53; // the largest draw

} // namespace

TEST(argmax_is_the_lowest_of_the_largest) {
  Random random(1);
  for (const int vocab : {1, 2, 31, 1000, 8192, 8193, 49152}) {
    std::vector<float> logits = random.normals(3 * static_cast<size_t>(vocab));
    const auto row = [&](int r) { return logits.data() + static_cast<size_t>(r) * vocab; };
    row(1)[vocab / 3] = row(1)[vocab - 1] = 9.0f;
    std::fill_n(row(2), vocab, -kInf);
    row(2)[vocab - 1] = -3e38f;
    const std::vector<int32_t> got = argmax(logits, vocab);
    CHECK_EQ(got[0], std::max_element(row(0), row(0) + vocab) - row(0));
    CHECK_EQ(got[1], vocab / 3);
    CHECK_EQ(got[2], vocab - 1);
  }
}

TEST(zeros_of_either_sign_are_equal) {
  CHECK_EQ(argmax({-1.0f, -0.0f, 0.0f}, 3)[0], 1);
  CHECK_EQ(argmax({-1.0f, 0.0f, -0.0f}, 3)[0], 1);
  CHECK_EQ(sample({-1.0f, -0.0f, 0.0f}, {{0.001f, 1, 1.0, 0.99}})[0], 1);
}

TEST(logits_that_are_not_finite_give_no_token) {
  Random random(2);
  constexpr int kVocab = 9000;
  const std::vector<float> good = random.normals(kVocab);
  for (const float bad : {kNaN, -kNaN, kInf}) {
    std::vector<float> logits = good;
    logits[8999] = bad;
    CHECK_EQ(argmax(logits, kVocab)[0], cuda::kNoToken);
    CHECK_EQ(sample(logits, {{1.0f, 0, 1.0, 0.5}})[0], cuda::kNoToken);
  }
  const std::vector<float> none(kVocab, -kInf);
  CHECK_EQ(argmax(none, kVocab)[0], cuda::kNoToken);
  CHECK_EQ(sample(none, {{0.0f, 0, 1.0, 0.5}})[0], cuda::kNoToken);
}

TEST(draws_follow_the_distribution) {
  Random random(3);
  std::vector<cuda::SampleParams> params = {
      {0.7f, 1 << 30, 1.0, 0.3}, {1.0f, 0, 1.0, 0.0},    {1.0f, 0, 1.0, kLast},
      {1.0f, 0, 0.9, kLast},     {1.0f, 3, 1e-9, kLast}, // one token
  };
  for (const float temperature : {0.01f, 0.7f, 2.0f})
    for (const int top_k : {0, 1, 40})
      for (const double top_p : {0.05, 0.95, 1.0})
        params.push_back({temperature, top_k, top_p, random.uniform(0.0f, 1.0f)});
  for (const int vocab : {1, 2, 700, 1025}) {
    const std::vector<float> logits = random.normals(vocab, 3.0f);
    CHECK_EQ(sample(logits, {{0.0f, 5, 0.5, 0.5}})[0],
             std::max_element(logits.begin(), logits.end()) - logits.begin());
    check_draws(logits, params);
  }
}

TEST(a_large_vocabulary_and_tokens_that_are_forbidden) {
  Random random(4);
  std::vector<float> logits = random.normals(262144, 3.0f);
  for (size_t i = 0; i < logits.size(); i += 3)
    logits[i] = -kInf;
  check_draws(logits, {{0.7f, 40, 0.95, 0.6}, {1.0f, 0, 0.8, 0.95}});
}

// Equal weights: every place of the order is known, whatever a batch holds.
TEST(a_flat_distribution_goes_on_through_the_batches) {
  const std::vector<float> logits(5000, 1.5f);
  const std::vector<int32_t> got =
      sample(logits, {{1.0f, 0, 1.0, 0.0},
                      {1.0f, 0, 1.0, kLast},
                      {1.0f, 0, 1.0, 1024.5 / 5000},
                      {1.0f, 3000, 1.0, 0.5},
                      {1.0f, 3000, 0.5, kLast},    // the last of 1500
                      {1.0f, 0, 0.9, 10.5 / 4500}, // back to the first batch
                      {1.0f, 2048, 0.75, 1023.5 / 1536}});
  const std::vector<int32_t> want = {0, 4999, 1024, 1500, 1499, 10, 1023};
  for (size_t i = 0; i < want.size(); ++i)
    CHECK_EQ(got[i], want[i]);
}

// The 300 make a batch, as no more follow closely; the draw is the very end of their weight.
TEST(the_last_weight_of_a_batch_is_no_forbidden_tokens) {
  std::vector<float> logits(1300, -kInf);
  std::fill_n(logits.begin() + 500, 300, 2.0f);
  CHECK_EQ(sample(logits, {{1.0f, 1300, 1.0, kLast}})[0], 799);
}

TEST(extreme_logits_and_temperatures_still_draw) {
  check_draws({3e38f, -3e38f, 2.9e38f, 0.0f}, {{1.0f, 0, 1.0, kLast}, {100.0f, 0, 1.0, 0.5}});
  check_draws({1e-40f, 0.0f, -1e-40f}, {{1.0f, 0, 1.0, 0.9}, {1.0f, 2, 0.6, 0.7}});
  CHECK_EQ(sample({1.0f, 1.5f, 1.25f}, {{1e-40f, 0, 1.0, kLast}})[0], 1);
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
