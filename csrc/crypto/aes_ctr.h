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

// XORs `records` records of `record_bytes` each with their keystreams: record i uses seqs[i].
// in == out is allowed. Reads the round keys, writes only `out`.
void aes128_ctr_xor(const AesRoundKeys& keys, const uint64_t* seqs, int records, uint16_t layer,
                    StreamKind kind, uint16_t head, const uint8_t* in, size_t record_bytes,
                    uint8_t* out);

// Whether that uses the CPU's AES instructions (constant time), and which.
bool aes_hardware();
const char* aes_level();

// The hardware levels this CPU has, best first; aes128_ctr_xor takes the first.
struct AesLevel {
  const char* name;
  void (*ctr_xor)(const AesRoundKeys& keys, const uint64_t* seqs, int records, uint16_t layer,
                  uint16_t stream, const uint8_t* in, size_t record_bytes, uint8_t* out);
};
std::vector<AesLevel> aes_hardware_levels();

// The portable version of the same, kept callable for the tests (aes_block.h: not constant time).
void aes128_ctr_xor_portable(const AesRoundKeys& keys, const uint64_t* seqs, int records,
                             uint16_t layer, StreamKind kind, uint16_t head, const uint8_t* in,
                             size_t record_bytes, uint8_t* out);

} // namespace ptmo
