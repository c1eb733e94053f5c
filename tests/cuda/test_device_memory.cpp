// What a forward pass on a device leaves behind, looked for in all of the device's memory and in
// all of this process's own. Device memory is what the engine was given: all of it is read, as a
// thief would.
#include "device_model.h"
#include "device_under_test.h"
#include "kv/seal_chacha.h"
#include "memory_scan.h"

#include <cstdio>
#include <functional>
#include <map>
#include <stdexcept>

namespace ptmo::test {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr int kFirst = 21, kSecond = 15, kAll = kFirst + kSecond;

// All device memory but one block, in the order in which it was given out or not.
std::map<const uint8_t*, Bytes> device_but(const uint8_t* block) {
  std::map<const uint8_t*, Bytes> out;
  for (const DeviceBlock& each : device_blocks())
    if (each.start != block)
      out[each.start] = read_block(each);
  return out;
}

size_t found_on_device(const std::vector<Bytes>& needles) {
  const std::map<const uint8_t*, Bytes> blocks = device_but(nullptr);
  size_t found = 0;
  for (const Bytes& needle : needles)
    found += std::any_of(blocks.begin(), blocks.end(), [&](const auto& block) {
      const Bytes& bytes = block.second;
      return std::search(bytes.begin(), bytes.end(), needle.begin(), needle.end()) != bytes.end();
    });
  return found;
}

bool on_device(const uint8_t* needle, size_t bytes) {
  return found_on_device({Bytes(needle, needle + bytes)}) == 1;
}

// Plain K and V of every row: of INT8 rows and halves no two are alike by chance.
std::vector<Bytes> plain_rows(const KvSession& session) {
  const PageLayout& l = session.layout();
  std::vector<Bytes> out;
  Bytes page;
  AlignedBuffer scratch(l.head_bytes());
  for (int first = 0; first < session.length(); first += l.rows) {
    const int rows = std::min(l.rows, session.length() - first);
    session.page_bytes(first / l.rows, page);
    for (int layer = 0; layer < l.n_layers; ++layer) {
      for (int head = 0; head < l.n_kv_heads; ++head) {
        const Tile tile =
            session.shield().open_tile(page.empty() ? session.page(first / l.rows) : page.data(), l,
                                       layer, head, rows, scratch.data());
        for (const uint8_t* part : {tile.k, tile.v})
          for (int r = 0; r < rows; ++r)
            out.emplace_back(part + r * l.row_bytes(), part + (r + 1) * l.row_bytes());
        for (int r = 0; r < rows && tile.scales != nullptr; ++r) {
          const auto* scales = reinterpret_cast<const uint8_t*>(tile.scales + 2 * r);
          out.emplace_back(scales, scales + 8);
        }
      }
    }
  }
  return out;
}

struct Stop : std::runtime_error {
  Stop() : std::runtime_error("stopped by the hook") {}
};

// Two calls, the second in chunks of 8 and stopped in its second chunk if told so.
void run(Device& device, KvSession& session, const std::vector<int32_t>& tokens, bool stop,
         const std::function<void(const float* attended)>& look = {},
         const AdapterSet* adapters = nullptr) {
  device.feed(session, {tokens.begin(), tokens.begin() + kFirst}, kFirst, adapters);
  const auto width = static_cast<size_t>(device.model.config.q_size());
  std::vector<float> buffer(8 * width), out(kSecond * kVocab);
  int calls = 0;
  const auto hook = [&](int, int) {
    if (++calls != 4)
      return;
    if (look)
      look(buffer.data());
    if (stop)
      throw Stop();
  };
  const Sequence sequence{&session, tokens.data() + kFirst, kSecond, Logits::kAll, out.data(),
                          adapters};
  try {
    device.decoder.forward(&sequence, 1, {buffer.data(), 8, hook});
    CHECK(!stop);
  } catch (const Stop&) {
    CHECK(stop);
  }
  CHECK_EQ(session.length(), stop ? kFirst : kAll);
}

// Functions of their own: the compiler may keep a key that it has loaded on the stack.
[[gnu::noinline]] std::array<Pattern, 2> key_patterns(const KvSession& session) {
  const auto& key = static_cast<const ChaChaShield&>(session.shield()).key();
  const auto* bytes = reinterpret_cast<const uint8_t*>(&key);
  return {inverted(bytes), inverted(bytes + 16)};
}

[[gnu::noinline]] void check_key_is_found(const KvSession& session, const Pattern& pattern) {
  const auto& key = static_cast<const ChaChaShield&>(session.shield()).key();
  const auto* bytes = reinterpret_cast<const uint8_t*>(&key);
  CHECK(!on_device(bytes, 16) && !on_device(bytes + 16, 16));
  const auto copy = std::make_unique<kernels::ChaChaKey>(key);
  asm volatile("" : : "r"(copy.get()) : "memory");
  CHECK(occurrences(pattern) >= 1);
  secure_wipe(copy.get(), sizeof(*copy));
}

void describe(KvType type, bool stop) {
  set_context("type ", static_cast<int>(type), stop ? " stopped" : " to the end");
}

} // namespace

TEST(no_plain_row_of_a_sealed_session_is_in_device_memory) {
  const TinyModel model = integer_model(401, llama_config(64));
  const std::vector<int32_t> tokens = tokens_of(3, kAll);
  for (const KvType type : kTypes) {
    for (const bool stop : {false, true}) {
      describe(type, stop);
      Device device(model, type, 8);
      const auto sealed = device.open(true);
      run(device, *sealed, tokens, stop);
      const std::vector<Bytes> rows = plain_rows(*sealed);
      CHECK_EQ(found_on_device(rows), 0u);
      { // The search works: the same rows of an unsealed session are all there.
        const auto plain = device.open(false);
        run(device, *plain, tokens, stop);
        CHECK_EQ(found_on_device(rows), rows.size());
      }
      CHECK_EQ(found_on_device(rows), 0u); // it was closed
    }
  }
}

// Whatever the text and the keys were, a session of the same shape leaves the very same bytes
// outside of its pages.
TEST(nothing_outside_the_pages_depends_on_the_text_or_on_a_key) {
  const TinyModel model = integer_model(402, gemma3_config(32, 7));
  const RandomAdapter adapter(model.config, 1, 20, true);
  const AdapterSet adapters = set_of({&adapter});
  for (const KvType type : kTypes) {
    for (const bool stop : {false, true}) {
      describe(type, stop);
      Device device(model, type, 8);
      std::map<const uint8_t*, Bytes> left[3];
      for (int i = 0; i < 3; ++i) { // the first one's buffers grow
        const auto session = device.open(true);
        size_t differing = 0;
        run(
            device, *session, tokens_of(i, kAll), stop,
            [&](const float*) {
              const auto now = device_but(nullptr);
              for (const auto& [start, bytes] : left[i == 2 ? 1 : 0])
                differing += now.count(start) == 0 || now.at(start) != bytes;
            },
            &adapters);
        CHECK(i < 2 || differing >= 10); // the comparison works: buffers in use do differ
        left[i] = device_but(device.pages.device_page(0));
      }
      CHECK(left[1] == left[2]);
      const Bytes pages =
          read_block({device.pages.device_page(0), device.pages.layout().page_bytes() * 20});
      CHECK_EQ(std::count(pages.begin(), pages.end(), 0),
               static_cast<std::ptrdiff_t>(pages.size()));
    }
  }
}

TEST(activations_are_on_the_device_during_a_pass_and_not_after_it) {
  const TinyModel model = integer_model(403, llama_config(32));
  for (const bool stop : {false, true}) {
    describe(KvType::kInt8, stop);
    Device device(model, KvType::kInt8, 8);
    const auto session = device.open(true);
    Bytes attended;
    run(device, *session, tokens_of(4, kAll), stop, [&](const float* values) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(values);
      attended.assign(bytes, bytes + 64);
      CHECK(on_device(attended.data(), attended.size()));
    });
    CHECK_EQ(attended.size(), 64u);
    CHECK(!on_device(attended.data(), attended.size()));
  }
}

// The key stands in the secret arena alone: its copies for launches are wiped, on the stack and in
// what was allocated.
TEST(no_key_is_in_the_memory_of_the_process_or_of_the_device) {
  if (kSanitized)
    return;
  const TinyModel model = integer_model(404, llama_config(32));
  occurrences({}); // finds its functions: the dynamic linker keeps vector registers on the stack
  for (const bool stop : {false, true}) {
    describe(KvType::kInt8, stop);
    Device device(model, KvType::kInt8, 8);
    const auto session = device.open(true);
    const std::array<Pattern, 2> halves = key_patterns(*session);
    for (const Pattern& half : halves) // made in the arena, and nowhere else
      CHECK_EQ(occurrences(half), 0);
    burn_stack(1 << 15); // what this test left
    run(device, *session, tokens_of(5, kAll), stop);
    device.feed(*session, tokens_of(6, 3), 1);
    forget_device_threads();
    for (const Pattern& half : halves) {
      const int found = occurrences(half);
      if (kDriverKeepsParameters)
        std::printf("half a key, in the process's memory: %d times\n", found);
      else
        CHECK_EQ(found, 0);
    }
    check_key_is_found(*session, halves[0]);
  }
}

TEST(no_plain_row_is_in_the_memory_of_the_process) {
  if (kSanitized)
    return;
  const TinyModel model = integer_model(405, llama_config(32));
  for (const KvType type : kTypes) {
    describe(type, false);
    Device device(model, type, 8);
    const auto session = device.open(true);
    run(device, *session, tokens_of(7, kAll), false);
    forget_device_threads();
    std::vector<Pattern> patterns;
    {
      std::vector<Bytes> rows = plain_rows(*session);
      for (Bytes& row : rows) {
        if (row.size() >= 16)
          patterns.push_back(inverted(row.data()));
        secure_wipe(row.data(), row.size());
      }
    }
    for (size_t i = 0; i < patterns.size(); i += 17)
      CHECK_EQ(occurrences(patterns[i]), 0);
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
