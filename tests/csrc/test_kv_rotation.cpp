// Rotation: rows under another key or in another order, the same rows all the same.
#include "check.h"
#include "kv/seal.h"
#include "kv_rows.h"
#include "memory_scan.h"
#include "sealed_session.h"
#include "tiny_model.h"

#include <functional>
#include <set>
#include <stdexcept>

namespace ptmo::test {
namespace {

constexpr int kPages = 12;
constexpr KvType kTypes[] = {KvType::kInt8, KvType::kInt4, KvType::kF16, KvType::kF32};

struct Stop : std::runtime_error {
  Stop() : std::runtime_error("stopped by the caller") {}
};

struct Rotating {
  SecretArena secrets{4096};
  ArenaView view{secrets};
  PageArena arena;
  std::unique_ptr<KvSession> session;

  explicit Rotating(KvType type, bool sealed = true)
      : arena(PageLayout(2, 2, 32, 16, type), kPages),
        session(sealed ? sealed_session(arena, secrets, 1, 31)
                       : std::make_unique<KvSession>(arena, 1)) {}
  size_t deliver() {
    const size_t slot = secrets.take_slot();
    static uint64_t keys = 500; // no key comes twice, those of sealed_session() have larger seeds
    view.deliver_key(slot, ++keys);
    return slot;
  }
  bool zero(size_t slot) const { return view.zero(slot, SecretArena::kSlotBytes); }
};

// Elements of K and V turned round head by head: its own inverse.
struct TurnedRound {
  std::vector<uint8_t> buffer;
  RowOrder order;
  int calls = 0;

  explicit TurnedRound(const PageLayout& l, int stop_at = -1) {
    const size_t element = l.element_bytes(), dim = static_cast<size_t>(l.head_dim);
    buffer.resize(2 * l.n_kv_heads * dim * element * l.rows);
    order.buffer = buffer.data();
    order.bytes = buffer.size();
    order.reorder = [=, this_ = this](int, int rows) {
      if (++this_->calls == stop_at)
        throw Stop();
      const size_t run = element * static_cast<size_t>(rows);
      for (int head = 0; head < 2 * l.n_kv_heads; ++head)
        for (size_t i = 0; i < dim / 2; ++i)
          std::swap_ranges(this_->buffer.data() + (head * dim + i) * run,
                           this_->buffer.data() + (head * dim + i + 1) * run,
                           this_->buffer.data() + (head * dim + dim - 1 - i) * run);
    };
  }
  TurnedRound(const TurnedRound&) = delete;
};

// The codes of a row, one an element.
std::vector<uint8_t> elements(const PageLayout& l, const uint8_t* row) {
  std::vector<uint8_t> out(row, row + l.row_bytes());
  if (l.type != KvType::kInt4)
    return out;
  out.clear();
  for (size_t i = 0; i < l.row_bytes(); ++i)
    out.push_back(row[i] & 15);
  for (size_t i = 0; i < l.row_bytes(); ++i)
    out.push_back(row[i] >> 4);
  return out;
}

std::vector<uint8_t> turned_round(const std::vector<uint8_t>& row, size_t element) {
  std::vector<uint8_t> out;
  for (size_t at = row.size(); at > 0; at -= element)
    out.insert(out.end(), row.begin() + at - element, row.begin() + at);
  return out;
}

// Every row of the session reads as writer 0 wrote it, turned round.
void check_turned(const KvSession& session) {
  const PageLayout& l = session.layout();
  AlignedBuffer scratch(l.head_bytes());
  for (int position = 0; position < session.length(); ++position) {
    const int index = position / l.rows, row = position % l.rows;
    for (int layer = 0; layer < l.n_layers; ++layer) {
      for (int head = 0; head < l.n_kv_heads; ++head) {
        const int rows = std::min(l.rows, session.length() - index * l.rows);
        const Tile tile =
            session.shield().open_tile(session.page(index), l, layer, head, rows, scratch.data());
        const Row want(l, layer, head, position, 0);
        for (const auto& [got, plain] : {std::pair{tile.k, &want.k}, {tile.v, &want.v}})
          CHECK(elements(l, got + row * l.row_bytes()) ==
                turned_round(elements(l, plain->data()), l.element_bytes()));
        if (l.has_scales())
          CHECK(std::memcmp(tile.scales + 2 * row, want.scales, 8) == 0);
      }
    }
  }
}

// Records of the session's rows that are byte for byte what they were in an earlier memory.
int unchanged_records(const KvSession& session, const std::vector<uint8_t>& before) {
  const PageLayout& l = session.layout();
  int out = 0;
  for (int position = 0; position < session.length(); ++position) {
    const uint8_t* page = session.page(position / l.rows);
    const size_t at = page - session.arena().page(0), row = position % l.rows;
    for (int layer = 0; layer < l.n_layers; ++layer)
      for (int head = 0; head < l.n_kv_heads; ++head)
        for (const PageLayout::Record& r : l.records()) {
          const size_t place = l.head_offset(layer, head) + r.offset + row * r.bytes;
          out += std::memcmp(page + place, before.data() + at + place, r.bytes) == 0;
        }
  }
  return out;
}

std::set<uint64_t> numbers_of(const KvSession& session) {
  std::set<uint64_t> out;
  for (int position = 0; position < session.length(); ++position)
    CHECK(out.insert(seq_of(session, position)).second);
  return out;
}

// The ends of the last plain K and V rows of each page, which a tile would hold last.
std::vector<Pattern> last_rows(const KvSession& session) {
  const PageLayout& l = session.layout();
  AlignedBuffer scratch(l.head_bytes());
  std::vector<Pattern> out;
  for (int first = 0; first < session.length(); first += l.rows) {
    const int rows = std::min(l.rows, session.length() - first);
    const Tile tile = session.shield().open_tile(session.page(first / l.rows), l, l.n_layers - 1,
                                                 l.n_kv_heads - 1, rows, scratch.data());
    const size_t end = static_cast<size_t>(rows) * l.row_bytes() - 16;
    out.push_back(inverted(tile.k + end));
    out.push_back(inverted(tile.v + end));
  }
  secure_wipe(scratch.data(), scratch.size());
  return out;
}

} // namespace

TEST(rows_read_the_same_under_the_next_key_and_nothing_else_of_a_page_is_left) {
  for (const KvType type : kTypes) {
    set_context("type ", static_cast<int>(type));
    Rotating r(type);
    append_rows(*r.session, 37);
    const std::vector<uint8_t> before = memory_of(r.arena, kPages);
    const std::set<uint64_t> numbers = numbers_of(*r.session);
    const size_t slot = r.deliver();
    r.session->rekey(77, slot);
    check_rows(*r.session);
    CHECK_EQ(r.arena.pages_in_use().size(), 3u);
    CHECK_EQ(unchanged_records(*r.session, before), 0);
    for (int i = 0; i < 3; ++i)
      CHECK_EQ(header_of(*r.session, i).epoch, 77u);
    for (const uint64_t number : numbers_of(*r.session))
      CHECK(number > *numbers.rbegin());
    append_rows(*r.session, 9);
    check_rows(*r.session);
    CHECK_EQ(header_of(*r.session, 2).epoch, 77u);
  }
}

TEST(the_old_slot_is_wiped_and_the_old_key_opens_nothing) {
  Rotating r(KvType::kInt8);
  append_rows(*r.session, 20);
  const PageLayout& l = r.arena.layout();
  // The same keys once more, in an arena of the test's own.
  SecretArena copies(4096);
  std::vector<SealShield> shields;
  for (const size_t slot : {size_t{0}, r.deliver()}) {
    const size_t copy = copies.take_slot();
    ArenaView to(copies);
    if (slot == 0) // expanded already
      std::memcpy(const_cast<uint8_t*>(to.at(copy)), r.view.at(0), SecretArena::kSlotBytes);
    else
      std::memcpy(const_cast<uint8_t*>(to.at(copy)), r.view.at(slot), 16);
    shields.emplace_back(slot == 0 ? *reinterpret_cast<const AesRoundKeys*>(
                                         copies.slot_bytes(copy) + SecretArena::kRoundKeysAt)
                                   : copies.expand_key(copy));
  }
  AlignedBuffer scratch(l.head_bytes());
  const Row want(l, 1, 1, 0, 0);
  const auto opens = [&](const SealShield& shield) {
    const Tile tile = shield.open_tile(r.session->page(0), l, 1, 1, 16, scratch.data());
    return std::memcmp(tile.k, want.k.data(), l.row_bytes()) == 0;
  };
  CHECK(opens(shields[0]) && !opens(shields[1]));
  r.session->rekey(2, 256);
  CHECK(!opens(shields[0]) && opens(shields[1]));
  CHECK(r.zero(0) && !r.zero(256));
  CHECK(r.view.zero(256, 16)); // the key as it was delivered; what it expanded to serves
  r.session->rekey(3, r.deliver());
  CHECK(!r.zero(0) && r.zero(256));
  r.session->close();
  CHECK(r.view.zero(0, r.secrets.size()));
}

TEST(a_page_that_forks_share_is_sealed_once_and_both_go_on) {
  Rotating r(KvType::kInt8);
  append_rows(*r.session, 40);
  const auto fork = r.session->fork(2);
  fork->truncate(20);
  append_rows(*fork, 5, 1);
  std::vector<int> writers(20, 0);
  writers.insert(writers.end(), 5, 1);
  const std::set<uint64_t> before = numbers_of(*r.session), of_fork = numbers_of(*fork);
  const uint64_t next = std::max(*before.rbegin(), *of_fork.rbegin()) + 1;
  fork->rekey(9, r.deliver()); // whichever of them is asked
  CHECK_EQ(r.session->page_id(0), fork->page_id(0));
  check_rows(*r.session);
  check_rows(*fork, writers);
  std::set<uint64_t> after = numbers_of(*r.session);
  for (const uint64_t number : numbers_of(*fork))
    after.insert(number);
  CHECK_EQ(after.size(), 16u + 24u + 9u); // a shared page, two of one, one of the other
  CHECK_EQ(*after.begin(), next);
  CHECK_EQ(*after.rbegin(), next + after.size() - 1);
  append_rows(*r.session, 1);
  check_rows(*r.session);
  r.session->close();
  check_rows(*fork, writers);
  for (int i = 0; i < 2; ++i)
    CHECK_EQ(header_of(*fork, i).epoch, 9u);
}

TEST(rows_that_were_forgotten_stay_zero) {
  Rotating r(KvType::kInt8);
  append_rows(*r.session, 30);
  r.session->truncate(18);
  r.session->rekey(2, r.deliver());
  const PageLayout& l = r.arena.layout();
  for (const size_t offset : {sizeof(PageHeader) + 8 * 2, l.head_offset(1, 0) + 2 * l.row_bytes()})
    CHECK_EQ(nonzero({r.session->page(1) + offset, r.session->page(1) + offset + 8}), 0u);
  r.session->truncate(0);
  CHECK_EQ(nonzero(memory_of(r.arena, kPages)), 0u);
  r.session->rekey(3, r.deliver()); // of no rows at all
  append_rows(*r.session, 4);
  check_rows(*r.session);
  CHECK_EQ(header_of(*r.session, 0).epoch, 3u);
}

TEST(a_key_that_was_not_delivered_leaves_the_session_as_it_was) {
  Rotating r(KvType::kInt8);
  append_rows(*r.session, 20);
  const std::vector<uint8_t> before = memory_of(r.arena, kPages);
  const size_t slot = r.secrets.take_slot();
  CHECK_THROWS(r.session->rekey(2, slot), std::runtime_error, "delivered no seal key");
  CHECK(same_bits(memory_of(r.arena, kPages), before));
  CHECK_EQ(r.secrets.take_slot(), slot); // given back
  check_rows(*r.session);
}

TEST(what_is_not_sealed_or_closed_takes_no_key) {
  Rotating r(KvType::kInt8, false);
  append_rows(*r.session, 20);
  CHECK_THROWS(r.session->rekey(2, r.deliver()), std::invalid_argument, "no sealed session");
  check_rows(*r.session);
  r.session->close();
  CHECK_THROWS(r.session->rekey(2, 0), std::invalid_argument, "no sealed session");
}

TEST(rows_move_to_another_order_and_back_of_every_type_sealed_or_not) {
  for (const KvType type : kTypes) {
    for (const bool sealed : {false, true}) {
      set_context("type ", static_cast<int>(type), sealed ? " sealed" : "");
      Rotating r(type, sealed);
      append_rows(*r.session, 37);
      const auto fork = r.session->fork(2);
      const std::set<uint64_t> numbers = numbers_of(*r.session);
      TurnedRound turned(r.arena.layout());
      r.session->reorder(turned.order);
      CHECK_EQ(turned.calls, 2 * 3); // once a layer and page, shared or not
      CHECK_EQ(nonzero(turned.buffer), 0u);
      check_turned(*r.session);
      check_turned(*fork);
      CHECK_EQ(*numbers_of(*r.session).begin(), *numbers.rbegin() + 1);
      fork->reorder(turned.order);
      check_rows(*r.session);
      check_rows(*fork);
    }
  }
}

TEST(an_order_that_fails_half_way_leaves_no_row_and_no_key) {
  for (const int stop_at : {1, 2, 5}) {
    Rotating r(KvType::kInt8);
    append_rows(*r.session, 40);
    const auto fork = r.session->fork(2);
    const auto other = sealed_session(r.arena, r.secrets, 3, 32);
    append_rows(*other, 20);
    TurnedRound turned(r.arena.layout(), stop_at);
    CHECK_THROWS(fork->reorder(turned.order), Stop, "stopped");
    CHECK_EQ(nonzero(turned.buffer), 0u);
    CHECK(r.session->closed() && fork->closed());
    CHECK(r.zero(0));
    check_rows(*other);
    CHECK_EQ(r.arena.pages_in_use().size(), 2u);
    other->close();
    CHECK_EQ(nonzero(memory_of(r.arena, kPages)), 0u);
  }
}

TEST(a_buffer_too_small_for_a_page_changes_nothing) {
  Rotating r(KvType::kInt4);
  append_rows(*r.session, 20);
  const std::vector<uint8_t> before = memory_of(r.arena, kPages);
  TurnedRound turned(r.arena.layout());
  --turned.order.bytes;
  CHECK_THROWS(r.session->reorder(turned.order), std::invalid_argument, "the row buffer holds");
  CHECK_THROWS(r.session->reorder({}), std::invalid_argument, "no order");
  CHECK(same_bits(memory_of(r.arena, kPages), before));
  CHECK_EQ(turned.calls, 0);
  check_rows(*r.session);
}

TEST(a_rotation_leaves_no_key_and_no_row_in_the_memory_of_the_process) {
  if (kSanitized)
    return;
  for (const KvType type : kTypes) {
    const TinyModel model(95, 32);
    const auto decoder = model.decoder(type, 1, true, 8);
    PageArena pages(model.layout(type), 4);
    SecretArena secrets(4096);
    const ArenaView view(secrets);
    const auto session = sealed_session(pages, secrets, 1, 13);
    std::vector<int32_t> tokens(20, 7);
    std::vector<float> out(50);
    feed(*decoder, *session, tokens.data(), 20, Logits::kLast, out.data(), {});
    std::vector<Pattern> patterns = last_rows(*session);
    const auto look = [&](const char* after) {
      for (size_t i = 0; i < patterns.size(); ++i) {
        set_context("type ", static_cast<int>(type), " after ", after, " pattern ", i);
        CHECK(kRegistersOnStacks || occurrences(patterns[i]) == 0);
      }
    };
    look("nothing");
    const size_t slot = secrets.take_slot(), last_round_key = SecretArena::kRoundKeysAt + 160;
    ArenaView(secrets).deliver_key(slot, static_cast<uint64_t>(type) + 100);
    patterns.push_back(inverted(view.at(slot)));
    patterns.push_back(inverted(view.at(last_round_key)));
    session->rekey(2, slot);
    patterns.push_back(inverted(view.at(slot + last_round_key)));
    look("another key");
    TurnedRound turned(pages.layout());
    session->reorder(turned.order);
    for (const Pattern& row : last_rows(*session))
      patterns.push_back(row);
    look("another order");
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
