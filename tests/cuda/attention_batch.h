// Batches for the device's attention kernels: pages with random rows, sealed or in the clear, and
// what float64 says attention over their values is.
#pragma once

#include <algorithm>

#include "device_samples.h"
#include "every_order.h"
#include "kv/page_table.h"

namespace ptmo::test {

static_assert(static_cast<int>(cuda::KvElement::kInt8) == static_cast<int>(KvType::kInt8) &&
              static_cast<int>(cuda::KvElement::kF16) == static_cast<int>(KvType::kF16) &&
              static_cast<int>(cuda::KvElement::kInt4) == static_cast<int>(KvType::kInt4));

constexpr float kNoFloat = 3e33f; // what a kernel must not leave, or not touch

struct AttentionShape {
  KvType type = KvType::kInt8;
  int n_kv_heads = 1, group = 1, dim = 64, page_rows = 16;
  int window = 0, layers = 2, layer = 1;

  int n_heads() const { return n_kv_heads * group; }
  PageLayout layout() const {
    PageLayout out{layers, n_kv_heads, dim, 16, type};
    out.rows = page_rows; // the host's own pages have 16 or 32; the kernels take 64 too
    return out;
  }
};

// K and V rows of one sequence and layer, [row, kv_head, element], as floats that the type holds
// without error, with the scales that it holds them by.
struct KvValues {
  AttentionShape shape;
  int rows;
  std::vector<float> k, v;             // codes of integer types
  std::vector<float> k_scale, v_scale; // [row, kv_head]; 1 for halves

  KvValues(Random& random, const AttentionShape& s, int rows, float size = 1.0f)
      : shape(s), rows(rows) {
    const int most = s.type == KvType::kInt8 ? 127 : 7;
    for (std::vector<float>* codes : {&k, &v})
      for (size_t i = 0; i < at(rows, 0); ++i)
        codes->push_back(s.type == KvType::kF16
                             ? half_to_float(float_to_half(size * random.normal()))
                             : static_cast<float>(random.between(-most, most)));
    for (std::vector<float>* scales : {&k_scale, &v_scale})
      for (int i = 0; i < rows * s.n_kv_heads; ++i)
        scales->push_back(s.type == KvType::kF16
                              ? 1.0f
                              : size * random.uniform(0.5f, 2.0f) / static_cast<float>(most));
  }
  size_t at(int row, int head) const {
    return (static_cast<size_t>(row) * shape.n_kv_heads + head) * shape.dim;
  }
  double key(int row, int head, int e) const {
    return double{k[at(row, head) + e]} * k_scale[scale_at(row, head)];
  }
  double value(int row, int head, int e) const {
    return double{v[at(row, head) + e]} * v_scale[scale_at(row, head)];
  }
  size_t scale_at(int row, int head) const {
    return static_cast<size_t>(row) * shape.n_kv_heads + head;
  }
};

// The pages of a sequence in the device's memory, one block of exact size each. What is no row is
// NaN.
class Pages {
public:
  explicit Pages(const KvValues& values, std::vector<uint64_t> seqs = {},
                 const kernels::ChaChaKey* key = nullptr)
      : layout_(values.shape.layout()), pointers_(static_cast<size_t>(page_count(values))) {
    for (size_t i = 0; i < pointers_.size(); ++i) {
      pages_.emplace_back(layout_.page_bytes());
      std::memset(pages_.back().data(), 0xff, layout_.page_bytes());
      pointers_.data()[i] = pages_.back().data();
    }
    for (int row = 0; row < values.rows; ++row) {
      const uint64_t seq = seqs.empty() ? 1000u + static_cast<uint64_t>(row) : seqs[row];
      uint8_t* page = pages_[row / layout_.rows].data();
      std::memcpy(page + sizeof(PageHeader) + 8 * (row % layout_.rows), &seq, sizeof(seq));
      for (int head = 0; head < layout_.n_kv_heads; ++head)
        write(values, page, row, head, seq, key);
    }
  }
  const uint8_t* const* pointers() const { return pointers_.data(); }
  // Rows below `row` are not to be read.
  void drop_before(int row) {
    for (int i = 0; i < row; ++i) {
      uint8_t* page = pages_[i / layout_.rows].data();
      for (int head = 0; head < layout_.n_kv_heads; ++head)
        for (const PageLayout::Record& record : layout_.records())
          std::memset(page + head_offset(head) + record.offset +
                          static_cast<size_t>(i % layout_.rows) * record.bytes,
                      0xff, record.bytes);
    }
    for (int i = 0; i < row / layout_.rows; ++i)
      pointers_.data()[i] = nullptr;
  }

private:
  static int page_count(const KvValues& values) {
    return (values.rows + values.shape.page_rows - 1) / values.shape.page_rows;
  }
  size_t head_offset(int head) const { return layout_.head_offset(layer_, head); }

  void encode(const float* codes, uint8_t* out) const {
    const int dim = layout_.head_dim;
    for (int e = 0; e < dim; ++e) {
      if (layout_.type == KvType::kF16) {
        const uint16_t half = float_to_half(codes[e]);
        std::memcpy(out + 2 * e, &half, sizeof(half));
      } else if (layout_.type == KvType::kInt8) {
        out[e] = static_cast<uint8_t>(static_cast<int8_t>(codes[e]));
      } else if (e < dim / 2) {
        out[e] = static_cast<uint8_t>((static_cast<int>(codes[e]) + 8) |
                                      (static_cast<int>(codes[e + dim / 2]) + 8) << 4);
      }
    }
  }
  void write(const KvValues& values, uint8_t* page, int row, int head, uint64_t seq,
             const kernels::ChaChaKey* key) {
    layer_ = values.shape.layer;
    uint8_t* parts[3] = {};
    const auto records = layout_.records();
    for (size_t i = 0; i < records.size(); ++i)
      parts[i] = page + head_offset(head) + records[i].offset +
                 static_cast<size_t>(row % layout_.rows) * records[i].bytes;
    encode(values.k.data() + values.at(row, head), parts[0]);
    encode(values.v.data() + values.at(row, head), parts[1]);
    if (parts[2] != nullptr) {
      const float scales[2] = {values.k_scale[values.scale_at(row, head)],
                               values.v_scale[values.scale_at(row, head)]};
      std::memcpy(parts[2], scales, sizeof(scales));
    }
    if (key != nullptr)
      kernels::chacha_xor_row(*key,
                              {seq, static_cast<uint16_t>(layer_), static_cast<uint16_t>(head)},
                              {parts[0], parts[1], parts[2]}, layout_.row_bytes());
  }

  PageLayout layout_;
  int layer_ = 0;
  std::vector<DeviceArray<uint8_t>> pages_;
  DeviceArray<const uint8_t*> pointers_;
};

// The tokens of a sequence that ask: the last `tokens` of its rows.
struct Asking {
  const Pages* pages;
  int length, tokens;
  int key = -1;
};

enum class Phase { kDecode, kPrefill };

// out [tokens, n_heads, dim] of a batch, the same in every order of the device's threads. Checks
// that nothing else is written and that no partial sum stays behind.
inline std::vector<float> attend(Phase phase, const AttentionShape& shape, float scale,
                                 const std::vector<Asking>& batch, const std::vector<float>& q,
                                 const cuda::SealKeys* keys = nullptr) {
  std::vector<cuda::DeviceSequence> sequences;
  int row = 0, most = 0;
  for (const Asking& asking : batch) {
    const int first = asking.length - asking.tokens;
    sequences.push_back({asking.pages->pointers(), first, asking.tokens, row, asking.key});
    row += asking.tokens;
    most = std::max(most, phase == Phase::kDecode ? first + 1 : asking.tokens);
  }
  const DeviceArray<cuda::DeviceSequence> on_device(sequences);
  const DeviceArray<float> queries(q);
  const size_t width = static_cast<size_t>(shape.n_heads()) * shape.dim;
  CHECK_EQ(q.size(), width * row);
  const std::vector<float> out = in_every_order([&] {
    const DeviceArray<float> result(width * row + 1, Writer::kKernel);
    std::fill_n(result.data(), result.size(), kNoFloat);
    cuda::AttentionJob job{
        {static_cast<cuda::KvElement>(shape.type), shape.n_kv_heads, shape.dim, shape.page_rows},
        shape.layer,
        shape.n_heads(),
        shape.window,
        scale,
        on_device.data(),
        static_cast<int>(batch.size()),
        most,
        queries.data(),
        result.data(),
        nullptr};
    if (phase == Phase::kPrefill) {
      CHECK_EQ(cuda::attention_prefill(job, keys, nullptr), cudaSuccess);
      return result.values();
    }
    const DeviceArray<float> scratch(cuda::attention_scratch_floats(job), Writer::kKernel);
    std::fill_n(scratch.data(), scratch.size(), kNoFloat);
    job.scratch = scratch.data();
    CHECK_EQ(cuda::attention_split(job, keys, nullptr), cudaSuccess);
    CHECK_EQ(cuda::attention_fold(job, nullptr), cudaSuccess);
    for (const float left : scratch.values())
      CHECK(left == 0.0f || left == kNoFloat);
    return result.values();
  });
  CHECK_EQ(out.back(), kNoFloat);
  return {out.begin(), out.end() - 1};
}

// Attention of one query in float64, with a bound of what the device may differ by. `q`: [dim].
//
// Scores, in nats: a code of q is off by half a unit, the largest |q| / kCode16 (halves: two of
// them hold 22 bits), which a row multiplies by sum |k|; the float steps after an exact sum
// (halves: and those of the sum) add a few roundings. If no score is off by more than e, no weight
// is by more than a factor exp(2 e). Weights: a tile's unit is the largest weight times scale of
// its 32 rows over kCode16, and a code is off by half of it (halves: by 2^-22 of itself or 2^-25 of
// the largest). Sums: three roundings a tile, and those of folding; halves: 32 more inside a tile.
struct Attended {
  std::vector<double> value, bound; // [dim]

  Attended(const KvValues& kv, int head, const float* q, float scale, int begin, int end)
      : value(kv.shape.dim), bound(kv.shape.dim) {
    const int dim = kv.shape.dim, count = end - begin;
    const bool halves = kv.shape.type == KvType::kF16;
    double q_most = 0.0;
    for (int e = 0; e < dim; ++e)
      q_most = std::max(q_most, std::fabs(double{q[e]}));
    std::vector<double> x(count);
    double off = 0.0, most = -1e300, size = 0.0;
    for (int r = 0; r < count; ++r) {
      double dot = 0.0, sum = 0.0, products = 0.0;
      for (int e = 0; e < dim; ++e) {
        const double k = kv.key(begin + r, head, e);
        dot += q[e] * k;
        sum += std::fabs(k);
        products += std::fabs(q[e] * k);
      }
      const double unit = halves ? 0x1p-21 * q_most : 0.502 * q_most / kernels::kCode16;
      off = std::max(off, scale * (unit * sum + (halves ? 2.0 * dim + 16 : 16) * kEps * products));
      x[r] = scale * dot;
      most = std::max(most, x[r]);
      size = std::max(size, std::fabs(x[r]));
    }
    const double slip = std::expm1(2.0 * (off + 16.0 * kEps * (size + 1.0)));
    double total = 0.0;
    for (double& weight : x)
      total += weight = std::exp(weight - most);
    for (double& weight : x)
      weight /= total;
    const double roundings = 3.0 * count / 32 + 3.0 * count / 256 + (halves ? 80 : 16);
    for (int e = 0; e < dim; ++e) {
      double magnitude = 0.0, codes = 0.0;
      for (int r = 0; r < count;) {
        const int tile_end = std::min(count, ((begin + r) / 32 + 1) * 32 - begin);
        double unit = 0.0, sum = 0.0;
        for (; r < tile_end; ++r) {
          const double v = kv.value(begin + r, head, e);
          const double by = kv.v_scale[kv.scale_at(begin + r, head)];
          value[e] += x[r] * v;
          magnitude += x[r] * std::fabs(v);
          unit = std::max(unit, x[r] * by);
          sum += by > 0.0 ? std::fabs(v) / by : 0.0;
        }
        codes += sum * unit * (halves ? 0x1p-25 : 0.502 / kernels::kCode16);
      }
      bound[e] = (slip + roundings * kEps + (halves ? 0x1p-21 : 0.0)) * magnitude +
                 (1.0 + slip) * codes + 1e-37;
    }
  }
};

// All of a sequence's queries against float64. `q`, `out`: of its tokens, [tokens, n_heads, dim].
inline void check_attended(const KvValues& kv, int length, int tokens, float scale, const float* q,
                           const float* out) {
  const AttentionShape& s = kv.shape;
  for (int t = 0; t < tokens; ++t) {
    const int end = length - tokens + t + 1;
    const int begin = s.window == 0 ? 0 : std::max(0, end - s.window);
    for (int h = 0; h < s.n_heads(); ++h, q += s.dim, out += s.dim) {
      const Attended want(kv, h / s.group, q, scale, begin, end);
      for (int e = 0; e < s.dim; ++e)
        CHECK_NEAR(out[e], want.value[e], want.bound[e]);
    }
  }
}

inline cuda::SealKeys random_keys(Random& random) {
  cuda::SealKeys keys;
  for (kernels::ChaChaKey& key : keys.keys)
    for (uint32_t& word : key.words)
      word = static_cast<uint32_t>(random.bits());
  return keys;
}

} // namespace ptmo::test
