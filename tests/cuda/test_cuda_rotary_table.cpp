// The device's table of cosines and sines against float64 and the CPU's fast levels.
#include "check.h"
#include "device_samples.h"
#include "every_order.h"

namespace ptmo::test {

TEST(the_table_is_within_its_bound_of_float64_and_equals_the_fast_levels) {
  Random random(1);
  for (const int width : {8, 32, 40, 200}) {
    std::vector<int32_t> positions = {0, 1, 2, 16777215, 8388607, 131071};
    for (int i = 0; i < 60; ++i)
      positions.push_back(random.below(1 << 24));
    std::vector<float> freq = {1.0f, -1.0f, 0.0f, 1.570796371f, 1e-30f};
    for (size_t i = 2; freq.size() < static_cast<size_t>(width); ++i)
      freq.push_back(std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(width)));
    freq.resize(static_cast<size_t>(width));
    freq[3] = 0.78539819f; // near multiples of a quarter turn
    const int tokens = static_cast<int>(positions.size());
    const size_t count = static_cast<size_t>(tokens) * width;
    const std::vector<float> got = in_every_order([&] {
      const DeviceArray<int32_t> at(positions);
      const DeviceArray<float> inv(freq), table(2 * count + 1, Writer::kKernel);
      std::fill_n(table.data(), table.size(), 7.0f);
      CHECK_EQ(
          cuda::fill_rotary_table(
              {tokens, width, at.data(), inv.data(), table.data(), table.data() + count}, nullptr),
          cudaSuccess);
      return table.values();
    });
    std::vector<float> angles(count), cosine(count), sine(count);
    for (size_t i = 0; i < count; ++i) {
      angles[i] = static_cast<float>(positions[i / width]) * freq[i % width];
      set_context("width ", width, " angle ", angles[i]);
      CHECK_NEAR(got[i], std::cos(static_cast<double>(angles[i])), 0.58 * kEps);
      CHECK_NEAR(got[count + i], std::sin(static_cast<double>(angles[i])), 0.58 * kEps);
    }
    CHECK_EQ(got[2 * count], 7.0f);
    const kernels::Table& fast = **levels().begin();
    if (&fast == &kernels::reference())
      continue; // libm's own
    fast.cos_sin(angles.data(), static_cast<int>(count), cosine.data(), sine.data());
    cosine.insert(cosine.end(), sine.begin(), sine.end());
    cosine.push_back(7.0f);
    CHECK(same_bits(got, cosine));
  }
}

TEST(a_table_of_no_positions_is_nothing) {
  CHECK_EQ(cuda::fill_rotary_table({0, 32, nullptr, nullptr, nullptr, nullptr}, nullptr),
           cudaSuccess);
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
