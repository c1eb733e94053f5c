// AES-128-CTR against the published vectors that its counter layout can express, and the hardware
// path against the portable one.
//
// A record's block numbers start at 0, so a vector needs an initial counter block whose last four
// bytes are small: RFC 3686 (which starts at 1: block 0 is skipped here) and the AESAVS known
// answers with zero there. The counters of SP 800-38A F.5.1 end in fcfdfeff and cannot be reached.
#include "check.h"
#include "hex.h"
#include "samples.h"

#include "crypto/aes_ctr.h"

#include <pthread.h>

#include <algorithm>
#include <functional>

namespace ptmo::test {
namespace {

using Bytes = std::vector<uint8_t>;

AesRoundKeys expanded(const Bytes& key) {
  AesRoundKeys keys;
  aes128_expand(key.data(), &keys);
  return keys;
}

uint64_t big_endian(const Bytes& bytes, size_t from, size_t count) {
  uint64_t out = 0;
  for (size_t i = from; i < from + count; ++i)
    out = out << 8 | bytes[i];
  return out;
}

// One record whose counter block starts with the 12 bytes of `prefix`.
template <typename Cipher>
Bytes crypt(Cipher cipher, const Bytes& key, const Bytes& prefix, const Bytes& in) {
  const AesRoundKeys keys = expanded(key);
  const uint64_t seq = big_endian(prefix, 0, 8);
  const auto layer = static_cast<uint16_t>(big_endian(prefix, 8, 2));
  const auto stream = static_cast<uint16_t>(big_endian(prefix, 10, 2));
  Bytes out(in.size());
  cipher(keys, &seq, 1, layer, static_cast<StreamKind>(stream >> 14),
         static_cast<uint16_t>(stream & 0x3fff), in.data(), in.size(), out.data());
  return out;
}

// Runs `body` deep in the stack of a thread, where nothing that follows it writes, and returns that
// stack as it was left.
Bytes stack_after(const std::function<void()>& body) {
  AlignedBuffer stack(1 << 18);
  pthread_attr_t attributes;
  pthread_t thread;
  const auto run = [](void* f) -> void* {
    volatile uint8_t deep[1 << 16];
    deep[0] = 0;
    (*static_cast<const std::function<void()>*>(f))();
    return deep[0] == 0 ? nullptr : f;
  };
  CHECK_EQ(pthread_attr_init(&attributes), 0);
  CHECK_EQ(pthread_attr_setstack(&attributes, stack.data(), stack.size()), 0);
  CHECK_EQ(pthread_create(&thread, &attributes, run, const_cast<std::function<void()>*>(&body)), 0);
  CHECK_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
  return Bytes(stack.data(), stack.data() + stack.size());
}

bool holds(const Bytes& memory, const uint8_t* needle, size_t size) {
  return std::search(memory.begin(), memory.end(), needle, needle + size) != memory.end();
}

// A hardware level, called as aes128_ctr_xor is.
struct Hardware {
  AesLevel level;
  void operator()(const AesRoundKeys& keys, const uint64_t* seqs, int records, uint16_t layer,
                  StreamKind kind, uint16_t head, const uint8_t* in, size_t bytes,
                  uint8_t* out) const {
    const auto stream = static_cast<uint16_t>(static_cast<uint16_t>(kind) << 14 | head);
    level.ctr_xor(keys, seqs, records, layer, stream, in, bytes, out);
  }
};

template <typename Check> void with_each(Check check) {
  set_context("portable");
  check(aes128_ctr_xor_portable);
  for (const AesLevel& level : aes_hardware_levels()) {
    set_context(level.name);
    check(Hardware{level});
  }
}

} // namespace

TEST(key_expansion_is_that_of_fips_197_appendix_a) {
  const AesRoundKeys keys = expanded(hex("2b7e151628aed2a6abf7158809cf4f3c"));
  CHECK_EQ(text(Bytes(keys.bytes, keys.bytes + 176)),
           std::string("2b7e151628aed2a6abf7158809cf4f3ca0fafe1788542cb123a339392a6c7605"
                       "f2c295f27a96b9435935807a7359f67f3d80477d4716fe3e1e237e446d7a883b"
                       "ef44a541a8525b7fb671253bdb0bad00d4d1c6f87c839d87caf2b8bc11f915bc"
                       "6d88a37a110b3efddbf98641ca0093fd4e54f70e5f5fc9f384a64fb24ea6dc4f"
                       "ead27321b58dbad2312bf5607f8d292fac7766f319fadc2128d12941575c006e"
                       "d014f9a8c9ee2589e13f0cc8b6630ca6"));
}

TEST(the_rfc_3686_vectors_hold) {
  const struct {
    const char *key, *prefix, *plain, *cipher; // prefix: nonce | IV
  } vectors[] = {
      {"ae6852f8121067cc4bf7a5765577f39e", "000000300000000000000000",
       "53696e676c6520626c6f636b206d7367", "e4095d4fb7a7b3792d6175a3261311b8"},
      {"7e24067817fae0d743d6ce1f32539163", "006cb6dbc0543b59da48d90b",
       "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
       "5104a106168a72d9790d41ee8edad388eb2e1efc46da57c8fce630df9141be28"},
      {"7691be035e5020a8ac6e618529f9a0dc", "00e0017b27777f3f4a1786f0",
       "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223",
       "c1cf48a89f2ffdd9cf4652e9efdb72d74540a42bde6d7836d59a5ceaaef3105325b2072f"},
  };
  with_each([&](auto cipher) {
    for (const auto& v : vectors) {
      Bytes in(16, 0);
      const Bytes plain = hex(v.plain);
      in.insert(in.end(), plain.begin(), plain.end());
      const Bytes out = crypt(cipher, hex(v.key), hex(v.prefix), in);
      CHECK_EQ(text(Bytes(out.begin() + 16, out.end())), std::string(v.cipher));
    }
  });
}

TEST(the_aesavs_known_answers_hold) {
  const std::string zeros(32, '0');
  const struct {
    const char *key, *prefix, *cipher; // of the block prefix | 00000000
  } vectors[] = {
      {"00000000000000000000000000000000", "800000000000000000000000",
       "3ad78e726c1ec02b7ebfe92b23d9ec34"}, // VarTxt 1
      {"80000000000000000000000000000000", "000000000000000000000000",
       "0edd33d3c621e546455bd8ba1418bec8"}, // VarKey 1
      {"10a58869d74be5a374cf867cfb473859", "000000000000000000000000",
       "6d251e6944b051e04eaa6fb4dbf78465"}, // KeySbox 1
  };
  with_each([&](auto cipher) {
    for (const auto& v : vectors)
      CHECK_EQ(text(crypt(cipher, hex(v.key), hex(v.prefix), hex(zeros))), std::string(v.cipher));
  });
}

TEST(every_hardware_level_agrees_with_the_portable_cipher_for_every_size_and_count) {
  Random random(61);
  const auto random_bytes = [&](size_t n) {
    Bytes out(n);
    for (uint8_t& b : out)
      b = static_cast<uint8_t>(random.bits());
    return out;
  };
  const AesRoundKeys keys = expanded(random_bytes(16));
  std::vector<size_t> sizes = {256, 320, 512, 1024, 2048, 4096, 4160};
  for (size_t bytes = 1; bytes <= 200; ++bytes)
    sizes.push_back(bytes);
  for (const size_t bytes : sizes) {
    for (const int records : {0, 1, 2, 3, 7, 8, 9, 16, 31, 32, 33}) {
      if (bytes > 200 && records > 9)
        continue;
      std::vector<uint64_t> seqs;
      for (int i = 0; i < records; ++i)
        seqs.push_back(random.bits());
      const auto layer = static_cast<uint16_t>(random.bits());
      const auto kind = static_cast<StreamKind>(random.below(3));
      const auto head = static_cast<uint16_t>(random.below(1024));
      const size_t total = bytes * static_cast<size_t>(records);
      const Bytes in = random_bytes(total);
      Bytes slow(total + 16, 0xa5);
      aes128_ctr_xor_portable(keys, seqs.data(), records, layer, kind, head, in.data(), bytes,
                              slow.data());
      for (const AesLevel& level : aes_hardware_levels()) {
        const Hardware cipher{level};
        Bytes fast(total + 16, 0xa5), in_place = in;
        cipher(keys, seqs.data(), records, layer, kind, head, in.data(), bytes, fast.data());
        cipher(keys, seqs.data(), records, layer, kind, head, in_place.data(), bytes,
               in_place.data());
        set_context(level.name, " bytes ", bytes, " records ", records);
        CHECK(same_bits(fast, slow)); // the 16 bytes behind the last record included
        CHECK(total == 0 || std::memcmp(in_place.data(), fast.data(), total) == 0);
        cipher(keys, seqs.data(), records, layer, kind, head, in_place.data(), bytes,
               in_place.data());
        CHECK(same_bits(in_place, in)); // decrypting is the same operation
      }
    }
  }
}

TEST(a_record_does_not_depend_on_its_neighbours_and_every_field_changes_the_stream) {
  const AesRoundKeys keys = expanded(hex("000102030405060708090a0b0c0d0e0f"));
  const Bytes zeros(3 * 40, 0);
  const auto stream = [&](std::vector<uint64_t> seqs, uint16_t layer, StreamKind kind,
                          uint16_t head) {
    Bytes out(seqs.size() * 40);
    aes128_ctr_xor(keys, seqs.data(), static_cast<int>(seqs.size()), layer, kind, head,
                   zeros.data(), 40, out.data());
    return out;
  };
  const Bytes all = stream({7, 8, 9}, 3, StreamKind::kKey, 1);
  for (uint64_t i = 0; i < 3; ++i)
    CHECK(same_bits(stream({7 + i}, 3, StreamKind::kKey, 1),
                    Bytes(all.begin() + 40 * i, all.begin() + 40 * (i + 1))));
  const std::vector<Bytes> others = {
      stream({7}, 3, StreamKind::kKey, 1),    stream({8}, 3, StreamKind::kKey, 1),
      stream({7}, 4, StreamKind::kKey, 1),    stream({7}, 3, StreamKind::kValue, 1),
      stream({7}, 3, StreamKind::kScales, 1), stream({7}, 3, StreamKind::kKey, 2)};
  for (size_t i = 0; i < others.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      for (size_t b = 0; b < 32; b += 16) // no 16-byte block in common
        CHECK(std::memcmp(others[i].data() + b, others[j].data() + b, 16) != 0);
}

#if defined(PTMO_SANITIZED)
constexpr bool kSanitized = true; // such a build keeps everything in memory
#else
constexpr bool kSanitized = false;
#endif

// With the CPU's instructions, round keys, keystream and text pass through registers alone or are
// wiped: records with and without a part of a block, and of more blocks than are in flight.
TEST(the_stack_holds_no_key_no_keystream_and_no_text_afterwards) {
  if (!aes_hardware() || kSanitized) {
    std::printf("     (the portable cipher and sanitized builds promise no such thing)\n");
    return;
  }
  constexpr size_t kRecords = 11;
  Random random(62);
  Bytes key(16), plain(kRecords * 256);
  for (Bytes* bytes : {&key, &plain})
    for (uint8_t& b : *bytes)
      b = static_cast<uint8_t>(random.bits());
  const AesRoundKeys keys = expanded(key);
  std::vector<uint64_t> seqs;
  for (size_t i = 0; i < kRecords; ++i)
    seqs.push_back(random.bits());
  for (const AesLevel& level : aes_hardware_levels()) {
    for (const size_t bytes : {8u, 9u, 16u, 32u, 40u, 64u, 80u, 100u, 128u, 256u}) {
      Bytes out(kRecords * bytes);
      const Bytes left = stack_after([&] {
        level.ctr_xor(keys, seqs.data(), kRecords, 5, 2, plain.data(), bytes, out.data());
      });
      set_context(level.name, " record bytes ", bytes);
      for (size_t at = 0; at < sizeof(keys.bytes); at += 8)
        CHECK(!holds(left, keys.bytes + at, 8));
      for (size_t at = 0; at < out.size(); ++at)
        out[at] ^= plain[at]; // the keystream
      for (size_t record = 0; record < out.size(); record += bytes) {
        for (size_t at = record; at + 8 <= record + bytes; ++at) {
          CHECK(!holds(left, plain.data() + at, 8));
          CHECK(!holds(left, out.data() + at, 8));
        }
      }
    }
  }
  // The search does find what a thread leaves there.
  const Bytes left = stack_after([&] {
    uint8_t local[16];
    std::memcpy(local, plain.data(), 16);
    asm volatile("" : : "r"(local) : "memory");
  });
  CHECK(holds(left, plain.data(), 16));
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
