// The attention primitives against float64 and against each other, on every level.
#include "check.h"
#include "samples.h"

#include <algorithm>

namespace ptmo::test {
namespace {

const int kDims[] = {16, 32, 48, 64, 80, 96, 128, 256, 512};

std::vector<uint16_t> halves_of(const std::vector<float>& x) {
  std::vector<uint16_t> out;
  for (const float v : x)
    out.push_back(float_to_half(v));
  return out;
}

} // namespace

TEST(integer_scores_are_exact_even_at_the_largest_codes) {
  Random random(41);
  for (const kernels::Table* level : levels()) {
    for (const int dim : kDims) {
      for (int trial = 0; trial < 6; ++trial) {
        const int rows = 1 + trial * 7;
        std::vector<int16_t> q(static_cast<size_t>(dim));
        std::vector<int8_t> k(static_cast<size_t>(rows) * dim);
        for (int16_t& code : q)
          code = static_cast<int16_t>(trial < 2 ? 32767 : random.between(-32767, 32767));
        for (int8_t& code : k)
          code = static_cast<int8_t>(trial == 0   ? 127
                                     : trial == 1 ? -127
                                                  : random.between(-127, 127));
        std::vector<int32_t> out(static_cast<size_t>(rows) + 1, 7);
        level->dot_rows_i8(q.data(), k.data(), rows, dim, out.data());
        set_context(level->name, " dim ", dim, " trial ", trial);
        CHECK_EQ(out[rows], 7);
        for (int r = 0; r < rows; ++r) {
          int64_t dot = 0;
          for (int i = 0; i < dim; ++i)
            dot += static_cast<int64_t>(q[i]) * k[static_cast<size_t>(r) * dim + i];
          CHECK_EQ(static_cast<int64_t>(out[r]), dot);
        }
      }
    }
  }
}

TEST(float_scores_are_within_the_roundings_of_a_dot_product) {
  Random random(42);
  for (const kernels::Table* level : levels()) {
    for (const int dim : kDims) {
      const int rows = 17;
      const std::vector<float> q = random.normals(static_cast<size_t>(dim));
      const std::vector<float> k = random.normals(static_cast<size_t>(rows) * dim);
      const std::vector<uint16_t> half = halves_of(k);
      std::vector<float> f32(rows), f16(rows);
      level->dot_rows_f32(q.data(), k.data(), rows, dim, f32.data());
      level->dot_rows_f16(q.data(), half.data(), rows, dim, f16.data());
      // A lane adds at least 8 apart: dim / 8 fused steps, then four to join the lanes.
      const double roundings = dim / 8.0 + 5.0;
      set_context(level->name, " dim ", dim);
      for (int r = 0; r < rows; ++r) {
        double sum32 = 0.0, sum16 = 0.0, size = 0.0;
        for (int i = 0; i < dim; ++i) {
          const size_t at = static_cast<size_t>(r) * dim + i;
          sum32 += static_cast<double>(q[i]) * k[at];
          sum16 += static_cast<double>(q[i]) * half_to_float(half[at]);
          size += std::fabs(static_cast<double>(q[i]) * k[at]);
        }
        CHECK_NEAR(f32[r], sum32, roundings * kEps * size);
        CHECK_NEAR(f16[r], sum16, roundings * kEps * size * 1.001); // |half| <= 1.0005 |k|
      }
    }
  }
}

TEST(exp_sum_replaces_scores_by_exponentials_and_returns_their_sum) {
  Random random(43);
  for (const kernels::Table* level : levels()) {
    for (int n = 1; n <= 40; ++n) {
      std::vector<float> x(static_cast<size_t>(n));
      float max = -1e30f;
      for (float& v : x) {
        v = random.below(8) == 0 ? random.uniform(-200.0f, 0.0f) : random.uniform(-30.0f, 5.0f);
        max = std::max(max, v);
      }
      std::vector<float> out = x;
      out.push_back(7.0f);
      const float sum = level->exp_sum(out.data(), n, max);
      double exact = 0.0;
      set_context(level->name, " n ", n);
      CHECK_EQ(out[n], 7.0f);
      for (int i = 0; i < n; ++i) {
        const double want = std::exp(static_cast<double>(x[i] - max));
        // Two units in the last place (a unit is up to 2^-23); nothing is told apart under e^-87.
        CHECK_NEAR(out[i], want, 4.0 * kEps * want + 2e-38);
        CHECK(out[i] >= 0.0f && out[i] <= 1.0f);
        exact += out[i];
      }
      CHECK_NEAR(sum, exact, n * kEps * exact);
    }
  }
}

TEST(exp_of_the_maximum_itself_is_one) {
  for (const kernels::Table* level : levels()) {
    std::vector<float> x(33, 12.5f);
    set_context(level->name);
    CHECK_EQ(level->exp_sum(x.data(), 33, 12.5f), 33.0f);
    CHECK(same_bits(x, std::vector<float>(33, 1.0f)));
  }
}

TEST(exp_sum_passes_a_nan_on) {
  for (const kernels::Table* level : levels()) {
    for (const int at : {0, 5, 16, 20}) {
      std::vector<float> x(21, -1.0f);
      x[at] = std::nanf("");
      set_context(level->name, " at ", at);
      CHECK(std::isnan(level->exp_sum(x.data(), 21, 0.0f)));
      CHECK(std::isnan(x[at]));
    }
  }
}

TEST(weighted_rows_equal_the_reference_bit_for_bit_and_float64_closely) {
  Random random(44);
  const kernels::Table& reference = kernels::reference();
  for (const kernels::Table* level : levels()) {
    for (const int dim : kDims) {
      for (const int rows : {1, 2, 16, 31, 32}) {
        const std::vector<float> p = random.normals(static_cast<size_t>(rows));
        const std::vector<float> v = random.normals(static_cast<size_t>(rows) * dim);
        const std::vector<uint16_t> half = halves_of(v);
        std::vector<int8_t> code;
        for (size_t i = 0; i < v.size(); ++i)
          code.push_back(static_cast<int8_t>(random.between(-127, 127)));
        const std::vector<float> start = random.normals(static_cast<size_t>(dim));
        set_context(level->name, " dim ", dim, " rows ", rows);
        std::vector<float> got = start, want = start;
        level->weighted_rows_i8(p.data(), code.data(), rows, dim, got.data());
        reference.weighted_rows_i8(p.data(), code.data(), rows, dim, want.data());
        CHECK(same_bits(got, want));
        got = start, want = start;
        level->weighted_rows_f16(p.data(), half.data(), rows, dim, got.data());
        reference.weighted_rows_f16(p.data(), half.data(), rows, dim, want.data());
        CHECK(same_bits(got, want));
        got = start, want = start;
        level->weighted_rows_f32(p.data(), v.data(), rows, dim, got.data());
        reference.weighted_rows_f32(p.data(), v.data(), rows, dim, want.data());
        CHECK(same_bits(got, want));
        for (int i = 0; i < dim; ++i) {
          double sum = start[i], size = std::fabs(start[i]);
          for (int r = 0; r < rows; ++r) {
            const double term = static_cast<double>(p[r]) * v[static_cast<size_t>(r) * dim + i];
            sum += term;
            size += std::fabs(term);
          }
          CHECK_NEAR(got[i], sum, rows * kEps * size); // one fused step a row
        }
      }
    }
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
