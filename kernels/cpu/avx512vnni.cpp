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
  static constexpr int kParts = 1;

  template <int NT, bool kMins>
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
        __m512i lo[4], hi[4];
        for (int p = 0; p < 4; ++p) {
          const __m512i raw = _mm512_loadu_si512(at + p * 64);
          lo[p] = _mm512_and_si512(raw, nibble);
          hi[p] = _mm512_and_si512(_mm512_srli_epi16(raw, 4), nibble);
        }
        for (int t = 0; t < NT; ++t) {
          const size_t block = static_cast<size_t>(t0 + t) * blocks + b;
          const int8_t* codes = x.codes + block * kBlock;
          __m512i even =
              kMins ? _mm512_setzero_si512() : _mm512_set1_epi32(-8 * x.code_sums[block]);
          __m512i odd = _mm512_setzero_si512();
          for (int p = 0; p < 4; ++p) {
            even = _mm512_dpbusd_epi32(even, lo[p], broadcast4(codes + 4 * p));
            odd = _mm512_dpbusd_epi32(odd, hi[p], broadcast4(codes + 16 + 4 * p));
          }
          const __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
          acc[t] = _mm512_fmadd_ps(dot, _mm512_mul_ps(d, _mm512_set1_ps(x.scales[block])), acc[t]);
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
  template <int NT>
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
        const int8_t* codes = x.codes + block * kBlock;
        __m512i even = _mm512_set1_epi32(-128 * x.code_sums[block]), odd = _mm512_setzero_si512();
        for (int c = 0; c < 8; c += 2) {
          even = _mm512_dpbusd_epi32(even, code[c], broadcast4(codes + 4 * c));
          odd = _mm512_dpbusd_epi32(odd, code[c + 1], broadcast4(codes + 4 * c + 4));
        }
        const __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
        acc[t] = _mm512_fmadd_ps(dot, _mm512_mul_ps(d, _mm512_set1_ps(x.scales[block])), acc[t]);
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
