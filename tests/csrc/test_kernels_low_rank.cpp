// y += B u of every level against float64, over ranks and shapes, without a write too far.
//
// Error bound: as in test_kernels_matmul.cpp, operations on the longest chain times 2^-24 times the
// sum of the terms' magnitudes.
#include "check.h"
#include "random_adapter.h"

namespace ptmo::test {
namespace {

constexpr uint32_t kPoison = 0x7fc0dead; // a NaN that no arithmetic produces
constexpr size_t kGuard = 64;

// One term: B as a float or INT8 factor, and u in the form it reads.
struct TestTerm {
  int rows, rank, chunks;
  bool integer;
  std::vector<float> b, u;
  Int8Rows quantised;
  AlignedBuffer panels;
  std::vector<int8_t> codes;
  std::vector<float> scales, padded;
  std::vector<int32_t> sums;
  kernels::LowRankTerm term{};

  TestTerm(Random& random, int rows_, int rank_, int tokens, bool integer_, float extreme)
      : rows(rows_), rank(rank_), chunks(kernels::rank_chunks(rank_)), integer(integer_),
        b(random.normals(static_cast<size_t>(rows_) * rank_, 0.1f)),
        u(random.normals(static_cast<size_t>(tokens) * rank_)), quantised(b, rows_, rank_, 16) {
    if (extreme != 0.0f) {
      for (size_t i = 0; i < b.size(); ++i)
        b[i] = i % 3 ? extreme : -extreme;
      quantised = Int8Rows(b, rows, rank, 16);
    }
    const auto type = integer ? WeightType::kInt8 : WeightType::kF32;
    term.b = {type, rows, rank, nullptr, kernels::low_rank_panel_bytes(type, rank)};
    panels = AlignedBuffer(term.b.panel_bytes * static_cast<size_t>((rows + 15) / 16));
    term.b.data = panels.data();
    for (int r = 0; r < rows; ++r)
      for (int k = 0; k < rank; ++k)
        store(r, k);
    for (int t = 0; t < tokens; ++t) {
      for (int c = 0; c < chunks; ++c) {
        scales.push_back(random.uniform(0.001f, 0.1f));
        sums.push_back(0);
        for (int k = c * 16; k < c * 16 + 16; ++k) {
          padded.push_back(k < rank ? u[static_cast<size_t>(t) * rank + k] : 0.0f);
          codes.push_back(static_cast<int8_t>(k >= rank         ? 0
                                              : extreme != 0.0f ? (k % 2 ? 127 : -127)
                                                                : random.between(-127, 127)));
          sums.back() += codes.back();
        }
      }
    }
    term.u = {padded.data(), codes.data(), scales.data(), sums.data()};
  }

  // The layout of kernels.h, written down once more.
  void store(int r, int k) {
    uint8_t* panel = panels.data() + static_cast<size_t>(r / 16) * term.b.panel_bytes;
    if (!integer) {
      std::memcpy(panel + 4 * (k * 16 + r % 16), &b[static_cast<size_t>(r) * rank + k], 4);
      return;
    }
    uint8_t* chunk = panel + static_cast<size_t>(k / 16) * (4 * 64 + 32);
    const int left = rank - k / 16 * 16, quads = left >= 16 ? 4 : (left + 3) / 4;
    const size_t at = static_cast<size_t>(r) * quantised.padded + k;
    chunk[k % 16 / 4 * 64 + r % 16 * 4 + k % 4] = static_cast<uint8_t>(quantised.codes[at]);
    std::memcpy(chunk + quads * 64 + 2 * (r % 16), &quantised.scales[at / 16], 2);
  }

  // The exact update of one output, and the sum of its terms' magnitudes.
  void add_to(int t, int r, double& value, double& magnitude) const {
    for (int k = 0; k < rank; ++k) {
      const size_t at = static_cast<size_t>(t) * chunks * 16 + k;
      const double x = integer ? static_cast<double>(scales[at / 16]) * codes[at] : padded[at];
      const double w = integer ? quantised.value(r, k) : b[static_cast<size_t>(r) * rank + k];
      value += w * x;
      magnitude += std::fabs(w * x);
    }
  }
};

void check_terms(const std::vector<std::unique_ptr<TestTerm>>& terms, int tokens, Random& random) {
  const int rows = terms[0]->rows, panels = (rows + 15) / 16;
  std::vector<kernels::LowRankTerm> views;
  int chain = 4;
  for (const auto& t : terms) {
    views.push_back(t->term);
    chain += t->integer ? 3 * t->chunks : t->rank + 2;
  }
  for (const kernels::Table* level : kernels::levels()) {
    const int begin = tokens % 2 ? 0 : panels / 2;
    const size_t stride = static_cast<size_t>(rows) + tokens % 3;
    const std::vector<float> start = random.normals(stride * tokens);
    std::vector<float> y(kGuard + stride * tokens + kGuard);
    const std::vector<uint32_t> poison(y.size(), kPoison);
    std::memcpy(y.data(), poison.data(), y.size() * 4);
    const int first = begin * 16;
    for (int t = 0; t < tokens; ++t)
      std::copy_n(start.data() + t * stride + first, rows - first,
                  y.data() + kGuard + t * stride + first);
    level->low_rank_add(views.data(), static_cast<int>(views.size()), begin, panels, tokens,
                        y.data() + kGuard, stride);
    set_context(level->name, " rows ", rows, " rank ", terms[0]->rank, " terms ", terms.size(),
                " tokens ", tokens, terms[0]->integer ? " integer" : " float");
    for (size_t i = 0; i < y.size(); ++i) {
      const bool inside = i >= kGuard && i < kGuard + stride * tokens;
      const size_t t = inside ? (i - kGuard) / stride : 0, r = inside ? (i - kGuard) % stride : 0;
      if (!inside || r < static_cast<size_t>(first) || r >= static_cast<size_t>(rows)) {
        uint32_t bits;
        std::memcpy(&bits, &y[i], 4);
        if (bits != kPoison)
          fail(__FILE__, __LINE__, "wrote outside its rows, at float " + show(i));
        continue;
      }
      double value = start[t * stride + r], magnitude = std::fabs(value);
      for (const auto& term : terms)
        term->add_to(static_cast<int>(t), static_cast<int>(r), value, magnitude);
      CHECK_NEAR(y[i], value, chain * kEps * magnitude);
    }
  }
}

} // namespace

TEST(every_level_adds_what_float64_adds_and_writes_only_its_rows) {
  Random random(31);
  for (const bool integer : {true, false})
    for (const int rank : {1, 3, 4, 5, 8, 15, 16, 17, 31, 32, 48, 63, 64})
      for (const int rows : {1, 15, 16, 17, 48, 50})
        for (const int tokens : {1, 2, 5})
          for (const int count : {1, 3}) {
            std::vector<std::unique_ptr<TestTerm>> terms;
            for (int i = 0; i < count; ++i) // terms of one call may differ in rank
              terms.push_back(std::make_unique<TestTerm>(
                  random, rows, i == 1 ? 64 - rank / 2 : rank, tokens, integer, 0.0f));
            check_terms(terms, tokens, random);
          }
}

TEST(extreme_codes_and_scales_stay_within_the_same_bound) {
  Random random(32);
  for (const float size : {1e-6f, 1.0f, 60000.0f})
    for (const int rank : {1, 16, 61}) {
      std::vector<std::unique_ptr<TestTerm>> terms;
      terms.push_back(std::make_unique<TestTerm>(random, 33, rank, 3, true, size));
      check_terms(terms, 3, random);
    }
}

// What a permutation of B's rows, a split over threads and a batch rest on.
TEST(a_row_and_a_token_get_the_same_bits_wherever_they_stand) {
  Random random(33);
  for (const int rank : {5, 16, 40}) {
    const TestTerm term(random, 64, rank, 6, true, 0.0f);
    const std::vector<float> start = random.normals(6 * 64);
    for (const kernels::Table* level : kernels::levels()) {
      set_context(level->name, " rank ", rank);
      std::vector<float> together = start, alone = start;
      level->low_rank_add(&term.term, 1, 0, 4, 6, together.data(), 64);
      for (int t = 0; t < 6; ++t) {
        kernels::LowRankTerm one = term.term;
        one.u.codes += static_cast<size_t>(t) * term.chunks * 16;
        one.u.scales += t * term.chunks;
        one.u.code_sums += t * term.chunks;
        for (int p = 3; p >= 0; --p)
          level->low_rank_add(&one, 1, p, p + 1, 1, alone.data() + 64 * t, 64);
      }
      CHECK(same_bits(together, alone));
    }
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
