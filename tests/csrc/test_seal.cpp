// Sealed rows are ciphertext in memory, and their keys live and die in the secret arena.
#include "check.h"
#include "sealed_session.h"

#include <algorithm>
#include <set>

namespace ptmo::test {
namespace {

using Bytes = std::vector<uint8_t>;

} // namespace

TEST(equal_rows_have_different_ciphertexts_and_none_is_the_plaintext) {
  SecretArena secrets(4096);
  for (const KvType type : {KvType::kInt8, KvType::kInt4, KvType::kF16, KvType::kF32}) {
    PageArena arena(PageLayout(2, 2, 32, 16, type), 2);
    const PageLayout& l = arena.layout();
    const auto session = sealed_session(arena, secrets, 1, 1);
    const Bytes plain(l.row_bytes(), 0x42);
    const float scales[2] = {0.25f, 0.25f};
    session->append(20);
    std::set<Bytes> seen;
    size_t records = 0;
    for (int position = 0; position < 20; ++position) {
      for (int i = 0; i < 4; ++i) {
        session->write(i / 2, i % 2, position, plain.data(), plain.data(), scales);
        const uint8_t* at = session->page(position / 16) + l.head_offset(i / 2, i % 2);
        const size_t row = static_cast<size_t>(position % 16);
        for (const uint8_t* record :
             {at + row * l.row_bytes(), at + l.tile_bytes() + row * l.row_bytes()}) {
          for (size_t b = 0; b < l.row_bytes(); b += 16, ++records)
            seen.insert(Bytes(record + b, record + b + 16));
        }
        if (l.has_scales())
          CHECK(std::memcmp(at + 2 * l.tile_bytes() + 8 * row, scales, 8) != 0);
      }
    }
    CHECK_EQ(seen.size(), records); // all 16-byte blocks differ, K from V included
    CHECK(seen.count(Bytes(16, 0x42)) == 0);
  }
}

TEST(a_row_written_again_after_a_truncation_is_sealed_under_a_new_counter) {
  SecretArena secrets(4096);
  PageArena arena(PageLayout(1, 1, 32, 16, KvType::kInt8), 2);
  const PageLayout& l = arena.layout();
  const auto session = sealed_session(arena, secrets, 1, 2);
  const Bytes plain(l.row_bytes(), 7);
  const float scales[2] = {1.0f, 1.0f};
  std::set<Bytes> seen;
  for (int trial = 0; trial < 100; ++trial) {
    session->append(1);
    session->write(0, 0, 0, plain.data(), plain.data(), scales);
    const uint8_t* at = session->page(0) + l.head_offset(0, 0);
    CHECK(seen.insert(Bytes(at, at + l.row_bytes())).second);
    session->truncate(0);
  }
}

TEST(the_sealed_row_format_is_counter_mode_over_the_documented_streams) {
  SecretArena secrets(4096);
  PageArena arena(PageLayout(3, 2, 48, 16, KvType::kInt8), 2);
  const PageLayout& l = arena.layout();
  const size_t slot = secrets.take_slot();
  ArenaView view(secrets);
  view.deliver_key(slot, 3);
  AesRoundKeys keys;
  aes128_expand(view.at(slot), &keys);
  KvSession session(arena, 1, 1, secrets, slot);
  session.append(18);
  const Bytes zeros(48, 0);
  const float scales[2] = {0.0f, 0.0f};
  session.write(2, 1, 17, zeros.data(), zeros.data(), scales);
  const uint64_t seq = 17;
  Bytes k(48), v(48), s(8);
  const KvRows row{
      &seq, 1, {zeros.data(), zeros.data(), zeros.data()}, {k.data(), v.data(), s.data()}};
  aes128_ctr_xor_portable(keys, 2, 1, &row, 1, 48);
  const uint8_t* at = session.page(1) + l.head_offset(2, 1);
  CHECK(std::memcmp(at + 48, k.data(), 48) == 0);
  CHECK(std::memcmp(at + l.tile_bytes() + 48, v.data(), 48) == 0);
  CHECK(std::memcmp(at + 2 * l.tile_bytes() + 8, s.data(), 8) == 0);
}

TEST(a_key_is_expanded_in_place_wiped_and_its_slot_zeroed_with_the_session) {
  SecretArena secrets(4096);
  ArenaView view(secrets);
  PageArena arena(PageLayout(1, 1, 16, 16, KvType::kInt8), 2);
  const size_t slot = secrets.take_slot();
  view.deliver_key(slot, 4);
  const Bytes key(view.at(slot), view.at(slot) + 16);
  {
    KvSession session(arena, 1, 1, secrets, slot);
    CHECK(view.zero(slot, 16)); // the key as delivered is gone
    const uint8_t* round_keys = view.at(slot + SecretArena::kRoundKeysAt);
    CHECK(std::memcmp(round_keys, key.data(), 16) == 0); // round key 0 is the key
    CHECK(!view.zero(slot + SecretArena::kRoundKeysAt + 160, 16));
  }
  CHECK(view.zero(0, secrets.size()));
  CHECK_EQ(secrets.take_slot(), slot); // and free again
}

TEST(an_undelivered_key_is_refused_and_its_slot_given_back) {
  SecretArena secrets(4096);
  PageArena arena(PageLayout(1, 1, 16, 16, KvType::kInt8), 2);
  const size_t slot = secrets.take_slot();
  CHECK_THROWS(KvSession(arena, 1, 1, secrets, slot), std::runtime_error, "no seal key");
  CHECK_EQ(secrets.take_slot(), slot);
}

TEST(slots_run_out_with_an_error_and_foreign_offsets_are_refused) {
  SecretArena secrets(1);
  const size_t slots = secrets.size() / SecretArena::kSlotBytes;
  std::set<size_t> taken;
  for (size_t i = 0; i < slots; ++i)
    CHECK(taken.insert(secrets.take_slot()).second);
  CHECK_THROWS(secrets.take_slot(), std::runtime_error, "all in use");
  CHECK_THROWS(secrets.free_slot(1), std::invalid_argument, "offset=1");
  CHECK_THROWS(secrets.expand_key(secrets.size()), std::invalid_argument, "no slot in use");
  secrets.free_slot(256);
  CHECK_THROWS(secrets.free_slot(256), std::invalid_argument, "offset=256");
}

#ifdef PTMO_COUNT_COUNTERS
TEST(sequence_numbers_that_do_not_ascend_are_caught_where_rows_are_opened) {
  SecretArena secrets(4096);
  PageArena arena(PageLayout(1, 1, 32, 16, KvType::kInt8), 1);
  const PageLayout& l = arena.layout();
  const auto session = sealed_session(arena, secrets, 1, 2);
  session->append(3);
  AlignedBuffer scratch(l.head_bytes());
  session->shield().open_tile(session->page(0), l, 0, 0, 3, scratch.data());
  const uint64_t wrong[] = {0, 256, 1};
  std::memcpy(session->page(0) + sizeof(PageHeader), wrong, sizeof(wrong));
  CHECK_THROWS(session->shield().open_tile(session->page(0), l, 0, 0, 3, scratch.data()),
               std::invalid_argument, "sequence number 1 of row 2 does not ascend");
}
#endif

} // namespace ptmo::test

PTMO_TEST_MAIN()
