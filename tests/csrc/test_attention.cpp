// Attention over a paged cache of several spans: right against float64 with and without a window,
// and the same bits however the queries are split, dealt to threads or sealed.
#include "check.h"
#include "every_level.h"
#include "sealed_session.h"

#include "model/attention.h"

#include <algorithm>

namespace ptmo::test {
namespace {

const KvType kTypes[] = {KvType::kInt8, KvType::kInt4, KvType::kF16, KvType::kF32};
constexpr int kHeads = 6, kKvHeads = 2, kLayer = 1;

// ThreadSanitizer makes a row pair dear: fewer of them there, by the same threads, calls and jobs.
#if defined(PTMO_SANITIZED_THREADS)
constexpr bool kFewRows = true;
#else
constexpr bool kFewRows = false;
#endif

// A session full of random rows, and queries at every position.
struct Cache {
  PageLayout layout;
  PageArena pages;
  SecretArena secrets{4096};
  std::unique_ptr<KvSession> plain, sealed;
  std::vector<float> q;     // [rows, kHeads, dim]
  std::vector<double> k, v; // [rows, kKvHeads, dim], as stored
  int rows, dim;

  Cache(KvType type, int head_dim, int page_rows, int count, uint64_t seed)
      : layout(2, kKvHeads, head_dim, page_rows, type), pages(layout, 2 * (count / page_rows + 1)),
        rows(count), dim(head_dim) {
    Random random(seed);
    plain = std::make_unique<KvSession>(pages, 1);
    sealed = sealed_session(pages, secrets, 2, seed);
    plain->append(rows);
    sealed->append(rows);
    q = random.normals(static_cast<size_t>(rows) * kHeads * dim);
    std::vector<uint8_t> row[2];
    for (auto& r : row) // INT4 is packed in place
      r.resize(layout.element_bytes() * static_cast<size_t>(dim));
    for (int position = 0; position < rows; ++position) {
      for (int head = 0; head < kKvHeads; ++head) {
        float scales[2] = {0.0f, 0.0f};
        for (int which = 0; which < 2; ++which)
          scales[which] =
              encode(random.normals(static_cast<size_t>(dim)), row[which], which == 0 ? k : v);
        for (KvSession* session : {plain.get(), sealed.get()})
          session->write(kLayer, head, position, row[0].data(), row[1].data(), scales);
      }
    }
  }

  float encode(const std::vector<float>& x, std::vector<uint8_t>& out,
               std::vector<double>& values) {
    const kernels::Table& kernel = kernels::best();
    float scale = 1.0f;
    if (layout.type == KvType::kInt8) {
      scale = kernel.quantize_row_i8(x.data(), dim, reinterpret_cast<int8_t*>(out.data()));
    } else if (layout.type == KvType::kInt4) {
      scale = kernel.quantize_row_i4(x.data(), dim, out.data());
    } else if (layout.type == KvType::kF16) {
      kernel.to_f16(x.data(), dim, reinterpret_cast<uint16_t*>(out.data()));
    } else {
      std::memcpy(out.data(), x.data(), out.size());
    }
    for (int d = 0; d < dim; ++d) {
      if (layout.type == KvType::kInt8) {
        values.push_back(static_cast<double>(scale) * static_cast<int8_t>(out[d]));
      } else if (layout.type == KvType::kInt4) {
        const int nibble = d < dim / 2 ? out[d] & 15 : out[d - dim / 2] >> 4;
        values.push_back(static_cast<double>(scale) * (nibble - 8));
      } else if (layout.type == KvType::kF16) {
        values.push_back(half_to_float(reinterpret_cast<const uint16_t*>(out.data())[d]));
      } else {
        values.push_back(x[d]);
      }
    }
    return scale;
  }
};

struct Setting {
  int threads = 1, step = 1 << 20; // tokens a call
  bool sealed = false;
  int window = 0, jobs = 1; // a call's tokens cut into so many jobs
};

// Attention of the positions [from, cache.rows).
std::vector<float> attended(const Cache& cache, int from, const Setting& s) {
  const ModelConfig config{2, 64, kHeads, kKvHeads, cache.dim, 96, 50, 4096, 1e-5f};
  Attention attention(config, cache.layout, s.threads);
  ThreadPool pool(s.threads);
  const size_t width = static_cast<size_t>(kHeads) * cache.dim;
  std::vector<float> out(static_cast<size_t>(cache.rows - from) * width, 7.0f);
  for (int at = from; at < cache.rows; at += s.step) {
    const int end = std::min(at + s.step, cache.rows), n = end - at;
    std::vector<AttentionJob> jobs;
    for (int j = 0; j < s.jobs; ++j) {
      const int begin = at + n * j / s.jobs, tokens = at + n * (j + 1) / s.jobs - begin;
      if (tokens > 0)
        jobs.push_back({s.sealed ? cache.sealed.get() : cache.plain.get(),
                        cache.q.data() + begin * width, begin, tokens,
                        out.data() + (begin - from) * width});
    }
    attention.run(kernels::best(), pool, jobs.data(), static_cast<int>(jobs.size()), kLayer,
                  s.window, 0.2f);
  }
  return out;
}

// A window's results.
struct Windowed {
  int window;
  std::vector<double> out; // [rows - from, kHeads, dim]
};

// Float64 attention of the positions [from, rows) under every window. A row's sums run backwards
// from its own position: when they have reached a window's first row, they are that window's.
std::vector<Windowed> exact_attention(const Cache& c, int from, const std::vector<int>& windows) {
  const size_t dim = static_cast<size_t>(c.dim);
  std::vector<Windowed> all;
  for (const int window : windows)
    all.push_back({window, {}});
  std::vector<double> scores, sum(dim);
  for (int position = from; position < c.rows; ++position) {
    for (int head = 0; head < kHeads; ++head) {
      const auto row = [&](const std::vector<double>& of, int r) {
        return of.data() + (static_cast<size_t>(r) * kKvHeads + head / (kHeads / kKvHeads)) * dim;
      };
      const float* q = c.q.data() + (static_cast<size_t>(position) * kHeads + head) * dim;
      scores.clear();
      for (int r = 0; r <= position; ++r) {
        const double* k = row(c.k, r);
        double dot = 0.0;
        for (size_t d = 0; d < dim; ++d)
          dot += q[d] * k[d];
        scores.push_back(0.2 * dot);
      }
      const double max = *std::max_element(scores.begin(), scores.end());
      double total = 0.0;
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int r = position; r >= 0; --r) {
        const double weight = std::exp(scores[r] - max);
        const double* v = row(c.v, r);
        total += weight;
        for (size_t d = 0; d < dim; ++d)
          sum[d] += weight * v[d];
        for (Windowed& w : all)
          if (r == (w.window == 0 ? 0 : std::max(0, position - w.window + 1)))
            for (const double x : sum)
              w.out.push_back(x / total);
      }
    }
  }
  return all;
}

// Root mean square of the error over that of the exact values; `got` are the last of them.
double relative_error(const std::vector<float>& got, const std::vector<double>& exact) {
  const double* want = exact.data() + (exact.size() - got.size());
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(error / size);
}

} // namespace

// Windows of one row, within a span, of a span and a row, over several, and of more than there is.
TEST(attention_is_that_of_float64_over_several_spans_with_any_window) {
  for (const KvType type : kTypes) {
    for (const int dim : {16, 64}) {
      const Cache cache(type, dim, dim == 16 ? 16 : 32, 300, 5);
      for (const Windowed& exact :
           exact_attention(cache, kFewRows ? 290 : 0,
                           {0, 1, 2, 31, 33, 64, 127, 128, 129, 200, 299, 300, 301, 5000})) {
        const int window = exact.window;
        const int from = kFewRows ? 290 : window % 2 == 0 ? 0 : 250; // one thread alone
        set_context("type ", static_cast<int>(type), " dim ", dim, " window ", window);
        const std::vector<float> got = attended(cache, from, {1, 1 << 20, false, window});
        CHECK_NEAR(relative_error(got, exact.out), 0.0,
                   cache.layout.has_scales() ? 2e-4
                                             : 2e-6); // integers: weights and queries of 15 bits
      }
    }
  }
}

TEST(threads_calls_jobs_and_sealing_change_no_bit) {
  const int rows = kFewRows ? 205 : 333, late = rows - 43;
  for (const KvType type : kTypes) {
    for (const int window : {0, 45, 150}) {
      const Cache cache(type, 32, 16, rows, 6);
      const std::vector<float> want = attended(cache, 0, {1, 1 << 20, false, window});
      const auto same = [&](int from, const Setting& s) {
        set_context("type ", static_cast<int>(type), " window ", window, " from ", from,
                    " threads ", s.threads, " step ", s.step, " jobs ", s.jobs, " sealed ",
                    s.sealed);
        const auto skip = static_cast<ptrdiff_t>(from) * kHeads * 32;
        CHECK(same_bits(attended(cache, from, s),
                        std::vector<float>(want.begin() + skip, want.end())));
      };
      same(0, {3, 1 << 20, false, window});
      same(0, {2, 1 << 20, true, window, 3});
      same(0, {1, 7, true, window});
      same(0, {4, 50, false, window, 5});
      same(late, {1, 1, true, window}); // token by token, as in decoding
      same(late, {2, 1, false, window});
      same(late, {5, 1, true, window});
      same(late + 10, {3, 5, true, window, 5}); // one token each, as in a batch
    }
  }
}

TEST(every_length_from_one_row_to_a_page_more_than_a_span_decodes_alike_plain_and_sealed) {
  const int rows = 150;
  const Cache cache(KvType::kInt8, 64, 32, rows, 7);
  const std::vector<float> want = attended(cache, 0, {1, 1, false});
  CHECK(same_bits(attended(cache, 0, {2, 1, true}), want));
  CHECK(same_bits(attended(cache, 0, {1, rows, true}), want));
  CHECK_NEAR(relative_error(want, exact_attention(cache, 0, {0})[0].out), 0.0, 2e-4);
}

TEST(pages_of_16_and_32_rows_give_the_same_bits) {
  for (const KvType type : kTypes) {
    const Cache small(type, 32, 16, 200, 8), large(type, 32, 32, 200, 8);
    set_context("type ", static_cast<int>(type));
    CHECK(same_bits(attended(small, 0, {}), attended(large, 0, {})));
  }
}

} // namespace ptmo::test

int main(int argc, char** argv) {
  return ptmo::test::run_on_every_level(argc, argv);
}
