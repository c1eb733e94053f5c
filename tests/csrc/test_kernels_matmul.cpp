// Matrix products of every level against float64, over awkward shapes and extreme values.
#include "check.h"
#include "expected_product.h"
#include "samples.h"

#include <algorithm>

namespace ptmo::test {
namespace {

constexpr uint32_t kPoison = 0x7fc0dead; // a NaN that no arithmetic produces
constexpr size_t kGuard = 64;

std::vector<float> run(const kernels::Table& level, const PanelMatrix& w,
                       const kernels::Activations& x, int tokens, int begin, int end,
                       size_t stride) {
  std::vector<float> y(kGuard + stride * tokens + kGuard);
  std::vector<uint32_t> poison(y.size(), kPoison);
  std::memcpy(y.data(), poison.data(), y.size() * 4);
  level.matmul(w.packed, begin, end, x, tokens, y.data() + kGuard, stride);
  return y;
}

void check_outputs(const std::vector<float>& y, const Expected& want, const PlainMatrix& w,
                   int tokens, int begin, int end, size_t stride, int bits) {
  std::vector<uint32_t> words(y.size());
  std::memcpy(words.data(), y.data(), y.size() * 4);
  for (size_t i = 0; i < y.size(); ++i) {
    const bool inside = i >= kGuard && i < kGuard + stride * tokens;
    const size_t t = inside ? (i - kGuard) / stride : 0, r = inside ? (i - kGuard) % stride : 0;
    const auto low = static_cast<size_t>(begin * 16);
    const auto high = static_cast<size_t>(std::min(end * 16, w.rows));
    if (!inside || r < low || r >= high) {
      if (words[i] != kPoison)
        fail(__FILE__, __LINE__, "wrote outside its rows, at float " + show(i));
      continue;
    }
    const size_t at = t * static_cast<size_t>(w.rows) + r;
    CHECK_NEAR(y[i], want.value[at], product_tolerance(want, at, w.cols, bits));
  }
}

void check_matrix(const PlainMatrix& w, const std::vector<float>& x) {
  const PanelMatrix panels(w);
  const int count = (w.rows + 15) / 16;
  const size_t wide = static_cast<size_t>(w.rows) + 5;
  for (const kernels::Table* level : levels()) {
    for (const int bits : {8, 16, 32}) {
      const bool integer = bits < 32;
      if (integer && !w.integer())
        continue;
      const Inputs in(*level, x, w.cols, bits);
      const Expected want = expect(w, in, integer);
      const kernels::Activations act = integer ? in.integers() : in.floats();
      for (int tokens = 1; tokens <= in.tokens; ++tokens) {
        set_context(level->name, " type ", static_cast<int>(w.type), " group ", w.group, " rows ",
                    w.rows, " cols ", w.cols, " tokens ", tokens, " bits ", bits);
        const int begin = tokens % 2 == 0 ? count / 2 : 0; // odd ranges: the later panels alone
        const int end = tokens % 3 == 0 ? std::max(begin + 1, count - 1) : count;
        const size_t stride = tokens % 2 ? wide : static_cast<size_t>(w.rows);
        check_outputs(run(*level, panels, act, tokens, begin, end, stride), want, w, tokens, begin,
                      end, stride, bits);
      }
    }
  }
}

const struct {
  WeightType type;
  int group;
} kTypes[] = {{WeightType::kInt4, 32},
              {WeightType::kInt4, 64},
              {WeightType::kInt4, 128},
              {WeightType::kInt4Symmetric, 32},
              {WeightType::kInt4Symmetric, 64},
              {WeightType::kInt4Symmetric, 128},
              {WeightType::kInt8, 32},
              {WeightType::kF16, 0},
              {WeightType::kF32, 0}};

} // namespace

TEST(every_level_multiplies_like_float64_and_writes_only_its_rows) {
  Random random(1);
  for (const auto& type : kTypes)
    for (const int rows : {1, 15, 16, 17, 33})
      for (const int cols : {32, 64, 96, 128, 576, 1536})
        if (type.group == 0 || cols % type.group == 0)
          check_matrix(random_matrix(random, type.type, rows, cols, type.group),
                       random.normals(static_cast<size_t>(9) * cols));
}

TEST(extreme_codes_scales_and_rows_stay_within_the_same_bound) {
  for (const auto& type : kTypes)
    if (type.group != 0)
      each_extreme_product(type.type, type.group, check_matrix);
}

TEST(the_integer_dot_of_a_block_is_exact) {
  Random random(3);
  for (const kernels::Table* level : levels()) {
    for (int trial = 0; trial < 600; ++trial) {
      const int bits = trial < 300 ? 8 : 16, most = bits == 8 ? 127 : kernels::kCode16;
      const WeightType type = trial % 3 == 0   ? WeightType::kInt4
                              : trial % 3 == 1 ? WeightType::kInt4Symmetric
                                               : WeightType::kInt8;
      PlainMatrix w = random_matrix(random, type, 16, 32, 32);
      std::fill(w.scales.begin(), w.scales.end(), float_to_half(1.0f));
      std::fill(w.mins.begin(), w.mins.end(), float_to_half(0.0f));
      std::vector<float> x(5 * 32);
      for (float& v : x)
        v = static_cast<float>(trial % 5 == 0 ? (random.below(2) ? most : -most)
                                              : random.between(-most, most));
      for (size_t t = 0; t < 5; ++t)
        x[32 * t + trial % 32] = static_cast<float>(most); // the block's scale is 1
      if (trial % 4 == 0)
        for (int& code : w.codes)
          code = type == WeightType::kInt4            ? 15
                 : type == WeightType::kInt4Symmetric ? (random.below(2) ? 7 : -8)
                                                      : (random.below(2) ? 127 : -127);
      const Inputs in(*level, x, 32, bits);
      const PanelMatrix panels(w);
      std::vector<float> y(5 * 16);
      level->matmul(panels.packed, 0, 1, in.integers(), 5, y.data(), 16);
      set_context(level->name, " trial ", trial);
      for (int t = 0; t < 5; ++t) {
        CHECK_EQ(in.scales[t], 1.0f);
        for (int r = 0; r < 16; ++r) {
          int64_t dot = 0;
          for (int c = 0; c < 32; ++c)
            dot += w.codes[w.at(r, c)] * static_cast<int64_t>(x[32 * t + c]);
          CHECK_EQ(y[16 * t + r], static_cast<float>(dot));
        }
      }
    }
  }
}

TEST(a_token_and_a_panel_give_the_same_bits_alone_and_in_company) {
  Random random(4);
  for (const auto& type : kTypes) {
    const PlainMatrix w = random_matrix(random, type.type, 33, 256, type.group);
    const PanelMatrix panels(w);
    const std::vector<float> x = random.normals(37 * 256);
    for (const kernels::Table* level : levels()) {
      for (const int bits : {8, 16}) {
        set_context(level->name, " type ", static_cast<int>(w.type), " group ", w.group, " bits ",
                    bits);
        const Inputs in(*level, x, 256, bits);
        std::vector<float> together(37 * 33), apart(37 * 33);
        level->matmul(panels.packed, 0, 3, in.integers(), 37, together.data(), 33);
        for (int t = 0; t < 37; ++t) {
          const Inputs one(*level, {x.begin() + 256 * t, x.begin() + 256 * (t + 1)}, 256, bits);
          for (int p = 0; p < 3; ++p)
            level->matmul(panels.packed, p, p + 1, one.integers(), 1, apart.data() + 33 * t, 33);
        }
        CHECK(same_bits(together, apart));
      }
    }
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
