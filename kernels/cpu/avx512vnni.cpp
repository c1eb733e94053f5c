// AVX-512 with VNNI: a panel's 16 rows are the 16 lanes of a zmm register.
//
// A 16x32 INT4 block is four 64-byte loads; each gives two code registers (low and high nibbles)
// of 16 rows x 4 columns, multiplied by a broadcast of four activation codes with vpdpbusd. The
// eight products of a block add up in int32, exactly, before the block's scales are applied.
#include "attention_avx512.h"
#include "integer_level.h"

namespace ptmo::kernels {
namespace {

inline __m512i broadcast4(const int8_t* codes) {
  return _mm512_set1_epi32(four_codes(codes));
}

inline void store_rows(float* y, __m512 acc, int rows) {
  _mm512_mask_storeu_ps(y, static_cast<__mmask16>((1u << rows) - 1), acc);
}

// The Product of integer_level.h.
struct WholePanels {
  static constexpr int kParts = 1, kTokens = 8;

  // `start` and the products of a block's 32 columns: code[c] holds columns 4c .. 4c + 3, unsigned.
  static __m512i add_products(const __m512i code[8], __m512i start, const int8_t* x) {
    __m512i first = start, second = _mm512_setzero_si512();
    for (int c = 0; c < 4; ++c) {
      first = _mm512_dpbusd_epi32(first, code[c], broadcast4(x + 4 * c));
      second = _mm512_dpbusd_epi32(second, code[4 + c], broadcast4(x + 16 + 4 * c));
    }
    return _mm512_add_epi32(first, second);
  }

  // The same with the activations of a block; exact.
  template <bool kWide>
  static __m512 dot(const __m512i code[8], int32_t start, const Activations& x, size_t block) {
    const __m512i from = _mm512_set1_epi32(start), zero = _mm512_setzero_si512();
    __m512i sum = add_products(code, kWide ? zero : from, x.codes + block * kBlock);
    if (kWide)
      sum = add_products(code, _mm512_add_epi32(_mm512_slli_epi32(sum, 8), from),
                         x.low + block * kBlock);
    return _mm512_cvtepi32_ps(sum);
  }

  template <int NT, bool kMins, bool kWide>
  static void int4(const PackedMatrix& w, const uint8_t* panel, int /*part*/, int rows,
                   const Activations& x, int t0, float* y, size_t y_stride) {
    const int blocks = w.cols / kBlock, per_group = w.group / kBlock;
    const __m512i nibble = _mm512_set1_epi8(0x0f);
    __m512 acc[NT];
    for (int t = 0; t < NT; ++t)
      acc[t] = _mm512_setzero_ps();
    const uint8_t* at = panel;
    for (int b = 0; b < blocks; at += kMins ? 64 : 32) {
      const uint8_t* tail = at + static_cast<size_t>(per_group) * 256;
      const __m512 d = load_scales(tail), m = kMins ? load_scales(tail + 32) : d;
      for (int g = 0; g < per_group; ++g, ++b, at += 256) {
        prefetch(at, 5);
        __m512i code[8];
        for (int p = 0; p < 4; ++p) {
          const __m512i raw = _mm512_loadu_si512(at + p * 64);
          code[p] = _mm512_and_si512(raw, nibble);
          code[4 + p] = _mm512_and_si512(_mm512_srli_epi16(raw, 4), nibble);
        }
        for (int t = 0; t < NT; ++t) {
          const size_t block = static_cast<size_t>(t0 + t) * blocks + b;
          const __m512 sum = dot<kWide>(code, kMins ? 0 : -8 * x.code_sums[block], x, block);
          acc[t] = _mm512_fmadd_ps(sum, _mm512_mul_ps(d, _mm512_set1_ps(x.scales[block])), acc[t]);
          if (kMins)
            acc[t] = _mm512_fmadd_ps(m, _mm512_set1_ps(x.sums[block]), acc[t]);
        }
      }
    }
    for (int t = 0; t < NT; ++t)
      store_rows(y + (t0 + t) * y_stride, acc[t], rows);
  }

  // INT8 codes are signed; vpdpbusd wants them unsigned, so 128 is added to each and 128 times the
  // activations' code sum taken off again, all in integers.
  template <int NT, bool kWide>
  static void int8(const PackedMatrix& w, const uint8_t* panel, int /*part*/, int rows,
                   const Activations& x, int t0, float* y, size_t y_stride) {
    const int blocks = w.cols / kBlock;
    const __m512i bias = _mm512_set1_epi8(static_cast<char>(0x80));
    __m512 acc[NT];
    for (int t = 0; t < NT; ++t)
      acc[t] = _mm512_setzero_ps();
    const uint8_t* at = panel;
    for (int b = 0; b < blocks; ++b, at += kInt8BlockBytes) {
      prefetch(at, 9);
      const __m512 d = load_scales(at + 512);
      __m512i code[8];
      for (int c = 0; c < 8; ++c)
        code[c] = _mm512_xor_si512(_mm512_loadu_si512(at + c * 64), bias);
      for (int t = 0; t < NT; ++t) {
        const size_t block = static_cast<size_t>(t0 + t) * blocks + b;
        const __m512 sum = dot<kWide>(code, -128 * x.code_sums[block], x, block);
        acc[t] = _mm512_fmadd_ps(sum, _mm512_mul_ps(d, _mm512_set1_ps(x.scales[block])), acc[t]);
      }
    }
    for (int t = 0; t < NT; ++t)
      store_rows(y + (t0 + t) * y_stride, acc[t], rows);
  }

  // Of simd_kernels.h: a register holds 4 ranks of a panel's 16 rows, biased as in int8.
  struct RankDot {
    __m512i sum;
    explicit RankDot(int32_t code_sum) : sum(_mm512_set1_epi32(-128 * code_sum)) {}
    static __m512i load(const int8_t* codes) { return broadcast4(codes); }
    void add(const uint8_t* b, __m512i four) {
      const __m512i biased =
          _mm512_xor_si512(_mm512_loadu_si512(b), _mm512_set1_epi8(static_cast<char>(0x80)));
      sum = _mm512_dpbusd_epi32(sum, biased, four);
    }
    __m512 total() const { return _mm512_cvtepi32_ps(sum); }
  };
};

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}

} // namespace

const Table* avx512vnni() {
  static constexpr Table table = table_of<WholePanels>("avx512vnni", attend_i8);
  return supported() ? &table : nullptr;
}

} // namespace ptmo::kernels
