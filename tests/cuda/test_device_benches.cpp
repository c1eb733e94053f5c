// What the device's benches do, on the emulator: that they compute, over which bytes, how often.
// Their times are the device's alone.
#include "check.h"
#include "cuda/bench/attention_bench.h"
#include "cuda/bench/matmul_bench.h"

#include <algorithm>
#include <cmath>

namespace ptmo::test {
namespace {

using cuda::Angles;
using cuda::DeviceAttentionBench;
using cuda::DeviceMatmulBench;
using cuda::KvElement;
using cuda::MatmulCall;
using cuda::WeightType;

bool finite_and_not_zero(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }) &&
         std::any_of(values.begin(), values.end(), [](float x) { return x != 0.0f; });
}

} // namespace

TEST(a_copy_moves_each_byte_twice) {
  cuda::CopyBench bench(5000);
  CHECK_EQ(bench.call_bytes(), 10000u);
  CHECK_EQ(bench.calls(), 4);
  CHECK(bench.milliseconds() >= 0.0);
}

TEST(a_product_takes_every_matrix_of_the_rotation_in_turn) {
  for (const int group : {32, 128}) {
    const cuda::MatmulShape shape{WeightType::kInt4, 48, 256, group, 1, 1};
    const size_t bytes = 48 * 256 / 2 + 48 * (256 / group) * 4; // codes; scales and mins
    DeviceMatmulBench bench(shape, MatmulCall::kMatmul, 5 * bytes);
    CHECK(bench.calls() >= 128 && bench.calls() % 5 == 0);
    CHECK(bench.working_set_bytes() >= 5 * bytes);
    CHECK_EQ(bench.call_bytes(), bytes + 256 + 256 / 32 * 8 + 48 * 4);
    CHECK(finite_and_not_zero(bench.output()));
  }
}

TEST(a_low_rank_update_changes_the_product_fused_or_not) {
  for (const int tokens : {1, 3}) {
    const cuda::MatmulShape shape{WeightType::kInt4, 32, 128, 64, tokens, 2};
    const auto output = [&](MatmulCall call) { return DeviceMatmulBench(shape, call, 0).output(); };
    const std::vector<float> plain = output(MatmulCall::kInputMatmul);
    CHECK(finite_and_not_zero(plain));
    CHECK(output(MatmulCall::kMatmul) == plain);
    for (const MatmulCall call : {MatmulCall::kFusedUpdate, MatmulCall::kUnfusedUpdate}) {
      CHECK(finite_and_not_zero(output(call)));
      CHECK(output(call) != plain);
    }
  }
}

TEST(sealed_and_permuted_attention_give_the_bits_of_plain_attention) {
  for (const KvElement element : {KvElement::kInt8, KvElement::kF16}) {
    const cuda::AttentionShape shape{element, 4, 2, 32, 70};
    DeviceAttentionBench plain(shape, {false, false, Angles::kShared}, 1 << 15);
    CHECK(finite_and_not_zero(plain.output()));
    CHECK(plain.working_set_bytes() >= 1 << 15);
    for (const bool sealed : {false, true})
      for (const Angles angles : {Angles::kShared, Angles::kPerHead}) {
        DeviceAttentionBench other(shape, {sealed, false, angles}, 1 << 15);
        CHECK(other.output() == plain.output());
        CHECK_EQ(other.call_bytes() - plain.call_bytes(), sealed ? 8u * 70 : 0u);
      }
    // A call that stores rotates q in place, each time anew: its result is another.
    for (const Angles angles : {Angles::kShared, Angles::kPerHead}) {
      DeviceAttentionBench stored(shape, {true, true, angles}, 1 << 15);
      CHECK(finite_and_not_zero(stored.output()));
    }
  }
}

TEST(a_shape_that_no_kernel_has_is_refused) {
  const cuda::MatmulShape no_group{WeightType::kInt4, 32, 128, 48, 1, 1};
  CHECK_THROWS(DeviceMatmulBench(no_group, MatmulCall::kMatmul, 0), std::invalid_argument,
               "group=48");
  const cuda::AttentionShape heads{KvElement::kInt8, 3, 2, 32, 70};
  const cuda::AttentionCall plain{false, false, Angles::kShared};
  CHECK_THROWS(DeviceAttentionBench(heads, plain, 0), std::invalid_argument, "n_heads=3");
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
