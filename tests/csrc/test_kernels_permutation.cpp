// What the `permute` shield rests on: reordering columns inside a 32-column block, elements of a
// head or rotary pairs changes no bit of any result, on every level.
#include "attention_samples.h"
#include "check.h"

#include <numeric>

namespace ptmo::test {
namespace {

// A permutation of `cols` columns that keeps each inside its block of 32.
std::vector<int> block_permutation(Random& random, int cols) {
  std::vector<int> p(static_cast<size_t>(cols));
  for (int b = 0; b < cols; b += 32) {
    const std::vector<int> inner = random.permutation(32);
    for (int i = 0; i < 32; ++i)
      p[b + i] = b + inner[i];
  }
  return p;
}

template <typename T> std::vector<T> gather(const std::vector<T>& x, const std::vector<int>& p) {
  std::vector<T> out(x.size());
  for (size_t row = 0; row < x.size(); row += p.size())
    for (size_t i = 0; i < p.size(); ++i)
      out[row + i] = x[row + p[i]];
  return out;
}

std::vector<float> product(const kernels::Table& level, const PlainMatrix& w,
                           const std::vector<float>& x) {
  const PanelMatrix panels(w);
  const Inputs in(level, x, w.cols);
  std::vector<float> y(static_cast<size_t>(in.tokens) * w.rows);
  level.matmul(panels.packed, 0, (w.rows + 15) / 16, in.integers(), in.tokens, y.data(),
               static_cast<size_t>(w.rows));
  return y;
}

} // namespace

TEST(columns_permuted_inside_their_blocks_give_bit_equal_products) {
  Random random(11);
  for (const kernels::Table* level : levels()) {
    for (const auto& [type, group] : {std::pair(WeightType::kInt4, 32),
                                      {WeightType::kInt4, 64},
                                      {WeightType::kInt4, 128},
                                      {WeightType::kInt4Symmetric, 32},
                                      {WeightType::kInt4Symmetric, 128},
                                      {WeightType::kInt8, 32}}) {
      for (const int cols : {128, 576, 1536}) {
        if (cols % group != 0)
          continue;
        const PlainMatrix w = random_matrix(random, type, 33, cols, group);
        const std::vector<float> x = random.normals(static_cast<size_t>(6) * cols);
        const std::vector<int> p = block_permutation(random, cols);
        PlainMatrix moved = w;
        moved.codes = gather(w.codes, p);
        set_context(level->name, " group ", group, " cols ", cols);
        CHECK(!same_bits(moved.codes, w.codes));
        CHECK(same_bits(product(*level, moved, gather(x, p)), product(*level, w, x)));
      }
    }
  }
}

// The test above can fail: a column that leaves its block changes the result.
TEST(columns_permuted_across_blocks_do_change_products) {
  Random random(12);
  for (const kernels::Table* level : levels()) {
    const PlainMatrix w = random_matrix(random, WeightType::kInt4, 16, 128, 32);
    const std::vector<float> x = random.normals(128);
    std::vector<int> p(128);
    std::iota(p.begin(), p.end(), 0);
    std::swap(p[3], p[77]);
    PlainMatrix moved = w;
    moved.codes = gather(w.codes, p);
    set_context(level->name);
    CHECK(!same_bits(product(*level, moved, gather(x, p)), product(*level, w, x)));
  }
}

// K and q permuted alike (INT8: their dot products are exact), V by a permutation of its own.
TEST(attention_commutes_with_permutations_of_a_heads_elements) {
  Random random(13);
  for (const kernels::Table* level : levels()) {
    for (const Elements type : kElements) {
      for (const int dim : {16, 32, 48, 64, 80, 128, 512}) {
        const SampleSpan plain(type, dim, 16, 3), moved(type, dim, 16, 3);
        plain.fill(random);
        std::vector<int> k_order = random.permutation(dim);
        const std::vector<int> v_order = random.permutation(dim);
        if (type != Elements::kI8)
          std::iota(k_order.begin(), k_order.end(), 0);
        for (int r = 0; r < plain.rows(); ++r) {
          for (int which = 0; which < 2; ++which) {
            moved.scale(r, which) = plain.scale(r, which);
            for (int d = 0; d < dim; ++d)
              moved.set(
                  r, which, d,
                  static_cast<float>(plain.code(r, which, (which == 0 ? k_order : v_order)[d])));
          }
        }
        SampleQueries q(dim), permuted(dim);
        for (int i = 0; i < 4; ++i) {
          const std::vector<float> row = random.normals(static_cast<size_t>(dim));
          q.add(*level, row, i, 40 + i);
          permuted.add(*level, gather(row, k_order), i, 40 + i);
        }
        set_context(level->name, " type ", type, " dim ", dim);
        CHECK(same_bits(permuted.code_scales, q.code_scales));
        CHECK(same_bits(permuted.codes, gather(q.codes, k_order)));
        const std::vector<float> want = attend(*level, q, plain);
        const std::vector<float> got = attend(*level, permuted, moved);
        for (size_t i = 0; i < 4; ++i) {
          const size_t at = i * (kPartialHead + q.dim), n = static_cast<size_t>(dim);
          CHECK(same_bits(slice(got, at, kPartialHead), slice(want, at, kPartialHead)));
          CHECK(same_bits(slice(got, at + kPartialHead, n),
                          gather(slice(want, at + kPartialHead, n), v_order)));
        }
      }
    }
  }
}

TEST(rope_and_its_tables_commute_with_a_permutation_of_pairs) {
  Random random(15);
  for (const kernels::Table* level : levels()) {
    for (const int half : {1, 7, 8, 16, 24, 33, 64}) { // also lengths with a tail
      const std::vector<int> p = random.permutation(half);
      std::vector<int> pairs = p;
      for (const int i : p)
        pairs.push_back(i + half);
      std::vector<float> angle(static_cast<size_t>(half));
      for (float& a : angle)
        a = random.uniform(-3000.0f, 3000.0f);
      const std::vector<float> x = random.normals(2 * angle.size());
      const auto rotated = [&](const std::vector<float>& angles, std::vector<float> y) {
        std::vector<float> c(angles.size()), s(angles.size());
        level->cos_sin(angles.data(), half, c.data(), s.data());
        level->rope(y.data(), c.data(), s.data(), half);
        return y;
      };
      set_context(level->name, " half ", half);
      CHECK(
          same_bits(rotated(gather(angle, p), gather(x, pairs)), gather(rotated(angle, x), pairs)));
    }
  }
}

TEST(a_permuted_head_has_the_permuted_norm_bit_for_bit) {
  Random random(17);
  for (const kernels::Table* level : levels()) {
    for (const int dim : {16, 64, 80, 128, 256, 512}) {
      for (int round = 0; round < 40; ++round) {
        std::vector<float> x = random.normals(static_cast<size_t>(dim)),
                           w = random.normals(static_cast<size_t>(dim));
        for (float& v : x) // magnitudes far apart: a float sum would depend on the order
          v *= std::exp2(random.uniform(-20.0f, 20.0f));
        const std::vector<int> order = random.permutation(dim);
        std::vector<float> permuted = gather(x, order);
        level->head_rms_norm(permuted.data(), gather(w, order).data(), dim, 1e-6f);
        level->head_rms_norm(x.data(), w.data(), dim, 1e-6f);
        set_context(level->name, " dim ", dim, " round ", round);
        CHECK(same_bits(permuted, gather(x, order)));
      }
    }
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
