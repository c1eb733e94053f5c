// What goes into the device's matrix products against the reference level and float64.
#include "prepare_samples.h"

namespace ptmo::test {

TEST(values_codes_and_updates_are_what_they_should_be) {
  Random random(1);
  for (const InputKind kind : kKinds) {
    for (const int cols : {32, 96, 576, 1536}) {
      for (const int tokens : {1, 5, 33}) {
        if (cols > 96 && tokens == 33 && kind != InputKind::kPlain)
          continue;
        const int bits = tokens == 5 ? 16 : 8;
        Preparation p = random_preparation(random, kind, tokens, cols, bits);
        p.shrinks = {random_shrink(random, 16, cols, 0, tokens),
                     random_shrink(random, 1, cols, tokens / 2, tokens - tokens / 2)};
        p.spare_units = 2;
        check_preparation(p);
      }
    }
  }
}

TEST(wide_rows_take_several_pieces) {
  Random random(2);
  for (const int bits : {8, 16}) {
    Preparation p = random_preparation(random, InputKind::kSilu, 3, 14336, bits);
    p.shrinks = {random_shrink(random, 17, 14336, 0, 3)};
    check_preparation(p);
  }
  check_preparation(random_preparation(random, InputKind::kNorm, 1, 32768, 16));
}

TEST(stacked_adapters_of_segments_and_empty_ones) {
  Random random(3);
  for (const int tokens : {7, 20}) { // in one launch, in two
    for (const int bits : {8, 16}) {
      Preparation p = random_preparation(random, InputKind::kNorm, tokens, 96, bits);
      for (const int rank : {1, 16, 17, 64}) {
        p.shrinks.push_back(random_shrink(random, rank, 96, 0, 3));
        p.shrinks.push_back(random_shrink(random, rank, 96, 3, tokens - 4)); // none for the last
      }
      p.shrinks.push_back({PlainMatrix{WeightType::kInt8, 0, 96, 32, {}, {}, {}, {}}, 1.0f, 0, 2});
      p.shrinks.push_back(random_shrink(random, 16, 96, 2, 0)); // of no token
      p.shrinks.push_back(random_shrink(random, 16, 96, tokens - 1, 1));
      check_preparation(p);
    }
  }
}

TEST(the_residual_is_added_first_and_normed_where_the_model_does) {
  Random random(4);
  for (const InputKind kind : {InputKind::kPlain, InputKind::kNorm}) {
    for (const int cols : {96, 2304}) {
      Preparation p = random_preparation(random, kind, 3, cols, 16);
      p.shrinks = {random_shrink(random, 16, cols, 1, 2)};
      p.added = random.normals(p.x.size());
      check_preparation(p);
      p.added_weight = random.normals(cols);
      check_preparation(p);
    }
  }
}

TEST(angles_are_filled_on_the_way_and_change_nothing_else) {
  Random random(8);
  for (const int tokens : {2, 20, 70}) { // in one launch, in two, whole tokens to a block
    Preparation p = random_preparation(random, InputKind::kNorm, tokens, 96, 16);
    p.shrinks = {random_shrink(random, 16, 96, 0, tokens)};
    const Prepared without = prepare(p);
    p.angles = true;
    CHECK(prepare(p).bytes() == without.bytes());
  }
}

TEST(chosen_rows_are_read) {
  Random random(5);
  Preparation p = random_preparation(random, InputKind::kNorm, 6, 96, 16);
  p.added = random.normals(p.x.size());
  p.rows = {5, 0, 3};
  check_preparation(p);
  p = random_preparation(random, InputKind::kSilu, 6, 96, 16);
  p.rows = {4, 4};
  check_preparation(p);
}

TEST(hostile_values_have_the_references_codes) {
  Random random(6);
  constexpr int kCols = 96, kRows = 12;
  constexpr float kInf = std::numeric_limits<float>::infinity(),
                  kNaN = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> x = random.normals(kRows * kCols);
  for (int c = 0; c < kCols; ++c) {
    x[0 * kCols + c] = 0.0f;
    x[1 * kCols + c] = c % 2 ? -0.0f : 1e-40f;
    x[2 * kCols + c] *= 1e28f;
    x[3 * kCols + c] = c % 2 ? 3.4e38f : -3.4e38f;
    x[4 * kCols + c] *= 1e-29f; // some blocks are below the least scale
    x[5 * kCols + c] = c % 32 == 0 ? 127.0f : static_cast<float>(c % 32 - 16) + 0.5f; // halves
    x[6 * kCols + c] = c % 32 == 0 ? static_cast<float>(kernels::kCode16)
                                   : static_cast<float>(256 * (c % 32 - 16)) + 127.5f;
  }
  for (int c = 0; c < kCols; ++c) { // their squares overflow, their sums of squares too
    x[10 * kCols + c] *= 0x1p39f;
    x[11 * kCols + c] *= 0x1p66f;
  }
  x[7 * kCols + 40] = kNaN;
  x[8 * kCols + 3] = kInf;
  x[8 * kCols + 4] = -kInf;
  x[9 * kCols + 70] = -kInf;
  x[9 * kCols + 71] = kNaN;
  for (const InputKind kind : kKinds) {
    for (const int bits : {8, 16}) {
      Preparation p = random_preparation(random, kind, kRows, kCols, bits);
      p.x = x;
      for (int t = 0; t < kRows; ++t)
        p.shrinks.push_back(random_shrink(random, 5, kCols, t, 1));
      const Prepared got = check_preparation(p);
      if (kind == InputKind::kPlain && bits == 8) // halves go to the even code
        for (int c = 1; c < kCols; ++c)
          if (c % 32 != 0)
            CHECK_EQ(got.codes[5 * 128 + cuda::activation_offset(c)] % 2, 0);
    }
  }
}

TEST(a_token_alone_has_the_bits_it_has_among_others) {
  Random random(7);
  for (const int tokens : {16, 17, 65}) { // one launch, two, whole tokens to a block
    Preparation all = random_preparation(random, InputKind::kNorm, tokens, 1536, 16);
    all.shrinks = {random_shrink(random, 16, 1536, 0, tokens)};
    const Prepared together = prepare(all);
    for (const int t : {0, tokens / 2, tokens - 1}) {
      Preparation one = all;
      const size_t at = static_cast<size_t>(t) * 1536;
      one.x.assign(all.x.begin() + at, all.x.begin() + at + 1536);
      one.shrinks[0].count = 1;
      const Prepared alone = prepare(one);
      CHECK(std::memcmp(alone.codes.data(), together.codes.data() + 2 * at, 2 * 1536) == 0);
      CHECK(std::memcmp(alone.values.data(), together.values.data() + at, 1536 * 4) == 0);
      CHECK(std::memcmp(alone.u[0].data(), together.u[0].data() + t * 16, 64) == 0);
    }
  }
}

// The property that the `permute` shield rests on.
TEST(columns_permuted_inside_their_blocks_leave_every_bit) {
  Random random(8);
  constexpr int kCols = 576;
  for (const InputKind kind : {InputKind::kPlain, InputKind::kSilu}) {
    for (const int bits : {8, 16}) {
      for (const int tokens : {2, 20}) {
        Preparation p = random_preparation(random, kind, tokens, kCols, bits);
        p.shrinks = {random_shrink(random, 17, kCols, 0, tokens)};
        Preparation moved = p;
        std::vector<int> to;
        for (int b = 0; b < kCols / 32; ++b)
          for (const int c : random.permutation(32))
            to.push_back(32 * b + c);
        for (int c = 0; c < kCols; ++c) {
          for (int t = 0; t < tokens; ++t) {
            moved.x[t * kCols + c] = p.x[t * kCols + to[c]];
            if (!p.up.empty())
              moved.up[t * kCols + c] = p.up[t * kCols + to[c]];
          }
          for (int r = 0; r < 17; ++r)
            moved.shrinks[0].a.codes[r * kCols + c] = p.shrinks[0].a.codes[r * kCols + to[c]];
        }
        const Prepared a = prepare(p), b = prepare(moved);
        CHECK(same_bits(a.u[0], b.u[0]));
        CHECK(std::memcmp(a.scales.data(), b.scales.data(), a.scales.size() * 8) == 0);
      }
    }
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
