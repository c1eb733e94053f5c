// Four AES blocks a register, eight registers in flight: a KV row of 64 bytes is one register.
#include "aes_vaes.h"

#include <stdexcept>

#include "aes_ctr.h"
#include "aes_ni.h"

#if defined(__VAES__) && defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>

namespace ptmo {
namespace {

constexpr int kInFlight = 8;
constexpr size_t kMaxRecordBytes = 4096; // 256 blocks: their numbers are one byte

inline __m512i round_key(const uint8_t* keys, int i) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(keys) + i));
}

// out = in ^ AES(counters), N registers; `keys` is read anew for each round.
template <int N>
inline void encrypt_xor(const uint8_t* keys, __m512i* counters, const uint8_t* in, uint8_t* out) {
  const __m512i first = round_key(keys, 0);
  for (int i = 0; i < N; ++i)
    counters[i] = _mm512_xor_si512(counters[i], first);
  for (int round = 1; round < 10; ++round) {
    const __m512i k = round_key(keys, round);
    for (int i = 0; i < N; ++i)
      counters[i] = _mm512_aesenc_epi128(counters[i], k);
  }
  // The last round ends with an exclusive or of its key: the text goes in with it.
  const __m512i last = round_key(keys, 10);
  for (int i = 0; i < N; ++i) {
    const __m512i text = _mm512_loadu_si512(in + 64 * i);
    _mm512_storeu_si512(out + 64 * i,
                        _mm512_aesenclast_epi128(counters[i], _mm512_xor_si512(last, text)));
  }
}

// layer | stream | block, big-endian, in the upper half of each block; `b`: the four block numbers,
// each below 256.
inline __m512i tails(uint16_t layer, uint16_t stream, int b0, int b1, int b2, int b3) {
  const uint64_t tail =
      __builtin_bswap64(static_cast<uint64_t>(layer) << 48 | static_cast<uint64_t>(stream) << 32);
  const auto with = [tail](int b) {
    return static_cast<long long>(tail | static_cast<uint64_t>(b) << 56);
  };
  return _mm512_set_epi64(with(b3), 0, with(b2), 0, with(b1), 0, with(b0), 0);
}

// Byte-swaps the lower half of each 16 bytes and clears the upper.
inline __m512i swap_low(__m512i x) {
  return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(_mm_set_epi8(-1, -1, -1, -1, -1, -1, -1, -1,
                                                                    0, 1, 2, 3, 4, 5, 6, 7)));
}

// Records of one register: rows of 64 bytes.
struct OneRegister {
  const uint64_t* seqs;
  __m512i base;

  __m512i next() {
    return _mm512_or_si512(swap_low(_mm512_set1_epi64(static_cast<long long>(*seqs++))), base);
  }
};

// Records of `per` registers: each goes on counting its record's blocks.
struct WholeRegisters {
  const uint64_t* seqs;
  __m512i base;
  int per;
  int at = 0; // registers of the record that are done

  __m512i next() {
    const __m512i seq = swap_low(_mm512_set1_epi64(static_cast<long long>(*seqs)));
    const __m512i block =
        _mm512_maskz_set1_epi64(0xaa, static_cast<long long>(static_cast<uint64_t>(4 * at) << 56));
    if (++at == per) {
      at = 0;
      ++seqs;
    }
    return _mm512_or_si512(seq, _mm512_add_epi64(base, block));
  }
};

// Records of two blocks: two records a register.
struct HalfRegisters {
  const uint64_t* seqs;
  __m512i base;

  __m512i next() {
    const __m128i two = _mm_loadu_si128(reinterpret_cast<const __m128i*>(seqs));
    seqs += 2;
    const __m512i seq = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1),
                                                 _mm512_castsi128_si512(two));
    return _mm512_or_si512(swap_low(seq), base);
  }
};

template <typename Counters>
void xor_registers(const uint8_t* keys, Counters counters, int registers, const uint8_t* in,
                   uint8_t* out) {
  __m512i c[kInFlight];
  int u = 0;
  for (; u + kInFlight <= registers; u += kInFlight, in += 64 * kInFlight, out += 64 * kInFlight) {
    for (__m512i& counter : c)
      counter = counters.next();
    encrypt_xor<kInFlight>(keys, c, in, out);
  }
  for (; u < registers; ++u, in += 64, out += 64) {
    c[0] = counters.next();
    encrypt_xor<1>(keys, c, in, out);
  }
}

// Records of 8 bytes, half a block each: the keystreams of eight records from two registers.
void xor_scales(const uint8_t* keys, const uint64_t* seqs, int records, __m512i base,
                const uint8_t* in, uint8_t* out) {
  const __m512i even = _mm512_setr_epi64(0, 0, 2, 2, 4, 4, 6, 6),
                odd = _mm512_setr_epi64(1, 1, 3, 3, 5, 5, 7, 7);
  const __m512i first = round_key(keys, 0), last = round_key(keys, 10);
  for (int r = 0; r < records; r += 4 * kInFlight) {
    __m512i c[kInFlight], text[kInFlight / 2];
    __mmask8 present[kInFlight / 2];
    for (int j = 0; j < kInFlight / 2; ++j) {
      const int left = records - r - 8 * j;
      present[j] = static_cast<__mmask8>(left >= 8 ? 0xff : left <= 0 ? 0 : (1 << left) - 1);
      const __m512i seq = _mm512_maskz_loadu_epi64(present[j], seqs + r + 8 * j);
      text[j] = _mm512_maskz_loadu_epi64(present[j], in + 8 * (r + 8 * j));
      const auto start = [&](__m512i from) {
        const __m512i counter =
            _mm512_or_si512(swap_low(_mm512_permutexvar_epi64(from, seq)), base);
        return _mm512_xor_si512(counter, first);
      };
      c[2 * j] = start(even);
      c[2 * j + 1] = start(odd);
    }
    for (int round = 1; round < 10; ++round) {
      const __m512i k = round_key(keys, round);
      for (int i = 0; i < kInFlight; ++i)
        c[i] = _mm512_aesenc_epi128(c[i], k);
    }
    for (int j = 0; j < kInFlight / 2; ++j) {
      const __m512i stream = _mm512_unpacklo_epi64(_mm512_aesenclast_epi128(c[2 * j], last),
                                                   _mm512_aesenclast_epi128(c[2 * j + 1], last));
      _mm512_mask_storeu_epi64(out + 8 * (r + 8 * j), present[j],
                               _mm512_xor_si512(stream, text[j]));
    }
  }
}

// As wipe_registers.h, of the registers that this code uses.
inline void wipe_wide_registers() {
  _mm256_zeroall();
  asm volatile("vpxord %%zmm16, %%zmm16, %%zmm16\n\tvpxord %%zmm17, %%zmm17, %%zmm17\n\t"
               "vpxord %%zmm18, %%zmm18, %%zmm18\n\tvpxord %%zmm19, %%zmm19, %%zmm19\n\t"
               "vpxord %%zmm20, %%zmm20, %%zmm20\n\tvpxord %%zmm21, %%zmm21, %%zmm21\n\t"
               "vpxord %%zmm22, %%zmm22, %%zmm22\n\tvpxord %%zmm23, %%zmm23, %%zmm23\n\t"
               "vpxord %%zmm24, %%zmm24, %%zmm24\n\tvpxord %%zmm25, %%zmm25, %%zmm25\n\t"
               "vpxord %%zmm26, %%zmm26, %%zmm26\n\tvpxord %%zmm27, %%zmm27, %%zmm27\n\t"
               "vpxord %%zmm28, %%zmm28, %%zmm28\n\tvpxord %%zmm29, %%zmm29, %%zmm29\n\t"
               "vpxord %%zmm30, %%zmm30, %%zmm30\n\tvpxord %%zmm31, %%zmm31, %%zmm31"
               :
               :
               : "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",
                 "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
}

} // namespace

bool aes_vaes_supported() {
  return __builtin_cpu_supports("vaes") && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw");
}

void aes_vaes_ctr_xor(const AesRoundKeys& keys, const uint64_t* seqs, int records, uint16_t layer,
                      uint16_t stream, const uint8_t* in, size_t record_bytes, uint8_t* out) {
  const bool whole = record_bytes % 64 == 0 && record_bytes <= kMaxRecordBytes;
  if (record_bytes != 8 && record_bytes != 32 && !whole) {
    aes_ni_ctr_xor(keys, seqs, records, layer, stream, in, record_bytes, out);
    return;
  }
  // The asm hides that these are the same keys as in the last call (see aes_ni.cpp).
  const uint8_t* rk = keys.bytes;
  asm volatile("" : "+r"(rk));
  if (record_bytes == 8) {
    xor_scales(rk, seqs, records, tails(layer, stream, 0, 0, 0, 0), in, out);
  } else if (record_bytes == 32) {
    const int pairs = records / 2;
    xor_registers(rk, HalfRegisters{seqs, tails(layer, stream, 0, 1, 0, 1)}, pairs, in, out);
    if (records % 2 != 0) {
      const size_t done = 64 * static_cast<size_t>(pairs);
      aes_ni_ctr_xor(keys, seqs + records - 1, 1, layer, stream, in + done, 32, out + done);
    }
  } else if (record_bytes == 64) {
    xor_registers(rk, OneRegister{seqs, tails(layer, stream, 0, 1, 2, 3)}, records, in, out);
  } else {
    const int per = static_cast<int>(record_bytes / 64);
    xor_registers(rk, WholeRegisters{seqs, tails(layer, stream, 0, 1, 2, 3), per}, records * per,
                  in, out);
  }
  wipe_wide_registers();
}

} // namespace ptmo

#else

namespace ptmo {

bool aes_vaes_supported() {
  return false;
}

void aes_vaes_ctr_xor(const AesRoundKeys&, const uint64_t*, int, uint16_t, uint16_t, const uint8_t*,
                      size_t, uint8_t*) {
  throw std::logic_error("vector AES instructions are not in this build");
}

} // namespace ptmo
#endif
