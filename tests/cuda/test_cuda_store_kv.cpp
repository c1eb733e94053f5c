// K and V into sealed pages, and QK-norm and RoPE on the way: bit for bit what the reference level,
// the CPU's page layout and the host's cipher give.
#include "check.h"
#include "kv_batch.h"

#include <limits>
#include <set>

namespace ptmo::test {
namespace {

constexpr KvType kTypes[] = {KvType::kInt8, KvType::kInt4, KvType::kF16};
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

void name(const KvShape& s) {
  set_context("tokens ", s.tokens, " KV heads ", s.n_kv_heads, " group ", s.group, " dim ", s.dim,
              " type ", static_cast<int>(s.type), " page rows ", s.page_rows, " layer ", s.layer,
              " norm ", s.norm, " table per head ", s.table_per_head);
}

// An operation without a number as its result gives a NaN of either sign: minus on x86, plus on a
// GPU. Halves keep the sign.
void drop_signs_of_nans(const KvBatch& batch, KvStored& stored) {
  const KvShape& s = batch.shape;
  for (int t = 0; t < s.tokens; ++t) {
    for (int h = 0; h < s.n_kv_heads; ++h) {
      const kernels::RowRecord at = batch.record(stored.pages, t, h);
      const int key = batch.places[t].key;
      const auto seal_or_open = [&] {
        if (key >= 0)
          kernels::chacha_xor_row(batch.keys.keys[key], batch.row_id(t, h), at,
                                  s.pages().row_bytes());
      };
      seal_or_open();
      for (uint8_t* row : {at.k, at.v}) {
        for (int i = 0; i < s.dim; ++i) {
          uint16_t half;
          std::memcpy(&half, row + 2 * i, sizeof(half));
          half &= std::isnan(half_to_float(half)) ? 0x7fff : 0xffff;
          std::memcpy(row + 2 * i, &half, sizeof(half));
        }
      }
      seal_or_open();
    }
  }
}

void check_stored(const KvBatch& batch) {
  name(batch.shape);
  KvStored got = batch.store(), want = batch.expected();
  if (batch.shape.type == KvType::kF16)
    for (KvStored* stored : {&got, &want})
      drop_signs_of_nans(batch, *stored);
  CHECK(got.pages == want.pages); // poison where no row was written, too
  for (size_t i = 0; i < got.q.size(); ++i)
    if (!(std::isnan(got.q[i]) && std::isnan(want.q[i])))
      CHECK_EQ(got.q[i], want.q[i]);
}

// Puts what rows should not hold into the first row, the second, .. of x.
void make_hostile(std::vector<float>& x, int dim) {
  const auto fill = [&](size_t row, auto value) {
    for (int i = 0; i < dim && row * dim + i < x.size(); ++i)
      x[row * dim + i] = value(i, x[row * dim + i]);
  };
  fill(0, [](int, float) { return 0.0f; });
  fill(1, [](int i, float y) { return i == 5 ? kNan : y; });
  fill(2, [](int i, float y) { return i == 3 ? kInf : y; });
  fill(3, [](int i, float y) { return i == 7 ? -kInf : i == 8 ? kInf : y; });
  fill(4, [](int, float) { return kNan; });
  fill(5, [](int, float y) { return y * 1e-42f; }); // subnormal
  fill(6, [](int, float y) { return y * 1e-31f; }); // below the least scale
  fill(7, [](int, float y) { return y * 3e37f; });
  fill(8, [](int i, float) { return i % 2 ? -0.0f : 0.0f; });
  fill(9, [](int i, float) { return static_cast<float>(i % 255 - 127) + 0.5f; }); // ties
  fill(10, [](int i, float) { return i == 0 ? 65520.0f : 65519.0f; });            // fp16's end
}

} // namespace

TEST(the_device_s_page_layout_is_the_cpu_s) {
  for (const KvType type : kTypes) {
    for (const int dim : {16, 48, 64, 80, 512}) {
      for (const int rows : {16, 32}) {
        const KvShape s{1, 3, 1, dim, type, rows, 5};
        const PageLayout cpu = s.layout();
        const cuda::KvPages pages = s.pages();
        CHECK_EQ(pages.row_bytes(), cpu.row_bytes());
        CHECK_EQ(pages.tile_bytes(), cpu.tile_bytes());
        CHECK_EQ(pages.head_bytes(), cpu.head_bytes());
        CHECK_EQ(pages.has_scales(), cpu.has_scales());
        CHECK_EQ(pages.head_offset(0, 0), cpu.data_offset());
        CHECK_EQ(pages.head_offset(4, 2), cpu.head_offset(4, 2));
      }
    }
  }
}

TEST(rows_of_every_width_and_type_are_stored_as_the_cpu_stores_them) {
  Random random(1);
  for (const KvType type : kTypes)
    for (const int dim : {16, 32, 48, 64, 80, 96, 128, 144, 256, 272, 496, 512})
      for (const bool norm : {false, true})
        check_stored({random, {5, 2, 2, dim, type, dim % 32 ? 32 : 16, 2, 1, norm, norm}});
}

TEST(batches_of_random_shapes_are_stored_as_the_cpu_stores_them) {
  Random random(2);
  for (int i = 0; i < 24; ++i) {
    const int layers = random.between(1, 40);
    const KvShape s{i % 3 == 0 ? 1 : random.between(2, 40),
                    i % 4 == 0 ? 1 : random.between(2, 5),
                    random.between(1, 4),
                    16 * random.between(1, i % 5 ? 8 : 32),
                    kTypes[random.below(3)],
                    random.below(2) ? 16 : 32,
                    layers,
                    random.below(layers),
                    random.below(2) == 1,
                    random.below(2) == 1};
    KvBatch batch(random, s);
    if (i % 8 == 5) // one of the two norms alone
      batch.q_norm.clear();
    if (i % 8 == 7)
      batch.k_norm.clear();
    check_stored(batch);
  }
}

TEST(rows_of_zeros_subnormals_infinities_and_nans_are_stored_as_the_cpu_stores_them) {
  Random random(3);
  for (const KvType type : kTypes) {
    for (const bool norm : {false, true}) {
      KvBatch batch(random, {12, 1, 1, 64, type, 16, 1, 0, norm});
      for (std::vector<float>* x : {&batch.q, &batch.k, &batch.v})
        make_hostile(*x, 64);
      for (int i = 0; i < 6 * 32; ++i) { // no turn: the values arrive as they are
        batch.cosine[5 * 32 + i] = 1.0f;
        batch.sine[5 * 32 + i] = 0.0f;
      }
      check_stored(batch);
    }
  }
}

TEST(query_rows_are_normed_and_turned_as_in_float64) {
  Random random(4);
  for (const int dim : {16, 80, 128, 512}) {
    const KvBatch batch(random, {4, 2, 3, dim, KvType::kInt8, 16, 1, 0, true, true});
    name(batch.shape);
    const KvStored got = batch.store();
    const int half = dim / 2;
    for (int row = 0; row < 4 * 6; ++row) {
      const float* x = batch.q.data() + static_cast<size_t>(row) * dim;
      const int head = row % 6 / 3, token = row / 6;
      double squares = 0.0;
      for (int i = 0; i < dim; ++i)
        squares += static_cast<double>(x[i]) * x[i];
      const double inv = 1.0 / std::sqrt(squares / dim + 1e-6);
      for (int i = 0; i < half; ++i) {
        const size_t at = static_cast<size_t>(token) * dim + head * half + i; // two tables of half
        const double c = batch.cosine[at], s = batch.sine[at];
        const double a = x[i] * inv * batch.q_norm[static_cast<size_t>(head) * dim + i];
        const double b =
            x[i + half] * inv * batch.q_norm[static_cast<size_t>(head) * dim + i + half];
        // The factor, two products of the norm, a product and a sum of the turn.
        const double tolerance = 5.01 * kEps;
        CHECK_NEAR(got.q[static_cast<size_t>(row) * dim + i], a * c - b * s,
                   tolerance * (std::fabs(a * c) + std::fabs(b * s)));
        CHECK_NEAR(got.q[static_cast<size_t>(row) * dim + i + half], b * c + a * s,
                   tolerance * (std::fabs(b * c) + std::fabs(a * s)));
      }
    }
  }
}

// The property that the `permute` shield rests on: rotary pairs move together.
TEST(permuted_pairs_give_the_permuted_rows_and_the_same_scales) {
  Random random(5);
  for (const int dim : {64, 80, 256}) {
    const int half = dim / 2;
    const KvBatch plain(random, {3, 2, 2, dim, KvType::kInt8, 16, 1, 0, true, true});
    KvBatch moved = plain;
    const std::vector<int> order = random.permutation(half);
    const auto permute = [&](std::vector<float>& x, bool pairs) {
      const std::vector<float> from = x;
      for (size_t i = 0; i < x.size(); ++i) {
        const size_t width = pairs ? dim : half, j = i % width;
        x[i] = from[i - j + j / half * half + order[j % half]];
      }
    };
    for (std::vector<float>* x : {&moved.q, &moved.k, &moved.q_norm, &moved.k_norm})
      permute(*x, true);
    permute(moved.cosine, false);
    permute(moved.sine, false);
    for (KvBatch::Place& place : moved.places)
      place.key = -1;
    KvBatch clear = plain;
    clear.places = moved.places;
    name(plain.shape);
    KvStored want = clear.store(), got = moved.store();
    permute(want.q, true);
    CHECK(same_bits(got.q, want.q));
    for (int t = 0; t < 3; ++t) {
      for (int h = 0; h < 2; ++h) {
        const kernels::RowRecord a = clear.record(want.pages, t, h),
                                 b = moved.record(got.pages, t, h);
        CHECK(std::memcmp(a.scales, b.scales, 8) == 0);
        for (int i = 0; i < dim; ++i)
          CHECK_EQ(b.k[i], a.k[i / half * half + order[i % half]]);
      }
    }
  }
}

TEST(sealed_pages_open_to_the_plain_ones) {
  Random random(6);
  for (const KvType type : kTypes) {
    const KvBatch batch(random, {34, 2, 1, 80, type, 16, 3, 2, true});
    KvBatch clear = batch;
    for (KvBatch::Place& place : clear.places)
      place.key = -1;
    name(batch.shape);
    KvStored sealed = batch.store();
    const KvStored plain = clear.store();
    size_t same = 0;
    for (size_t i = 0; i < plain.pages.size(); ++i)
      same += plain.pages[i] != kPagePoison && plain.pages[i] == sealed.pages[i];
    CHECK(same < plain.pages.size() / 30); // two tokens of 34, and what is alike by chance
    for (int t = 0; t < 34; ++t)
      for (int h = 0; h < 2 && batch.places[t].key >= 0; ++h)
        kernels::chacha_xor_row(batch.keys.keys[batch.places[t].key], batch.row_id(t, h),
                                batch.record(sealed.pages, t, h), batch.shape.pages().row_bytes());
    CHECK(sealed.pages == plain.pages);
  }
}

// Rows of zeros become keystream: no eight bytes of it are like any others, over both layers, all
// heads and 32 consecutive sequence numbers under two keys.
TEST(no_two_rows_share_keystream) {
  Random random(7);
  std::set<uint64_t> seen;
  size_t count = 0;
  for (const int layer : {0, 1}) {
    for (const int key : {0, 1}) {
      KvBatch batch(random, {32, 3, 1, 128, KvType::kInt8, 32, 2, layer});
      batch.keys = {};
      batch.keys.keys[1].words[7] = 1;
      std::fill(batch.k.begin(), batch.k.end(), 0.0f);
      std::fill(batch.v.begin(), batch.v.end(), 0.0f);
      for (int t = 0; t < 32; ++t) {
        batch.places[t].seq = 0xfffffff0u + static_cast<uint64_t>(t);
        batch.places[t].key = key;
      }
      name(batch.shape);
      KvStored got = batch.store();
      const auto see = [&](const uint8_t* bytes, size_t n) {
        for (size_t i = 0; i < n; i += 8, ++count) {
          uint64_t word;
          std::memcpy(&word, bytes + i, 8);
          seen.insert(word);
        }
      };
      for (int t = 0; t < 32; ++t) {
        for (int h = 0; h < 3; ++h) {
          const kernels::RowRecord at = batch.record(got.pages, t, h);
          see(at.k, 128);
          see(at.v, 128);
          see(at.scales, 8);
        }
      }
    }
  }
  CHECK_EQ(count, size_t{4 * 32 * 3 * 33});
  CHECK_EQ(seen.size(), count);
}

// Shared memory is poison (0xff) before a block and must be that or zeros after it.
TEST(a_block_leaves_no_row_and_no_norm_in_shared_memory) {
  Random random(8);
  for (const KvType type : kTypes) {
    for (const int dim : {16, 80, 512}) {
      for (const bool norm : {false, true}) {
        const KvBatch batch(random, {7, 2, 1, dim, type, 16, 2, 1, norm});
        name(batch.shape);
        size_t zeros = 0, left = 0;
        watch_shared_memory([&](const uint8_t* bytes, size_t n) {
          zeros += static_cast<size_t>(std::count(bytes, bytes + n, 0));
          left += static_cast<size_t>(
              std::count_if(bytes, bytes + n, [](uint8_t b) { return b != 0 && b != 0xff; }));
        });
        batch.store();
        watch_shared_memory(nullptr);
        CHECK_EQ(left, size_t{0});
        const PageLayout layout = batch.shape.layout();
        const size_t records = 7 * 2 * (2 * layout.row_bytes() + (layout.has_scales() ? 8 : 0));
        CHECK(norm ? zeros > kSchedules * records : zeros == kSchedules * records);
      }
    }
  }
}

TEST(a_chunk_of_no_tokens_is_nothing) {
  cuda::StoreKvJob job{};
  job.pages = KvShape{0, 2, 2, 64}.pages();
  CHECK_EQ(cuda::store_kv(job, nullptr, nullptr), cudaSuccess);
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
