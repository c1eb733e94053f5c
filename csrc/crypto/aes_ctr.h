// AES-128 in counter mode (FIPS 197, NIST SP 800-38A): the keystream of the sealed cache.
//
// Counter block, big-endian: seq u64 | layer u16 | stream u16 | block u32. `stream` is
// kind << 14 | kv_head, kind 0 = K row, 1 = V row, 2 = scales. A (key, seq, layer, stream) is used
// for one record only: a session's sequence numbers never repeat (csrc/kv/kv_cache.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ptmo {

enum class StreamKind : uint16_t { kKey = 0, kValue = 1, kScales = 2 };

// 11 round keys of 16 bytes. Lives in the secret arena, nowhere else.
struct alignas(16) AesRoundKeys {
  uint8_t bytes[11 * 16];
};

void aes128_expand(const uint8_t key[16], AesRoundKeys* out);

// K, V and, or null, their pairs of scales, 8 bytes a row; in each, rows follow without a gap.
template <typename Byte> struct KvRecords {
  Byte *k, *v, *scales;
};

// Rows of one (layer, KV head), row i with the sequence number seqs[i], in ascending order (gaps
// are allowed, as a rollback leaves them): what is read, what written.
struct KvRows {
  const uint64_t* seqs;
  int count;
  KvRecords<const uint8_t> in;
  KvRecords<uint8_t> out;
};

// XORs the rows of `count` parts with their keystreams; K and V of a row have `row_bytes` bytes
// each. All parts have scales or none has. in == out is allowed. Reads the round keys, writes only
// `out`.
void aes128_ctr_xor(const AesRoundKeys& keys, uint16_t layer, uint16_t head, const KvRows* parts,
                    int count, size_t row_bytes);

// Whether that uses the CPU's AES instructions (constant time), and which.
bool aes_hardware();
const char* aes_level();

// The hardware levels this CPU has, best first; aes128_ctr_xor takes the first.
struct AesLevel {
  const char* name;
  decltype(&aes128_ctr_xor) ctr_xor;
};
std::vector<AesLevel> aes_hardware_levels();

// The portable version of the same, kept callable for the tests (aes_block.h: not constant time).
void aes128_ctr_xor_portable(const AesRoundKeys& keys, uint16_t layer, uint16_t head,
                             const KvRows* parts, int count, size_t row_bytes);

} // namespace ptmo
