#include "aes_ni.h"

#include <stdexcept>

#include "aes_ctr_records.h"
#include "wipe_registers.h"

#if defined(__AES__)
#include <immintrin.h>

namespace ptmo {
namespace {

struct AesNi {
  using Block = __m128i;

  static Block pair(uint64_t seq, uint64_t place) {
    return _mm_set_epi64x(static_cast<long long>(place), static_cast<long long>(seq));
  }
  static Block next(Block pair) { return _mm_add_epi64(pair, _mm_set_epi64x(1, 0)); }
  static Block counter(Block pair) {
    return _mm_shuffle_epi8(pair, _mm_set_epi64x(0x08090a0b0c0d0e0f, 0x0001020304050607));
  }
  static Block add(Block a, Block b) { return _mm_xor_si128(a, b); }
  static Block load(const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static Block load_half(const uint8_t* p) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  }
  static void store(uint8_t* p, Block b) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), b); }
  static void store_half(uint8_t* p, Block b) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), b);
  }

  // The round keys are read from the arena at each use: they must not be kept in registers long
  // enough for the compiler to spill them to the stack.
  template <int N> static void encrypt(const uint8_t* keys, Block* b) {
    const Block first = load(keys);
    for (int i = 0; i < N; ++i)
      b[i] = _mm_xor_si128(b[i], first);
    for (int round = 1; round < 10; ++round) {
      const Block k = load(keys + 16 * round);
      for (int i = 0; i < N; ++i)
        b[i] = _mm_aesenc_si128(b[i], k);
    }
    const Block last = load(keys + 160);
    for (int i = 0; i < N; ++i)
      b[i] = _mm_aesenclast_si128(b[i], last);
  }
};

} // namespace

bool aes_ni_supported() {
  return __builtin_cpu_supports("aes");
}

void aes_ni_ctr_xor(const AesRoundKeys& keys, uint16_t layer, uint16_t head, const KvRows* parts,
                    int count, size_t row_bytes) {
  xor_rows<AesNi>(keys, layer, head, parts, count, row_bytes);
  wipe_registers();
}

} // namespace ptmo

#else

namespace ptmo {

bool aes_ni_supported() {
  return false;
}

void aes_ni_ctr_xor(const AesRoundKeys&, uint16_t, uint16_t, const KvRows*, int, size_t) {
  throw std::logic_error("AES instructions are not in this build");
}

} // namespace ptmo
#endif
