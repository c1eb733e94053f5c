// What attention over a span of the cache means, one query and one row at a time.
#include <algorithm>
#include <cmath>
#include <limits>

#include "../half.h"
#include "reference.h"

namespace ptmo::kernels::ref {
namespace {

float element(const uint8_t* row, int i, const uint16_t*) {
  return half_to_float(reinterpret_cast<const uint16_t*>(row)[i]);
}
float element(const uint8_t* row, int i, const float*) {
  return reinterpret_cast<const float*>(row)[i];
}

// Row r of the span: of K, of V, and the scales of both.
template <typename Element> struct Row {
  const uint8_t *k, *v;
  const float* scales;
  Row(const CacheSpan& span, int dim, int r) {
    const int piece = r / span.rows, at = r % span.rows;
    const size_t skip = static_cast<size_t>(at) * dim * sizeof(Element);
    k = span.k[piece] + skip;
    v = span.v[piece] + skip;
    scales = sizeof(Element) == 1 ? span.scales[piece] + 2 * at : nullptr;
  }
};

// x[r - first] = log2(e) * scale * (q . k[r]); returns the largest.
template <typename Element> float scores(const Queries& q, const CacheSpan& span, int i, float* x) {
  float max = -std::numeric_limits<float>::infinity();
  for (int r = q.first[i]; r < q.last[i]; ++r) {
    const Row<Element> row(span, q.dim, r);
    float& score = x[r - q.first[i]];
    if constexpr (sizeof(Element) == 1) {
      int32_t dot = 0;
      for (int d = 0; d < q.dim; ++d)
        dot += q.codes[i * q.dim + d] * static_cast<int8_t>(row.k[d]);
      score = static_cast<float>(dot) * row.scales[0] * (q.code_scales[i] * q.scale * kLog2e);
    } else {
      double dot = 0.0;
      for (int d = 0; d < q.dim; ++d)
        dot += static_cast<double>(q.q[i * q.dim + d]) *
               element(row.k, d, static_cast<const Element*>(nullptr));
      score = static_cast<float>(dot) * (q.scale * kLog2e);
    }
    max = std::max(max, score);
  }
  return max;
}

template <typename Element>
void attend(const Queries& q, const CacheSpan& span, float* x, float* partials) {
  for (int i = 0; i < q.count; ++i) {
    float* partial = partials + static_cast<size_t>(i) * (kPartialHead + q.dim);
    float* acc = partial + kPartialHead;
    const int rows = q.last[i] - q.first[i];
    std::fill_n(partial, kPartialHead + q.dim, 0.0f);
    partial[0] = scores<Element>(q, span, i, x);
    for (int r = 0; r < rows; ++r) {
      x[r] = std::exp2(x[r] - partial[0]);
      partial[16] += x[r];
    }
    if constexpr (sizeof(Element) == 1) {
      float largest = 0.0f;
      for (int r = q.first[i]; r < q.last[i]; ++r)
        largest = std::max(largest, Row<Element>(span, q.dim, r).scales[1]);
      const bool tiny = !(largest > 1e-30f); // as in quantize_row: zero rows
      const float inverse = tiny ? 0.0f : 32767.0f / largest;
      for (int d = 0; d < q.dim; ++d) {
        int32_t sum = 0;
        for (int r = 0; r < rows; ++r) {
          const Row<Element> row(span, q.dim, q.first[i] + r);
          const float code = std::nearbyint(x[r] * (row.scales[1] * inverse));
          sum += std::isnan(code) ? 0 : static_cast<int32_t>(code) * static_cast<int8_t>(row.v[d]);
        }
        acc[d] = static_cast<float>(sum) * (tiny ? 0.0f : largest / 32767.0f);
      }
    } else {
      for (int r = 0; r < rows; ++r) {
        const Row<Element> row(span, q.dim, q.first[i] + r);
        for (int d = 0; d < q.dim; ++d)
          acc[d] = std::fma(x[r], element(row.v, d, static_cast<const Element*>(nullptr)), acc[d]);
      }
    }
  }
}

} // namespace

void attend_i8(const Queries& q, const CacheSpan& span, void* scratch, float* partials) {
  attend<int8_t>(q, span, static_cast<float*>(scratch), partials);
}

void attend_f16(const Queries& q, const CacheSpan& span, void* scratch, float* partials) {
  attend<uint16_t>(q, span, static_cast<float*>(scratch), partials);
}

void attend_f32(const Queries& q, const CacheSpan& span, void* scratch, float* partials) {
  attend<float>(q, span, static_cast<float*>(scratch), partials);
}

void fold_partials(const float* partials, int count, int dim, float* totals) {
  const int width = kPartialHead + dim;
  for (int i = 0; i < count; ++i, partials += width, totals += width) {
    const float max = std::max(totals[0], partials[0]);
    const float keep = std::exp2(totals[0] - max), take = std::exp2(partials[0] - max);
    totals[0] = max;
    for (int d = 16; d < width; ++d)
      totals[d] = std::fma(partials[d], take, totals[d] * keep);
  }
}

} // namespace ptmo::kernels::ref
