// Rotation of pages on a device: pulled page by page, opened and sealed on the host, put back.
#include "device_model.h"
#include "device_under_test.h"

#include "kv_rows.h"

namespace ptmo::test {
namespace {

size_t deliver(Device& device, uint64_t seed) {
  const size_t slot = device.secrets.take_slot();
  ArenaView(device.secrets).deliver_key(slot, seed);
  return slot;
}

std::vector<uint8_t> page_memory(const Device& device) {
  return read_block({device.pages.device_page(0), device.pages.layout().page_bytes() * 20});
}

} // namespace

TEST(a_rotated_session_of_the_device_goes_on_bit_for_bit) {
  on_each_type(701, [](Device& device, const auto& tokens, const auto& next) {
    const auto session = device.open(true), calm = device.open(true);
    device.feed(*session, tokens, kTokens);
    device.feed(*calm, tokens, kTokens);
    const auto fork = session->fork(90);
    const std::vector<uint8_t> before = page_memory(device);
    session->rekey(55, deliver(device, 801));
    const std::vector<uint8_t> after = page_memory(device);
    const PageLayout& l = device.pages.layout();
    for (int i = 0; i < session->page_count(); ++i) {
      const size_t at = l.page_bytes() * static_cast<size_t>(session->page_id(i));
      PageHeader header;
      std::memcpy(&header, after.data() + at, sizeof(header));
      CHECK_EQ(header.epoch, 55u);
      CHECK_EQ(header_of(*session, i).epoch, 55u); // the host's copy
      for (int layer = 0; layer < l.n_layers; ++layer)
        for (int head = 0; head < l.n_kv_heads; ++head)
          CHECK(std::memcmp(before.data() + at + l.head_offset(layer, head),
                            after.data() + at + l.head_offset(layer, head), 16) != 0);
    }
    CHECK(same_bits(device.feed(*session, next, 5), device.feed(*calm, next, 5)));
    CHECK(ArenaView(device.secrets).zero(0, SecretArena::kSlotBytes)); // the first key's
    session->close();
    const auto other = device.open(true);
    device.feed(*other, tokens, kTokens);
    CHECK(same_bits(device.feed(*fork, next, 5), device.feed(*other, next, 5)));
  });
}

TEST(rows_on_a_device_move_to_another_order_and_back) {
  for (const bool sealed : {false, true}) {
    const TinyModel model = integer_model(702, llama_config(16));
    Device device(model, KvType::kInt8);
    const auto session = device.open(sealed);
    append_rows(*session, 37);
    const PageLayout& l = session->layout();
    std::vector<uint8_t> buffer(2 * l.n_kv_heads * l.tile_bytes());
    const auto swap_k_and_v = [&](int, int rows) {
      const size_t half = l.n_kv_heads * l.row_bytes() * static_cast<size_t>(rows);
      std::swap_ranges(buffer.data(), buffer.data() + half, buffer.data() + half);
    };
    const RowOrder order{buffer.data(), buffer.size(), swap_k_and_v};
    session->reorder(order);
    std::vector<uint8_t> copy;
    AlignedBuffer scratch(l.head_bytes());
    const Tile tile =
        session->shield().open_tile(session->page_bytes(1, copy), l, 1, 1, 16, scratch.data());
    const Row want(l, 1, 1, 16, 0);
    CHECK(std::memcmp(tile.k, want.v.data(), l.row_bytes()) == 0);
    CHECK(std::memcmp(tile.v, want.k.data(), l.row_bytes()) == 0);
    session->reorder(order);
    check_rows(*session);
    CHECK_EQ(nonzero(buffer), 0u);
  }
}

TEST(a_device_that_fails_in_a_rotation_costs_the_family_its_rows_and_keys) {
  const TinyModel model = integer_model(703, llama_config(16));
  for (const int calls : {0, 1, 2, 3}) {
    set_context("after ", calls, " copies");
    Device device(model, KvType::kInt8);
    const auto session = device.open(true);
    device.feed(*session, tokens_of(1, kTokens), kTokens);
    const auto fork = session->fork(90);
    const size_t slot = deliver(device, 900 + static_cast<uint64_t>(calls));
    fail_after(DeviceCall::kCopy, calls);
    CHECK_THROWS(session->rekey(2, slot), std::runtime_error, "the CUDA device failed at ");
    fail_after(DeviceCall::kCopy, -1);
    CHECK(session->closed() && fork->closed());
    const ArenaView view(device.secrets);
    CHECK(view.zero(0, device.secrets.size()));
    CHECK(device.pages.pages_in_use().empty());
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
