#include "aes_armv8.h"

#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include <cstring>

#include "aes_ctr.h"

namespace ptmo {
namespace {

// Encrypts N counter blocks. The round keys are read from the arena at each use: they must not be
// kept in registers long enough for the compiler to spill them to the stack. aese adds the round
// key before the substitution, so the last key is added apart.
template <int N> inline void encrypt(const uint8_t* keys, uint8x16_t* b) {
  for (int round = 0; round < 9; ++round) {
    const uint8x16_t k = vld1q_u8(keys + 16 * round);
    for (int i = 0; i < N; ++i)
      b[i] = vaesmcq_u8(vaeseq_u8(b[i], k));
  }
  const uint8x16_t k = vld1q_u8(keys + 144), last = vld1q_u8(keys + 160);
  for (int i = 0; i < N; ++i)
    b[i] = veorq_u8(vaeseq_u8(b[i], k), last);
}

inline void xor16(const uint8_t* in, uint8x16_t keystream, uint8_t* out) {
  vst1q_u8(out, veorq_u8(vld1q_u8(in), keystream));
}

} // namespace

bool aes_armv8_supported() {
  return (getauxval(AT_HWCAP) & HWCAP_AES) != 0;
}

void aes_armv8_ctr_xor(const AesRoundKeys& keys, const uint64_t* seqs, int records, uint16_t layer,
                       uint16_t stream, const uint8_t* in, size_t record_bytes, uint8_t* out) {
  // The asm hides that these are the same keys as in the last call: the compiler then cannot hoist
  // and spill them across this function's callers.
  const uint8_t* rk = keys.bytes;
  asm volatile("" : "+r"(rk));
  const uint64_t place = static_cast<uint64_t>(layer) << 48 | static_cast<uint64_t>(stream) << 32;
  for (int r = 0; r < records; ++r, in += record_bytes, out += record_bytes) {
    const uint64_t seq = __builtin_bswap64(seqs[r]);
    const auto counter = [&](uint32_t i) {
      return vreinterpretq_u8_u64(
          vcombine_u64(vcreate_u64(seq), vcreate_u64(__builtin_bswap64(place | i))));
    };
    size_t at = 0;
    uint32_t i = 0;
    for (; at + 64 <= record_bytes; at += 64, i += 4) {
      uint8x16_t b[4] = {counter(i), counter(i + 1), counter(i + 2), counter(i + 3)};
      encrypt<4>(rk, b);
      for (int j = 0; j < 4; ++j)
        xor16(in + at + 16 * j, b[j], out + at + 16 * j);
    }
    for (; at + 16 <= record_bytes; at += 16, ++i) {
      uint8x16_t b[1] = {counter(i)};
      encrypt<1>(rk, b);
      xor16(in + at, b[0], out + at);
    }
    if (at < record_bytes) {
      // Copied in before the keystream exists: a call in between would spill it to the stack.
      uint8_t rest[16] = {};
      std::memcpy(rest, in + at, record_bytes - at);
      uint8x16_t b[1] = {counter(i)};
      encrypt<1>(rk, b);
      xor16(rest, b[0], rest);
      std::memcpy(out + at, rest, record_bytes - at);
      std::memset(rest, 0, sizeof(rest));
      asm volatile("" : : "r"(rest) : "memory"); // keeps the wipe
    }
  }
}

} // namespace ptmo
