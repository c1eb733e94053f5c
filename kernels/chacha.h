// ChaCha (Bernstein 2008, block layout of RFC 8439) in counter mode: the keystream of the device's
// sealed cache. Host and device share it; a block stays in registers.
//
// Why not AES, as the CPU's cache has: a GPU has no AES instruction. Operations for a byte:
//   ChaCha, 12 rounds       12 rounds x 48 (add, xor, rotate: one instruction each) and 16
//                           additions for 64 bytes: 9.3, with no table and no secret address
//   AES-128, tables         10 rounds x 16 x (extract a byte, look it up, xor) for 16 bytes: 30,
//                           10 of them loads from shared memory whose banks (so: whose time)
//                           depend on the key
//   AES-128, bit-sliced     10 rounds x (16 S-boxes of 115 gates (Boyar and Peralta 2010), 400 for
//                           MixColumns, 128 for the key) for 32 blocks: 46 gates, 20 to 25
//                           three-input instructions, and 128 registers of state; a row of 64 bytes
//                           would use an eighth of the least batch
// The best attack known reaches 7 of the rounds (Aumasson et al. 2008 and what followed); Adiantum
// encrypts disks with 12 (Crowley and Biggers 2018).
//
// The block's input: word 12 = block number, word 13 = layer << 16 | stream, words 14 and 15 = a
// 64-bit number, low word first. `stream` is part << 14 | kv_head, as csrc/crypto/aes_ctr.h has it.
// A K or V row of (seq, layer, head) takes blocks 0.. of the number seq. Scales take 8 bytes a row,
// an eighth of a block: rows 8n..8n + 7 share block 0 of the number n, each its own 8 bytes of it.
// Sequence numbers never repeat in a family, so no byte of keystream serves twice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace ptmo::kernels {

constexpr int kSealRounds = 12;
constexpr int kChaChaBytes = 64;

struct ChaChaKey {
  uint32_t words[8]; // 256 bits, little-endian
};
struct ChaChaBlock {
  uint32_t words[16];
};
struct ChaChaInput {
  uint32_t words[4]; // the state's last four
};

PTMO_HD inline uint32_t rotate_left(uint32_t x, int bits) {
  return x << bits | x >> (32 - bits);
}

PTMO_HD inline void chacha_quarter_round(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
  a += b;
  d = rotate_left(d ^ a, 16);
  c += d;
  b = rotate_left(b ^ c, 12);
  a += b;
  d = rotate_left(d ^ a, 8);
  c += d;
  b = rotate_left(b ^ c, 7);
}

template <int kRounds>
PTMO_HD inline ChaChaBlock chacha_block(const ChaChaKey& key, const ChaChaInput& input) {
  static_assert(kRounds % 2 == 0, "a column round and a diagonal round go together");
  constexpr uint32_t kConstants[4] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u};
  ChaChaBlock block;
  uint32_t (&x)[16] = block.words;
  PTMO_UNROLL
  for (int i = 0; i < 4; ++i) {
    x[i] = kConstants[i];
    x[4 + i] = key.words[i];
    x[8 + i] = key.words[4 + i];
    x[12 + i] = input.words[i];
  }
  PTMO_UNROLL
  for (int round = 0; round < kRounds; round += 2) {
    PTMO_UNROLL
    for (int i = 0; i < 4; ++i)
      chacha_quarter_round(x[i], x[4 + i], x[8 + i], x[12 + i]);
    PTMO_UNROLL
    for (int i = 0; i < 4; ++i)
      chacha_quarter_round(x[i], x[4 + (i + 1) % 4], x[8 + (i + 2) % 4], x[12 + (i + 3) % 4]);
  }
  PTMO_UNROLL
  for (int i = 0; i < 4; ++i) {
    x[i] += kConstants[i];
    x[4 + i] += key.words[i];
    x[8 + i] += key.words[4 + i];
    x[12 + i] += input.words[i];
  }
  return block;
}

// The parts of a row's record, each with a stream of its own.
enum class RowPart : uint32_t { kKey = 0, kValue = 1, kScales = 2 };

// Whose record: a token row of one (layer, KV head).
struct RowId {
  uint64_t seq;
  uint16_t layer, head; // head < 2^14
};

PTMO_HD inline ChaChaBlock row_keystream(const ChaChaKey& key, const RowId& row, RowPart part,
                                         uint32_t block) {
  const uint64_t number = part == RowPart::kScales ? row.seq / 8 : row.seq;
  const uint32_t stream = static_cast<uint32_t>(part) << 14 | row.head;
  return chacha_block<kSealRounds>(
      key, {{block, static_cast<uint32_t>(row.layer) << 16 | stream, static_cast<uint32_t>(number),
             static_cast<uint32_t>(number >> 32)}});
}

// The row's two words of its scales' block. Compared with each place: an index that is not a
// constant would put the block in memory.
struct ScaleWords {
  uint32_t k, v;
};
PTMO_HD inline ScaleWords scale_words(const ChaChaBlock& block, uint64_t seq) {
  const int place = static_cast<int>(seq % 8);
  ScaleWords out{0, 0};
  PTMO_UNROLL
  for (int i = 0; i < 8; ++i) {
    out.k = i == place ? block.words[2 * i] : out.k;
    out.v = i == place ? block.words[2 * i + 1] : out.v;
  }
  return out;
}

// One row's record: K and V, `row_bytes` each, a multiple of 4, and 8 bytes of scales or null.
struct RowRecord {
  uint8_t *k, *v, *scales;
};

PTMO_HD inline void xor_word(uint8_t* at, uint32_t with) {
  uint32_t word;
  std::memcpy(&word, at, sizeof(word));
  word ^= with;
  std::memcpy(at, &word, sizeof(word));
}

// Seals a row's record in place, or opens it.
PTMO_HD inline void chacha_xor_row(const ChaChaKey& key, const RowId& id, const RowRecord& record,
                                   size_t row_bytes) {
  for (size_t at = 0; at < row_bytes; at += kChaChaBytes) {
    const auto number = static_cast<uint32_t>(at / kChaChaBytes);
    const ChaChaBlock k = row_keystream(key, id, RowPart::kKey, number);
    const ChaChaBlock v = row_keystream(key, id, RowPart::kValue, number);
    PTMO_UNROLL
    for (size_t i = 0; i < 16; ++i) {
      if (at + 4 * i >= row_bytes)
        break;
      xor_word(record.k + at + 4 * i, k.words[i]);
      xor_word(record.v + at + 4 * i, v.words[i]);
    }
  }
  if (record.scales == nullptr)
    return;
  const ScaleWords with = scale_words(row_keystream(key, id, RowPart::kScales, 0), id.seq);
  xor_word(record.scales, with.k);
  xor_word(record.scales + 4, with.v);
}

} // namespace ptmo::kernels
