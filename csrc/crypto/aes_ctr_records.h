// Counter mode over records (aes_ctr.h), eight blocks in flight, for the levels whose register
// holds one block. Such an `Aes`:
//   Block                      a register of 16 bytes
//   pair(seq, place)           two integers, seq in the first half
//   next(pair)                 adds 1 to place
//   counter(pair)              the halves as they stand in a counter block, big-endian
//   encrypt<N>(keys, blocks)   N blocks, round by round
//   load, load_half            16 and 8 bytes
//   store(p, block), store_half
//   add(a, b)                  exclusive or
#pragma once

#include <cstring>

#include "aes_ctr.h"

namespace ptmo {
namespace {

constexpr int kInFlight = 8;

// The counter blocks of records of `per` blocks each.
template <typename Aes> struct Counters {
  const uint64_t* seqs;
  uint64_t place; // layer | stream | block 0
  uint32_t per;
  uint32_t left = 0; // of the record in hand
  typename Aes::Block pair{};

  typename Aes::Block next() {
    if (left == 0) {
      pair = Aes::pair(*seqs++, place);
      left = per;
    }
    const typename Aes::Block out = Aes::counter(pair);
    pair = Aes::next(pair);
    --left;
    return out;
  }
};

template <typename Aes, int N>
inline void xor_next(const uint8_t* keys, Counters<Aes>& counters, const uint8_t* in,
                     uint8_t* out) {
  typename Aes::Block b[N];
  for (int i = 0; i < N; ++i)
    b[i] = counters.next();
  Aes::template encrypt<N>(keys, b);
  for (int i = 0; i < N; ++i)
    Aes::store(out + 16 * i, Aes::add(Aes::load(in + 16 * i), b[i]));
}

// Records of whole blocks.
template <typename Aes>
void xor_blocks(const uint8_t* keys, const uint64_t* seqs, size_t records, uint64_t place,
                const uint8_t* in, size_t per, uint8_t* out) {
  Counters<Aes> counters{seqs, place, static_cast<uint32_t>(per)};
  size_t blocks = records * per;
  for (; blocks >= kInFlight; blocks -= kInFlight, in += 16 * kInFlight, out += 16 * kInFlight)
    xor_next<Aes, kInFlight>(keys, counters, in, out);
  for (; blocks >= 4; blocks -= 4, in += 64, out += 64) // a row that is written alone
    xor_next<Aes, 4>(keys, counters, in, out);
  for (; blocks > 0; --blocks, in += 16, out += 16)
    xor_next<Aes, 1>(keys, counters, in, out);
}

// Half a block of each of N records that lie `stride` bytes apart: scales, short INT4 rows.
template <typename Aes, int N>
inline void xor_halves(const uint8_t* keys, const uint64_t* seqs, uint64_t place, const uint8_t* in,
                       size_t stride, uint8_t* out) {
  typename Aes::Block b[N];
  for (int i = 0; i < N; ++i)
    b[i] = Aes::counter(Aes::pair(seqs[i], place));
  Aes::template encrypt<N>(keys, b);
  for (int i = 0; i < N; ++i)
    Aes::store_half(out + stride * i, Aes::add(Aes::load_half(in + stride * i), b[i]));
}

// The end of a record, less than a block.
template <typename Aes>
void xor_rest(const uint8_t* keys, uint64_t seq, uint64_t place, const uint8_t* in, size_t bytes,
              uint8_t* out) {
  // Copied in before the keystream exists: a call in between would spill it to the stack.
  uint8_t rest[16] = {};
  std::memcpy(rest, in, bytes);
  Counters<Aes> counters{&seq, place, 1};
  xor_next<Aes, 1>(keys, counters, rest, rest);
  std::memcpy(out, rest, bytes);
  std::memset(rest, 0, sizeof(rest));
  asm volatile("" : : "r"(rest) : "memory"); // keeps the wipe
}

// One stream of the rows: records of `record_bytes`.
template <typename Aes>
void xor_records(const uint8_t* keys, const uint64_t* seqs, int records, uint16_t layer,
                 StreamKind kind, uint16_t head, const uint8_t* in, size_t record_bytes,
                 uint8_t* out) {
  if (records == 0)
    return;
  const auto stream = static_cast<uint16_t>(static_cast<uint16_t>(kind) << 14 | head);
  const uint64_t place = static_cast<uint64_t>(layer) << 48 | static_cast<uint64_t>(stream) << 32;
  const size_t per = record_bytes / 16, rest = record_bytes % 16, whole = 16 * per;
  if (rest == 0) {
    xor_blocks<Aes>(keys, seqs, static_cast<size_t>(records), place, in, per, out);
    return;
  }
  for (int r = 0; per > 0 && r < records; ++r)
    xor_blocks<Aes>(keys, seqs + r, 1, place, in + record_bytes * r, per, out + record_bytes * r);
  in += whole;
  out += whole;
  int r = 0;
  for (; rest == 8 && r + kInFlight <= records; r += kInFlight)
    xor_halves<Aes, kInFlight>(keys, seqs + r, place | per, in + record_bytes * r, record_bytes,
                               out + record_bytes * r);
  for (; r < records; ++r)
    xor_rest<Aes>(keys, seqs[r], place | per, in + record_bytes * r, rest, out + record_bytes * r);
}

// As aes128_ctr_xor.
template <typename Aes>
void xor_rows(const AesRoundKeys& round_keys, uint16_t layer, uint16_t head, const KvRows* parts,
              int count, size_t row_bytes) {
  for (int i = 0; i < count; ++i) {
    const KvRows& rows = parts[i];
    const auto stream = [&](StreamKind kind, const uint8_t* from, size_t bytes, uint8_t* to) {
      // The asm hides that these are the same keys as in the last call: the compiler then cannot
      // hoist and spill them across this function's callers.
      const uint8_t* keys = round_keys.bytes;
      asm volatile("" : "+r"(keys));
      xor_records<Aes>(keys, rows.seqs, rows.count, layer, kind, head, from, bytes, to);
    };
    stream(StreamKind::kKey, rows.in.k, row_bytes, rows.out.k);
    stream(StreamKind::kValue, rows.in.v, row_bytes, rows.out.v);
    if (rows.in.scales != nullptr)
      stream(StreamKind::kScales, rows.in.scales, 8, rows.out.scales);
  }
}

} // namespace
} // namespace ptmo
