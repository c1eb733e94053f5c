// Pages that leave memory and come back: the same rows under a new key and new numbers, or nothing.
#include "check.h"
#include "kv_rows.h"
#include "sealed_session.h"

#include "kv/page_storage.h"

namespace ptmo::test {
namespace {

using Bytes = std::vector<uint8_t>;

const std::string kHeader = "header of a file";
constexpr uint64_t kFileKey = 77;

std::unique_ptr<PageStorage> storage(SecretArena& secrets, uint64_t key_seed = kFileKey) {
  const size_t slot = secrets.take_slot();
  ArenaView(secrets).deliver_key(slot, key_seed, 32);
  return std::make_unique<PageStorage>(secrets, slot);
}

std::vector<Bytes> saved(PageStorage& to, const KvSession& session, const RowOrder& order = {}) {
  std::vector<Bytes> out;
  for (int i = 0; i < session.page_count(); ++i) {
    out.emplace_back(
        PageStorage::sealed_bytes(session.layout(), PageStorage::page_rows(session, i)));
    to.seal_page(session, i, kHeader, order, out.back().data());
  }
  return out;
}

void load(PageStorage& from, KvSession& session, const std::vector<Bytes>& pages, int length,
          const RowOrder& order = {}) {
  const int per_page = session.layout().rows;
  for (int i = 0; i * per_page < length; ++i)
    from.open_page(session, i, std::min(per_page, length - i * per_page), kHeader, order,
                   pages[static_cast<size_t>(i)].data());
}

bool contains(const Bytes& text, const Bytes& needle) {
  return std::search(text.begin(), text.end(), needle.begin(), needle.end()) != text.end();
}

} // namespace

TEST(rows_come_back_from_storage_under_a_new_key_and_new_numbers) {
  for (const KvType type : {KvType::kInt8, KvType::kF16, KvType::kF32}) {
    for (const int length : {1, 16, 17, 40}) {
      set_context("type ", static_cast<int>(type), " length ", length);
      SecretArena secrets(4096);
      PageArena arena(PageLayout(2, 3, 48, 16, type), 8);
      const auto session = sealed_session(arena, secrets, 1, 31);
      append_rows(*session, length);
      const std::vector<Bytes> pages = saved(*storage(secrets), *session);
      const Bytes old_memory = memory_of(arena, 8);
      session->close();
      const auto back = sealed_session(arena, secrets, 2, 32);
      back->append(5); // so that the numbers differ too
      back->truncate(0);
      load(*storage(secrets), *back, pages, length);
      check_rows(*back);
      CHECK_EQ(seq_of(*back, 0), 5u);
      const size_t at = arena.layout().head_offset(0, 0);
      CHECK(std::memcmp(back->page(0) + at, old_memory.data() + at, 48) != 0);
    }
  }
}

TEST(a_stored_page_shows_no_row_and_no_scale) {
  SecretArena secrets(4096);
  PageArena arena(PageLayout(2, 2, 32, 16, KvType::kInt8), 4);
  const auto session = sealed_session(arena, secrets, 1, 33);
  append_rows(*session, 20);
  const std::vector<Bytes> pages = saved(*storage(secrets), *session);
  for (int position = 0; position < 20; ++position) {
    for (int i = 0; i < 4; ++i) {
      const Row row(arena.layout(), i / 2, i % 2, position, 0);
      const Bytes& page = pages[static_cast<size_t>(position / 16)];
      CHECK(!contains(page, row.k) && !contains(page, row.v));
      const auto* scales = reinterpret_cast<const uint8_t*>(row.scales);
      CHECK(!contains(page, {scales, scales + 8}));
    }
  }
}

TEST(a_page_that_was_changed_moved_or_sealed_elsewhere_is_refused_and_nothing_is_stored) {
  SecretArena secrets(4096);
  PageArena arena(PageLayout(1, 1, 16, 16, KvType::kInt8), 8);
  const auto session = sealed_session(arena, secrets, 1, 34);
  append_rows(*session, 33);
  std::vector<Bytes> pages = saved(*storage(secrets), *session);
  const auto fresh = sealed_session(arena, secrets, 2, 35);
  const auto from = storage(secrets);
  const auto refuses = [&](int index, int rows, const std::string& header, const Bytes& page) {
    const int length = fresh->length();
    CHECK_THROWS(from->open_page(*fresh, index, rows, header, {}, page.data()), AuthenticationError,
                 "does not authenticate");
    CHECK_EQ(fresh->length(), length);
  };
  for (size_t byte = 0; byte < pages[0].size(); ++byte) {
    pages[0][byte] ^= 0x40;
    refuses(0, 16, kHeader, pages[0]);
    pages[0][byte] ^= 0x40;
  }
  refuses(0, 16, kHeader + "x", pages[0]);
  refuses(0, 16, kHeader, pages[1]); // swapped
  refuses(0, 15, kHeader, pages[0]); // cut short
  CHECK_THROWS(
      storage(secrets, kFileKey + 1)->open_page(*fresh, 0, 16, kHeader, {}, pages[0].data()),
      AuthenticationError, "page 0");
  from->open_page(*fresh, 0, 16, kHeader, {}, pages[0].data());
  refuses(1, 16, kHeader, pages[0]);
  CHECK_THROWS(from->open_page(*fresh, 2, 1, kHeader, {}, pages[2].data()), std::invalid_argument,
               "page 2 does not follow 16 rows");
  from->open_page(*fresh, 1, 16, kHeader, {}, pages[1].data());
  from->open_page(*fresh, 2, 1, kHeader, {}, pages[2].data());
  check_rows(*fresh);
}

// 2^28 pages of 16 rows begin at row 0 of 2^32.
TEST(pages_that_a_session_does_not_have_are_refused) {
  SecretArena secrets(4096);
  PageArena arena(PageLayout(1, 1, 16, 16, KvType::kInt8), 4);
  const auto session = sealed_session(arena, secrets, 1, 42),
             fresh = sealed_session(arena, secrets, 2, 43);
  append_rows(*session, 20);
  const std::vector<Bytes> pages = saved(*storage(secrets), *session);
  const auto keys = storage(secrets);
  CHECK_EQ(PageStorage::page_rows(*session, 0), 16);
  CHECK_EQ(PageStorage::page_rows(*session, 1), 4);
  for (const int index : {-1, 2, 1 << 28, -(1 << 28)}) {
    Bytes out(pages[0].size());
    const std::string named = "page " + std::to_string(index);
    set_context(named);
    CHECK_THROWS(PageStorage::page_rows(*session, index), std::invalid_argument, named);
    CHECK_THROWS(keys->seal_page(*session, index, kHeader, {}, out.data()), std::invalid_argument,
                 named);
    CHECK_THROWS(keys->open_page(*fresh, index, 16, kHeader, {}, pages[0].data()),
                 std::invalid_argument, named + " does not follow 0 rows");
  }
  CHECK_THROWS(keys->open_page(*session, 1, 4, kHeader, {}, pages[1].data()), std::invalid_argument,
               "page 1 does not follow 20 rows");
}

TEST(a_reordered_session_is_stored_in_the_models_order) {
  for (const KvType type : {KvType::kInt8, KvType::kF16, KvType::kF32}) {
    SecretArena secrets(4096);
    PageArena arena(PageLayout(2, 2, 32, 16, type), 8);
    const PageLayout& l = arena.layout();
    const auto plain = sealed_session(arena, secrets, 1, 36);
    append_rows(*plain, 20);
    const std::vector<Bytes> want = saved(*storage(secrets), *plain);
    // Stands in for the TEE: turns the elements of head h in layer l by 1 + l + 2 h places.
    Bytes buffer(2 * l.tile_bytes() * 2);
    int turn = 0;
    const auto reorder = [&](int layer, int rows) {
      const size_t element = l.element_bytes() * static_cast<size_t>(rows);
      for (int part = 0; part < 4; ++part) {
        uint8_t* at = buffer.data() + part * 32 * element;
        const int places = (turn * (1 + layer + 2 * (part % 2)) + 32) % 32;
        std::rotate(at, at + places * element, at + 32 * element);
      }
    };
    const RowOrder order{buffer.data(), buffer.size(), reorder};
    const auto moved = sealed_session(arena, secrets, 2, 37);
    turn = 1;
    load(*storage(secrets), *moved, want, 20, order);
    AlignedBuffer scratch(l.head_bytes());
    const Tile tile = moved->shield().open_tile(moved->page(0), l, 1, 1, 16, scratch.data());
    const Row row(l, 1, 1, 3, 0);
    Bytes turned = row.v;
    std::rotate(turned.begin(), turned.begin() + 4 * static_cast<int>(l.element_bytes()),
                turned.end());
    CHECK(std::memcmp(tile.v + 3 * l.row_bytes(), turned.data(), turned.size()) == 0);
    CHECK_EQ(nonzero(buffer), 0u); // what the TEE shared is wiped
    turn = -1;
    const std::vector<Bytes> got = saved(*storage(secrets), *moved, order);
    for (size_t i = 0; i < want.size(); ++i)
      CHECK(same_bits(got[i], want[i]));
    CHECK_EQ(nonzero(buffer), 0u);
    const RowOrder small{buffer.data(), 10, reorder};
    CHECK_THROWS(saved(*storage(secrets), *moved, small), std::invalid_argument, "holds 10 bytes");
  }
}

TEST(a_reorder_that_fails_leaves_the_session_as_it_was) {
  SecretArena secrets(4096);
  PageArena arena(PageLayout(2, 1, 16, 16, KvType::kInt8), 4);
  const auto session = sealed_session(arena, secrets, 1, 38);
  append_rows(*session, 16);
  const std::vector<Bytes> pages = saved(*storage(secrets), *session);
  Bytes buffer(4096);
  const RowOrder order{buffer.data(), buffer.size(), [](int layer, int) {
                         if (layer == 1)
                           throw std::runtime_error("the TEE is gone");
                       }};
  const auto fresh = sealed_session(arena, secrets, 2, 39);
  CHECK_THROWS(load(*storage(secrets), *fresh, pages, 16, order), std::runtime_error, "TEE");
  CHECK_EQ(fresh->length(), 0);
  CHECK_EQ(arena.pages_in_use().size(), 1u);
  CHECK_EQ(nonzero(buffer), 0u);
}

TEST(the_storage_keys_stand_in_the_arena_and_are_wiped) {
  SecretArena secrets(4096);
  ArenaView view(secrets);
  const size_t slot = secrets.take_slot();
  view.deliver_key(slot, 40, 32);
  {
    PageStorage keys(secrets, slot);
    CHECK(!view.zero(slot + 224, 16)); // the last round key
    keys.seal(0, kHeader, Bytes(100, 1));
    CHECK(view.zero(slot + SecretArena::kSlotBytes, SecretArena::kSlotBytes)); // of one message
    keys.close();
    CHECK_THROWS(keys.seal(1, kHeader, {}), std::invalid_argument, "closed");
  }
  CHECK(view.zero(0, secrets.size()));
  CHECK_EQ(secrets.take_slot(), slot);
  CHECK_THROWS(PageStorage(secrets, slot), std::runtime_error, "no storage key");
  CHECK_EQ(secrets.take_slot(), slot); // given back
}

TEST(records_open_under_their_own_number_and_header_only) {
  SecretArena secrets(4096);
  const auto keys = storage(secrets);
  const Bytes plain = {1, 2, 3, 4, 5};
  Bytes record = keys->seal(0, kHeader, plain);
  CHECK_EQ(record.size(), 21u);
  CHECK(same_bits(keys->open(0, kHeader, record.data(), record.size()), plain));
  CHECK_THROWS(keys->open(1, kHeader, record.data(), record.size()), AuthenticationError, "record");
  CHECK_THROWS(keys->open(0, "other", record.data(), record.size()), AuthenticationError, "record");
  CHECK_THROWS(keys->open(0, kHeader, record.data(), 20), AuthenticationError, "record 0");
  CHECK_THROWS(keys->open(0, kHeader, record.data(), 15), std::invalid_argument, "15 bytes");
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
