// The device's attention kernels against float64 over the dequantised rows.
#include "attention_batch.h"

namespace ptmo::test {
namespace {

constexpr KvType kTypes[] = {KvType::kInt8, KvType::kInt4, KvType::kF16};

float scale_of(const AttentionShape& s) {
  return 1.0f / std::sqrt(static_cast<float>(s.dim));
}

void describe(Phase phase, const AttentionShape& s, int length, int tokens) {
  set_context(phase == Phase::kDecode ? "decode" : "prefill", " type ", static_cast<int>(s.type),
              " kv heads ", s.n_kv_heads, " group ", s.group, " dim ", s.dim, " page rows ",
              s.page_rows, " window ", s.window, " rows ", length, " tokens ", tokens);
}

// Random rows and queries. What a window hides is NaN, or not there at all.
void check_random(Random& random, Phase phase, const AttentionShape& s, int length,
                  int tokens = 1) {
  describe(phase, s, length, tokens);
  const KvValues values(random, s, length);
  Pages pages(values);
  if (s.window > 0)
    pages.drop_before(std::max(0, length - tokens + 1 - s.window));
  const std::vector<float> q =
      random.normals(static_cast<size_t>(tokens) * s.n_heads() * s.dim, 2.0f);
  const std::vector<float> out = attend(phase, s, scale_of(s), {{&pages, length, tokens}}, q);
  check_attended(values, length, tokens, scale_of(s), q.data(), out.data());
}

} // namespace

TEST(decoding_is_attention_for_every_head_size_group_and_page) {
  Random random(1);
  for (const KvType type : kTypes)
    for (const int dim : {16, 64, 80, 96, 128, 144, 256})
      for (const int group : {1, 3, 4, 8})
        check_random(random, Phase::kDecode, {type, 2, group, dim, group == 1 ? 64 : 16}, 70);
  for (const int group : {5, 9, 16, 17})
    check_random(random, Phase::kDecode, {KvType::kInt8, 1, group, 64, 32}, 40);
}

TEST(decoding_is_attention_at_every_edge_of_tiles_pages_and_splits) {
  Random random(2);
  for (const KvType type : kTypes)
    for (const int rows : {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 255, 256, 257, 600})
      check_random(random, Phase::kDecode, {type, 1, 3, 64, 16 << rows % 3}, rows);
  for (const KvType type : kTypes) // one warp or two a block
    for (const int rows : {1, 33, 65, 257})
      check_random(random, Phase::kDecode, {type, 1, 2, 256, 32}, rows);
}

TEST(prefill_is_attention_for_every_head_size_group_and_page) {
  Random random(3);
  for (const KvType type : kTypes)
    for (const int dim : {16, 64, 80, 96, 128, 256})
      for (const int group : {1, 3, 8})
        check_random(random, Phase::kPrefill, {type, 1, group, dim, group == 1 ? 64 : 16}, 40, 9);
  check_random(random, Phase::kPrefill, {KvType::kInt8, 2, 4, 64, 32}, 20, 20);
}

TEST(prefill_is_attention_at_every_edge_of_blocks_and_tiles) {
  Random random(4);
  for (const KvType type : kTypes) {
    for (const int tokens : {1, 21, 22, 43, 65}) // 64 queries of 3 heads are 21 tokens and a third
      check_random(random, Phase::kPrefill, {type, 1, 3, 64, 16}, tokens, tokens);
    for (const int rows : {31, 33, 255, 257, 300})
      check_random(random, Phase::kPrefill, {type, 1, 3, 64, 32}, rows, 5);
  }
}

TEST(a_window_hides_what_is_before_it) {
  Random random(5);
  for (const KvType type : kTypes) {
    for (const int window : {1, 5, 16, 33, 64, 255, 256, 257}) {
      for (const int rows : {1, 40, 300})
        check_random(random, Phase::kDecode, {type, 1, 2, 64, 16, window}, rows);
      if (type != KvType::kF16) // integers only: a half that is NaN is one in its tile
        check_random(random, Phase::kPrefill, {type, 1, 2, 64, 16, window}, 300, 6);
    }
    check_random(random, Phase::kDecode, {type, 1, 2, 64, 16, 600}, 1000);
  }
  AttentionShape halves{KvType::kF16, 1, 2, 64, 16, 40};
  describe(Phase::kPrefill, halves, 300, 70);
  const KvValues values(random, halves, 300);
  const Pages pages(values);
  const std::vector<float> q = random.normals(70 * 2 * 64, 2.0f);
  check_attended(values, 300, 70, 0.125f, q.data(),
                 attend(Phase::kPrefill, halves, 0.125f, {{&pages, 300, 70}}, q).data());
}

TEST(scores_and_rows_at_their_ends_leave_numbers) {
  Random random(6);
  for (const KvType type : kTypes) {
    for (const Phase phase : {Phase::kDecode, Phase::kPrefill}) {
      const AttentionShape s{type, 1, 2, 64, 16};
      describe(phase, s, 70, 1);
      const std::vector<float> q = random.normals(2 * 64);
      KvValues values(random, s, 70);

      // Zero rows: all weights are the same. Zero queries too.
      KvValues zeros = values;
      std::fill(zeros.k.begin(), zeros.k.end(), 0.0f);
      std::fill(zeros.k_scale.begin(), zeros.k_scale.end(), 0.0f);
      const Pages zero_keys(zeros), pages(values);
      check_attended(zeros, 70, 1, 1.0f, q.data(),
                     attend(phase, s, 1.0f, {{&zero_keys, 70, 1}}, q).data());
      const std::vector<float> nothing(2 * 64, 0.0f);
      check_attended(values, 70, 1, 1.0f, nothing.data(),
                     attend(phase, s, 1.0f, {{&pages, 70, 1}}, nothing).data());
      zeros = values;
      std::fill(zeros.v.begin(), zeros.v.end(), 0.0f);
      std::fill(zeros.v_scale.begin(), zeros.v_scale.end(), 0.0f);
      const Pages zero_values(zeros);
      for (const float x : attend(phase, s, 1.0f, {{&zero_values, 70, 1}}, q))
        CHECK_EQ(x, 0.0f);

      // One row is ahead of all by more than a weight can tell, of either sign: it is the result.
      for (const float size : {1e5f, 1e30f, -1e30f}) {
        const float of_key = type == KvType::kF16 ? 1e4f : 1.0f;
        KvValues ahead = values;
        for (int row = 0; row < 70; ++row)
          for (int e = 0; e < 64; ++e)
            ahead.k[ahead.at(row, 0) + e] = (row == 37) == (size > 0.0f) ? 1.0f * of_key : -of_key;
        for (float& x : ahead.k_scale)
          x = 1.0f;
        const Pages of_ahead(ahead);
        const std::vector<float> large(2 * 64, std::fabs(size));
        const std::vector<float> out = attend(phase, s, 1e-4f, {{&of_ahead, 70, 1}}, large);
        for (int e = 0; e < 128; ++e) {
          const double want = ahead.value(37, 0, e % 64);
          if (size > 0.0f)
            CHECK_NEAR(out[e], want, 8 * kEps * std::fabs(want));
          else
            CHECK(std::isfinite(out[e]));
        }
      }
    }
  }
}

TEST(the_largest_codes_add_up_exactly) {
  for (const KvType type : {KvType::kInt8, KvType::kInt4}) {
    for (const int dim : {64, 256}) {
      Random random(7);
      const AttentionShape s{type, 1, 1, dim, 16};
      describe(Phase::kDecode, s, 64, 1);
      KvValues values(random, s, 64);
      const float most = type == KvType::kInt8 ? 127.0f : 7.0f;
      for (size_t i = 0; i < values.k.size(); ++i) {
        const bool even = i / static_cast<size_t>(dim) % 2 == 0;
        values.k[i] = even ? most : -most;
        values.v[i] = even ? -most : most;
      }
      std::fill(values.v_scale.begin(), values.v_scale.end(), 0.5f);
      const Pages pages(values);
      for (const float size : {1e-3f, -1e-3f}) {
        const std::vector<float> q(dim, size);
        check_attended(values, 64, 1, 1.0f, q.data(),
                       attend(Phase::kDecode, s, 1.0f, {{&pages, 64, 1}}, q).data());
        check_attended(values, 64, 1, 1.0f, q.data(),
                       attend(Phase::kPrefill, s, 1.0f, {{&pages, 64, 1}}, q).data());
      }
    }
  }
}

TEST(shapes_without_a_kernel_are_refused) {
  cuda::AttentionJob job{};
  job.n_heads = 4;
  for (const cuda::KvPages& cache :
       std::vector<cuda::KvPages>{{cuda::KvElement::kInt8, 2, 272, 16},
                                  {cuda::KvElement::kInt8, 2, 72, 16},
                                  {cuda::KvElement::kInt8, 2, 0, 16},
                                  {cuda::KvElement::kInt8, 2, 64, 128},
                                  {cuda::KvElement::kInt8, 3, 64, 16},
                                  {static_cast<cuda::KvElement>(2), 2, 64, 16}}) {
    job.cache = cache;
    CHECK(cuda::attention_split(job, nullptr, nullptr) != cudaSuccess);
    CHECK(cuda::attention_prefill(job, nullptr, nullptr) != cudaSuccess);
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
