// Every level quantises to the same bits as the reference, whatever the row holds.
#include "check.h"
#include "samples.h"

#include <limits>

namespace ptmo::test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <typename Code, typename Kernel>
void check_row(const char* level, Kernel fast, Kernel reference, const std::vector<float>& x,
               int largest) {
  const int n = static_cast<int>(x.size());
  std::vector<Code> got(x.size() + 1, 77), want(x.size() + 1, 77);
  const std::vector<float> scale = {fast(x.data(), n, got.data())};
  const std::vector<float> wanted = {reference(x.data(), n, want.data())};
  set_context(level, " n ", n, " codes to ", largest, " first ", x[0]);
  CHECK(same_bits(scale, wanted));
  CHECK(same_bits(got, want));
  CHECK_EQ(got[x.size()], Code{77});
  for (size_t i = 0; i < x.size(); ++i) {
    CHECK(got[i] >= -largest && got[i] <= largest);
    if (std::isnan(x[i]))
      CHECK_EQ(got[i], Code{0});
    // Within half a step, and the rounding of x / scale itself.
    if (std::isfinite(x[i]) && std::isfinite(scale[0]) && scale[0] > 0.0f)
      CHECK_NEAR(static_cast<double>(got[i]) * scale[0], x[i],
                 scale[0] * (0.5 + 3.0 * kEps * largest));
  }
}

void check_all(const std::vector<float>& x) {
  const kernels::Table& reference = kernels::reference();
  for (const kernels::Table* level : levels()) {
    check_row<int8_t>(level->name, level->quantize_row_i8, reference.quantize_row_i8, x, 127);
    check_row<int16_t>(level->name, level->quantize_row_i16, reference.quantize_row_i16, x,
                       kernels::kCode16);
    if (x.size() % 32 != 0)
      continue;
    for (const int bits : {8, 16}) {
      const Inputs got(*level, x, static_cast<int>(x.size()), bits);
      const Inputs want(reference, x, static_cast<int>(x.size()), bits);
      CHECK(same_bits(got.codes, want.codes));
      CHECK(same_bits(got.low, want.low));
      CHECK(same_bits(got.scales, want.scales));
      CHECK(same_bits(got.code_sums, want.code_sums));
      for (size_t b = 0; b < got.sums.size(); ++b) {
        std::vector<int16_t> codes(32); // a block of 16 bits is a row of 16 bits
        level->quantize_row_i16(x.data() + 32 * b, 32, codes.data());
        int32_t sum = 0;
        for (size_t i = 0; i < 32; ++i) {
          sum += got.code(32 * b + i);
          if (bits == 16)
            CHECK_EQ(got.code(32 * b + i), codes[i]);
        }
        CHECK_EQ(got.code_sums[b], sum);
        if (std::isfinite(got.scales[b]))
          CHECK_EQ(got.sums[b], got.scales[b] * static_cast<float>(sum));
      }
    }
  }
}

} // namespace

TEST(random_rows_of_every_size_quantise_alike_on_every_level) {
  Random random(21);
  for (const int n : {16, 32, 48, 64, 96, 128, 576, 1536}) {
    for (const float size : {1e-37f, 1e-29f, 1e-3f, 1.0f, 1e30f}) {
      for (int trial = 0; trial < 20; ++trial)
        check_all(random.normals(static_cast<size_t>(n), size));
    }
  }
}

TEST(ties_round_to_the_even_code) {
  std::vector<float> x(256);
  for (int i = 0; i < 256; ++i)
    x[i] = static_cast<float>(i / 2 % 127) + 0.5f; // with a scale of 1, every one is a tie
  for (size_t b = 0; b < x.size(); b += 32)
    x[b] = 127.0f;
  for (size_t i = 1; i < x.size(); i += 2)
    x[i] = -x[i];
  check_all(x);
  std::vector<int8_t> codes(x.size());
  for (const kernels::Table* level : levels()) {
    set_context(level->name);
    CHECK_EQ(level->quantize_row_i8(x.data(), 256, codes.data()), 1.0f);
    CHECK_EQ(codes[2], 2);  //  1.5
    CHECK_EQ(codes[5], -2); // -2.5
    CHECK_EQ(codes[6], 4);  //  3.5
  }
}

TEST(nan_inf_and_subnormal_values_leave_codes_in_range) {
  Random random(22);
  for (const float odd : {kNan, -kNan, kInf, -kInf, 1e-40f, 3.4e38f, -0.0f}) {
    for (int at = 0; at < 64; ++at) {
      std::vector<float> x = random.normals(64);
      x[at] = odd;
      check_all(x);
      x[(at + 16) % 64] = 1000.0f; // a larger value before or after it in the same lane
      x[(at + 40) % 64] = odd;
      check_all(x);
    }
    check_all(std::vector<float>(64, odd));
  }
}

TEST(a_nan_does_not_hide_the_largest_value_before_it) {
  for (const kernels::Table* level : levels()) {
    set_context(level->name);
    std::vector<float> x(64, 1.0f);
    x[0] = -127.0f;
    x[16] = kNan;
    std::vector<int8_t> codes(64);
    CHECK_EQ(level->quantize_row_i8(x.data(), 64, codes.data()), 1.0f);
    CHECK_EQ(codes[0], -127);
    CHECK_EQ(codes[16], 0);
    CHECK_EQ(codes[17], 1);
  }
}

TEST(rows_too_small_for_a_scale_become_zeros) {
  for (const kernels::Table* level : levels()) {
    for (const float tiny : {0.0f, 1e-45f, 1e-38f, 1e-30f}) {
      const std::vector<float> x(32, tiny);
      std::vector<int8_t> codes(32, 1);
      set_context(level->name, " value ", tiny);
      CHECK_EQ(level->quantize_row_i8(x.data(), 32, codes.data()), 0.0f);
      CHECK(same_bits(codes, std::vector<int8_t>(32, 0)));
    }
  }
}

TEST(int4_rows_pack_alike_on_every_level_and_unpack_to_their_codes) {
  Random random(36);
  const kernels::Table& reference = kernels::reference();
  for (const kernels::Table* level : levels()) {
    for (const int n : {16, 32, 48, 64, 80, 128, 512}) {
      for (int trial = 0; trial < 4; ++trial) {
        const auto size = static_cast<size_t>(n);
        std::vector<float> x = random.normals(size);
        if (trial == 1)
          x.assign(size, 0.0f);
        if (trial == 2)
          x[3] = kNan;
        std::vector<uint8_t> got(size + 1, 77), want(size + 1, 77);
        const float scale = level->quantize_row_i4(x.data(), n, got.data());
        set_context(level->name, " n ", n, " trial ", trial);
        CHECK_EQ(scale, reference.quantize_row_i4(x.data(), n, want.data()));
        CHECK_EQ(got[size], 77);
        got.resize(size / 2);
        want.resize(size / 2);
        CHECK(same_bits(got, want));
        std::vector<int8_t> codes(3 * size + 1, 77);
        std::vector<uint8_t> rows(got);
        for (int r = 1; r < 3; ++r)
          rows.insert(rows.end(), got.begin(), got.end());
        level->unpack_rows_i4(rows.data(), 3, n, codes.data());
        CHECK_EQ(codes[3 * size], 77);
        for (size_t i = 0; i < 3 * size; ++i) {
          CHECK(codes[i] >= -7 && codes[i] <= 7);
          if (!std::isnan(x[i % size]))
            CHECK_NEAR(codes[i] * scale, x[i % size], 0.501 * scale);
        }
      }
    }
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
