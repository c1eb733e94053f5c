// Pages on a device hold the very bytes that pages in this process's memory hold.
#include "check.h"
#include "cuda/device_pages.h"
#include "device_under_test.h"
#include "kv_rows.h"
#include "memory_scan.h"

#include <memory>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

namespace ptmo::test {
namespace {

constexpr int kPages = 12;

std::vector<uint8_t> all_bytes(const PageArena& arena) {
  const size_t bytes = arena.layout().page_bytes();
  std::vector<uint8_t> out(bytes * kPages);
  for (int page = 0; page < kPages; ++page)
    arena.read(page, 0, bytes, out.data() + bytes * static_cast<size_t>(page));
  return out;
}

// One arena, and sessions that do what they are told.
struct Side {
  std::unique_ptr<PageArena> arena;
  std::vector<std::unique_ptr<KvSession>> sessions;
  uint32_t next_id = 1;

  void open() { sessions.push_back(std::make_unique<KvSession>(*arena, next_id++)); }
  // Whether it was done: a full arena refuses.
  bool act(int kind, int which, int number) {
    KvSession& session = *sessions[static_cast<size_t>(which) % sessions.size()];
    try {
      if (kind == 0)
        append_rows(session, 1 + number % 40, number);
      else if (kind == 1)
        session.truncate(number % (session.length() + 1));
      else if (kind == 2 && sessions.size() < 4)
        sessions.push_back(session.fork(next_id++));
      else if (kind == 3)
        session.set_adapter_tag(static_cast<uint64_t>(number % 3));
      else if (kind == 4 && sessions.size() > 1)
        sessions.erase(sessions.begin() + which % static_cast<int>(sessions.size()));
    } catch (const std::runtime_error&) {
      return false;
    }
    return true;
  }
};

} // namespace

TEST(whatever_sessions_do_device_pages_hold_the_same_bytes) {
  for (const KvType type : {KvType::kInt8, KvType::kF16, KvType::kInt4}) {
    const PageLayout layout(2, 2, 32, 16, type);
    for (uint64_t seed = 0; seed < 20; ++seed) {
      Side host, device;
      host.arena = std::make_unique<PageArena>(layout, kPages);
      device.arena = std::make_unique<cuda::DevicePages>(layout, kPages);
      host.open();
      device.open();
      Random random(seed);
      for (int step = 0; step < 40; ++step) {
        const int kind = random.below(6), which = random.below(100), number = random.below(1000);
        set_context("type ", static_cast<int>(type), " seed ", seed, " step ", step, " kind ",
                    kind);
        CHECK_EQ(host.act(kind % 5, which, number), device.act(kind % 5, which, number));
        CHECK(all_bytes(*host.arena) == all_bytes(*device.arena));
      }
      host.sessions.clear();
      device.sessions.clear();
      CHECK_EQ(nonzero(all_bytes(*device.arena)), 0u);
    }
  }
}

TEST(the_host_keeps_headers_and_sequence_numbers_alone) {
  const PageLayout layout(1, 1, 32, 16, KvType::kInt8);
  cuda::DevicePages pages(layout, 2);
  KvSession session(pages, 7);
  append_rows(session, 20);
  check_rows(session);
  CHECK_EQ(header_of(session, 1).length, 4u);
  CHECK_EQ(seq_of(session, 19), 19u);
  CHECK_EQ(static_cast<size_t>(pages.page(1) - pages.page(0)), layout.data_offset());
}

// So that the tests of the engine, where they run on an emulator, end where it follows a pointer on
// the wrong side.
TEST(the_host_cannot_follow_a_pointer_to_the_device) {
  if (kSanitized) // there the memory is the heap's
    return;
  const cuda::DeviceMemory memory(64);
  const pid_t child = fork();
  if (child == 0) {
    const volatile uint8_t byte = *memory.data();
    _exit(byte == byte ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
}

TEST(memory_that_was_given_back_is_gone_and_too_much_is_refused) {
  const size_t before = device_blocks().size();
  {
    cuda::DevicePages pages(PageLayout(1, 1, 32, 16, KvType::kInt8), 2);
    CHECK_EQ(device_blocks().size(), before + 1);
  }
  CHECK_EQ(device_blocks().size(), before);
  CHECK_THROWS(cuda::DeviceMemory(size_t{1} << 60), std::runtime_error,
               "bytes left: out of memory");
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
