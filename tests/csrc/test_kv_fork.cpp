// Forks: pages shared copy-on-write inside a family, one key and one counter for all of it.
#include "check.h"
#include "kv_rows.h"
#include "sealed_session.h"

#include <set>

namespace ptmo::test {
namespace {

constexpr int kPages = 12;

// `common` rows by writer 0, then the rows of the others.
std::vector<int> writers(int common, std::vector<int> rest) {
  std::vector<int> out(static_cast<size_t>(common), 0);
  out.insert(out.end(), rest.begin(), rest.end());
  return out;
}

struct Family {
  SecretArena secrets{4096};
  PageArena arena;
  std::unique_ptr<KvSession> first;

  explicit Family(KvType type = KvType::kInt8, bool sealed = true)
      : arena(PageLayout(2, 2, 32, 16, type), kPages),
        first(sealed ? sealed_session(arena, secrets, 1, 21)
                     : std::make_unique<KvSession>(arena, 1)) {}
};

} // namespace

TEST(a_fork_costs_no_page_and_both_read_the_same_rows) {
  for (const bool sealed : {false, true}) {
    for (const KvType type : {KvType::kInt8, KvType::kF16, KvType::kF32}) {
      Family f(type, sealed);
      append_rows(*f.first, 40);
      const std::vector<uint8_t> before = memory_of(f.arena, kPages);
      const auto fork = f.first->fork(2);
      CHECK_EQ(f.arena.pages_in_use().size(), 3u);
      CHECK(same_bits(memory_of(f.arena, kPages), before));
      CHECK_EQ(fork->sealed(), sealed);
      check_rows(*f.first);
      check_rows(*fork);
    }
  }
}

TEST(a_write_into_a_shared_page_copies_it_with_its_ciphertext_and_numbers) {
  Family f;
  append_rows(*f.first, 20);
  const auto fork = f.first->fork(2);
  const size_t page_bytes = f.arena.layout().page_bytes();
  const std::vector<uint8_t> shared(f.first->page(1), f.first->page(1) + page_bytes);
  append_rows(*fork, 3, 7);
  CHECK_EQ(f.first->page_id(0), fork->page_id(0)); // full: nobody writes to it
  CHECK(f.first->page_id(1) != fork->page_id(1));
  CHECK_EQ(f.arena.pages_in_use().size(), 3u);
  CHECK(std::memcmp(f.first->page(1), shared.data(), page_bytes) == 0); // not touched
  for (int position = 16; position < 20; ++position)
    CHECK_EQ(seq_of(*fork, position), seq_of(*f.first, position));
  const size_t at = f.arena.layout().head_offset(1, 1);
  CHECK(std::memcmp(fork->page(1) + at, shared.data() + at, 4 * 32) == 0);
  append_rows(*f.first, 2, 8);
  CHECK_EQ(f.arena.pages_in_use().size(), 3u); // alone in its page by now: no second copy
  check_rows(*f.first, writers(20, {8, 8}));
  check_rows(*fork, writers(20, {7, 7, 7}));
  CHECK_EQ(header_of(*fork, 1).page_id, static_cast<uint32_t>(fork->page_id(1)));
}

TEST(forks_draw_from_one_counter_that_never_goes_back) {
  Family f;
  append_rows(*f.first, 5);
  const auto fork = f.first->fork(2);
  std::set<uint64_t> seen;
  for (int position = 0; position < 5; ++position)
    CHECK(seen.insert(seq_of(*f.first, position)).second);
  KvSession* both[] = {f.first.get(), fork.get()};
  for (int step = 0; step < 200; ++step) {
    KvSession& s = *both[step % 2];
    s.append(1 + step % 3);
    for (int i = s.length() - 1 - step % 3; i < s.length(); ++i) {
      CHECK_EQ(seq_of(s, i), seen.empty() ? 0 : *seen.rbegin() + 1);
      CHECK(seen.insert(seq_of(s, i)).second);
    }
    s.truncate(s.length() - step % 4 > 4 ? s.length() - step % 4 : 5);
  }
}

TEST(headers_name_a_session_that_uses_the_page_and_the_family) {
  Family f(KvType::kInt8, false);
  append_rows(*f.first, 20);
  auto fork = f.first->fork(5);
  append_rows(*fork, 1, 1);
  CHECK_EQ(header_of(*fork, 0).session, 1u); // both use it
  CHECK_EQ(header_of(*fork, 1).session, 5u);
  CHECK_EQ(header_of(*f.first, 1).session, 1u);
  CHECK_EQ(header_of(*fork, 1).family, 1u);
  f.first->close();
  CHECK_EQ(header_of(*fork, 0).session, 5u); // only the fork is left
  CHECK_EQ(header_of(*fork, 0).family, 1u);
  append_rows(*fork, 20, 2);
  CHECK_EQ(header_of(*fork, 2).family, 1u);
}

TEST(a_page_and_its_rows_are_zeroed_when_the_last_fork_lets_them_go) {
  Family f(KvType::kInt8, false);
  append_rows(*f.first, 40);
  auto fork = f.first->fork(2);
  f.first->truncate(10); // the fork still has all 40
  check_rows(*fork);
  check_rows(*f.first);
  CHECK_EQ(f.arena.pages_in_use().size(), 3u);
  CHECK_EQ(header_of(*fork, 0).length, 16u);
  fork->close();
  CHECK_EQ(f.arena.pages_in_use().size(), 1u);
  CHECK_EQ(header_of(*f.first, 0).length, 10u);
  check_rows(*f.first);
  // What is left is what ten rows that never had company leave, sequence numbers apart.
  const auto without_numbers = [&] {
    std::vector<uint8_t> memory = memory_of(f.arena, kPages);
    for (size_t i = 0; i < 8 * 10; ++i)
      memory.at(sizeof(PageHeader) + i) = 0;
    return memory;
  };
  const std::vector<uint8_t> left = without_numbers();
  f.first->truncate(0);
  CHECK_EQ(nonzero(memory_of(f.arena, kPages)), 0u);
  append_rows(*f.first, 10);
  CHECK(same_bits(without_numbers(), left));
  f.first->close();
  CHECK_EQ(nonzero(memory_of(f.arena, kPages)), 0u);
  CHECK(f.arena.pages_in_use().empty());
}

TEST(rows_forgotten_by_every_fork_are_wiped_also_when_the_last_one_moves_to_a_copy) {
  Family f(KvType::kInt8, false);
  append_rows(*f.first, 14);
  auto fork = f.first->fork(2);
  fork->truncate(3);
  append_rows(*f.first, 1, 1); // copies 14 rows and leaves the old page to the fork and its 3
  const PageLayout& l = f.arena.layout();
  CHECK_EQ(header_of(*fork, 0).length, 3u);
  CHECK_EQ(header_of(*fork, 0).session, 2u);
  const uint8_t* at = fork->page(0) + l.head_offset(0, 0) + 3 * l.row_bytes();
  CHECK_EQ(nonzero({at, at + 13 * l.row_bytes()}), 0u);
  check_rows(*fork);
  check_rows(*f.first, writers(14, {1}));
}

TEST(the_key_lives_until_the_last_of_the_family_closes) {
  Family f;
  ArenaView view(f.secrets);
  append_rows(*f.first, 20);
  auto second = f.first->fork(2);
  auto third = second->fork(3);
  f.first->close();
  second->close();
  CHECK(!view.zero(0, f.secrets.size()));
  check_rows(*third);
  append_rows(*third, 4, 3);
  check_rows(*third, writers(20, {3, 3, 3, 3}));
  CHECK_THROWS(second->fork(4), std::invalid_argument, "closed");
  third.reset();
  CHECK(view.zero(0, f.secrets.size()));
  CHECK_EQ(nonzero(memory_of(f.arena, kPages)), 0u);
}

TEST(a_full_arena_refuses_a_copy_and_changes_nothing) {
  SecretArena secrets(4096);
  PageArena arena(PageLayout(1, 1, 32, 16, KvType::kInt8), 2);
  const auto first = sealed_session(arena, secrets, 1, 22);
  append_rows(*first, 20);
  const auto fork = first->fork(2);
  const std::vector<uint8_t> before = memory_of(arena, 2);
  CHECK_THROWS(fork->append(1), std::runtime_error, "KV cache is full");
  CHECK_THROWS(fork->set_adapter_tag(3), std::runtime_error, "KV cache is full");
  CHECK(same_bits(memory_of(arena, 2), before));
  CHECK_EQ(fork->length(), 20);
  CHECK_EQ(fork->adapter_tag(), 0u);
  first->close();
  append_rows(*fork, 1, 1);
  check_rows(*fork, writers(20, {1}));
}

TEST(a_row_in_a_shared_page_or_beyond_the_length_cannot_be_written) {
  Family f;
  append_rows(*f.first, 20);
  const auto fork = f.first->fork(2);
  const Row row(f.arena.layout(), 0, 0, 1, 1);
  for (const int position : {-1, 0, 19, 20, 31}) {
    set_context("position ", position);
    CHECK_THROWS(fork->write(0, 0, position, row.k.data(), row.v.data(), row.scales),
                 std::invalid_argument, "no row of this session's own");
  }
}

TEST(pages_carry_the_adapter_set_of_their_newest_row) {
  Family f;
  f.first->set_adapter_tag(0xfedcba9876543210u);
  append_rows(*f.first, 20);
  f.first->set_adapter_tag(7);
  append_rows(*f.first, 1, 1);
  CHECK_EQ(f.first->adapter_tag(), 7u);
  CHECK_EQ(header_of(*f.first, 0).adapter_tag, 0xfedcba9876543210u);
  CHECK_EQ(header_of(*f.first, 1).adapter_tag, 7u);
}

TEST(a_fork_under_another_adapter_set_shares_no_page) {
  Family f;
  append_rows(*f.first, 40);
  const auto fork = f.first->fork(2);
  fork->set_adapter_tag(9);
  CHECK_EQ(f.arena.pages_in_use().size(), 6u);
  for (int i = 0; i < 3; ++i)
    CHECK(fork->page_id(i) != f.first->page_id(i));
  check_rows(*fork);
  check_rows(*f.first);
  f.first->set_adapter_tag(9); // nothing is shared any more: nothing is copied
  CHECK_EQ(f.arena.pages_in_use().size(), 6u);
}

#ifdef PTMO_COUNT_COUNTERS
TEST(a_row_that_is_written_twice_is_caught) {
  Family f;
  append_rows(*f.first, 1);
  const Row row(f.arena.layout(), 0, 0, 0, 1);
  CHECK_THROWS(f.first->write(0, 0, 0, row.k.data(), row.v.data(), row.scales), std::logic_error,
               "used again: sequence number 0, layer 0");
}
#endif

} // namespace ptmo::test

PTMO_TEST_MAIN()
