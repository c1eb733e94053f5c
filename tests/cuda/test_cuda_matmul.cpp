// The device's matrix products against float64.
#include "check.h"
#include "device_samples.h"
#include "every_order.h"
#include "expected_product.h"

#include <algorithm>

namespace ptmo::test {
namespace {

constexpr float kPoison = 3e33f;

struct LowRank {
  int rank, first, count;
  DeviceArray<int8_t> b;
  DeviceArray<uint16_t> scales;
  DeviceArray<float> u;

  LowRank(Random& random, int rows, int of_rank, int first_token, int tokens)
      : rank(of_rank), first(first_token), count(tokens),
        b(static_cast<size_t>(rows) * chunks() * 16), scales(static_cast<size_t>(rows) * chunks()),
        u(static_cast<size_t>(tokens) * chunks() * 16) {
    std::fill_n(b.data(), b.size(), int8_t{0}); // the ranks past the last
    std::fill_n(u.data(), u.size(), 0.0f);
    for (int r = 0; r < rows; ++r)
      for (int i = 0; i < rank; ++i)
        b.data()[r * chunks() * 16 + i] = static_cast<int8_t>(random.between(-127, 127));
    for (size_t i = 0; i < scales.size(); ++i)
      scales.data()[i] = float_to_half(random.uniform(0.001f, 0.01f));
    for (int t = 0; t < tokens; ++t)
      for (int i = 0; i < rank; ++i)
        u.data()[t * chunks() * 16 + i] = random.normal();
  }
  int chunks() const { return (rank + 15) / 16; }
  cuda::DeviceLowRankTerm term() const {
    return {b.data(), scales.data(), u.data(), chunks(), first, count};
  }
  // Adds its part to what y should be.
  void add_to(Expected& want, int rows) const {
    for (int t = 0; t < count; ++t) {
      for (int r = 0; r < rows; ++r) {
        const size_t at = static_cast<size_t>(first + t) * rows + r;
        for (int i = 0; i < rank; ++i) {
          const size_t place = static_cast<size_t>(r) * chunks() + i / 16;
          const double part = static_cast<double>(half_to_float(scales.data()[place])) *
                              b.data()[place * 16 + i % 16] * u.data()[t * chunks() * 16 + i];
          want.value[at] += part;
          want.magnitude[at] += std::fabs(part);
        }
      }
    }
  }
};

struct Product {
  PlainMatrix w;
  std::vector<float> x, bias;
  std::vector<LowRank> updates;
  bool add = false;
};

void check_product(const Product& c, int bits) {
  const Inputs in(kernels::reference(), c.x, c.w.cols, bits);
  const int tokens = in.tokens, rows = c.w.rows;
  set_context("type ", static_cast<int>(c.w.type), " group ", c.w.group, " rows ", rows, " cols ",
              c.w.cols, " tokens ", tokens, " bits ", bits, " updates ", c.updates.size());
  Expected want = expect(c.w, in, true);
  for (const LowRank& update : c.updates)
    update.add_to(want, rows);
  for (size_t i = 0; i < want.value.size(); ++i) {
    const double more = (c.bias.empty() ? 0.0 : c.bias[i % rows]) + (c.add ? 1.5 : 0.0);
    want.value[i] += more;
    want.magnitude[i] += std::fabs(more);
  }
  const DeviceWeights weights(c.w);
  const DeviceActivations input(in, tokens);
  const DeviceArray<float> bias(c.bias);
  std::vector<cuda::DeviceLowRankTerm> list;
  for (const LowRank& update : c.updates)
    list.push_back(update.term());
  const DeviceArray<cuda::DeviceLowRankTerm> terms(list);
  const size_t stride = static_cast<size_t>(rows) + 3;
  const std::vector<float> y = in_every_order([&] {
    const DeviceArray<float> out(stride * tokens, c.add ? Writer::kHost : Writer::kKernel);
    std::fill_n(out.data(), out.size(), kPoison);
    for (int t = 0; t < tokens && c.add; ++t)
      std::fill_n(out.data() + stride * t, rows, 1.5f);
    const cuda::MatmulJob job{input.input,
                              c.add,
                              1,
                              {{weights.matrix, c.bias.empty() ? nullptr : bias.data(),
                                terms.data(), static_cast<int>(terms.size()), out.data(), stride}}};
    CHECK_EQ(cuda::matmul(job, nullptr), cudaSuccess);
    return out.values();
  });
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t t = i / stride, r = i % stride;
    if (r >= static_cast<size_t>(rows)) {
      CHECK_EQ(y[i], kPoison);
      continue;
    }
    // Each of the 8 warps' sums, the bias, the sum that is there and each rank add a rounding.
    const size_t at = t * rows + r;
    double more = 10.0;
    for (const LowRank& update : c.updates)
      more += update.rank + 2 * update.chunks();
    CHECK_NEAR(y[i], want.value[at],
               product_tolerance(want, at, c.w.cols, bits) + more * kEps * want.magnitude[at]);
  }
}

const struct {
  WeightType type;
  int group;
} kTypes[] = {{WeightType::kInt4, 32},          {WeightType::kInt4, 64},
              {WeightType::kInt4, 128},         {WeightType::kInt4Symmetric, 32},
              {WeightType::kInt4Symmetric, 64}, {WeightType::kInt4Symmetric, 128},
              {WeightType::kInt8, 32}};

} // namespace

TEST(the_device_multiplies_like_float64_and_writes_only_its_rows) {
  Random random(1);
  for (const auto& type : kTypes)
    for (const int rows : {1, 16, 65})
      for (const int cols : {32, 96, 128, 576})
        for (const int tokens : {1, 4, 5, 9, 17, 33})
          if (cols % type.group == 0 && (rows == 65 || cols < 500))
            for (const int bits : {8, 16})
              check_product({random_matrix(random, type.type, rows, cols, type.group),
                             random.normals(static_cast<size_t>(tokens) * cols),
                             {},
                             {}},
                            bits);
}

// Each warp has more tiles of a row than it has under way, twice over.
TEST(wide_rows_are_multiplied_to_their_end) {
  Random random(6);
  for (const auto& type : kTypes)
    for (const int tokens : {1, 9, 17})
      for (const int bits : {8, 16})
        check_product({random_matrix(random, type.type, 17, 4224, type.group),
                       random.normals(static_cast<size_t>(tokens) * 4224),
                       {},
                       {}},
                      bits);
}

TEST(updates_of_segments_bias_and_a_sum_that_is_there_are_added) {
  Random random(2);
  for (const int tokens : {1, 6, 40}) {
    for (const auto type : {WeightType::kInt4, WeightType::kInt8}) {
      Product c{random_matrix(random, type, 50, 128, 32),
                random.normals(static_cast<size_t>(tokens) * 128),
                random.normals(50),
                {},
                true};
      c.updates.emplace_back(random, 50, 16, 0, tokens); // of all tokens
      c.updates.emplace_back(random, 50, 1, tokens / 2, tokens - tokens / 2);
      c.updates.emplace_back(random, 50, 64, 0, 1);
      c.updates.emplace_back(random, 50, 17, tokens - 1, 1);
      check_product(c, 8);
      check_product(c, 16);
    }
  }
}

TEST(extreme_codes_and_scales_stay_within_the_same_bound) {
  for (const auto& type : kTypes)
    each_extreme_product(type.type, type.group,
                         [](const PlainMatrix& w, const std::vector<float>& x) {
                           check_product({w, x, {}, {}}, 8);
                           check_product({w, x, {}, {}}, 16);
                         });
}

// The property that the `permute` shield rests on.
TEST(columns_permuted_inside_their_blocks_leave_every_bit) {
  Random random(4);
  for (const auto& type : kTypes) {
    for (const int tokens : {1, 40}) {
      const PlainMatrix w = random_matrix(random, type.type, 33, 256, type.group);
      const std::vector<float> x = random.normals(static_cast<size_t>(tokens) * 256);
      PlainMatrix moved = w;
      std::vector<float> moved_x = x;
      for (int b = 0; b < 8; ++b) {
        const std::vector<int> order = random.permutation(32);
        for (int c = 0; c < 32; ++c) {
          for (int r = 0; r < w.rows; ++r)
            moved.codes[w.at(r, 32 * b + c)] = w.codes[w.at(r, 32 * b + order[c])];
          for (int t = 0; t < tokens; ++t)
            moved_x[256 * t + 32 * b + c] = x[256 * t + 32 * b + order[c]];
        }
      }
      for (const int bits : {8, 16}) {
        const auto product = [&](const PlainMatrix& m, const std::vector<float>& values) {
          const Inputs in(kernels::reference(), values, 256, bits);
          const DeviceWeights weights(m);
          const DeviceActivations input(in, tokens);
          const DeviceArray<float> out(static_cast<size_t>(tokens) * 33, Writer::kKernel);
          cuda::matmul(
              {input.input, false, 1, {{weights.matrix, nullptr, nullptr, 0, out.data(), 33}}},
              nullptr);
          return out.values();
        };
        set_context("type ", static_cast<int>(type.type), " group ", type.group, " tokens ", tokens,
                    " bits ", bits);
        CHECK(same_bits(product(w, x), product(moved, moved_x)));
      }
    }
  }
}

// W_q, W_k and W_v: of one shape or not, each has the bits that it has alone. Three neighbours
// share a launch, or two, or none.
TEST(parts_of_one_input_have_the_bits_they_have_alone) {
  Random random(5);
  const struct {
    WeightType type;
    int group, rows;
  } kinds[] = {{WeightType::kInt4, 32, 40}, {WeightType::kInt4, 32, 16},
               {WeightType::kInt4, 32, 65}, {WeightType::kInt4, 64, 17},
               {WeightType::kInt8, 32, 65}, {WeightType::kInt8, 32, 33}};
  std::vector<DeviceWeights> weights;
  for (const auto& kind : kinds)
    weights.emplace_back(random_matrix(random, kind.type, kind.rows, 192, kind.group));
  for (const int tokens : {1, 9, 40}) {
    const Inputs in(kernels::reference(), random.normals(static_cast<size_t>(tokens) * 192), 192,
                    16);
    const DeviceActivations input(in, tokens);
    const DeviceArray<float> bias(random.normals(65));
    const LowRank update(random, 65, 16, 0, tokens);
    const DeviceArray<cuda::DeviceLowRankTerm> terms(std::vector{update.term()});
    const auto part = [&](size_t i, float* y) {
      const bool more = i % 2 == 0; // bias and update
      return cuda::MatmulPart{weights[i].matrix,
                              more ? bias.data() : nullptr,
                              terms.data(),
                              more ? 1 : 0,
                              y,
                              static_cast<size_t>(kinds[i].rows)};
    };
    const auto output = [&](size_t i) {
      return DeviceArray<float>(static_cast<size_t>(tokens) * kinds[i].rows, Writer::kKernel);
    };
    for (size_t first = 0; first + 3 <= std::size(kinds); ++first) {
      const DeviceArray<float> y[] = {output(first), output(first + 1), output(first + 2)};
      cuda::MatmulJob job{input.input, false, 0, {}};
      for (size_t i = 0; i < 3; ++i)
        job.parts[job.count++] = part(first + i, y[i].data());
      CHECK_EQ(cuda::matmul(job, nullptr), cudaSuccess);
      for (size_t i = 0; i < 3; ++i) {
        const DeviceArray<float> alone = output(first + i);
        CHECK_EQ(cuda::matmul({input.input, false, 1, {part(first + i, alone.data())}}, nullptr),
                 cudaSuccess);
        set_context("tokens ", tokens, " part ", first + i);
        CHECK(same_bits(y[i].values(), alone.values()));
      }
    }
  }
}

TEST(a_product_of_no_tokens_is_nothing) {
  const DeviceWeights weights(PlainMatrix{
      WeightType::kInt8, 1, 32, 32, std::vector<int>(32), std::vector<uint16_t>(1), {}, {}});
  CHECK_EQ(cuda::matmul({{0, 32, 1, nullptr, nullptr},
                         false,
                         1,
                         {{weights.matrix, nullptr, nullptr, 0, nullptr, 1}}},
                        nullptr),
           cudaSuccess);
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
