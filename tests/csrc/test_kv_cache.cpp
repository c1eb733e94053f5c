// The paged cache: its layout, what it forgets, sequence numbers that never repeat, sealed rows.
#include "check.h"
#include "kv_rows.h"
#include "sealed_session.h"

#include <set>

namespace ptmo::test {
namespace {

const KvType kTypes[] = {KvType::kInt8, KvType::kF16, KvType::kF32};

} // namespace

TEST(offsets_inside_a_page_are_those_of_its_description) {
  const PageLayout int8(3, 2, 64, 16, KvType::kInt8);
  CHECK_EQ(int8.data_offset(), 64u + 8 * 16);
  CHECK_EQ(int8.head_bytes(), 2u * 16 * 64 + 16 * 8);
  CHECK_EQ(int8.head_offset(0, 1), 192u + 2176);
  CHECK_EQ(int8.head_offset(2, 1), 192u + 5 * 2176);
  CHECK_EQ(int8.page_bytes(), 13248u); // 192 + 6 * 2176
  CHECK_EQ(int8.bytes_per_token(), 6u * (128 + 8));
  const PageLayout f16(1, 1, 32, 32, KvType::kF16);
  CHECK_EQ(f16.head_bytes(), 2u * 32 * 64);
  CHECK_EQ(f16.page_bytes(), 4416u); // 320 + 4096
  const PageLayout narrow(1, 1, 16, 16, KvType::kInt8);
  CHECK_EQ(narrow.page_bytes(), 832u); // 192 + 640
  CHECK_EQ(PageLayout(1, 1, 32, 32, KvType::kF32).row_bytes(), 128u);
  CHECK_THROWS(PageLayout(1, 1, 24, 16, KvType::kInt8), std::invalid_argument, "head_dim=24");
  CHECK_THROWS(PageLayout(1, 1, 32, 20, KvType::kInt8), std::invalid_argument, "rows_per_page=20");
}

TEST(the_records_of_a_row_fill_a_heads_block) {
  for (const KvType type : kTypes) {
    set_context("type ", static_cast<int>(type));
    const PageLayout l(3, 2, 64, 16, type);
    size_t end = 0, row_bytes = 0;
    for (const PageLayout::Record& r : l.records()) {
      CHECK_EQ(r.offset, end);
      end += r.bytes * 16;
      row_bytes += r.bytes;
    }
    CHECK_EQ(end, l.head_bytes());
    CHECK_EQ(row_bytes * 6, l.bytes_per_token());
  }
}

TEST(page_headers_say_whose_rows_they_hold) {
  PageArena arena(PageLayout(1, 1, 16, 16, KvType::kInt8), 4);
  KvSession first(arena, 7), second(arena, 9);
  first.append(1);
  second.append(20);
  const PageHeader header = header_of(second, 1);
  CHECK_EQ(header.magic, PageHeader::kMagic);
  CHECK_EQ(std::string(reinterpret_cast<const char*>(second.page(1)), 4), std::string("KVPG"));
  CHECK_EQ(header.version, 2);
  CHECK_EQ(header.rows_per_page, 16);
  CHECK_EQ(header.page_id, 2u);
  CHECK_EQ(header.session, 9u);
  CHECK_EQ(header.length, 4u);
  CHECK_EQ(header.first_position, 16u);
  CHECK_EQ(header.family, 9u);
  CHECK_EQ(header.adapter_tag, 0u);
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
          std::memset(page, 0, 64 + 8 * static_cast<size_t>(rows));
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
