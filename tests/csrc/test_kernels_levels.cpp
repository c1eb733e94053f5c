// Which kernel levels there are, what picks one, and that levels of one arithmetic agree bit for
// bit.
#include "check.h"
#include "random_adapter.h"

#include "crypto/aes_ctr.h"

#include <cstdlib>
#include <stdexcept>

namespace ptmo::test {
namespace {

std::string names() {
  std::string out;
  for (const kernels::Table* level : levels())
    out += (out.empty() ? "" : ",") + std::string(level->name);
  return out;
}

} // namespace

// A build for an emulated CPU says what that CPU offers (cmake/aarch64-linux-gnu.cmake), so that a
// level which is not found cannot pass for one that was tested.
TEST(the_levels_are_those_that_the_run_expects) {
  const char* expected = std::getenv("PTMO_EXPECTED_LEVELS");
  const std::string found = names() + (aes_hardware() ? "+aes" : "");
  std::printf("     %s\n", found.c_str());
  if (expected != nullptr)
    CHECK_EQ(found, std::string(expected));
}

TEST(levels_have_every_kernel_and_end_with_the_reference) {
  CHECK(levels().count >= 1);
  CHECK_EQ(levels().tables[levels().count - 1], &kernels::reference());
  for (const kernels::Table* level : levels()) {
    const void* entries[sizeof(kernels::Table) / sizeof(void*)];
    static_assert(sizeof(entries) == sizeof(kernels::Table), "a table is pointers alone");
    std::memcpy(entries, level, sizeof(entries));
    for (size_t i = 0; i < std::size(entries); ++i) {
      set_context(level->name, " entry ", i);
      CHECK(entries[i] != nullptr);
    }
  }
}

TEST(the_environment_names_the_level_and_an_unknown_one_is_refused) {
  setenv("PTMO_KERNEL_LEVEL", "nonsense", 1);
  CHECK_THROWS(kernels::best(), std::invalid_argument,
               "PTMO_KERNEL_LEVEL=nonsense is not a level this CPU has (");
  CHECK_THROWS(kernels::best(), std::invalid_argument, "reference)");
  setenv("PTMO_KERNEL_LEVEL", "reference", 1);
  CHECK_EQ(&kernels::best(), &kernels::reference());
  setenv("PTMO_KERNEL_LEVEL", "", 1); // chosen once a process
  CHECK_EQ(&kernels::best(), &kernels::reference());
}

// The same operations on the same lanes: only the instruction of the integer sums differs.
TEST(avx2_and_avxvnni_multiply_to_the_same_bits) {
  const kernels::Table *one = kernels::avx2(), *other = kernels::avxvnni();
  if (one == nullptr || other == nullptr) {
    std::printf("     (this CPU has not both: nothing to compare)\n");
    return;
  }
  Random random(71);
  for (int trial = 0; trial < 40; ++trial) {
    const WeightType types[] = {WeightType::kInt4, WeightType::kInt4Symmetric, WeightType::kInt8};
    const int largest[] = {15, -8, -127};
    const int which = trial % 3, group = which == 2 ? 32 : 32 << random.below(3);
    const int cols = 128 * random.between(1, 5), tokens = random.between(1, 9);
    const int rows = random.between(1, 50);
    PlainMatrix w = random_matrix(random, types[which], rows, cols, group);
    if (trial % 5 == 0)
      std::fill(w.codes.begin(), w.codes.end(), largest[which]);
    std::vector<float> x = random.normals(static_cast<size_t>(tokens) * cols);
    if (trial % 10 == 0)
      std::fill(x.begin(), x.end(), -1.0f);
    const PanelMatrix panels(w);
    for (const int bits : {8, 16}) {
      const Inputs in(*one, x, cols, bits), again(*other, x, cols, bits);
      set_context("trial ", trial, " bits ", bits, " group ", group, " rows ", rows, " cols ",
                  cols);
      CHECK(same_bits(in.codes, again.codes));
      CHECK(same_bits(in.low, again.low));
      std::vector<float> y(static_cast<size_t>(tokens) * rows), z(y.size());
      const auto stride = static_cast<size_t>(rows);
      one->matmul(panels.packed, 0, (rows + 15) / 16, in.integers(), tokens, y.data(), stride);
      other->matmul(panels.packed, 0, (rows + 15) / 16, in.integers(), tokens, z.data(), stride);
      CHECK(same_bits(y, z));
    }
  }
}

TEST(avx2_and_avxvnni_add_low_rank_updates_to_the_same_bits) {
  const kernels::Table *one = kernels::avx2(), *other = kernels::avxvnni();
  if (one == nullptr || other == nullptr) {
    std::printf("     (this CPU has not both: nothing to compare)\n");
    return;
  }
  Random random(72);
  for (int trial = 0; trial < 40; ++trial) {
    const int rows = 16 * random.between(1, 5), rank = random.between(1, 64);
    const int chunks = kernels::rank_chunks(rank), tokens = random.between(1, 9);
    const RandomAdapter adapter(ModelConfig{1, 64, 4, 2, 16, rows, 50, 300, 1e-5f},
                                static_cast<uint64_t>(trial), rank, true, {Linear::kUp});
    std::vector<int8_t> codes;
    std::vector<float> scales;
    std::vector<int32_t> code_sums;
    for (int chunk = 0; chunk < tokens * chunks; ++chunk) {
      scales.push_back(random.uniform(0.001f, 0.1f));
      code_sums.push_back(0);
      for (int k = 0; k < kernels::kRankChunk; ++k) {
        const bool extreme = trial % 4 == 0,
                   padding = chunk % chunks * kernels::kRankChunk + k >= rank;
        codes.push_back(static_cast<int8_t>(padding   ? 0
                                            : extreme ? -127
                                                      : random.between(-127, 127)));
        code_sums.back() += codes.back();
      }
    }
    const kernels::LowRankTerm term{adapter.adapter->find(0, Linear::kUp)->b,
                                    {nullptr, codes.data(), scales.data(), code_sums.data()}};
    std::vector<float> y = random.normals(static_cast<size_t>(tokens) * rows), z = y;
    const auto stride = static_cast<size_t>(rows);
    one->low_rank_add(&term, 1, 0, rows / 16, tokens, y.data(), stride);
    other->low_rank_add(&term, 1, 0, rows / 16, tokens, z.data(), stride);
    set_context("trial ", trial, " rows ", rows, " rank ", rank, " tokens ", tokens);
    CHECK(same_bits(y, z));
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
