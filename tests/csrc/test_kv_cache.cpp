// The paged cache: its layout, what it forgets, sequence numbers that never repeat, sealed rows.
#include "check.h"
#include "sealed_session.h"

#include <set>

namespace ptmo::test {
namespace {

const KvType kTypes[] = {KvType::kInt8, KvType::kF16, KvType::kF32};

std::vector<uint8_t> random_bytes(Random& random, size_t n) {
  std::vector<uint8_t> out(n);
  for (uint8_t& b : out)
    b = static_cast<uint8_t>(random.bits() | 1); // never zero, so that a wipe shows
  return out;
}

// The row a test stores: a function of its place, so that it need not be remembered.
struct Row {
  std::vector<uint8_t> k, v;
  float scales[2];
  Row(const PageLayout& l, int layer, int head, int position) : scales{0.5f + position, -2.0f} {
    Random random(static_cast<uint64_t>(layer * 1000 + head) * 100000 + position);
    k = random_bytes(random, l.row_bytes());
    v = random_bytes(random, l.row_bytes());
  }
};

void write_rows(KvSession& session, int from) {
  const PageLayout& l = session.layout();
  for (int position = from; position < session.length(); ++position) {
    for (int layer = 0; layer < l.n_layers; ++layer) {
      for (int head = 0; head < l.n_kv_heads; ++head) {
        const Row row(l, layer, head, position);
        session.write(layer, head, position, row.k.data(), row.v.data(),
                      l.has_scales() ? row.scales : nullptr);
      }
    }
  }
}

// Rows 0 .. length come back exactly as written, through the session's shield.
void check_rows(const KvSession& session) {
  const PageLayout& l = session.layout();
  AlignedBuffer scratch(l.head_bytes());
  for (int position = 0; position < session.length(); position += l.rows) {
    const int rows = std::min(l.rows, session.length() - position);
    for (int layer = 0; layer < l.n_layers; ++layer) {
      for (int head = 0; head < l.n_kv_heads; ++head) {
        const Tile tile = session.shield().open_tile(session.page(position / l.rows), l, layer,
                                                     head, rows, scratch.data());
        for (int r = 0; r < rows; ++r) {
          const Row want(l, layer, head, position + r);
          CHECK(std::memcmp(tile.k + r * l.row_bytes(), want.k.data(), l.row_bytes()) == 0);
          CHECK(std::memcmp(tile.v + r * l.row_bytes(), want.v.data(), l.row_bytes()) == 0);
          CHECK_EQ(tile.scales != nullptr, l.has_scales());
          if (l.has_scales())
            CHECK(std::memcmp(tile.scales + 2 * r, want.scales, 8) == 0);
        }
      }
    }
  }
}

std::vector<uint8_t> memory_of(const PageArena& arena, int pages) {
  return {arena.page(0), arena.page(pages)};
}

size_t nonzero(const std::vector<uint8_t>& bytes) {
  size_t count = 0;
  for (const uint8_t b : bytes)
    count += b != 0;
  return count;
}

uint64_t seq_of(const KvSession& session, int position) {
  const int rows = session.layout().rows;
  uint64_t out;
  std::memcpy(&out, session.page(position / rows) + 32 + 8 * (position % rows), 8);
  return out;
}

} // namespace

TEST(offsets_inside_a_page_are_those_of_its_description) {
  const PageLayout int8(3, 2, 64, 16, KvType::kInt8);
  CHECK_EQ(int8.data_offset(), 32u + 8 * 16);
  CHECK_EQ(int8.head_bytes(), 2u * 16 * 64 + 16 * 8);
  CHECK_EQ(int8.head_offset(0, 1), 160u + 2176);
  CHECK_EQ(int8.head_offset(2, 1), 160u + 5 * 2176);
  CHECK_EQ(int8.page_bytes(), 13248u); // 160 + 6 * 2176 = 13216, rounded up to 64
  CHECK_EQ(int8.bytes_per_token(), 6u * (128 + 8));
  const PageLayout f16(1, 1, 32, 32, KvType::kF16);
  CHECK_EQ(f16.head_bytes(), 2u * 32 * 64);
  CHECK_EQ(f16.page_bytes(), 4416u); // 288 + 4096 = 4384, rounded up to 64
  CHECK_EQ(PageLayout(1, 1, 32, 32, KvType::kF32).row_bytes(), 128u);
  CHECK_THROWS(PageLayout(1, 1, 24, 16, KvType::kInt8), std::invalid_argument, "head_dim=24");
  CHECK_THROWS(PageLayout(1, 1, 32, 20, KvType::kInt8), std::invalid_argument, "rows_per_page=20");
}

TEST(page_headers_say_whose_rows_they_hold) {
  PageArena arena(PageLayout(1, 1, 16, 16, KvType::kInt8), 4);
  KvSession first(arena, 7), second(arena, 9);
  first.append(1);
  second.append(20);
  PageHeader header;
  std::memcpy(&header, second.page(1), sizeof(header));
  CHECK_EQ(header.magic, PageHeader::kMagic);
  CHECK_EQ(std::string(reinterpret_cast<const char*>(second.page(1)), 4), std::string("KVPG"));
  CHECK_EQ(header.version, 1);
  CHECK_EQ(header.rows_per_page, 16);
  CHECK_EQ(header.page_id, 2u);
  CHECK_EQ(header.session, 9u);
  CHECK_EQ(header.length, 4u);
  CHECK_EQ(header.first_position, 16u);
}

TEST(rows_come_back_as_written_plain_and_sealed) {
  SecretArena secrets(4096);
  for (const KvType type : kTypes) {
    for (const int dim : {16, 48, 64}) {
      for (const bool sealed : {false, true}) {
        set_context("type ", static_cast<int>(type), " dim ", dim, sealed ? " sealed" : " plain");
        PageArena arena(PageLayout(2, 3, dim, 16, type), 4);
        const auto session =
            sealed ? sealed_session(arena, secrets, 1, 5) : std::make_unique<KvSession>(arena, 1);
        CHECK_EQ(session->sealed(), sealed);
        for (const int rows : {1, 14, 1, 1, 20, 3}) {
          session->append(rows);
          write_rows(*session, session->length() - rows);
          check_rows(*session);
        }
        session->truncate(18);
        check_rows(*session);
        session->append(5);
        write_rows(*session, 18);
        check_rows(*session);
      }
    }
  }
}

TEST(truncated_and_closed_sessions_leave_no_byte_behind) {
  SecretArena secrets(4096);
  for (const KvType type : kTypes) {
    for (const bool sealed : {false, true}) {
      PageArena arena(PageLayout(2, 2, 32, 16, type), 5);
      const auto session =
          sealed ? sealed_session(arena, secrets, 1, 6) : std::make_unique<KvSession>(arena, 1);
      for (const int length : {48, 47, 33, 32, 31, 17, 16, 9, 1, 0}) {
        const int before = session->length();
        session->append(60 - before);
        write_rows(*session, before);
        session->truncate(length);
        set_context("type ", static_cast<int>(type), " length ", length);
        CHECK_EQ(session->page_count(), (length + 15) / 16);
        const std::vector<uint8_t> memory = memory_of(arena, 5);
        const PageLayout& l = arena.layout();
        // Zero what may remain (headers and the kept rows): nothing else may be left.
        std::vector<uint8_t> rest = memory;
        for (int p = 0; p < session->page_count(); ++p) {
          const int rows = std::min(16, length - 16 * p);
          uint8_t* page = rest.data() + (session->page(p) - arena.page(0));
          std::memset(page, 0, 32 + 8 * static_cast<size_t>(rows));
          for (int i = 0; i < 4; ++i) {
            uint8_t* at = page + l.head_offset(i / 2, i % 2);
            std::memset(at, 0, l.row_bytes() * rows);
            std::memset(at + l.tile_bytes(), 0, l.row_bytes() * rows);
            if (l.has_scales())
              std::memset(at + 2 * l.tile_bytes(), 0, 8 * static_cast<size_t>(rows));
          }
        }
        CHECK_EQ(nonzero(rest), 0u);
        CHECK(length == 0 || nonzero(memory) > 0);
      }
      session->append(60);
      write_rows(*session, 0);
      CHECK(nonzero(memory_of(arena, 5)) > 1000);
      session->close();
      CHECK_EQ(nonzero(memory_of(arena, 5)), 0u);
      CHECK(session->closed() && session->length() == 0 && arena.pages_in_use().empty());
      session->close(); // idempotent
      CHECK_THROWS(session->append(1), std::invalid_argument, "closed");
    }
  }
}

TEST(sequence_numbers_never_repeat_over_a_long_random_schedule) {
  Random random(71);
  PageArena arena(PageLayout(1, 1, 16, 16, KvType::kInt8), 16);
  KvSession session(arena, 1);
  std::set<uint64_t> seen;
  for (int step = 0; step < 5000; ++step) {
    if (session.length() > 200 || (session.length() > 0 && random.below(3) == 0)) {
      const int keep = random.below(session.length() + 1);
      const uint64_t last = keep > 0 ? seq_of(session, keep - 1) : 0;
      session.truncate(keep);
      CHECK(keep == 0 || seq_of(session, keep - 1) == last);
      continue;
    }
    const int before = session.length();
    session.append(1 + random.below(40));
    for (int position = before; position < session.length(); ++position)
      CHECK(seen.insert(seq_of(session, position)).second);
  }
  CHECK(seen.size() > 50000);
}

TEST(a_full_arena_refuses_and_leaves_the_session_as_it_was) {
  PageArena arena(PageLayout(2, 1, 32, 16, KvType::kInt8), 3);
  KvSession session(arena, 1);
  session.append(10);
  write_rows(session, 0);
  const std::vector<uint8_t> before = memory_of(arena, 3);
  const uint64_t last = seq_of(session, 9);
  for (const int rows : {39, 40, 1000}) { // two further pages exist; each of these needs more
    CHECK_THROWS(session.append(rows), std::runtime_error, "KV cache is full");
    CHECK_EQ(session.length(), 10);
    CHECK_EQ(session.page_count(), 1);
    CHECK_EQ(arena.pages_in_use().size(), 1u);
    CHECK(same_bits(memory_of(arena, 3), before));
  }
  session.append(38);
  CHECK_EQ(session.length(), 48);
  CHECK_EQ(seq_of(session, 10), last + 1); // refused rows took no numbers
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
