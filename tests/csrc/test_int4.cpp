// Group-wise INT4: quantisation error, storage form, panels, and what is refused.
#include "check.h"
#include "samples.h"

#include <stdexcept>

#include "kernels/reference/panels.h"

namespace ptmo::test {
namespace {

struct Quantised {
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales, mins;
  std::vector<float> back;
};

Quantised quantise(const std::vector<float>& x, int rows, int cols, int group, bool symmetric) {
  Quantised q;
  q.codes.resize(x.size() / 2);
  q.scales.resize(x.size() / group);
  q.mins.resize(x.size() / group);
  q.back.resize(x.size());
  quantize_int4(x.data(), rows, cols, group, symmetric, q.codes.data(), q.scales.data(),
                q.mins.data());
  dequantize_int4(q.codes.data(), q.scales.data(), q.mins.data(), rows, cols, group, q.back.data());
  return q;
}

const WeightType kAll[] = {WeightType::kInt4, WeightType::kInt4Symmetric, WeightType::kInt8,
                           WeightType::kF16, WeightType::kF32};

} // namespace

// Asymmetric: low + 15 scale misses high by what rounding scale and low to fp16 takes away, each
// at most 2^-11 of itself; elsewhere the code is the nearest, so half a step.
TEST(dequantised_values_are_within_half_a_step_and_the_rounding_of_the_scale) {
  Random random(51);
  for (const int group : {32, 64, 128}) {
    for (const float size : {1e-3f, 1.0f, 100.0f}) {
      for (const float offset : {0.0f, 3.0f, -20.0f}) {
        std::vector<float> x = random.normals(5 * 256, size);
        for (float& v : x)
          v += offset * size;
        const Quantised q = quantise(x, 5, 256, group, false);
        for (size_t i = 0; i < x.size(); ++i) {
          const double scale = half_to_float(q.scales[i / group]);
          const double low = half_to_float(q.mins[i / group]);
          const double rounding = 15.0 * scale * 0x1p-11 + std::fabs(low) * 0x1p-11 + 0x1p-25 * 16;
          set_context("group ", group, " size ", size, " offset ", offset, " at ", i);
          CHECK_NEAR(q.back[i], x[i], scale / 2.0 + rounding * 1.01);
        }
      }
    }
  }
}

TEST(symmetric_groups_have_a_min_of_exactly_minus_eight_scales) {
  Random random(52);
  for (const int group : {32, 64, 128}) {
    const std::vector<float> x = random.normals(7 * 128);
    const Quantised q = quantise(x, 7, 128, group, true);
    for (size_t g = 0; g < q.scales.size(); ++g) {
      set_context("group of ", group, " number ", g);
      CHECK_EQ(half_to_float(q.mins[g]), -8.0f * half_to_float(q.scales[g]));
      const double scale = std::fabs(half_to_float(q.scales[g]));
      float extreme = 0.0f;
      for (size_t i = g * group; i < (g + 1) * group; ++i)
        extreme = std::fabs(x[i]) > std::fabs(extreme) ? x[i] : extreme;
      for (size_t i = g * group; i < (g + 1) * group; ++i) {
        // Codes reach 8 steps on the side of the extreme value and 7 on the other.
        const double clipped = x[i] * extreme < 0 ? scale : scale / 2.0;
        CHECK_NEAR(q.back[i], x[i], clipped + 8.0 * scale * 0x1p-11 * 1.01);
        if (x[i] == extreme)
          CHECK_NEAR(q.back[i], x[i], 8.0 * scale * 0x1p-11 * 1.01);
      }
    }
  }
}

TEST(constant_and_zero_groups_quantise_without_error_beyond_fp16) {
  for (const bool symmetric : {false, true}) {
    for (const float value : {0.0f, 1.0f, -0.375f, 8.0f}) {
      const Quantised q = quantise(std::vector<float>(64, value), 1, 64, 64, symmetric);
      set_context(symmetric ? "symmetric " : "asymmetric ", value);
      for (const float back : q.back)
        CHECK_EQ(back, value);
    }
  }
}

TEST(values_already_on_the_grid_keep_their_codes) {
  Random random(53);
  std::vector<float> x(32 * 16);
  std::vector<int> codes(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    codes[i] = i % 32 < 2 ? static_cast<int>(i % 32) * 15 : random.below(16); // both ends occur
    x[i] = 0.25f * static_cast<float>(codes[i]) - 1.5f;
  }
  const Quantised q = quantise(x, 16, 32, 32, false);
  CHECK(same_bits(q.back, x));
  for (size_t i = 0; i < x.size(); ++i) { // nibble order: columns j and j + 16 share byte j
    const uint8_t byte = q.codes[i / 32 * 16 + i % 16];
    CHECK_EQ(i % 32 < 16 ? byte & 15 : byte >> 4, codes[i]);
  }
}

TEST(panels_hold_every_weight_and_code_where_the_layout_says) {
  Random random(54);
  for (const WeightType type : kAll) {
    for (const int group : {32, 64, 128}) {
      for (const int rows : {1, 15, 16, 17, 33}) {
        const PlainMatrix m =
            random_matrix(random, type, rows, 256, kernels::is_int4(type) ? group : 32);
        const PanelMatrix panels(m);
        for (int r = 0; r < (rows + 15) / 16 * 16; ++r) {
          const uint8_t* panel = panels.buffer.data() + r / 16 * panels.packed.panel_bytes;
          for (int c = 0; c < 256; ++c) {
            set_context("type ", static_cast<int>(type), " group ", m.group, " row ", r, " col ",
                        c);
            const float got = kernels::panel_weight(panels.packed, panel, r % 16, c);
            if (r >= rows) {
              CHECK_EQ(got, 0.0f); // padding
              continue;
            }
            CHECK_EQ(got, m.integer() ? static_cast<float>(m.scale(r, c)) * m.codes[m.at(r, c)] +
                                            static_cast<float>(m.min(r, c))
                                      : m.values[m.at(r, c)]);
            if (m.integer())
              CHECK_EQ(kernels::panel_code(panels.packed, panel, r % 16, c), m.codes[m.at(r, c)]);
          }
        }
      }
    }
  }
}

TEST(a_panel_takes_the_bytes_its_layout_counts) {
  CHECK_EQ(panel_bytes(WeightType::kInt4, 32, 32), 320u);
  CHECK_EQ(panel_bytes(WeightType::kInt4, 128, 64), 2u * (512 + 64));
  CHECK_EQ(panel_bytes(WeightType::kInt4, 256, 128), 2u * (1024 + 64));
  CHECK_EQ(panel_bytes(WeightType::kInt4Symmetric, 64, 32), 2u * 288);
  CHECK_EQ(panel_bytes(WeightType::kInt4Symmetric, 256, 128), 2u * (1024 + 32));
  CHECK_EQ(panel_bytes(WeightType::kInt8, 64, 32), 2u * 544);
  CHECK_EQ(panel_bytes(WeightType::kF16, 7, 0), 7u * 32);
  CHECK_EQ(panel_bytes(WeightType::kF32, 7, 0), 7u * 64);
}

TEST(groups_are_symmetric_only_when_every_min_is_minus_eight_scales) {
  Random random(55);
  const Quantised q = quantise(random.normals(4 * 256, 1.0f), 4, 256, 64, true);
  const size_t count = q.scales.size();
  CHECK(int4_type(q.scales.data(), q.mins.data(), count) == WeightType::kInt4Symmetric);
  for (const size_t at : {size_t{0}, count - 1}) {
    std::vector<uint16_t> mins = q.mins;
    mins[at] ^= 1;
    CHECK(int4_type(q.scales.data(), mins.data(), count) == WeightType::kInt4);
  }
}

TEST(shapes_that_no_panel_can_hold_are_refused) {
  using Error = std::invalid_argument;
  for (const int group : {-32, 0, 1, 16, 31, 33, 96, 256})
    CHECK_THROWS(panel_bytes(WeightType::kInt4, 256, group), Error, "group=");
  CHECK_THROWS(panel_bytes(WeightType::kInt4, 96, 64), Error, "cols=96");
  CHECK_THROWS(panel_bytes(WeightType::kInt4, 0, 32), Error, "cols=0");
  CHECK_THROWS(panel_bytes(WeightType::kInt8, 40, 32), Error, "cols=40");
  CHECK_THROWS(panel_bytes(WeightType::kF32, -1, 0), Error, "cols=-1");
  const std::vector<float> x(64);
  CHECK_THROWS(quantise(x, 1, 64, 48, false), Error, "group=48");
  CHECK_THROWS(quantise(x, 2, 32, 64, false), Error, "cols=32");
}

TEST(an_int8_code_of_minus_128_is_refused) {
  for (const int at : {0, 31, 32, 17 * 64 - 1}) {
    std::vector<int8_t> codes(17 * 64, -127);
    const std::vector<uint16_t> scales(17 * 2, 0x3c00);
    std::vector<uint8_t> out(2 * panel_bytes(WeightType::kInt8, 64, 32));
    pack_int8(codes.data(), scales.data(), 17, 64, out.data());
    codes[at] = -128;
    CHECK_THROWS(pack_int8(codes.data(), scales.data(), 17, 64, out.data()), std::invalid_argument,
                 "row " + show(at / 64));
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
