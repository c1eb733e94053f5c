// Norm, activation, rotary and conversion kernels against float64, on every level.
// Tolerances are counts of float roundings, each 2^-24 of the result or of what is summed.
#include "check.h"
#include "samples.h"

#include "kernels/reference/head_norm.h"

namespace ptmo::test {
namespace {

const int kLengths[] = {1, 7, 8, 15, 16, 17, 31, 64, 100, 576, 1536};

} // namespace

TEST(rms_norm_is_the_root_mean_square_norm) {
  Random random(31);
  for (const kernels::Table* level : levels()) {
    for (const int n : kLengths) {
      for (const float size : {0.0f, 1e-4f, 1.0f, 1e4f}) {
        const auto count = static_cast<size_t>(n);
        const std::vector<float> x = random.normals(count, size), w = random.normals(count);
        std::vector<float> y(count + 1, 7.0f);
        level->rms_norm(x.data(), w.data(), n, 1e-5f, y.data());
        double sum = 0.0;
        for (const float v : x)
          sum += static_cast<double>(v) * v;
        const double inv = 1.0 / std::sqrt(sum / n + static_cast<double>(1e-5f));
        set_context(level->name, " n ", n, " size ", size);
        CHECK_EQ(y[count], 7.0f);
        // The sum of squares has at most n / 8 + 15 roundings (lanes, their reduction and the
        // tail), all terms positive; the square root halves them; five more roundings follow.
        const double roundings = (n / 8.0 + 15.0) / 2.0 + 5.0;
        for (size_t i = 0; i < count; ++i)
          CHECK_NEAR(y[i], x[i] * inv * w[i], roundings * kEps * std::fabs(x[i] * inv * w[i]));
      }
    }
  }
}

TEST(swiglu_is_silu_of_gate_times_up) {
  Random random(32);
  for (const kernels::Table* level : levels()) {
    for (const int n : kLengths) {
      const auto count = static_cast<size_t>(n);
      std::vector<float> gate = random.normals(count, 4.0f);
      const std::vector<float> up = random.normals(count);
      for (size_t i = 0; i < count; i += 3)
        gate[i] = random.uniform(-120.0f, 120.0f);
      gate[count / 2] = n % 2 ? -1000.0f : 1e-35f;
      std::vector<float> out(count + 1, 7.0f);
      level->swiglu(gate.data(), up.data(), n, out.data());
      set_context(level->name, " n ", n);
      CHECK_EQ(out[count], 7.0f);
      for (size_t i = 0; i < count; ++i) {
        const double g = gate[i], want = g / (1.0 + std::exp(-g)) * up[i];
        // Eight roundings; exponentials below e^-87 = 1.7e-38 are not told apart.
        CHECK_NEAR(out[i], want, 8.0 * kEps * std::fabs(want) + std::fabs(g * up[i]) * 2e-38);
      }
      level->swiglu(gate.data(), up.data(), n, gate.data()); // in place, as the decoder does
      out.pop_back();
      CHECK(same_bits(gate, out));
    }
  }
}

TEST(geglu_is_the_tanh_approximation_of_gelu_times_up) {
  Random random(37);
  for (const kernels::Table* level : levels()) {
    for (const int n : kLengths) {
      const auto count = static_cast<size_t>(n);
      std::vector<float> gate = random.normals(count, 3.0f);
      const std::vector<float> up = random.normals(count);
      for (size_t i = 0; i < count; i += 3)
        gate[i] = random.uniform(-30.0f, 30.0f);
      const float extremes[] = {-1e15f, 1e15f, -1e-35f, 0.0f, 2e6f};
      gate[count / 2] = extremes[n % 5];
      std::vector<float> out(count + 1, 7.0f);
      level->geglu(gate.data(), up.data(), n, out.data());
      set_context(level->name, " n ", n);
      CHECK_EQ(out[count], 7.0f);
      for (size_t i = 0; i < count; ++i) {
        const double g = gate[i];
        const double x = std::sqrt(8.0 / 3.14159265358979323846) * (g + 0.044715 * g * g * g);
        const double want = g / (1.0 + std::exp(-x)) * up[i];
        // The logistic multiplies the six roundings of x by |x| e^-x / (1 + e^-x); eight more
        // follow. Exponentials below e^-87 = 1.7e-38 are not told apart.
        const double tail = x < 0 ? -x : x * std::exp(-x);
        CHECK_NEAR(out[i], want,
                   (8.0 + 6.0 * std::min(tail, 90.0)) * kEps * std::fabs(want) +
                       std::fabs(g * up[i]) * 2e-38);
      }
      level->geglu(gate.data(), up.data(), n, gate.data()); // in place, as the decoder does
      out.pop_back();
      CHECK(same_bits(gate, out));
    }
  }
}

TEST(head_rms_norm_is_the_root_mean_square_norm_on_every_level_bit_for_bit) {
  Random random(38);
  for (const kernels::Table* level : levels()) {
    for (const int n : {16, 48, 64, 128, 256, 496, 512}) {
      for (const float size : {0.0f, 1e-30f, 1e-4f, 1.0f, 1e4f, 1e18f, 1e30f}) {
        const auto count = static_cast<size_t>(n);
        std::vector<float> x = random.normals(count, size), w = random.normals(count);
        x[count / 3] *= 100.0f; // one channel stands out, as key heads have them
        std::vector<float> y = x, plain = x;
        level->head_rms_norm(y.data(), w.data(), n, 1e-6f);
        kernels::reference().head_rms_norm(plain.data(), w.data(), n, 1e-6f);
        set_context(level->name, " n ", n, " size ", size);
        CHECK(same_bits(y, plain));
        double sum = 0.0;
        for (const float v : x)
          sum += static_cast<double>(v) * v;
        const double inv = 1.0 / std::sqrt(sum / n + static_cast<double>(1e-6f));
        // The factor is rounded once, then two products; a product may be subnormal.
        for (size_t i = 0; i < count; ++i)
          CHECK_NEAR(y[i], x[i] * inv * w[i], 3.01 * kEps * std::fabs(x[i] * inv * w[i]) + 2e-38);
      }
    }
  }
}

// What the device does instead.
TEST(squares_as_integers_are_the_squares_on_the_grid) {
  Random random(39);
  for (const int n : {16, 80, 512}) {
    for (const float size : {1e-44f, 1e-38f, 1e-20f, 1.0f, 1e18f, 1e38f}) {
      const auto count = static_cast<size_t>(n);
      std::vector<float> x = random.normals(count, size);
      for (size_t i = 0; i < count; ++i) // squares from the grid's step down
        x[i] *= std::exp2(-static_cast<float>(i % 32));
      float max = 0.0f;
      for (const float v : x)
        max = std::max(max, std::fabs(v));
      const int e = kernels::grid_exponent(max, n);
      for (int i = 1; i < 12; ++i) // squares half-way between two steps
        x.push_back(static_cast<float>(std::ldexp(2 * i - 1, (e - 54) / 2)));
      const double grid = kernels::square_grid(max, n);
      double sum = 0.0;
      uint64_t codes = 0;
      for (const float v : x) {
        set_context("n ", n, " size ", size, " value ", v);
        const uint64_t code = kernels::square_code(v, e);
        CHECK_EQ(kernels::sum_of_squares(code, max, n), kernels::on_grid(v, grid));
        sum += kernels::on_grid(v, grid);
        codes += code;
      }
      CHECK_EQ(kernels::sum_of_squares(codes, max, n), sum);
    }
  }
  const auto sum = [](float x, float max) {
    return kernels::sum_of_squares(kernels::square_code(x, kernels::grid_exponent(max, 16)), max,
                                   16);
  };
  CHECK_EQ(sum(0.0f, 0.0f), 0.0);
  CHECK_EQ(sum(3.0f, INFINITY), static_cast<double>(INFINITY));
  CHECK_EQ(sum(INFINITY, INFINITY), static_cast<double>(INFINITY));
  CHECK(std::isnan(sum(NAN, 0.0f)) && std::isnan(sum(-NAN, 1.0f)) &&
        std::isnan(sum(NAN, INFINITY)));
}

TEST(head_rms_norm_of_values_that_are_not_finite_says_so) {
  for (const kernels::Table* level : levels()) {
    set_context(level->name);
    std::vector<float> x(64, 1.0f), w(64, 1.0f);
    x[5] = INFINITY;
    level->head_rms_norm(x.data(), w.data(), 64, 1e-6f);
    CHECK(std::isnan(x[5]));
    CHECK_EQ(x[6], 0.0f);
    x.assign(64, 1.0f);
    x[5] = NAN;
    level->head_rms_norm(x.data(), w.data(), 64, 1e-6f);
    CHECK(std::isnan(x[5]) && std::isnan(x[6]));
  }
}

TEST(add_adds_exactly_rounded) {
  Random random(33);
  for (const kernels::Table* level : levels()) {
    for (const int n : kLengths) {
      const auto count = static_cast<size_t>(n);
      const std::vector<float> x = random.normals(count), start = random.normals(count);
      std::vector<float> y = start;
      level->add(x.data(), n, y.data());
      set_context(level->name, " n ", n);
      for (size_t i = 0; i < count; ++i)
        CHECK_EQ(y[i], start[i] + x[i]);
    }
  }
}

TEST(cos_sin_is_float_exact_up_to_angles_of_1e5) {
  Random random(34);
  const double pi = 3.14159265358979323846;
  for (const kernels::Table* level : levels()) {
    std::vector<float> angle = {0.0f, -0.0f, 1e-30f, 1e5f, -1e5f};
    for (int i = 0; i < 2000; ++i) {
      angle.push_back(random.uniform(-8.0f, 8.0f));
      angle.push_back(random.uniform(-1e5f, 1e5f));
      angle.push_back(static_cast<float>(random.below(60000) * pi / 2)); // near the zeros
    }
    const size_t n = angle.size();
    std::vector<float> c(n), s(n);
    level->cos_sin(angle.data(), static_cast<int>(n), c.data(), s.data());
    for (size_t i = 0; i < n; ++i) {
      set_context(level->name, " angle ", angle[i]);
      // Rounding to float (half of 2^-24 of at most 1), and the reduction's double roundings.
      const double tolerance = 0.51 * kEps + std::fabs(angle[i]) * 0x1p-52;
      CHECK_NEAR(c[i], std::cos(static_cast<double>(angle[i])), tolerance);
      CHECK_NEAR(s[i], std::sin(static_cast<double>(angle[i])), tolerance);
    }
  }
}

TEST(rope_turns_pairs_and_equals_the_reference_bit_for_bit) {
  Random random(35);
  for (const kernels::Table* level : levels()) {
    for (const int half : {1, 7, 8, 9, 16, 24, 32, 48, 64}) {
      const auto count = static_cast<size_t>(half);
      const std::vector<float> x = random.normals(2 * count), c = random.normals(count),
                               s = random.normals(count);
      std::vector<float> got = x, want = x;
      level->rope(got.data(), c.data(), s.data(), half);
      kernels::reference().rope(want.data(), c.data(), s.data(), half);
      set_context(level->name, " half ", half);
      CHECK(same_bits(got, want));
      for (size_t i = 0; i < count; ++i) {
        const double a = x[i], b = x[i + count];
        // Two products and a sum.
        CHECK_NEAR(got[i], a * c[i] - b * s[i],
                   2.01 * kEps * (std::fabs(a * c[i]) + std::fabs(b * s[i])));
        CHECK_NEAR(got[i + count], b * c[i] + a * s[i],
                   2.01 * kEps * (std::fabs(b * c[i]) + std::fabs(a * s[i])));
      }
    }
  }
}

TEST(to_f16_rounds_like_the_portable_conversion) {
  Random random(36);
  for (const kernels::Table* level : levels()) {
    std::vector<float> x;
    for (int i = 0; i < 16000; ++i) {
      const auto bits = static_cast<uint32_t>(random.bits());
      float v;
      std::memcpy(&v, &bits, 4);
      x.push_back(std::isnan(v) ? 0.0f : v); // mostly out of range, infinities included
      x.push_back(random.normal());
      x.push_back(random.uniform(-1e-4f, 1e-4f)); // subnormal halfs
    }
    std::vector<uint16_t> out(x.size());
    level->to_f16(x.data(), static_cast<int>(x.size()), out.data());
    for (size_t i = 0; i < x.size(); ++i) {
      set_context(level->name, " value ", x[i]);
      CHECK_EQ(out[i], float_to_half(x[i]));
    }
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
