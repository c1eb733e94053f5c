// The key of a device's pages, derived in the secret arena from the 16 bytes that the TEE delivers.
#include "check.h"
#include "hex.h"
#include "memory_scan.h"
#include "sealed_session.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace ptmo::test {
namespace {

using Bytes = std::vector<uint8_t>;

void deliver(SecretArena& secrets, size_t slot, const Bytes& key) {
  std::memcpy(secrets.slot_bytes(slot), key.data(), key.size());
}

} // namespace

// AES-128 of the big-endian blocks 1 and 2, as `openssl enc -aes-128-ecb -nopad` computes them;
// the keys are those of FIPS 197, C.1 and A.1.
TEST(the_key_is_the_encryptions_of_blocks_1_and_2) {
  const std::vector<std::pair<std::string, std::string>> known = {
      {"000102030405060708090a0b0c0d0e0f",
       "7346139595c0b41e497bbde365f42d0a49d68753999ba68ce3897a686081b09d"},
      {"2b7e151628aed2a6abf7158809cf4f3c",
       "57127d4034b1bebfaef466b9c7726fc6973f2ef34879e2027f1734303ff21f89"}};
  for (const bool memfd_secret : {true, false}) {
    SecretArena secrets(4096, memfd_secret);
    for (const auto& [key, want] : known) {
      const size_t slot = secrets.take_slot();
      deliver(secrets, slot, hex(key));
      const auto* got = reinterpret_cast<const uint8_t*>(&secrets.expand_device_key(slot));
      CHECK_EQ(got, secrets.slot_bytes(slot));
      CHECK_EQ(text({got, got + sizeof(kernels::ChaChaKey)}), want);
    }
  }
}

TEST(the_slot_holds_the_derived_key_alone_and_nothing_once_it_is_free) {
  SecretArena secrets(4096);
  const ArenaView view(secrets);
  const size_t other = secrets.take_slot(), slot = secrets.take_slot();
  const Bytes key = hex("2b7e151628aed2a6abf7158809cf4f3c");
  deliver(secrets, slot, key);
  secrets.expand_device_key(slot);
  const uint8_t* at = view.at(slot);
  CHECK(std::search(at, at + SecretArena::kSlotBytes, key.begin(), key.end()) ==
        at + SecretArena::kSlotBytes);
  CHECK(view.zero(slot + 32, SecretArena::kSlotBytes - 32)); // no round key
  CHECK(view.zero(other, SecretArena::kSlotBytes));
  CHECK(!view.zero(slot, 32));
  secrets.free_slot(slot);
  CHECK(view.zero(0, secrets.size()));
}

TEST(a_slot_without_a_key_is_refused) {
  SecretArena secrets(4096);
  const size_t slot = secrets.take_slot();
  CHECK_THROWS(secrets.expand_device_key(slot), std::runtime_error,
               "the TEE delivered no seal key");
  CHECK_THROWS(secrets.expand_device_key(slot + 256), std::invalid_argument, "no slot in use");
}

// Neither the delivered key, nor what it derives, nor a round key is in the process's own memory.
TEST(no_key_is_left_on_the_stack_or_in_the_heap) {
  if (kSanitized)
    return;
  SecretArena secrets(4096);
  ArenaView view(secrets);
  occurrences({}); // finds its functions: the dynamic linker keeps vector registers on the stack
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    const size_t slot = secrets.take_slot(), twin = secrets.take_slot();
    view.deliver_key(slot, seed);
    view.deliver_key(twin, seed);
    const Pattern delivered = inverted(view.at(slot));
    secrets.expand_key(twin); // whose round keys stay in the arena
    const uint8_t* rounds = view.at(twin + SecretArena::kRoundKeysAt);
    const Pattern first = inverted(rounds + 16), last = inverted(rounds + 160);
    secrets.expand_device_key(slot);
    const Pattern low = inverted(view.at(slot)), high = inverted(view.at(slot + 16));
    set_context("seed ", seed);
    for (const Pattern& p : {delivered, first, last, low, high})
      CHECK_EQ(occurrences(p), 0);
    const auto copy = std::make_unique<kernels::ChaChaKey>(); // the search works
    std::memcpy(copy.get(), view.at(slot), sizeof(*copy));
    asm volatile("" : : "r"(copy.get()) : "memory");
    CHECK(occurrences(low) >= 1);
    secure_wipe(copy.get(), sizeof(*copy));
    secrets.free_slot(slot);
    secrets.free_slot(twin);
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
