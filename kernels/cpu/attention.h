// Attention over a span of the cache, on the vector type `V` of simd.h. Scores stay in `scratch`;
// the integer products are a level's own (`Integers`, below).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "../kernels.h"
#include "simd.h"

namespace ptmo::kernels {
namespace {

// Spreads the prefetches of `next` evenly over `steps` calls.
class Prefetcher {
public:
  Prefetcher(const CacheSpan& span, int steps) : span_(span), left_(steps) {
    for (int p = 0; p < kSpanPieces; ++p)
      if (span.next[p] != nullptr)
        lines_ += static_cast<int>(span.next_bytes / 64);
  }
  void step() {
    for (int n = left_ > 0 ? (lines_ + left_ - 1) / left_ : 0; n > 0; --n, --lines_) {
      while (span_.next[piece_] == nullptr || at_ >= span_.next_bytes) {
        ++piece_;
        at_ = 0;
      }
      __builtin_prefetch(span_.next[piece_] + at_, 0, 3);
      at_ += 64;
    }
    --left_;
  }

private:
  const CacheSpan& span_;
  int left_, lines_ = 0, piece_ = 0;
  size_t at_ = 0;
};

// ---- Float elements. Queries that see the same rows (a token's) go together. Arrays of registers
// stay in registers only where the loops over them are unrolled.

template <int Q, typename Element, typename Load>
inline void dot_four_rows(const float* q, int dim, const Element* const rows[4], float* out,
                          Load load) {
  V::reg acc[Q][4];
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i)
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
      acc[i][r] = V::zero();
  for (int d = 0; d < dim; d += V::lanes) {
    V::reg k[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
      k[r] = load(rows[r] + d);
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i) {
      const V::reg x = V::load(q + i * dim + d);
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r)
        acc[i][r] = V::fma(x, k[r], acc[i][r]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i)
    V::store_sums(out + i * kSpanRows, acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
}

// acc[i] = sum over rows [first, last) of p[i, r] v[r], for N registers of elements from d on: each
// its own chain, rows in order.
template <int Q, int N, typename Element, typename Load>
inline void add_weighted(const float* p, const CacheSpan& span, int first, int last, int dim, int d,
                         float* acc, Load load) {
  V::reg sum[Q][N];
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j)
      sum[i][j] = V::zero();
  for (int base = first / span.rows * span.rows; base < last; base += span.rows) {
    const int from = std::max(first - base, 0), to = std::min(last - base, span.rows);
    const auto* row = reinterpret_cast<const Element*>(span.v[base / span.rows]) +
                      static_cast<size_t>(from) * dim + d;
    for (int r = from; r < to; ++r, row += dim, ++p) {
      V::reg v[N];
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j)
        v[j] = load(row + j * V::lanes);
#pragma GCC unroll 4
      for (int i = 0; i < Q; ++i) {
        const V::reg weight = V::set1(p[i * kSpanRows]);
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j)
          sum[i][j] = V::fma(weight, v[j], sum[i][j]);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j)
      V::store(acc + static_cast<size_t>(i) * (kPartialHead + dim) + d + j * V::lanes, sum[i][j]);
}

// x[0, n) becomes 2^(scale * x - max); `partial` gets the maximum and the sum.
inline void softmax(float* x, int n, float scale, float* partial) {
  const V::reg factor = V::set1(scale), none = V::set1(-std::numeric_limits<float>::infinity());
  V::reg largest = none;
  for (int r = 0; r < n; r += V::lanes) {
    const V::reg score = V::within(r, 0, n, V::mul(V::load(x + r), factor), none);
    V::store(x + r, score);
    largest = V::max(score, largest);
  }
  const float max = V::reduce_max(largest);
  V::reg sum = V::zero();
  for (int r = 0; r < n; r += V::lanes) {
    const V::reg e = exp2_nonpositive(V::sub(V::load(x + r), V::set1(max)));
    const V::reg p = V::within(r, 0, n, e, V::zero());
    V::store(x + r, p);
    sum = V::add(sum, p);
  }
  std::memset(partial, 0, kPartialHead * sizeof(float));
  partial[0] = max;
  V::store(partial + 16, sum);
}

template <int Q, typename Element, typename Load>
inline void attend_token(const Queries& q, const CacheSpan& span, int i, Prefetcher& next, float* x,
                         float* partials, Load load) {
  const int first = q.first[i], last = q.last[i], dim = q.dim;
  const float* query = q.q + static_cast<size_t>(i) * dim;
  float* partial = partials + static_cast<size_t>(i) * (kPartialHead + dim);
  for (int base = first / span.rows * span.rows; base < last; base += span.rows) {
    const int from = std::max(first - base, 0), to = std::min(last - base, span.rows);
    const auto* k = reinterpret_cast<const Element*>(span.k[base / span.rows]);
    for (int r = from; r < to; r += 4) {
      const Element* rows[4];
      for (int j = 0; j < 4; ++j) // behind the last row: that row again, overwritten or unread
        rows[j] = k + static_cast<size_t>(std::min(r + j, to - 1)) * dim;
      dot_four_rows<Q>(query, dim, rows, x + base + r - first, load);
      next.step();
    }
  }
  for (int j = 0; j < Q; ++j)
    softmax(x + j * kSpanRows, last - first, q.scale * kLog2e,
            partial + static_cast<size_t>(j) * (kPartialHead + dim));
  int d = 0;
  for (; d + 4 * V::lanes <= dim; d += 4 * V::lanes)
    add_weighted<Q, 4, Element>(x, span, first, last, dim, d, partial + kPartialHead, load);
  for (; d < dim; d += V::lanes)
    add_weighted<Q, 1, Element>(x, span, first, last, dim, d, partial + kPartialHead, load);
}

template <typename Element, typename Load>
inline void attend_floats(const Queries& q, const CacheSpan& span, void* scratch, float* partials,
                          Load load) {
  // Four accumulators a query, and four registers of rows, must fit the registers.
  constexpr int kTogether = V::lanes == 16 ? 4 : 2;
  auto* x = static_cast<float*>(scratch);
  Prefetcher next(span, (span.pieces - span.first_piece) * span.rows / 4);
  for (int i = 0, n; i < q.count; i += n) {
    for (n = 1; n < kTogether && i + n < q.count; ++n)
      if (q.first[i + n] != q.first[i] || q.last[i + n] != q.last[i])
        break;
    if (n == 4) {
      attend_token<kTogether, Element>(q, span, i, next, x, partials, load);
    } else if (n == 3) {
      attend_token<std::min(kTogether, 3), Element>(q, span, i, next, x, partials, load);
    } else if (n == 2) {
      attend_token<2, Element>(q, span, i, next, x, partials, load);
    } else {
      attend_token<1, Element>(q, span, i, next, x, partials, load);
    }
  }
}

void attend_f16(const Queries& q, const CacheSpan& span, void* scratch, float* partials) {
  attend_floats<uint16_t>(q, span, scratch, partials, V::load_f16);
}

void attend_f32(const Queries& q, const CacheSpan& span, void* scratch, float* partials) {
  attend_floats<float>(q, span, scratch, partials, V::load);
}

void fold_partials(const float* partials, int count, int dim, float* totals) {
  const int width = kPartialHead + dim;
  for (int i = 0; i < count; ++i, partials += width, totals += width) {
    const V::reg old = V::set1(totals[0]), now = V::set1(partials[0]), max = V::max(old, now);
    const V::reg keep = exp2_nonpositive(V::sub(old, max));
    const V::reg take = exp2_nonpositive(V::sub(now, max));
    totals[0] = std::max(totals[0], partials[0]);
    for (int d = 16; d < width; d += V::lanes)
      V::store(totals + d, V::fma(V::load(partials + d), take, V::mul(V::load(totals + d), keep)));
  }
}

// ---- INT8 elements. `Integers`, a level's own:
//   kSums                             int32 sums of a query over kColumns elements
//   Query                             kColumns codes of a query row, ready for `dots`
//   load(codes, width, query)         fills it from the first `width` codes
//   dots(queries, n, k, dim, width, more, out)
//                                     out[i * kSpanRows + r] = (more ? that : 0) + q[i] . k[r]
//                                     over `width` elements of 16 rows of K
//   store_weights(w, codes, r)        puts V::lanes rounded weights of rows r.. into codes
//   add_rows(codes, r, n, v, dim, width, sums)
//                                     adds the weights of rows r .. r + 15 times `width` elements
//                                     of those rows of V
//   finish(sums, width, scale, acc)   acc[d] = scale * the sum of element d

constexpr int kColumns = 64;
constexpr int kGroup = 8; // queries that share one pass over the rows

template <typename Integers> struct alignas(64) IntegerScratch {
  float scores[kGroup][kSpanRows]; // int32 dots first
  uint8_t codes[kGroup][2 * kSpanRows];
  typename Integers::Query queries[kGroup];
  int32_t sums[kGroup][Integers::kSums];
  float k_scales[kSpanRows], v_scales[kSpanRows], steps[kSpanRows];
};

inline int round_down(int r) {
  return r / 16 * 16;
}
inline int round_up(int r) {
  return (r + 15) / 16 * 16;
}

// Calls f(row, piece, row in the piece) for every block of 16 rows in [from, to).
template <typename F> inline void for_blocks(const CacheSpan& span, int from, int to, F f) {
  for (int r = from, piece = from / span.rows, at = from % span.rows; r < to; r += 16) {
    f(r, piece, at);
    at += 16;
    if (at == span.rows) {
      at = 0;
      ++piece;
    }
  }
}

// x[r] = scale-free scores of the rows [first, last), -infinity around them; returns their maximum.
inline float scale_scores(float* x, const float* k_scales, int first, int last) {
  const V::reg none = V::set1(-std::numeric_limits<float>::infinity());
  V::reg largest = none;
  for (int r = round_down(first); r < round_up(last); r += V::lanes) {
    V::reg score =
        V::mul(V::from_int(reinterpret_cast<const int32_t*>(x) + r), V::load(k_scales + r));
    if (r < first || r + V::lanes > last)
      score = V::within(r, first, last, score, none);
    V::store(x + r, score);
    largest = V::max(score, largest);
  }
  return V::reduce_max(largest);
}

// steps[r] = what turns p[r] into a code; returns what a unit of a code is worth.
inline float weight_steps(const float* v_scales, int first, int last, float* steps) {
  V::reg largest = V::zero();
  for (int r = round_down(first); r < round_up(last); r += V::lanes)
    largest = V::max(V::within(r, first, last, V::load(v_scales + r), V::zero()), largest);
  const float max = V::reduce_max(largest);
  const bool tiny = !(max > 1e-30f); // as in quantize_row: zero rows
  const V::reg inverse = V::set1(tiny ? 0.0f : 32767.0f / max);
  for (int r = round_down(first); r < round_up(last); r += V::lanes)
    V::store(steps + r,
             V::within(r, first, last, V::mul(V::load(v_scales + r), inverse), V::zero()));
  return tiny ? 0.0f : max / 32767.0f;
}

// The weights' codes from the scores; `partial` gets the maximum and the sum. Rows [from, to) that
// the query does not see get code 0.
template <typename Integers>
inline void weigh(const float* x, const float* steps, int first, int last, int from, int to,
                  float scale, float largest, uint8_t* codes, float* partial) {
  // What max lost when it was rounded is a factor of every p and of their sum, and cancels. Where
  // scores are large it could take p so far above 1 that its code passes 32767: there it is taken
  // off.
  const float max = largest * scale;
  const V::reg factor = V::set1(scale), shift = V::set1(-max);
  const V::reg lost = std::fabs(max) < 64.0f ? V::zero() // under 2^-19
                                             : V::fma(V::set1(largest), factor, shift);
  V::reg sum = V::zero();
  for (int r = from; r < round_down(first); r += V::lanes)
    Integers::store_weights(V::zero(), codes, r);
  for (int r = round_down(first); r < round_up(last); r += V::lanes) {
    V::reg p = exp2_nonpositive(V::sub(V::fma(V::load(x + r), factor, shift), lost));
    if (r < first || r + V::lanes > last)
      p = V::within(r, first, last, p, V::zero());
    sum = V::add(sum, p);
    Integers::store_weights(V::mul(p, V::load(steps + r)), codes, r);
  }
  for (int r = round_up(last); r < to; r += V::lanes)
    Integers::store_weights(V::zero(), codes, r);
  std::memset(partial, 0, kPartialHead * sizeof(float));
  partial[0] = max;
  V::store(partial + 16, sum);
}

template <typename Integers>
inline void attend_group(const Queries& q, const CacheSpan& span, int begin, int n,
                         IntegerScratch<Integers>& s, Prefetcher& next, float* partials) {
  const int *first = q.first + begin, *last = q.last + begin, dim = q.dim;
  const int from = round_down(*std::min_element(first, first + n));
  const int to = round_up(*std::max_element(last, last + n));
  for (int d = 0; d < dim; d += kColumns) {
    const int width = std::min(kColumns, dim - d);
    for (int i = 0; i < n; ++i)
      Integers::load(q.codes + static_cast<size_t>(begin + i) * dim + d, width, s.queries[i]);
    for_blocks(span, from, to, [&](int r, int piece, int at) {
      const auto* k = reinterpret_cast<const int8_t*>(span.k[piece]);
      Integers::dots(s.queries, n, k + static_cast<size_t>(at) * dim + d, dim, width, d > 0,
                     reinterpret_cast<int32_t*>(s.scores[0]) + r);
      next.step();
    });
  }
  float max[kGroup], unit[kGroup];
  for (int i = 0; i < n; ++i)
    max[i] = scale_scores(s.scores[i], s.k_scales, first[i], last[i]);
  for (int i = 0; i < n; ++i) {
    if (i > 0 && first[i] == first[i - 1] && last[i] == last[i - 1]) {
      unit[i] = unit[i - 1];
    } else {
      unit[i] = weight_steps(s.v_scales, first[i], last[i], s.steps);
    }
    const float scale = q.code_scales[begin + i] * q.scale * kLog2e;
    weigh<Integers>(s.scores[i], s.steps, first[i], last[i], from, to, scale, max[i], s.codes[i],
                    partials + static_cast<size_t>(i) * (kPartialHead + dim));
  }
  for (int d = 0; d < dim; d += kColumns) {
    const int width = std::min(kColumns, dim - d);
    std::memset(s.sums, 0, static_cast<size_t>(n) * sizeof(s.sums[0]));
    for_blocks(span, from, to, [&](int r, int piece, int at) {
      const auto* v = reinterpret_cast<const int8_t*>(span.v[piece]);
      Integers::add_rows(s.codes[0], r, n, v + static_cast<size_t>(at) * dim + d, dim, width,
                         s.sums[0]);
      next.step();
    });
    for (int i = 0; i < n; ++i)
      Integers::finish(s.sums[i], width, unit[i],
                       partials + static_cast<size_t>(i) * (kPartialHead + dim) + kPartialHead + d);
  }
}

template <typename Integers>
void attend_integers(const Queries& q, const CacheSpan& span, void* scratch, float* partials) {
  static_assert(sizeof(IntegerScratch<Integers>) <= kAttendScratch);
  auto& s = *static_cast<IntegerScratch<Integers>*>(scratch);
  for (int piece = span.first_piece; piece < span.pieces; ++piece) {
    for (int r = 0; r < span.rows; ++r) {
      s.k_scales[piece * span.rows + r] = span.scales[piece][2 * r];
      s.v_scales[piece * span.rows + r] = span.scales[piece][2 * r + 1];
    }
  }
  const int chunks = (q.dim + kColumns - 1) / kColumns;
  Prefetcher next(span, 2 * chunks * (span.pieces - span.first_piece) * span.rows / 16);
  for (int begin = 0; begin < q.count; begin += kGroup)
    attend_group(q, span, begin, std::min(kGroup, q.count - begin), s, next,
                 partials + static_cast<size_t>(begin) * (kPartialHead + q.dim));
}

} // namespace
} // namespace ptmo::kernels
