// NEON with dot products and fp16 (ARMv8.2): a panel's 16 rows are four registers of 4 rows.
//
// A register of weight codes holds 4 rows x 4 columns; sdot by one lane of the activations adds, in
// each row's own int32 lane, the four products of those columns. INT4 codes (0..15) and INT8 codes
// are both signed bytes to it; only the 8 that symmetric INT4 codes stand above their weights is
// taken off, as 8 times the activations' code sum.
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "attention_neon.h"
#include "integer_level.h"

namespace ptmo::kernels {
namespace {

constexpr int kQuarterRows = 4; // rows of a register

inline float32x4_t load_four_scales(const uint8_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

// `start` and the sum over a block's 32 columns: codes[i] holds columns 4i .. 4i + 3 of 4 rows.
inline int32x4_t add_products(int32x4_t start, const int8x16_t codes[8], const int8_t* x) {
  const int8x16_t a = vld1q_s8(x), b = vld1q_s8(x + 16);
  int32x4_t first = start, second = vdupq_n_s32(0);
  first = vdotq_laneq_s32(first, codes[0], a, 0);
  second = vdotq_laneq_s32(second, codes[4], b, 0);
  first = vdotq_laneq_s32(first, codes[1], a, 1);
  second = vdotq_laneq_s32(second, codes[5], b, 1);
  first = vdotq_laneq_s32(first, codes[2], a, 2);
  second = vdotq_laneq_s32(second, codes[6], b, 2);
  first = vdotq_laneq_s32(first, codes[3], a, 3);
  second = vdotq_laneq_s32(second, codes[7], b, 3);
  return vaddq_s32(first, second);
}

// The same with the activations of a block; exact.
template <bool kWide>
inline float32x4_t dot(const int8x16_t codes[8], int32_t start, const Activations& x,
                       size_t block) {
  const int32x4_t from = vdupq_n_s32(start);
  int32x4_t sum = add_products(kWide ? vdupq_n_s32(0) : from, codes, x.codes + block * kBlock);
  if (kWide)
    sum = add_products(vaddq_s32(vshlq_n_s32(sum, 8), from), codes, x.low + block * kBlock);
  return vcvtq_f32_s32(sum);
}

template <int NT>
inline void store_rows(float* y, size_t y_stride, const float32x4_t (&acc)[NT][4], int rows) {
  for (int t = 0; t < NT; ++t) {
    float out[kPanelRows];
    for (int quarter = 0; quarter < 4; ++quarter)
      vst1q_f32(out + quarter * kQuarterRows, acc[t][quarter]);
    std::memcpy(y + t * y_stride, out, sizeof(float) * rows);
  }
}

// The Product of integer_level.h.
struct WholePanels {
  static constexpr int kParts = 1, kTokens = 4;

  template <int NT, bool kMins, bool kWide>
  static void int4(const PackedMatrix& w, const uint8_t* panel, int /*part*/, int rows,
                   const Activations& x, int t0, float* y, size_t y_stride) {
    const int blocks = w.cols / kBlock, per_group = w.group / kBlock;
    const uint8x16_t nibble = vdupq_n_u8(0x0f);
    float32x4_t acc[NT][4] = {};
    const uint8_t* at = panel;
    for (int b = 0; b < blocks; at += kMins ? 64 : 32) {
      const uint8_t* tail = at + static_cast<size_t>(per_group) * 256;
      for (int g = 0; g < per_group; ++g, ++b, at += 256) {
        prefetch(at, 5);
        for (int quarter = 0; quarter < 4; ++quarter) {
          const float32x4_t d = load_four_scales(tail + 8 * quarter);
          const float32x4_t m = kMins ? load_four_scales(tail + 32 + 8 * quarter) : d;
          int8x16_t codes[8];
          for (int p = 0; p < 4; ++p) {
            const uint8x16_t raw = vld1q_u8(at + p * 64 + quarter * 16);
            codes[p] = vreinterpretq_s8_u8(vandq_u8(raw, nibble));
            codes[4 + p] = vreinterpretq_s8_u8(vshrq_n_u8(raw, 4));
          }
          for (int t = 0; t < NT; ++t) {
            const size_t block = static_cast<size_t>(t0 + t) * blocks + b;
            const int32_t start = kMins ? 0 : -8 * x.code_sums[block];
            float32x4_t& out = acc[t][quarter];
            out =
                vfmaq_f32(out, dot<kWide>(codes, start, x, block), vmulq_n_f32(d, x.scales[block]));
            if (kMins)
              out = vfmaq_n_f32(out, m, x.sums[block]);
          }
        }
      }
    }
    store_rows(y + t0 * y_stride, y_stride, acc, rows);
  }

  template <int NT, bool kWide>
  static void int8(const PackedMatrix& w, const uint8_t* panel, int /*part*/, int rows,
                   const Activations& x, int t0, float* y, size_t y_stride) {
    const int blocks = w.cols / kBlock;
    float32x4_t acc[NT][4] = {};
    const uint8_t* at = panel;
    for (int b = 0; b < blocks; ++b, at += kInt8BlockBytes) {
      prefetch(at, 9);
      for (int quarter = 0; quarter < 4; ++quarter) {
        const float32x4_t d = load_four_scales(at + 512 + 8 * quarter);
        int8x16_t codes[8];
        for (int c = 0; c < 8; ++c)
          codes[c] = vreinterpretq_s8_u8(vld1q_u8(at + c * 64 + quarter * 16));
        for (int t = 0; t < NT; ++t) {
          const size_t block = static_cast<size_t>(t0 + t) * blocks + b;
          acc[t][quarter] = vfmaq_f32(acc[t][quarter], dot<kWide>(codes, 0, x, block),
                                      vmulq_n_f32(d, x.scales[block]));
        }
      }
    }
    store_rows(y + t0 * y_stride, y_stride, acc, rows);
  }

  // Of simd_kernels.h: two registers hold 4 ranks of 8 rows.
  struct RankDot {
    int32x4_t lo = vdupq_n_s32(0), hi = lo;
    explicit RankDot(int32_t) {}
    static int8x16_t load(const int8_t* codes) {
      return vreinterpretq_s8_s32(vdupq_n_s32(four_codes(codes)));
    }
    void add(const uint8_t* b, int8x16_t four) {
      lo = vdotq_s32(lo, vreinterpretq_s8_u8(vld1q_u8(b)), four);
      hi = vdotq_s32(hi, vreinterpretq_s8_u8(vld1q_u8(b + 16)), four);
    }
    V::reg total() const { return {vcvtq_f32_s32(lo), vcvtq_f32_s32(hi)}; }
  };
};

bool supported() {
  constexpr unsigned long kNeeded = HWCAP_ASIMDDP | HWCAP_FPHP | HWCAP_ASIMDHP;
  return (getauxval(AT_HWCAP) & kNeeded) == kNeeded;
}

} // namespace

const Table* neon() {
  static constexpr Table table = table_of<WholePanels>("neon", attend_i8);
  return supported() ? &table : nullptr;
}

} // namespace ptmo::kernels
