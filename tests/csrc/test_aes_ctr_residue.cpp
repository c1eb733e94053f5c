// What the sealed cache's cipher leaves behind in memory and registers: nothing that depends on the
// key or the text. Two runs with other keys and other texts leave the very same.
//
// The compiler decides what it spills: this holds for the flags that CMakeLists.txt gives the
// ciphers' files, and for the compiler that these tests were built with.
#include "cipher_rows.h"

#include <pthread.h>

#include <algorithm>
#include <functional>

namespace ptmo::test {
namespace {

// A stack that keeps what was left on it.
class KeptStack {
public:
  // Runs `body` deep in it, on a thread of its own, where nothing that follows writes.
  void run(const std::function<void()>& body) {
    std::memset(stack_.data(), 0, stack_.size());
    pthread_attr_t attributes;
    pthread_t thread;
    const auto start = [](void* f) -> void* {
      volatile uint8_t deep[kDeep];
      deep[0] = 0;
      (*static_cast<const std::function<void()>*>(f))();
      return deep[0] == 0 ? nullptr : f;
    };
    CHECK_EQ(pthread_attr_init(&attributes), 0);
    CHECK_EQ(pthread_attr_setstack(&attributes, stack_.data(), stack_.size()), 0);
    CHECK_EQ(pthread_create(&thread, &attributes, start, const_cast<std::function<void()>*>(&body)),
             0);
    CHECK_EQ(pthread_join(thread, nullptr), 0);
    pthread_attr_destroy(&attributes);
  }
  // What lies below the frames of `run`'s own.
  [[gnu::noinline]] Bytes left() const {
    return Bytes(stack_.data(), stack_.data() + stack_.size() - kDeep);
  }

private:
  static constexpr size_t kDeep = 1 << 16;
  AlignedBuffer stack_{1 << 18};
};

bool holds(const Bytes& memory, const uint8_t* needle, size_t size) {
  return std::search(memory.begin(), memory.end(), needle, needle + size) != memory.end();
}

#if defined(PTMO_SANITIZED)
constexpr bool kSanitized = true; // such a build keeps everything in memory
#else
constexpr bool kSanitized = false;
#endif

bool promised() {
  const bool yes = aes_hardware() && !kSanitized;
  if (!yes)
    std::printf("     (the portable cipher and sanitized builds promise no such thing)\n");
  return yes;
}

// `Probe` runs a call and returns what it left. Rows with and without a part of a block, and more
// than are in flight; over an end of the last byte of their numbers; in two parts.
template <typename Probe> void check_residue(Probe probe) {
  Random random(62);
  for (const AesLevel& level : aes_hardware_levels()) {
    for (const size_t bytes : {8u, 9u, 16u, 32u, 40u, 64u, 80u, 100u, 128u, 256u}) {
      for (const bool scaled : {false, true}) {
        for (const int count : {1, 8, 11, 32}) {
          std::vector<uint64_t> seqs;
          for (int i = 0; i < count; ++i)
            seqs.push_back(250 + static_cast<uint64_t>(i));
          Rows rows(static_cast<size_t>(count), bytes, scaled), out = rows;
          Bytes left[3]; // the first call also finds its functions, which leaves addresses
          for (Bytes& now : left) {
            const AesRoundKeys keys = expanded(random_bytes(random, 16));
            rows.fill(random);
            const KvRecords<uint8_t> from = rows.records();
            const KvRows part{seqs.data(), count, {from.k, from.v, from.scales}, out.records()};
            const KvRows parts[2] = {part, part};
            now = probe([&] { level.ctr_xor(keys, 5, 2, parts, 2, bytes); });
          }
          set_context(level.name, " row bytes ", bytes, " rows ", count, " scaled ", scaled);
          CHECK(same_bits(left[1], left[2]));
        }
      }
    }
  }
}

#if defined(__x86_64__)
constexpr size_t kRegisterBytes = 32 * 64;

// Calls `body` and stores the vector registers as it leaves them.
template <typename Body> [[gnu::noinline]] Bytes registers_after(const Body& body) {
  alignas(64) static uint8_t kept[kRegisterBytes];
  asm volatile("vzeroall" : : : "memory");
  body();
#define PTMO_KEEP(i) asm volatile("vmovdqa64 %%zmm" #i ", %0" : "=m"(kept[64 * i]) : : "memory")
  PTMO_KEEP(0);
  PTMO_KEEP(1);
  PTMO_KEEP(2);
  PTMO_KEEP(3);
  PTMO_KEEP(4);
  PTMO_KEEP(5);
  PTMO_KEEP(6);
  PTMO_KEEP(7);
  PTMO_KEEP(8);
  PTMO_KEEP(9);
  PTMO_KEEP(10);
  PTMO_KEEP(11);
  PTMO_KEEP(12);
  PTMO_KEEP(13);
  PTMO_KEEP(14);
  PTMO_KEEP(15);
  PTMO_KEEP(16);
  PTMO_KEEP(17);
  PTMO_KEEP(18);
  PTMO_KEEP(19);
  PTMO_KEEP(20);
  PTMO_KEEP(21);
  PTMO_KEEP(22);
  PTMO_KEEP(23);
  PTMO_KEEP(24);
  PTMO_KEEP(25);
  PTMO_KEEP(26);
  PTMO_KEEP(27);
  PTMO_KEEP(28);
  PTMO_KEEP(29);
  PTMO_KEEP(30);
  PTMO_KEEP(31);
#undef PTMO_KEEP
  return Bytes(kept, kept + kRegisterBytes);
}
#endif

} // namespace

TEST(the_stack_holds_nothing_afterwards_that_depends_on_key_or_text) {
  if (!promised())
    return;
  KeptStack stack;
  check_residue([&](const std::function<void()>& call) {
    stack.run(call);
    return stack.left();
  });
  // What a thread does leave there is found.
  const AesRoundKeys keys = expanded(Bytes(16, 0x5a));
  stack.run([&] {
    uint8_t local[16];
    std::memcpy(local, keys.bytes, 16);
    asm volatile("" : : "r"(local) : "memory");
  });
  CHECK(holds(stack.left(), keys.bytes, 16));
}

TEST(the_vector_registers_hold_nothing_afterwards_that_depends_on_key_or_text) {
#if defined(__x86_64__)
  if (!promised())
    return;
  if (!__builtin_cpu_supports("avx512f")) {
    std::printf("     (registers are read with AVX-512, which this CPU lacks)\n");
    return;
  }
  check_residue([](const auto& call) { return registers_after(call); });
  // What is left there is found.
  const Bytes left = registers_after([] {
    asm volatile("vpternlogd $0xff, %%zmm3, %%zmm3, %%zmm3" : : : "memory");
  });
  CHECK_EQ(static_cast<int>(left[3 * 64]), 0xff);
#else
  std::printf("     (read on x86-64 only)\n");
#endif
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
