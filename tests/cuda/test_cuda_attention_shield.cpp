// What the shields rest on, in the device's attention kernels: permuted heads, sealed rows, a batch
// whose sequences do not touch each other, and nothing left behind in shared memory.
#include "attention_batch.h"

namespace ptmo::test {
namespace {

constexpr KvType kTypes[] = {KvType::kInt8, KvType::kInt4, KvType::kF16};
constexpr Phase kPhases[] = {Phase::kDecode, Phase::kPrefill};

void describe(Phase phase, const AttentionShape& s, int length, int tokens) {
  set_context(phase == Phase::kDecode ? "decode" : "prefill", " type ", static_cast<int>(s.type),
              " kv heads ", s.n_kv_heads, " group ", s.group, " dim ", s.dim, " page rows ",
              s.page_rows, " rows ", length, " tokens ", tokens);
}

int tokens_of(Phase phase, int tokens) {
  return phase == Phase::kDecode ? 1 : tokens;
}

std::vector<float> random_queries(Random& random, const AttentionShape& s, int tokens) {
  return random.normals(static_cast<size_t>(tokens) * s.n_heads() * s.dim, 2.0f);
}

} // namespace

// The property that the `permute` shield rests on.
TEST(a_permuted_head_gives_the_permuted_result_bit_for_bit) {
  Random random(1);
  for (const KvType type : {KvType::kInt8, KvType::kInt4}) {
    for (const Phase phase : kPhases) {
      for (const int dim : {64, 80, 256}) {
        const AttentionShape s{type, 2, 3, dim, 16};
        const int tokens = tokens_of(phase, 3);
        const int rows = dim == 64 ? 290 : 40;
        describe(phase, s, rows, tokens);
        const KvValues plain(random, s, rows);
        const std::vector<float> q = random_queries(random, s, tokens);
        KvValues moved = plain;
        std::vector<float> moved_q = q;
        std::vector<std::vector<int>> orders;
        for (int head = 0; head < s.n_kv_heads; ++head) {
          const std::vector<int> of_keys = random.permutation(dim);
          orders.push_back(random.permutation(dim));
          for (int e = 0; e < dim; ++e) {
            for (int row = 0; row < plain.rows; ++row) {
              const size_t at = plain.at(row, head);
              moved.k[at + e] = plain.k[at + of_keys[e]];
              moved.v[at + e] = plain.v[at + orders[head][e]];
            }
            for (int i = 0; i < tokens; ++i)
              for (int h = head * s.group; h < (head + 1) * s.group; ++h) {
                const size_t at = (static_cast<size_t>(i) * s.n_heads() + h) * dim;
                moved_q[at + e] = q[at + of_keys[e]];
              }
          }
        }
        const Pages pages(plain), moved_pages(moved);
        const std::vector<float> out = attend(phase, s, 0.2f, {{&pages, rows, tokens}}, q),
                                 got = attend(phase, s, 0.2f, {{&moved_pages, rows, tokens}},
                                              moved_q);
        std::vector<float> want(out.size());
        for (size_t i = 0; i < out.size(); ++i) {
          const int head = static_cast<int>(i / dim) % s.n_heads() / s.group;
          want[i] = out[i / dim * dim + orders[head][i % dim]];
        }
        CHECK(same_bits(got, want));
      }
    }
  }
}

TEST(sealed_rows_give_the_bits_of_rows_in_the_clear) {
  Random random(2);
  const cuda::SealKeys keys = random_keys(random);
  for (const KvType type : kTypes) {
    for (const Phase phase : kPhases) {
      for (const int dim : {64, 80, 256}) {
        for (const int rows : {1, 37, 290}) {
          if (rows == 290 ? dim != 80 : rows == 1 && dim == 256)
            continue;
          const AttentionShape s{type, 2, dim == 64 ? 8 : 3, dim, 32, rows == 37 ? 20 : 0};
          const int tokens = tokens_of(phase, std::min(rows, 3));
          describe(phase, s, rows, tokens);
          const KvValues values(random, s, rows);
          const std::vector<float> q = random_queries(random, s, tokens);
          const Pages clear(values);
          const std::vector<float> want = attend(phase, s, 0.1f, {{&clear, rows, tokens}}, q);
          // Numbers in a row from any place; with gaps; in no order, as large as they get.
          std::vector<uint64_t> seqs[3];
          for (int i = 0; i < rows; ++i) {
            seqs[0].push_back(0xfffffffdu + static_cast<uint64_t>(i));
            seqs[1].push_back(5u + 3 * static_cast<uint64_t>(i) + 9 * (i / 7));
            seqs[2].push_back(random.bits() | (i % 2 ? uint64_t{1} << 63 : 0));
          }
          for (const auto& of_rows : seqs) {
            const Pages sealed(values, of_rows, &keys.keys[13]);
            CHECK(same_bits(attend(phase, s, 0.1f, {{&sealed, rows, tokens, 13}}, q, &keys), want));
          }
          // A sequence in the clear among sealed ones; and a wrong key is not the right one.
          CHECK(same_bits(attend(phase, s, 0.1f, {{&clear, rows, tokens}}, q, &keys), want));
          const Pages sealed(values, seqs[0], &keys.keys[13]);
          CHECK(!same_bits(attend(phase, s, 0.1f, {{&sealed, rows, tokens, 12}}, q, &keys), want));
        }
      }
    }
  }
}

TEST(a_sequence_gets_the_same_bits_alone_and_in_any_batch) {
  Random random(3);
  const cuda::SealKeys keys = random_keys(random);
  for (const KvType type : kTypes) {
    for (const Phase phase : kPhases) {
      const AttentionShape s{type, 2, 3, 64, 16};
      const int lengths[] = {70, 1, 17, 300, 32}, asking[] = {23, 1, 0, 3, 25};
      std::vector<Pages> pages;
      std::vector<Asking> batch;
      std::vector<float> q, want;
      pages.reserve(5);
      for (int i = 0; i < 5; ++i) {
        const KvValues values(random, s, lengths[i]);
        pages.emplace_back(values, std::vector<uint64_t>{}, i == 3 ? nullptr : &keys.keys[i]);
        const int tokens = phase == Phase::kDecode ? std::min(asking[i], 1) : asking[i];
        batch.push_back({&pages.back(), lengths[i], tokens, i == 3 ? -1 : i});
        const std::vector<float> own = random_queries(random, s, tokens);
        q.insert(q.end(), own.begin(), own.end());
        if (tokens == 0)
          continue;
        describe(phase, s, lengths[i], tokens);
        const std::vector<float> alone = attend(phase, s, 0.1f, {batch.back()}, own, &keys);
        check_attended(values, lengths[i], tokens, 0.1f, own.data(), alone.data());
        want.insert(want.end(), alone.begin(), alone.end());
      }
      CHECK(same_bits(attend(phase, s, 0.1f, batch, q, &keys), want));
    }
  }
}

TEST(no_shared_array_holds_anything_when_a_block_ends) {
  Random random(4);
  const cuda::SealKeys keys = random_keys(random);
  size_t arrays = 0, bytes = 0, dirty = 0;
  watch_shared_memory([&](const uint8_t* array, size_t count) {
    ++arrays;
    bytes += count;
    dirty += static_cast<size_t>(std::count_if(array, array + count, [](uint8_t b) { return b; }));
  });
  for (const KvType type : kTypes) {
    for (const Phase phase : kPhases) {
      for (const int dim : {64, 128, 256}) {
        for (const bool sealed : {false, true}) {
          const AttentionShape s{type, 1, dim == 64 ? 8 : 2, dim, 16};
          const int tokens = tokens_of(phase, 3);
          describe(phase, s, 70, tokens);
          const KvValues values(random, s, 70);
          const Pages pages(values, {}, sealed ? &keys.keys[0] : nullptr);
          arrays = bytes = dirty = 0;
          attend(phase, s, 0.1f, {{&pages, 70, tokens, sealed ? 0 : -1}},
                 random_queries(random, s, tokens), sealed ? &keys : nullptr);
          CHECK_EQ(dirty, 0u);
          CHECK(arrays >= 3 * kSchedules); // of a block at least
          CHECK(bytes > kSchedules * 64 * static_cast<size_t>(dim));
        }
      }
    }
  }
  watch_shared_memory(nullptr);
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
