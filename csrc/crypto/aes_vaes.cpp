// Four AES blocks a register, eight rows of a head in flight: K, V and their scales together.
//
// Counter-mode caching (Bernstein and Schwabe 2008; Park and Lee, FACE, CHES 2018): counter blocks
// of rows whose sequence numbers differ in the last byte alone differ, after one round, in column 2
// alone; blocks of one record in column 0 alone. The second round is linear behind its S-boxes, and
// they work on bytes apart. So the state after two rounds is base ^ diagonal:
//   base      round 2 of the state with column 2 at 0x52, whose S-box is 0: of a stream's blocks
//   diagonal  round 2, without its key, of column 2 alone: of a row, the same in all streams
// and a block costs eight rounds.
#include "aes_vaes.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "aes_ctr.h"
#include "aes_ni.h"
#include "secmem/secret_arena.h"

#if defined(__VAES__) && defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>

namespace ptmo {
namespace {

constexpr int kGroup = 8;               // rows in flight
constexpr size_t kMaxRowBytes = 4096;   // far above any head's
constexpr __mmask16 kColumn2 = 0x4444;  // of four blocks
constexpr __mmask8 kUpperHalves = 0xaa; // layer | stream | block, of four blocks

inline __m512i broadcast(const uint8_t* block) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(block)));
}

inline __m512i round_key(const uint8_t* keys, int i) {
  return broadcast(keys + 16 * i);
}

// The byte whose S-box is 0, everywhere.
inline __m512i no_byte() {
  return _mm512_set1_epi8(0x52);
}

// Counter blocks, big-endian: the lower half of each 16 bytes of `seqs` swapped, behind it `tails`.
inline __m512i counters(__m512i seqs, __m512i tails) {
  const __m512i order =
      _mm512_broadcast_i32x4(_mm_set_epi8(-1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 2, 3, 4, 5, 6, 7));
  return _mm512_or_si512(_mm512_shuffle_epi8(seqs, order), tails);
}

// layer | stream | `block`, as the upper half of a counter block.
inline __m512i tail(uint16_t layer, uint16_t stream, int block) {
  const uint64_t place = static_cast<uint64_t>(layer) << 48 | static_cast<uint64_t>(stream) << 32 |
                         static_cast<uint64_t>(block);
  return _mm512_maskz_set1_epi64(kUpperHalves, static_cast<long long>(__builtin_bswap64(place)));
}

inline __m512i first_round(const uint8_t* keys, __m512i block) {
  return _mm512_aesenc_epi128(_mm512_xor_si512(block, round_key(keys, 0)), round_key(keys, 1));
}

// The bases of four blocks. `offsets`: block numbers to add to `block`, in the last bytes.
inline __m512i base(const uint8_t* keys, uint64_t seq, uint16_t layer, uint16_t stream, int block,
                    __m512i offsets) {
  const __m512i tails = _mm512_or_si512(tail(layer, stream, block), offsets);
  const __m512i state =
      first_round(keys, counters(_mm512_set1_epi64(static_cast<long long>(seq)), tails));
  return _mm512_aesenc_epi128(_mm512_mask_mov_epi32(state, kColumn2, no_byte()),
                              round_key(keys, 2));
}

// How many of the rows from `seqs` on have numbers that differ in the last byte alone.
inline int run_length(const uint64_t* seqs, int count) {
  const auto alike = [seqs](int i) { return (seqs[0] ^ seqs[i]) >> 8 == 0; };
  if (alike(count - 1)) // then so are those between, for they ascend
    return count;
  int n = 1;
  while (n < count && alike(n))
    ++n;
  return n;
}

// What stands in memory between groups, to be wiped.
struct alignas(64) States {
  uint8_t diagonals[kGroup * 16]; // a block a row
  uint8_t k_base[64], v_base[64], scale_base[64];
};

inline void find_diagonals(const uint8_t* keys, const uint64_t* from, __m512i tails,
                           States& states) {
  const __m512i seqs = _mm512_loadu_si512(from);
  const __m512i order[2] = {_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3),
                            _mm512_setr_epi64(4, 4, 5, 5, 6, 6, 7, 7)};
  for (int i = 0; i < 2; ++i) {
    const __m512i state =
        first_round(keys, counters(_mm512_permutexvar_epi64(order[i], seqs), tails));
    _mm512_store_si512(states.diagonals + 64 * i,
                       _mm512_aesenc_epi128(_mm512_mask_mov_epi32(no_byte(), kColumn2, state),
                                            _mm512_setzero_si512()));
  }
}

// The diagonals in register I of a record's registers: a row's four times, or two rows' twice.
template <int kRowsEach, int I> inline __m512i spread(const __m512i (&diagonals)[2]) {
  constexpr int row = I * kRowsEach, a = row % 4, b = a + kRowsEach - 1;
  return _mm512_shuffle_i32x4(diagonals[row / 4], diagonals[row / 4],
                              static_cast<_MM_PERM_ENUM>(a | a << 2 | b << 4 | b << 6));
}

// The states of K's blocks and V's after two rounds.
template <int kRowsEach, int... I>
inline void start(const __m512i (&diagonals)[2], const States& states, __m512i* k, __m512i* v,
                  std::integer_sequence<int, I...>) {
  const __m512i k_base = _mm512_load_si512(states.k_base);
  const __m512i v_base = _mm512_load_si512(states.v_base);
  ((k[I] = _mm512_xor_si512(k_base, spread<kRowsEach, I>(diagonals)),
    v[I] = _mm512_xor_si512(v_base, spread<kRowsEach, I>(diagonals))),
   ...);
}

// Nothing that was read through `p` before is known to be what it reads now: so the compiler does
// not keep it in a register, which it might have to spill to the stack.
template <typename T> inline T* anew(T* p) {
  asm volatile("" : "+r"(p) : : "memory");
  return p;
}

// 64 bytes of each K row and of each V row of `groups` times kGroup rows (32, where two rows share
// a register), and their scales if asked to. Not inlined, so that little else needs registers.
template <int kRowsEach, bool kScales>
[[gnu::noinline]] void xor_groups(const uint8_t* keys, States& states, const uint64_t* seqs,
                                  int groups, __m512i tails, KvRecords<const uint8_t> in,
                                  size_t row_bytes, KvRecords<uint8_t> out) {
  constexpr int kEach = kGroup / kRowsEach, kBlocks = 2 * kEach + (kScales ? 2 : 0);
  const size_t step = kRowsEach * row_bytes;
  find_diagonals(keys, seqs, tails, states);
  for (; groups > 0; --groups) {
    keys = anew(keys);
    __m512i c[kBlocks];
    const __m512i diagonals[2] = {_mm512_load_si512(states.diagonals),
                                  _mm512_load_si512(states.diagonals + 64)};
    start<kRowsEach>(diagonals, states, c, c + kEach, std::make_integer_sequence<int, kEach>());
    if (kScales)
      for (int i = 0; i < 2; ++i)
        c[2 * kEach + i] = _mm512_xor_si512(_mm512_load_si512(states.scale_base), diagonals[i]);
    seqs += groups > 1 ? kGroup : 0;
    // The next group's, while these blocks wait; the last group's own once more, to no use.
    find_diagonals(keys, seqs, tails, states);
    for (int round = 3; round < 10; ++round) {
      const __m512i k = round_key(keys, round);
#pragma GCC unroll 18
      for (int i = 0; i < kBlocks; ++i)
        c[i] = _mm512_aesenc_epi128(c[i], k);
    }
    // The last round ends with an exclusive or of its key: the text goes in with it.
    const __m512i last = round_key(keys, 10);
#pragma GCC unroll 8
    for (int i = 0; i < kEach; ++i, in.k += step, out.k += step)
      _mm512_storeu_si512(
          out.k, _mm512_aesenclast_epi128(c[i], _mm512_xor_si512(last, _mm512_loadu_si512(in.k))));
#pragma GCC unroll 8
    for (int i = kEach; i < 2 * kEach; ++i, in.v += step, out.v += step)
      _mm512_storeu_si512(
          out.v, _mm512_aesenclast_epi128(c[i], _mm512_xor_si512(last, _mm512_loadu_si512(in.v))));
    if (kScales) { // half a block of each row
      const __m512i stream =
          _mm512_permutex2var_epi64(_mm512_aesenclast_epi128(c[kBlocks - 2], last),
                                    _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14),
                                    _mm512_aesenclast_epi128(c[kBlocks - 1], last));
      _mm512_storeu_si512(out.scales, _mm512_xor_si512(stream, _mm512_loadu_si512(in.scales)));
      in.scales += 8 * kGroup;
      out.scales += 8 * kGroup;
    }
  }
}

// Not inlined, as above.
template <size_t kBytes>
[[gnu::noinline]] void copy_rows(const uint8_t* from, size_t from_step, int rows, uint8_t* to,
                                 size_t to_step) {
  for (; rows > 0; --rows, from += from_step, to += to_step)
    std::memcpy(to, from, kBytes);
}

// A column of a head's records: 64 bytes of each K row and each V row, from `at` on, or whole rows
// of 32 bytes; with the scales if asked to.
template <int kRowsEach, bool kScales> class Column {
public:
  Column(const AesRoundKeys& keys, uint16_t layer, uint16_t head, size_t row_bytes, size_t at,
         States& states)
      : keys_(keys.bytes), layer_(layer), head_(head), row_bytes_(row_bytes), at_(at),
        states_(states), tails_(tail(layer, 0, 0)) {} // a diagonal has the layer's upper byte in it

  void run(const KvRows* parts, int count) {
    const uint64_t* based_on = nullptr;
    for (const KvRows* part = parts; part < parts + count; ++part) {
      for (int row = 0; row < part->count;) {
        const uint64_t* seqs = part->seqs + row;
        const int run = run_length(seqs, part->count - row), rest = run % kGroup;
        if (based_on == nullptr || (*seqs ^ *based_on) >> 8 != 0)
          find_bases(*seqs);
        based_on = seqs;
        if (run >= kGroup)
          xor_groups<kRowsEach, kScales>(keys_, states_, seqs, run / kGroup, tails_,
                                         skip(part->in, row), row_bytes_, skip(part->out, row));
        if (rest > 0)
          xor_fewer(*part, row + run - rest, rest);
        row += run;
      }
    }
  }

private:
  template <typename Byte> KvRecords<Byte> skip(const KvRecords<Byte>& from, int row) const {
    const size_t bytes = row_bytes_ * static_cast<size_t>(row) + at_;
    return {from.k + bytes, from.v + bytes, kScales ? from.scales + 8 * row : nullptr};
  }

  // Not inlined, for what it reads of the keys must not wait on the stack for the next time.
  [[gnu::noinline]] void find_bases(uint64_t seq) {
    const auto find = [&](StreamKind kind, size_t block, __m512i offsets, uint8_t* out) {
      const auto stream = static_cast<uint16_t>(static_cast<uint16_t>(kind) << 14 | head_);
      _mm512_store_si512(out, base(keys_, seq, layer_, stream, static_cast<int>(block), offsets));
    };
    const __m512i offsets = kRowsEach == 1
                                ? _mm512_set_epi64(3LL << 56, 0, 2LL << 56, 0, 1LL << 56, 0, 0, 0)
                                : _mm512_set_epi64(1LL << 56, 0, 0, 0, 1LL << 56, 0, 0, 0);
    find(StreamKind::kKey, at_ / 16, offsets, states_.k_base);
    find(StreamKind::kValue, at_ / 16, offsets, states_.v_base);
    if (kScales)
      find(StreamKind::kScales, 0, _mm512_setzero_si512(), states_.scale_base);
  }

  // Fewer rows than a group has: by way of a whole one.
  void xor_fewer(const KvRows& rows, int row, int count) {
    constexpr size_t kBytes = 64 / kRowsEach;
    struct alignas(64) {
      uint64_t seqs[kGroup];
      uint8_t k[kGroup * kBytes], v[kGroup * kBytes], scales[kGroup * 8];
    } whole{};
    const KvRecords<const uint8_t> in = skip(rows.in, row);
    const KvRecords<uint8_t> out = skip(rows.out, row);
    std::copy_n(rows.seqs + row, count, whole.seqs);
    copy_rows<kBytes>(in.k, row_bytes_, count, whole.k, kBytes);
    copy_rows<kBytes>(in.v, row_bytes_, count, whole.v, kBytes);
    if (kScales)
      copy_rows<8>(in.scales, 8, count, whole.scales, 8);
    xor_groups<kRowsEach, kScales>(keys_, states_, whole.seqs, 1, tails_,
                                   {whole.k, whole.v, whole.scales}, kBytes,
                                   {whole.k, whole.v, whole.scales});
    copy_rows<kBytes>(whole.k, kBytes, count, out.k, row_bytes_);
    copy_rows<kBytes>(whole.v, kBytes, count, out.v, row_bytes_);
    if (kScales)
      copy_rows<8>(whole.scales, 8, count, out.scales, 8);
    secure_wipe(&whole, sizeof(whole));
  }

  const uint8_t* const keys_;
  const uint16_t layer_, head_;
  const size_t row_bytes_, at_;
  States& states_;
  const __m512i tails_;
};

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

void aes_vaes_ctr_xor(const AesRoundKeys& keys, uint16_t layer, uint16_t head, const KvRows* parts,
                      int count, size_t row_bytes) {
  const bool halves = row_bytes == 32;
  if (!halves && (row_bytes % 64 != 0 || row_bytes > kMaxRowBytes)) {
    aes_ni_ctr_xor(keys, layer, head, parts, count, row_bytes);
    return;
  }
  const bool scales = count > 0 && parts[0].in.scales != nullptr;
  States states;
  if (halves && scales) {
    Column<2, true>(keys, layer, head, row_bytes, 0, states).run(parts, count);
  } else if (halves) {
    Column<2, false>(keys, layer, head, row_bytes, 0, states).run(parts, count);
  } else if (scales) {
    Column<1, true>(keys, layer, head, row_bytes, 0, states).run(parts, count);
  }
  for (size_t at = scales ? 64 : 0; !halves && at < row_bytes; at += 64)
    Column<1, false>(keys, layer, head, row_bytes, at, states).run(parts, count);
  secure_wipe(&states, sizeof(states));
  wipe_wide_registers();
}

} // namespace ptmo

#else

namespace ptmo {

bool aes_vaes_supported() {
  return false;
}

void aes_vaes_ctr_xor(const AesRoundKeys&, uint16_t, uint16_t, const KvRows*, int, size_t) {
  throw std::logic_error("vector AES instructions are not in this build");
}

} // namespace ptmo
#endif
