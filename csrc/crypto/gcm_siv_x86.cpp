// AES-256-GCM-SIV's primitives on the x86 AES and carry-less multiplication instructions.
#include "gcm_siv.h"

#if defined(__AES__) && defined(__PCLMUL__)
#include <immintrin.h>

#include "wipe_registers.h"

namespace ptmo {
namespace {

constexpr int kRounds = 14;

inline __m128i load(const uint8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

inline void store(__m128i value, uint8_t* p) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), value);
}

// XORs N blocks with the keystream of counters c, c + 1, ... The round keys are read from memory at
// each use, so that they are not spilled to the stack.
template <int N>
inline __m128i crypt(const Aes256RoundKeys& keys, __m128i c, const uint8_t* in, uint8_t* out) {
  const __m128i one = _mm_set_epi32(0, 0, 0, 1); // paddd wraps the lowest 32 bits alone
  __m128i b[N];
  for (int i = 0; i < N; ++i) {
    b[i] = _mm_xor_si128(c, load(keys.bytes));
    c = _mm_add_epi32(c, one);
  }
  for (int round = 1; round < kRounds; ++round)
    for (int i = 0; i < N; ++i)
      b[i] = _mm_aesenc_si128(b[i], load(keys.bytes + 16 * round));
  for (int i = 0; i < N; ++i) {
    b[i] = _mm_aesenclast_si128(b[i], load(keys.bytes + 16 * kRounds));
    store(_mm_xor_si128(b[i], load(in + 16 * i)), out + 16 * i);
  }
  return c;
}

void ctr(const Aes256RoundKeys& keys, uint8_t counter[16], const uint8_t* in, size_t blocks,
         uint8_t* out) {
  __m128i c = load(counter);
  for (; blocks >= 8; blocks -= 8, in += 128, out += 128)
    c = crypt<8>(keys, c, in, out);
  for (; blocks > 0; --blocks, in += 16, out += 16)
    c = crypt<1>(keys, c, in, out);
  store(c, counter);
  wipe_registers();
}

// a * b * x^-128 modulo x^128 + x^127 + x^126 + x^121 + 1: a schoolbook product, then Montgomery's
// reduction in two steps of 64 bits (Gueron, Langley & Lindell, RFC 8452, appendix A's field).
inline __m128i multiply(__m128i a, __m128i b) {
  const __m128i poly = _mm_set_epi64x(static_cast<long long>(0xc200000000000000u), 1);
  __m128i low = _mm_clmulepi64_si128(a, b, 0x00), high = _mm_clmulepi64_si128(a, b, 0x11);
  const __m128i middle =
      _mm_xor_si128(_mm_clmulepi64_si128(a, b, 0x10), _mm_clmulepi64_si128(a, b, 0x01));
  low = _mm_xor_si128(low, _mm_slli_si128(middle, 8));
  high = _mm_xor_si128(high, _mm_srli_si128(middle, 8));
  for (int step = 0; step < 2; ++step)
    low = _mm_xor_si128(_mm_shuffle_epi32(low, 0x4e), _mm_clmulepi64_si128(low, poly, 0x10));
  return _mm_xor_si128(high, low);
}

void polyval(const uint8_t key[16], uint8_t sum[16], const uint8_t* in, size_t blocks) {
  const __m128i h = load(key);
  __m128i s = load(sum);
  for (; blocks > 0; --blocks, in += 16)
    s = multiply(_mm_xor_si128(s, load(in)), h);
  store(s, sum);
  wipe_registers();
}

} // namespace

const GcmSivKernels* gcm_siv_x86() {
  static const bool supported = __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
  static const GcmSivKernels kernels{"x86", ctr, polyval};
  return supported ? &kernels : nullptr;
}

} // namespace ptmo

#else

namespace ptmo {

const GcmSivKernels* gcm_siv_x86() {
  return nullptr;
}

} // namespace ptmo
#endif
