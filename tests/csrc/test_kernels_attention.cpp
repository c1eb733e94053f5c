// Attention over a span against float64, on every level: shapes, edges, extremes, and what no
// result may depend on.
#include "attention_samples.h"
#include "check.h"

namespace ptmo::test {
namespace {

const int kDims[] = {16, 32, 48, 64, 80, 96, 128, 256, 512};
constexpr float kInf = std::numeric_limits<float>::infinity();

// Queries of tokens that see ever more rows, `group` to a token, then some with a window.
SampleQueries causal_queries(const kernels::Table& level, Random& random, int dim, int rows,
                             int tokens, int group, float size = 1.0f) {
  SampleQueries q(dim);
  q.scale = 1.0f / std::sqrt(static_cast<float>(dim));
  for (int t = 0; t < tokens; ++t) {
    const int last = std::max(1, rows - tokens + t + 1);
    const int first = t % 3 == 2 ? std::max(0, last - 1 - t * 7) : 0;
    for (int g = 0; g < group; ++g)
      q.add(level, random.normals(static_cast<size_t>(dim), size), first, last);
  }
  return q;
}

// p is good to the rounding of its score and a few units; INT8 weights are rounded to 2^-15 of the
// largest scale, whatever p is.
void check_close(const SampleQueries& q, const SampleSpan& s, const std::vector<float>& partials) {
  for (int i = 0; i < q.count(); ++i) {
    const Exact want(q, s, i);
    const float* partial = partials.data() + static_cast<size_t>(i) * (kPartialHead + q.dim);
    const std::vector<double> got = finished(partial, q.dim);
    double sum = 0.0, largest = 0.0;
    for (int part = 16; part < kPartialHead; ++part)
      sum += partial[part];
    for (int r = q.first[i]; r < q.last[i]; ++r)
      largest = std::max<double>(largest, s.type == Elements::kI8 ? s.scale(r, 1) : 0.0);
    const double relative = (8.0 + 6.0 * want.largest + q.dim / 8.0 + s.rows()) * kEps;
    for (int d = 0; d < q.dim; ++d) {
      double codes = 0.0;
      for (int r = q.first[i]; r < q.last[i]; ++r)
        codes += std::fabs(s.code(r, 1, d));
      const double rounding = 0.5 * largest / 32767.0 * codes / sum;
      CHECK_NEAR(got[d], want.out[d], 2.0 * relative * want.sizes[d] + rounding);
    }
  }
}

} // namespace

TEST(partials_are_those_of_float64_for_every_dim_span_and_number_of_queries) {
  Random random(41);
  for (const kernels::Table* level : levels()) {
    for (const Elements type : kElements) {
      for (const int dim : kDims) {
        for (const int piece_rows : {16, 32}) {
          const int most = kernels::kSpanRows / piece_rows, pieces = 1 + random.below(most);
          const SampleSpan s(type, dim, piece_rows, pieces);
          s.fill(random);
          const int rows = std::max(1, s.rows() - random.below(piece_rows));
          for (const int group : {1, 3}) {
            const SampleQueries q = causal_queries(*level, random, dim, rows, 1 + random.below(8),
                                                   group, random.uniform(0.1f, 4.0f));
            set_context(level->name, " type ", type, " dim ", dim, " pieces ", pieces, " x ",
                        piece_rows, " rows ", rows, " queries ", q.count());
            check_close(q, s, attend(*level, q, s));
          }
        }
      }
    }
  }
}

TEST(one_row_one_query_and_one_row_more_or_less_than_a_page) {
  Random random(42);
  for (const kernels::Table* level : levels()) {
    for (const Elements type : kElements) {
      for (const int rows : {1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128}) {
        const SampleSpan s(type, 64, 32, 4);
        s.fill(random);
        SampleQueries q(64);
        q.add(*level, random.normals(64), 0, rows);
        q.add(*level, random.normals(64), rows - 1, rows);
        set_context(level->name, " type ", type, " rows ", rows);
        const std::vector<float> partials = attend(*level, q, s);
        check_close(q, s, partials);
        for (int d = 0; d < 64; ++d) // a row alone is that row, but for the rounding of its scale
          CHECK_NEAR(finished(partials.data() + kPartialHead + 64, 64)[d], s.value(rows - 1, 1, d),
                     4.0 * kEps * std::fabs(s.value(rows - 1, 1, d)));
      }
    }
  }
}

TEST(integer_scores_are_exact_even_at_the_largest_codes) {
  Random random(43);
  for (const kernels::Table* level : levels()) {
    for (const int dim : kDims) {
      for (int trial = 0; trial < 5; ++trial) {
        const SampleSpan s(Elements::kI8, dim, 16, 1);
        s.fill(random);
        SampleQueries q(dim);
        q.add(*level, random.normals(static_cast<size_t>(dim)), 5, 6);
        int64_t dot = 0;
        for (int d = 0; d < dim; ++d) {
          if (trial < 3) {
            q.codes[d] = static_cast<int16_t>(trial == 1 ? -kernels::kCode16 : kernels::kCode16);
            s.set(5, 0, d, trial == 2 ? -127.0f : 127.0f);
          }
          dot += static_cast<int64_t>(q.codes[d] * s.code(5, 0, d));
        }
        q.code_scales[0] = s.scale(5, 0) = q.scale = 1.0f;
        set_context(level->name, " dim ", dim, " trial ", trial);
        const double want = static_cast<double>(dot) * 1.4426950408889634;
        CHECK_NEAR(attend(*level, q, s)[0], want, 2.0 * kEps * std::fabs(want));
      }
    }
  }
}

TEST(integer_sums_of_weighted_rows_are_exact_even_at_the_largest_codes) {
  Random random(44);
  for (const kernels::Table* level : levels()) {
    for (const int dim : kDims) {
      for (int trial = 0; trial < 4; ++trial) {
        const int rows = kernels::kSpanRows - trial * 17;
        const SampleSpan s(Elements::kI8, dim, 32, 4);
        s.fill(random);
        SampleQueries q(dim);
        q.add(*level, std::vector<float>(static_cast<size_t>(dim)), 0, rows); // p = 1 everywhere
        std::vector<int64_t> sums(static_cast<size_t>(dim));
        for (int r = 0; r < rows; ++r) {
          const int weight = r == 0 || trial == 0 ? 32767 : random.below(32768);
          s.scale(r, 1) = static_cast<float>(weight); // the largest is 32767: a scale is a code
          for (int d = 0; d < dim; ++d) {
            if (trial < 2)
              s.set(r, 1, d, d % 2 == 0 ? 127.0f : -127.0f);
            sums[d] += weight * static_cast<int64_t>(s.code(r, 1, d));
          }
        }
        set_context(level->name, " dim ", dim, " trial ", trial);
        const std::vector<float> partial = attend(*level, q, s);
        double sum = 0.0;
        for (int part = 16; part < kPartialHead; ++part)
          sum += partial[part];
        CHECK_EQ(sum, static_cast<double>(rows));
        for (int d = 0; d < dim; ++d)
          CHECK_EQ(partial[kPartialHead + d], static_cast<float>(sums[d]));
      }
    }
  }
}

TEST(weights_are_the_exponentials_of_the_scores) {
  Random random(45);
  for (const kernels::Table* level : levels()) {
    const SampleSpan s(Elements::kF32, 128, 32, 4); // V: the unit matrix, so acc[r] = p[r]
    SampleQueries q(128);
    q.scale = 1.0f;
    std::vector<float> query(128), x;
    query[0] = 1.0f;
    for (int r = 0; r < 128; ++r) {
      x.push_back(random.below(8) == 0 ? random.uniform(-200.0f, 0.0f)
                                       : random.uniform(-30.0f, 5.0f));
      s.set(r, 0, 0, x.back());
      s.set(r, 1, r, 1.0f);
    }
    q.add(*level, query, 0, 128);
    const float max = *std::max_element(x.begin(), x.end());
    const std::vector<float> partial = attend(*level, q, s);
    set_context(level->name);
    CHECK_NEAR(partial[0], max * 1.4426950408889634, 4.0 * kEps * std::fabs(max));
    for (int r = 0; r < 128; ++r) {
      const double want = std::exp(static_cast<double>(x[r]) - max);
      // The score in units of log2 is off by its rounding; below 2^-126 nothing is told apart.
      const double roundings = 4.0 + 3.0 * std::max(std::fabs(x[r]), std::fabs(max));
      CHECK_NEAR(partial[kPartialHead + r], want, roundings * kEps * want + 2e-38);
      CHECK(partial[kPartialHead + r] >= 0.0f && partial[kPartialHead + r] <= 1.0f);
    }
  }
}

// Scores whose float steps are far above 1: the largest row's weight is 1 all the same.
TEST(one_row_takes_all_the_weight_however_large_the_scores_are) {
  Random random(49);
  for (const kernels::Table* level : levels()) {
    for (const Elements type : {Elements::kI8, Elements::kF32}) {
      for (const float size : {1e3f, 1e5f, 1e7f, 1e9f, 1e12f}) {
        const SampleSpan s(type, 64, 16, 2);
        s.fill(random);
        for (int r = 0; r < s.rows(); ++r) {
          if (type == Elements::kI8)
            s.scale(r, 0) *= size;
          for (int d = 0; d < 64 && type != Elements::kI8; ++d)
            s.set(r, 0, d, size * static_cast<float>(s.code(r, 0, d)));
        }
        SampleQueries q(64);
        q.add(*level, random.normals(64), 0, s.rows());
        int best = 0;
        double largest = -std::numeric_limits<double>::infinity();
        for (int r = 0; r < s.rows(); ++r) {
          double dot = 0.0;
          for (int d = 0; d < 64; ++d)
            dot += q.value(type, 0, d) * s.value(r, 0, d);
          if (dot > largest) {
            largest = dot;
            best = r;
          }
        }
        const std::vector<float> partial = attend(*level, q, s);
        double sum = 0.0;
        for (int i = 16; i < kPartialHead; ++i)
          sum += partial[i];
        set_context(level->name, " type ", type, " size ", size);
        CHECK_NEAR(sum, 1.0, size < 1e4f ? 0.01 : 0.0);
        for (int d = 0; d < 64; ++d)
          CHECK_NEAR(finished(partial.data(), 64)[d], s.value(best, 1, d),
                     0.01 * std::fabs(s.value(best, 1, d)) + (size < 1e4f ? 0.02 : 0.0));
      }
    }
  }
}

TEST(rows_that_no_query_sees_change_no_bit_whatever_they_hold) {
  Random random(46);
  for (const kernels::Table* level : levels()) {
    for (const Elements type : kElements) {
      for (const int dim : {16, 64, 80}) {
        const SampleSpan s(type, dim, 16, 8);
        s.fill(random);
        SampleQueries q(dim);
        for (const int first : {21, 33, 33, 40})
          q.add(*level, random.normals(static_cast<size_t>(dim)), first, first + 50);
        const std::vector<float> want = attend(*level, q, s);
        for (int r = 0; r < s.rows(); ++r)
          if (r < 21 || r >= 90)
            s.poison(r);
        set_context(level->name, " type ", type, " dim ", dim);
        CHECK(same_bits(attend(*level, q, s), want));
      }
    }
  }
}

TEST(a_query_gets_the_same_bits_alone_as_among_others) {
  Random random(47);
  for (const kernels::Table* level : levels()) {
    for (const Elements type : kElements) {
      for (const int dim : {48, 64}) {
        const SampleSpan s(type, dim, 32, 4);
        s.fill(random);
        const SampleQueries all = causal_queries(*level, random, dim, 120, 11, 3);
        const std::vector<float> want = attend(*level, all, s);
        const size_t width = static_cast<size_t>(kPartialHead) + dim;
        for (int i = 0; i < all.count(); ++i) {
          SampleQueries one(dim);
          one.scale = all.scale;
          one.add(*level, slice(all.q, static_cast<size_t>(i) * dim, static_cast<size_t>(dim)),
                  all.first[i], all.last[i]);
          set_context(level->name, " type ", type, " dim ", dim, " query ", i);
          CHECK(same_bits(attend(*level, one, s), slice(want, i * width, width)));
        }
      }
    }
  }
}

TEST(prefetching_and_missing_pieces_change_nothing) {
  Random random(48);
  for (const kernels::Table* level : levels()) {
    for (const Elements type : kElements) {
      const SampleSpan s(type, 64, 16, 8), other(type, 64, 16, 8);
      s.fill(random);
      SampleQueries q(64);
      q.add(*level, random.normals(64), 70, 120);
      const std::vector<float> want = attend(*level, q, s);
      SampleSpan part(type, 64, 16, 8);
      part.span = s.span;
      part.span.first_piece = 4;
      for (int p = 0; p < 8; ++p) {
        if (p < 4)
          part.span.k[p] = part.span.v[p] = nullptr, part.span.scales[p] = nullptr;
        part.span.next[p] = p % 3 == 0 ? nullptr : other.span.k[p];
      }
      part.span.next_bytes = 1000;
      set_context(level->name, " type ", type);
      CHECK(same_bits(attend(*level, q, part), want));
    }
  }
}

TEST(rows_of_zero_scale_weigh_nothing_and_leave_no_nan) {
  Random random(49);
  for (const kernels::Table* level : levels()) {
    const SampleSpan s(Elements::kI8, 64, 32, 1); // all zero: codes and scales
    SampleQueries q(64);
    q.add(*level, random.normals(64), 0, 32);
    q.add(*level, std::vector<float>(64), 3, 20); // a zero query
    set_context(level->name);
    const std::vector<float> partials = attend(*level, q, s);
    for (int i = 0; i < 2; ++i)
      for (const double x : finished(partials.data() + i * (kPartialHead + 64), 64))
        CHECK_EQ(x, 0.0);
  }
}

TEST(a_row_that_overflowed_spoils_the_queries_that_see_it_and_no_other) {
  Random random(50);
  for (const kernels::Table* level : levels()) {
    for (const Elements type : kElements) {
      for (int which = 0; which < 2; ++which) {
        const SampleSpan s(type, 64, 32, 2);
        s.fill(random);
        SampleQueries q(64);
        q.add(*level, random.normals(64), 0, 40);
        q.add(*level, random.normals(64), 0, 41);
        const std::vector<float> before = attend(*level, q, s);
        for (int d = 0; d < 64; ++d) // as quantize_row leaves a row with an infinity: codes 0
          s.set(40, which, d, type == Elements::kI8 ? 0.0f : kInf);
        s.scale(40, which) = kInf;
        const std::vector<float> after = attend(*level, q, s);
        set_context(level->name, " type ", type, " of ", which == 0 ? "K" : "V");
        const size_t width = kPartialHead + 64;
        CHECK(same_bits(slice(after, 0, width), slice(before, 0, width)));
        for (const double x : finished(after.data() + width, 64))
          CHECK(!std::isfinite(x));
      }
    }
  }
}

TEST(folding_spans_gives_attention_over_all_of_them) {
  Random random(51);
  for (const kernels::Table* level : levels()) {
    for (const int dim : {16, 64, 80}) {
      const SampleSpan all(Elements::kF32, dim, 16, 8);
      all.fill(random);
      SampleQueries q(dim);
      q.add(*level, random.normals(static_cast<size_t>(dim), 3.0f), 0, 128);
      q.add(*level, random.normals(static_cast<size_t>(dim), 3.0f), 5, 121);
      const size_t width = static_cast<size_t>(kPartialHead) + dim;
      std::vector<float> totals(2 * width, 0.0f);
      totals[0] = totals[width] = -kInf;
      std::vector<float> first_fold;
      for (int span = 0; span < 4; ++span) {
        SampleQueries part = q;
        SampleSpan s(Elements::kF32, dim, 16, 2);
        for (int p = 0; p < 2; ++p) {
          s.span.k[p] = all.span.k[2 * span + p];
          s.span.v[p] = all.span.v[2 * span + p];
        }
        for (int i = 0; i < 2; ++i) {
          part.first[i] = std::max(0, q.first[i] - 32 * span);
          part.last[i] = std::min(32, q.last[i] - 32 * span);
        }
        const std::vector<float> partials = attend(*level, part, s);
        level->fold_partials(partials.data(), 2, dim, totals.data());
        if (span == 0)
          CHECK(same_bits(totals, partials)); // into empty totals: the partials themselves
      }
      set_context(level->name, " dim ", dim);
      for (int i = 0; i < 2; ++i) {
        const Exact want(q, all, i);
        const std::vector<double> got = finished(totals.data() + i * width, dim);
        for (int d = 0; d < dim; ++d)
          CHECK_NEAR(got[d], want.out[d],
                     (150.0 + dim / 8.0 + 6.0 * want.largest) * kEps * want.sizes[d]);
      }
    }
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
