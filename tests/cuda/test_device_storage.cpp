// Sealed sessions that leave a device and come back, to a device or to this process's memory: the
// same rows under another key, another cipher and other numbers.
#include "device_model.h"
#include "device_under_test.h"

#include "kv/page_storage.h"
#include "kv/seal_chacha.h"
#include "memory_scan.h"

namespace ptmo::test {
namespace {

using Bytes = std::vector<uint8_t>;

const std::string kHeader = "header of a file";

std::unique_ptr<PageStorage> storage(SecretArena& secrets) {
  const size_t slot = secrets.take_slot();
  ArenaView(secrets).deliver_key(slot, 77, 32);
  return std::make_unique<PageStorage>(secrets, slot);
}

std::vector<Bytes> saved(const KvSession& session) {
  SecretArena secrets(4096);
  const auto to = storage(secrets);
  std::vector<Bytes> out;
  for (int i = 0; i < session.page_count(); ++i) {
    out.emplace_back(
        PageStorage::sealed_bytes(session.layout(), PageStorage::page_rows(session, i)));
    to->seal_page(session, i, kHeader, {}, out.back().data());
  }
  return out;
}

void resume(KvSession& session, const std::vector<Bytes>& pages, int length) {
  SecretArena secrets(4096);
  const auto from = storage(secrets);
  const int per_page = session.layout().rows;
  for (size_t i = 0; i < pages.size(); ++i)
    from->open_page(session, static_cast<int>(i),
                    std::min(per_page, length - static_cast<int>(i) * per_page), kHeader, {},
                    pages[i].data());
}

// All rows as they are, K | V | scales of each head, page by page.
Bytes plain(const KvSession& session) {
  const PageLayout& l = session.layout();
  AlignedBuffer scratch(l.head_bytes());
  Bytes copy, out;
  out.reserve(l.bytes_per_token() *
              static_cast<size_t>(session.length())); // no copy of it is freed
  for (int i = 0; i < session.page_count(); ++i) {
    const int rows = PageStorage::page_rows(session, i);
    const auto n = static_cast<size_t>(rows);
    const uint8_t* page = session.page_bytes(i, copy);
    for (int layer = 0; layer < l.n_layers; ++layer) {
      for (int head = 0; head < l.n_kv_heads; ++head) {
        const Tile tile = session.shield().open_tile(page, l, layer, head, rows, scratch.data());
        out.insert(out.end(), tile.k, tile.k + n * l.row_bytes());
        out.insert(out.end(), tile.v, tile.v + n * l.row_bytes());
        const auto* scales = reinterpret_cast<const uint8_t*>(tile.scales);
        if (scales != nullptr)
          out.insert(out.end(), scales, scales + 8 * n);
      }
    }
  }
  secure_wipe(scratch.data(), scratch.size());
  return out;
}

// Of the key, and of the keystream of rows that were the last of their pages. A function of its
// own: the compiler may keep a key that it has loaded on the stack.
[[gnu::noinline]] void add_patterns(const KvSession& session, std::vector<Pattern>& patterns) {
  const auto& key = static_cast<const ChaChaShield&>(session.shield()).key();
  const auto* bytes = reinterpret_cast<const uint8_t*>(&key);
  patterns.push_back(inverted(bytes));
  patterns.push_back(inverted(bytes + 16));
  for (const auto part : {kernels::RowPart::kKey, kernels::RowPart::kValue}) {
    for (const uint64_t seq : {15, 19}) {
      kernels::ChaChaBlock block = kernels::row_keystream(key, {seq, 1, 1}, part, 0);
      patterns.push_back(inverted(reinterpret_cast<const uint8_t*>(block.words)));
      secure_wipe(&block, sizeof(block));
    }
  }
}

} // namespace

TEST(a_session_of_the_device_resumes_on_the_device_and_goes_on_bit_for_bit) {
  on_each_type(601, [](Device& device, const auto& tokens, const auto& next) {
    const auto session = device.open(true);
    device.feed(*session, tokens, kTokens);
    const Bytes rows = plain(*session);
    const std::vector<Bytes> pages = saved(*session);
    const auto back = device.open(true);
    back->append(3); // so that the numbers differ too
    back->truncate(0);
    resume(*back, pages, kTokens);
    CHECK_EQ(back->length(), kTokens);
    CHECK(same_bits(plain(*back), rows));
    Bytes before, after;
    session->page_bytes(0, before);
    back->page_bytes(0, after);
    const size_t at = device.pages.layout().head_offset(0, 0), n = 64;
    CHECK(std::memcmp(before.data() + at, after.data() + at, n) != 0);
    CHECK(std::memcmp(before.data() + at, rows.data(), n) != 0); // ciphertext
    CHECK(saved(*back) == pages);
    CHECK(same_bits(device.feed(*back, next, 5), device.feed(*session, next, 5)));
  });
}

TEST(sessions_move_between_the_device_and_the_cpu) {
  const TinyModel model = integer_model(602, llama_config(32));
  const std::vector<int32_t> tokens = tokens_of(3, kTokens), next = tokens_of(4, 5);
  for (const KvType type : kTypes) {
    set_context("type ", static_cast<int>(type));
    Device device(model, type);
    const auto decoder = model.decoder(type, 1, true, 64);
    PageArena host(model.layout(type), 20);
    const auto on_cpu = [&](KvSession& session, const std::vector<int32_t>& of) {
      std::vector<float> out(of.size() * kVocab);
      feed(*decoder, session, of.data(), static_cast<int>(of.size()), Logits::kAll, out.data(), {});
      return out;
    };
    const auto from_device = device.open(true);
    device.feed(*from_device, tokens, kTokens);
    const auto to_cpu = sealed_session(host, device.secrets, 50, 9);
    resume(*to_cpu, saved(*from_device), kTokens);
    CHECK(same_bits(plain(*to_cpu), plain(*from_device)));

    const auto from_cpu = sealed_session(host, device.secrets, 51, 9);
    on_cpu(*from_cpu, tokens);
    const auto to_device = device.open(true);
    resume(*to_device, saved(*from_cpu), kTokens);
    CHECK(same_bits(plain(*to_device), plain(*from_cpu)));

    // Each goes on as the session it came from does on the other side.
    CHECK_NEAR(difference(on_cpu(*to_cpu, next), device.feed(*from_device, next, 5)), 0.0, 1e-2);
    CHECK_NEAR(difference(device.feed(*to_device, next, 5), on_cpu(*from_cpu, next)), 0.0, 1e-2);
  }
}

TEST(a_page_that_was_changed_is_refused_and_nothing_is_stored_on_the_device) {
  const TinyModel model = integer_model(603, llama_config(16));
  Device device(model, KvType::kInt8);
  const auto session = device.open(true);
  device.feed(*session, tokens_of(5, 20), 20);
  std::vector<Bytes> pages = saved(*session);
  pages[1][7] ^= 1;
  const auto fresh = device.open(true);
  CHECK_THROWS(resume(*fresh, pages, 20), AuthenticationError, "page 1 does not authenticate");
  CHECK_EQ(fresh->length(), 16);
  CHECK_EQ(fresh->page_count(), 1);
}

// The host's part of the cipher leaves neither the key nor its keystream, and no row: what the
// compiler spilled of them is wiped. The patterns are made first, the calls come after.
TEST(saving_and_resuming_leave_no_key_keystream_or_row_in_the_memory_of_the_process) {
  if (kSanitized)
    return;
  const TinyModel model = integer_model(604, llama_config(32));
  occurrences({}); // finds its functions: the dynamic linker keeps vector registers on the stack
  for (const KvType type : kTypes) {
    Device device(model, type);
    const auto session = device.open(true), back = device.open(true);
    device.feed(*session, tokens_of(6, 20), 20);
    std::vector<Pattern> patterns;
    add_patterns(*session, patterns);
    add_patterns(*back, patterns);
    Bytes rows = plain(*session);
    for (size_t at = 0; at + 16 <= rows.size(); at += rows.size() / 7)
      patterns.push_back(inverted(rows.data() + at));
    secure_wipe(rows.data(), rows.size());
    burn_stack(1 << 15); // what this test left
    forget_device_threads();
    // The key of a launch, in two halves, may stand where the driver put it: in no more places.
    std::array<int, 2> kept{};
    for (size_t i = 0; kDriverKeepsParameters && i < kept.size(); ++i)
      kept[i] = occurrences(patterns[i]);
    const auto look = [&](const char* after) {
      for (size_t i = 0; i < patterns.size(); ++i) {
        set_context("type ", static_cast<int>(type), " after ", after, " pattern ", i);
        CHECK(occurrences(patterns[i]) <= (i < kept.size() ? kept[i] : 0));
      }
    };
    look("nothing");
    const std::vector<Bytes> pages = saved(*session);
    look("saving");
    resume(*back, pages, 20);
    look("resuming");
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
