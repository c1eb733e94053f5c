// Integer attention products with NEON: bytes widen to int16, smlal adds a product to an int32
// lane.
#pragma once

#include "attention.h"

namespace ptmo::kernels {
namespace {

struct SmlalIntegers {
  using Query = const int16_t*;
  static constexpr int kSums = kColumns;

  static void load(const int16_t* codes, int /*width*/, Query& q) { q = codes; }

  static void dots(const Query* q, int n, const int8_t* k, int dim, int width, bool more,
                   int32_t* out) {
    for (int r = 0; r < 16; ++r, k += dim) {
      for (int i = 0; i < n; ++i) {
        int32x4_t acc[4] = {};
        for (int c = 0; c < width; c += 16) {
          const int8x16_t codes = vld1q_s8(k + c);
          const int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_high_s8(codes);
          const int16x8_t a = vld1q_s16(q[i] + c), b = vld1q_s16(q[i] + c + 8);
          acc[0] = vmlal_s16(acc[0], vget_low_s16(low), vget_low_s16(a));
          acc[1] = vmlal_high_s16(acc[1], low, a);
          acc[2] = vmlal_s16(acc[2], vget_low_s16(high), vget_low_s16(b));
          acc[3] = vmlal_high_s16(acc[3], high, b);
        }
        int32_t& to = out[i * kSpanRows + r];
        to = (more ? to : 0) +
             vaddvq_s32(vaddq_s32(vaddq_s32(acc[0], acc[1]), vaddq_s32(acc[2], acc[3])));
      }
    }
  }

  static void store_weights(V::reg w, uint8_t* codes, int r) {
    V::store_i16(reinterpret_cast<int16_t*>(codes) + r, w);
  }

  static void add_rows(const uint8_t* codes, int first, int n, const int8_t* v, int dim, int width,
                       int32_t* sums) {
    for (int c = 0; c < width; c += 8) {
      int16x8_t row[16];
      for (int r = 0; r < 16; ++r)
        row[r] = vmovl_s8(vld1_s8(v + static_cast<size_t>(r) * dim + c));
      for (int i = 0; i < n; ++i) {
        const int16_t* weights =
            reinterpret_cast<const int16_t*>(codes + i * 2 * kSpanRows) + first;
        int32_t* to = sums + i * kSums + c;
        int32x4_t x = vld1q_s32(to), y = vld1q_s32(to + 4);
        for (int r = 0; r < 16; ++r) {
          x = vmlal_n_s16(x, vget_low_s16(row[r]), weights[r]);
          y = vmlal_high_n_s16(y, row[r], weights[r]);
        }
        vst1q_s32(to, x);
        vst1q_s32(to + 4, y);
      }
    }
  }

  static void finish(const int32_t* sums, int width, float scale, float* acc) {
    for (int c = 0; c < width; c += 4)
      vst1q_f32(acc + c, vmulq_n_f32(vcvtq_f32_s32(vld1q_s32(sums + c)), scale));
  }
};

void attend_i8(const Queries& q, const CacheSpan& span, void* scratch, float* partials) {
  attend_integers<SmlalIntegers>(q, span, scratch, partials);
}

} // namespace
} // namespace ptmo::kernels
