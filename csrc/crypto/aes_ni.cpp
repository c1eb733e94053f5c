#include "aes_ni.h"

#include <cstring>
#include <stdexcept>

#include "aes_ctr.h"

#if defined(__AES__)
#include <immintrin.h>

namespace ptmo {
namespace {

// The rest of a counter block for block number `i` of a record: layer, stream, block, big-endian,
// in the upper 8 bytes.
inline uint64_t tail_of(uint16_t layer, uint16_t stream, uint32_t i) {
  return __builtin_bswap64(static_cast<uint64_t>(layer) << 48 |
                           static_cast<uint64_t>(stream) << 32 | i);
}

// Encrypts N counter blocks. The round keys are read from the arena at each use: they must not be
// kept in registers long enough for the compiler to spill them to the stack.
template <int N> inline void encrypt(const __m128i* keys, __m128i* b) {
  const __m128i first = _mm_load_si128(keys);
  for (int i = 0; i < N; ++i)
    b[i] = _mm_xor_si128(b[i], first);
  for (int round = 1; round < 10; ++round) {
    const __m128i k = _mm_load_si128(keys + round);
    for (int i = 0; i < N; ++i)
      b[i] = _mm_aesenc_si128(b[i], k);
  }
  const __m128i last = _mm_load_si128(keys + 10);
  for (int i = 0; i < N; ++i)
    b[i] = _mm_aesenclast_si128(b[i], last);
}

inline void xor16(const uint8_t* in, __m128i keystream, uint8_t* out) {
  const __m128i text = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_xor_si128(text, keystream));
}

} // namespace

bool aes_ni_supported() {
  return __builtin_cpu_supports("aes");
}

void aes_ni_ctr_xor(const AesRoundKeys& keys, const uint64_t* seqs, int records, uint16_t layer,
                    uint16_t stream, const uint8_t* in, size_t record_bytes, uint8_t* out) {
  // The asm hides that these are the same keys as in the last call: the compiler then cannot hoist
  // and spill them across this function's callers.
  const auto* rk = reinterpret_cast<const __m128i*>(keys.bytes);
  asm volatile("" : "+r"(rk));
  for (int r = 0; r < records; ++r, in += record_bytes, out += record_bytes) {
    const auto seq = static_cast<long long>(__builtin_bswap64(seqs[r]));
    const auto counter = [&](uint32_t i) {
      return _mm_set_epi64x(static_cast<long long>(tail_of(layer, stream, i)), seq);
    };
    size_t at = 0;
    uint32_t i = 0;
    for (; at + 64 <= record_bytes; at += 64, i += 4) {
      __m128i b[4] = {counter(i), counter(i + 1), counter(i + 2), counter(i + 3)};
      encrypt<4>(rk, b);
      for (int j = 0; j < 4; ++j)
        xor16(in + at + 16 * j, b[j], out + at + 16 * j);
    }
    for (; at + 16 <= record_bytes; at += 16, ++i) {
      __m128i b[1] = {counter(i)};
      encrypt<1>(rk, b);
      xor16(in + at, b[0], out + at);
    }
    if (at < record_bytes) {
      // Copied in before the keystream exists: a call in between would spill it to the stack.
      uint8_t rest[16] = {};
      std::memcpy(rest, in + at, record_bytes - at);
      __m128i b[1] = {counter(i)};
      encrypt<1>(rk, b);
      xor16(rest, b[0], rest);
      std::memcpy(out + at, rest, record_bytes - at);
      std::memset(rest, 0, sizeof(rest));
      asm volatile("" : : "r"(rest) : "memory"); // keeps the wipe
    }
  }
}

} // namespace ptmo

#else

namespace ptmo {

bool aes_ni_supported() {
  return false;
}

void aes_ni_ctr_xor(const AesRoundKeys&, const uint64_t*, int, uint16_t, uint16_t, const uint8_t*,
                    size_t, uint8_t*) {
  throw std::logic_error("AES instructions are not in this build");
}

} // namespace ptmo
#endif
