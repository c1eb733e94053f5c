// ChaCha against published vectors, and the sealed cache's use of it: which bytes of keystream a
// row takes.
#include "check.h"
#include "hex.h"
#include "samples.h"

#include "crypto/aes_ctr.h"
#include "kernels/chacha.h"

#include <set>

namespace ptmo::test {
namespace {

using kernels::ChaChaKey;
using kernels::RowId;
using kernels::RowPart;

using Bytes = std::vector<uint8_t>;

template <int kRounds> std::string block_text(const std::string& key, const std::string& input) {
  ChaChaKey k;
  kernels::ChaChaInput in;
  std::memcpy(k.words, hex(key).data(), sizeof(k));
  std::memcpy(in.words, hex(input).data(), sizeof(in));
  const kernels::ChaChaBlock block = kernels::chacha_block<kRounds>(k, in);
  Bytes out(sizeof(block));
  std::memcpy(out.data(), block.words, sizeof(block));
  return text(out);
}

const std::string kZeros(64, '0');

ChaChaKey random_key(Random& random) {
  ChaChaKey key;
  for (uint32_t& word : key.words)
    word = static_cast<uint32_t>(random.bits());
  return key;
}

Bytes random_bytes(Random& random, size_t n) {
  Bytes out(n);
  for (uint8_t& b : out)
    b = static_cast<uint8_t>(random.bits());
  return out;
}

struct Record {
  Bytes k, v, scales;
  bool operator==(const Record& o) const { return k == o.k && v == o.v && scales == o.scales; }
};

Record sealed(const ChaChaKey& key, const RowId& id, Record r) {
  kernels::chacha_xor_row(
      key, id, {r.k.data(), r.v.data(), r.scales.empty() ? nullptr : r.scales.data()}, r.k.size());
  return r;
}

} // namespace

// RFC 8439, sections 2.3.2 and A.1 (1, 2). The input is the block number and the nonce.
TEST(twenty_rounds_give_the_blocks_of_rfc_8439) {
  CHECK_EQ(block_text<20>("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
                          "01000000000000090000004a00000000"),
           "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
           "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e");
  CHECK_EQ(block_text<20>(kZeros, "00000000000000000000000000000000"),
           "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
           "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586");
  CHECK_EQ(block_text<20>(kZeros, "01000000000000000000000000000000"),
           "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
           "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f");
}

// draft-strombergson-chacha-test-vectors-01, 256-bit keys, TC1 and TC8: a 64-bit block number, then
// a 64-bit nonce.
TEST(twelve_rounds_give_the_published_blocks) {
  CHECK_EQ(block_text<12>(kZeros, "00000000000000000000000000000000"),
           "9bf49a6a0755f953811fce125f2683d50429c3bb49e074147e0089a52eae155f"
           "0564f879d27ae3c02ce82834acfa8c793a629f2ca0de6919610be82f411326be");
  const std::string key = "c46ec1b18ce8a878725a37e780dfb7351f68ed2e194c79fbc6aebee1a667975d";
  CHECK_EQ(block_text<12>(key, "00000000000000001ada31d5cf688221"),
           "1482072784bc6d06b4e73bdc118bc0103c7976786ca918e06986aa251f7e9cc1"
           "b2749a0a16ee83b4242d2e99b08d7c20092b80bc466c87283b61b1b39d0ffbab");
  CHECK_EQ(block_text<12>(key, "01000000000000001ada31d5cf688221"),
           "d94b116bc1ebdb329b9e4f620db695544a8e3d9b68473d0c975a46ad966ed631"
           "e42aff530ad5eac7d8047adfa1e5113c91f3e3b883f1d189ac1c8fe07ba5a42b");
}

TEST(the_streams_of_a_row_are_those_of_the_cpu_s_cache) {
  CHECK_EQ(static_cast<int>(RowPart::kKey), static_cast<int>(StreamKind::kKey));
  CHECK_EQ(static_cast<int>(RowPart::kValue), static_cast<int>(StreamKind::kValue));
  CHECK_EQ(static_cast<int>(RowPart::kScales), static_cast<int>(StreamKind::kScales));
}

// The counter layout, spelled out: what an attention kernel must follow to open the rows.
TEST(a_record_takes_the_bytes_that_the_layout_names) {
  Random random(3);
  const ChaChaKey key = random_key(random);
  const uint64_t seq = 0x1122334455667788u + 5;
  const RowId id{seq, 0x0102, 0x0304};
  const auto keystream = [&](uint32_t block, uint32_t part, uint64_t number) {
    const kernels::ChaChaBlock out = kernels::chacha_block<12>(
        key, {{block, 0x01020304u | part << 14, static_cast<uint32_t>(number),
               static_cast<uint32_t>(number >> 32)}});
    Bytes bytes(64);
    std::memcpy(bytes.data(), out.words, 64);
    return bytes;
  };
  const Record r = sealed(key, id, {Bytes(72), Bytes(72), Bytes(8)});
  for (size_t i = 0; i < 72; ++i) {
    CHECK_EQ(r.k[i], keystream(static_cast<uint32_t>(i / 64), 0, seq)[i % 64]);
    CHECK_EQ(r.v[i], keystream(static_cast<uint32_t>(i / 64), 1, seq)[i % 64]);
  }
  for (size_t i = 0; i < 8; ++i)
    CHECK_EQ(r.scales[i], keystream(0, 2, seq / 8)[seq % 8 * 8 + i]);
}

TEST(a_sealed_row_opens_to_itself_and_to_nothing_else) {
  Random random(1);
  for (const size_t row_bytes : {8, 24, 64, 72, 128, 1024}) {
    for (const bool scaled : {false, true}) {
      set_context("row of ", row_bytes, " scales ", scaled);
      const ChaChaKey key = random_key(random);
      const Record plain{random_bytes(random, row_bytes), random_bytes(random, row_bytes),
                         random_bytes(random, scaled ? 8 : 0)};
      const RowId id{random.bits(), 7, 3};
      const Record closed = sealed(key, id, plain);
      CHECK(sealed(key, id, closed) == plain);
      ChaChaKey other = key;
      other.words[5] ^= 1;
      for (const Record& wrong :
           {sealed(other, id, closed), sealed(key, {id.seq + 1, id.layer, id.head}, closed),
            sealed(key, {id.seq ^ uint64_t{1} << 63, 7, 3}, closed),
            sealed(key, {id.seq, 6, 3}, closed), sealed(key, {id.seq, 7, 2}, closed)}) {
        CHECK(wrong.k != plain.k && wrong.v != plain.v);
        CHECK(!scaled || wrong.scales != plain.scales);
      }
    }
  }
}

// Sealed zeros are keystream. Eight bytes of it, anywhere in these 1,224 records, are unlike any
// other eight.
TEST(no_two_places_of_a_cache_share_keystream) {
  Random random(2);
  const ChaChaKey key = random_key(random);
  std::set<uint64_t> seen;
  size_t count = 0;
  std::vector<uint64_t> seqs = {0xffffffffu, 0x100000000u, ~uint64_t{0}}; // where words meet
  for (uint64_t s = 0; s < 48; ++s)
    seqs.push_back(s);
  for (const uint16_t layer : {0, 1, 255, 256}) {
    for (const uint16_t head : {0, 1, 2, 3, 255, 1023}) {
      for (const uint64_t seq : seqs) {
        const Record r = sealed(key, {seq, layer, head}, {Bytes(136), Bytes(136), Bytes(8)});
        for (const Bytes* part : {&r.k, &r.v, &r.scales}) {
          for (size_t at = 0; at < part->size(); at += 8) {
            uint64_t word;
            std::memcpy(&word, part->data() + at, 8);
            seen.insert(word);
            ++count;
          }
        }
      }
    }
  }
  CHECK_EQ(count, size_t{4 * 6 * 51 * 35});
  CHECK_EQ(seen.size(), count);
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
