// AES-128-CTR against the published vectors that its counter layout can express, and the hardware
// path against the portable one.
//
// A record's block numbers start at 0, so a vector needs an initial counter block whose last four
// bytes are small: RFC 3686 (which starts at 1: block 0 is skipped here) and the AESAVS known
// answers with zero there. The counters of SP 800-38A F.5.1 end in fcfdfeff and cannot be reached.
#include "cipher_rows.h"
#include "hex.h"

#include <algorithm>

namespace ptmo::test {
namespace {

uint64_t big_endian(const Bytes& bytes, size_t from, size_t count) {
  uint64_t out = 0;
  for (size_t i = from; i < from + count; ++i)
    out = out << 8 | bytes[i];
  return out;
}

// One record whose counter block starts with the 12 bytes of `prefix`: a K row, whose stream is the
// head's number. Alone, and as the start of a longer one of whole registers.
Bytes crypt(Cipher cipher, const Bytes& key, const Bytes& prefix, const Bytes& in) {
  const AesRoundKeys keys = expanded(key);
  const uint64_t seq = big_endian(prefix, 0, 8);
  const auto layer = static_cast<uint16_t>(big_endian(prefix, 8, 2));
  const auto head = static_cast<uint16_t>(big_endian(prefix, 10, 2));
  Bytes out[2];
  for (int i = 0; i < 2; ++i) {
    const size_t bytes = i == 0 ? in.size() : (in.size() + 63) / 64 * 64;
    Rows rows(1, bytes, false);
    std::copy(in.begin(), in.end(), rows.k.begin());
    rows.xor_with(cipher, keys, {seq}, layer, head, bytes);
    out[i].assign(rows.k.begin(), rows.k.begin() + static_cast<long>(in.size()));
  }
  CHECK(same_bits(out[0], out[1]));
  return out[0];
}

template <typename Check> void with_each(Check check) {
  set_context("portable");
  check(aes128_ctr_xor_portable);
  for (const AesLevel& level : aes_hardware_levels()) {
    set_context(level.name);
    check(level.ctr_xor);
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

// Sequence numbers as sessions have them, and others, ascending: in order from anywhere, over the
// ends of the last byte and of more bytes, up to the last, with gaps (after a rollback), equal,
// any.
std::vector<std::vector<uint64_t>> numberings(Random& random, int rows) {
  std::vector<std::vector<uint64_t>> out;
  const auto count = [&](uint64_t first, auto step) {
    std::vector<uint64_t> seqs;
    for (int i = 0; i < rows; ++i, first += step())
      seqs.push_back(first);
    out.push_back(seqs);
  };
  for (const uint64_t first : {0ull, 1ull, 250ull, 0xfffaull, 0xffffffull, ~0ull - 32})
    count(first, [] { return 1; });
  for (const uint64_t gap : {0ull, 3ull, 100ull, 1ull << 16, 1ull << 40, 1ull << 56})
    count(static_cast<uint64_t>(random.below(300)),
          [&] { return random.below(2) == 0 ? uint64_t{1} : gap; });
  std::vector<uint64_t> any;
  for (int i = 0; i < rows; ++i)
    any.push_back(static_cast<uint64_t>(random.bits()) << 32 | random.bits());
  std::sort(any.begin(), any.end());
  out.push_back(any);
  return out;
}

TEST(every_hardware_level_agrees_with_the_portable_cipher_for_every_size_and_count) {
  Random random(61);
  Bytes key(16);
  for (uint8_t& b : key)
    b = static_cast<uint8_t>(random.bits());
  const AesRoundKeys keys = expanded(key);
  std::vector<size_t> sizes = {256, 320, 512, 1024, 2048, 4096, 4160};
  for (size_t bytes = 1; bytes <= 200; ++bytes)
    sizes.push_back(bytes);
  for (const size_t bytes : sizes) {
    const bool registers = bytes == 32 || (bytes % 64 == 0 && bytes <= 256);
    for (const int rows : {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33}) {
      if (!registers && rows > 9)
        continue;
      const auto all = numberings(random, rows);
      for (size_t n = registers ? 0 : all.size() - 1; n < all.size(); ++n) {
        const auto layer = static_cast<uint16_t>(random.bits());
        const auto head = static_cast<uint16_t>(random.below(1024));
        Rows plain(static_cast<size_t>(rows), bytes, random.below(2) == 0);
        plain.fill(random);
        Rows slow = plain;
        slow.each([](Bytes& part) { part.resize(part.size() + 16, 0xa5); });
        if (plain.scales.empty())
          slow.scales.clear();
        Rows fast = slow;
        plain.xor_with(aes128_ctr_xor_portable, keys, all[n], layer, head, bytes, &slow);
        for (const AesLevel& level : aes_hardware_levels()) {
          set_context(level.name, " bytes ", bytes, " rows ", rows, " numbering ", n);
          plain.xor_with(level.ctr_xor, keys, all[n], layer, head, bytes, &fast);
          CHECK(fast == slow); // the 16 bytes behind the last record included
          Rows twice = plain;
          for (int i = 0; i < 2; ++i) // decrypting is the same operation, and works in place
            twice.xor_with(level.ctr_xor, keys, all[n], layer, head, bytes);
          CHECK(twice == plain);
        }
      }
    }
  }
}

TEST(parts_in_one_call_are_what_they_are_alone) {
  Random random(63);
  const AesRoundKeys keys = expanded(hex("000102030405060708090a0b0c0d0e0f"));
  for (const AesLevel& level : aes_hardware_levels()) {
    for (const size_t bytes : {32u, 48u, 64u, 128u}) {
      set_context(level.name, " bytes ", bytes);
      std::vector<Rows> together, alone;
      std::vector<std::vector<uint64_t>> seqs;
      std::vector<KvRows> parts;
      for (const int count : {8, 0, 5, 32, 1, 16}) { // numbers go on, and start anew
        seqs.push_back(numberings(random, count)[static_cast<size_t>(count) % 3]);
        together.emplace_back(static_cast<size_t>(count), bytes, true);
        together.back().fill(random);
        alone.push_back(together.back());
        alone.back().xor_with(aes128_ctr_xor_portable, keys, seqs.back(), 9, 4, bytes);
      }
      for (size_t i = 0; i < seqs.size(); ++i) {
        const KvRecords<uint8_t> r = together[i].records();
        parts.push_back(
            {seqs[i].data(), static_cast<int>(seqs[i].size()), {r.k, r.v, r.scales}, r});
      }
      level.ctr_xor(keys, 9, 4, parts.data(), static_cast<int>(parts.size()), bytes);
      for (size_t i = 0; i < seqs.size(); ++i)
        CHECK(together[i] == alone[i]);
    }
  }
}

TEST(a_record_does_not_depend_on_its_neighbours_and_every_field_changes_the_stream) {
  const AesRoundKeys keys = expanded(hex("000102030405060708090a0b0c0d0e0f"));
  const auto streams = [&](std::vector<uint64_t> seqs, uint16_t layer, uint16_t head) {
    Rows rows(seqs.size(), 64, true);
    rows.xor_with(aes128_ctr_xor, keys, seqs, layer, head, 64);
    return rows;
  };
  const Rows all = streams({7, 8, 9}, 3, 1);
  for (size_t i = 0; i < 3; ++i) {
    const Rows alone = streams({7 + i}, 3, 1);
    CHECK(std::memcmp(alone.k.data(), all.k.data() + 64 * i, 64) == 0);
    CHECK(std::memcmp(alone.v.data(), all.v.data() + 64 * i, 64) == 0);
    CHECK(std::memcmp(alone.scales.data(), all.scales.data() + 8 * i, 8) == 0);
  }
  std::vector<Bytes> halves; // of every block of each: all zeros before
  for (const Rows& rows :
       {streams({7}, 3, 1), streams({8}, 3, 1), streams({7}, 4, 1), streams({7}, 3, 2)})
    for (const Bytes* part : {&rows.k, &rows.v, &rows.scales})
      for (size_t at = 0; at < part->size(); at += 16)
        halves.emplace_back(part->begin() + static_cast<long>(at),
                            part->begin() + static_cast<long>(at) + 8);
  for (size_t i = 0; i < halves.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      CHECK(!same_bits(halves[i], halves[j]));
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
