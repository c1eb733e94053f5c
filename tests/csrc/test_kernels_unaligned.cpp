// No kernel asks more of a pointer than its element's own alignment: on every level, arrays that
// begin one element (and more) behind a cache line give the bits that arrays on a line give, and
// nothing is written outside them.
#include "check.h"
#include "samples.h"

namespace ptmo::test {
namespace {

const int kShifts[] = {1, 3, 5}; // elements

// A copy of `values` that begins `shift` elements behind a 64-byte line, between guards.
template <typename T> class Shifted {
public:
  Shifted(const std::vector<T>& values, int shift)
      : bytes_(128 + (values.size() + static_cast<size_t>(shift)) * sizeof(T)),
        at_(64 + static_cast<size_t>(shift) * sizeof(T)), count_(values.size()) {
    std::memset(bytes_.data(), 0xa5, bytes_.size());
    std::memcpy(bytes_.data() + at_, values.data(), count_ * sizeof(T));
  }
  Shifted(size_t count, int shift) : Shifted(std::vector<T>(count), shift) {}
  T* data() const { return reinterpret_cast<T*>(bytes_.data() + at_); }
  std::vector<T> values() const {
    for (size_t i = 0; i < bytes_.size(); ++i)
      if ((i < at_ || i >= at_ + count_ * sizeof(T)) && bytes_.data()[i] != 0xa5)
        fail(__FILE__, __LINE__, "wrote outside the array, at byte " + show(i));
    return {data(), data() + count_};
  }

private:
  AlignedBuffer bytes_;
  size_t at_, count_;
};

// Runs `kernel(shift)`, which returns what it wrote, on a line and behind it.
template <typename Kernel> void check_shifts(const std::string& what, Kernel kernel) {
  const auto want = kernel(0);
  for (const int shift : kShifts) {
    set_context(what, " shift ", shift);
    CHECK(same_bits(kernel(shift), want));
  }
}

template <typename Code, typename Quantise>
void check_quantise_row(const std::string& name, Quantise quantise, const std::vector<float>& x) {
  check_shifts(name, [&](int shift) {
    const Shifted<float> in(x, shift);
    const Shifted<Code> out(x.size(), shift);
    quantise(in.data(), static_cast<int>(x.size()), out.data());
    return out.values();
  });
}

template <typename Element, typename Kernel>
void check_weighted_rows(const std::string& name, Kernel kernel, const std::vector<float>& p,
                         const std::vector<Element>& v, const std::vector<float>& start) {
  check_shifts(name, [&](int shift) {
    const Shifted<float> weights(p, shift), out(start, shift);
    const Shifted<Element> rows(v, shift);
    kernel(weights.data(), rows.data(), static_cast<int>(p.size()), static_cast<int>(start.size()),
           out.data());
    return out.values();
  });
}

template <typename Query, typename Element, typename Out>
void check_dot_rows(const std::string& name,
                    void (*kernel)(const Query*, const Element*, int, int, Out*),
                    const std::vector<Query>& q, const std::vector<Element>& k) {
  check_shifts(name, [&](int shift) {
    const Shifted<Query> query(q, shift);
    const Shifted<Element> rows(k, shift);
    const Shifted<Out> out(k.size() / q.size(), shift);
    kernel(query.data(), rows.data(), static_cast<int>(k.size() / q.size()),
           static_cast<int>(q.size()), out.data());
    return out.values();
  });
}

template <typename To, typename From>
std::vector<To> converted(const std::vector<From>& x, To (*convert)(From)) {
  std::vector<To> out;
  for (const From v : x)
    out.push_back(convert(v));
  return out;
}

} // namespace

TEST(products_do_not_depend_on_alignment) {
  Random random(51);
  for (const WeightType type : {WeightType::kInt4, WeightType::kInt4Symmetric, WeightType::kInt8,
                                WeightType::kF16, WeightType::kF32}) {
    const int group = kernels::is_integer(type) ? 32 : 0;
    const int rows = 19, cols = 96, tokens = 7; // both an odd stride and token tiles of 4, 2 and 1
    const PanelMatrix w(random_matrix(random, type, rows, cols, group));
    const std::vector<float> x = random.normals(static_cast<size_t>(tokens) * cols);
    for (const kernels::Table* level : levels()) {
      for (const bool integer : {true, false}) {
        const std::string what = level->name + std::string(" type ") + show(type);
        check_shifts(what + (integer ? " integer" : " float"), [&](int shift) {
          const Inputs in(*level, x, cols);
          const Shifted<float> f32(in.x, shift), scales(in.scales, shift), sums(in.sums, shift);
          const Shifted<int8_t> codes(in.codes, shift);
          const Shifted<int32_t> code_sums(in.code_sums, shift);
          const kernels::Activations act{
              cols,          f32.data(),  integer ? codes.data() : nullptr,
              scales.data(), sums.data(), code_sums.data()};
          const Shifted<float> y(static_cast<size_t>(tokens) * rows, shift);
          level->matmul(w.packed, 0, 2, act, tokens, y.data(), rows);
          return y.values();
        });
      }
    }
  }
}

TEST(low_rank_updates_do_not_depend_on_alignment) {
  Random random(55);
  const int rows = 35, rank = 21, width = 32, tokens = 3; // two chunks, the last one cut
  const std::vector<float> u = random.normals(tokens * width),
                           start = random.normals(tokens * rows);
  for (const WeightType type : {WeightType::kInt8, WeightType::kF32}) {
    kernels::LowRankTerm term{
        {type, rows, rank, nullptr, kernels::low_rank_panel_bytes(type, rank)}, {}};
    AlignedBuffer panels(3 * term.b.panel_bytes);
    for (size_t i = 0; i < panels.size();
         i += 4) { // small floats, and codes and scales of any kind
      const float value = random.normal();
      std::memcpy(panels.data() + i, &value, 4);
    }
    if (type == WeightType::kInt8)
      for (size_t i = 0; i < panels.size(); ++i)
        panels.data()[i] = static_cast<uint8_t>(random.below(0x3c));
    term.b.data = panels.data();
    for (const kernels::Table* level : levels()) {
      check_shifts(level->name + std::string(" low rank type ") + show(type), [&](int shift) {
        const Inputs in(*level, u, width);
        const Shifted<float> f32(u, shift), scales(std::vector<float>(2 * tokens, 0.01f), shift);
        const Shifted<int8_t> codes(in.codes, shift);
        const Shifted<int32_t> code_sums(std::vector<int32_t>(2 * tokens, 5), shift);
        term.u = {f32.data(), codes.data(), scales.data(), code_sums.data()};
        const Shifted<float> y(start, shift);
        level->low_rank_add(&term, 1, 0, 3, tokens, y.data(), rows);
        return y.values();
      });
    }
  }
}

TEST(quantisers_do_not_depend_on_alignment) {
  Random random(52);
  const std::vector<float> x = random.normals(96);
  for (const kernels::Table* level : levels()) {
    const std::string name = level->name;
    check_quantise_row<int8_t>(name + " row i8", level->quantize_row_i8, x);
    check_quantise_row<int16_t>(name + " row i16", level->quantize_row_i16, x);
    check_quantise_row<uint16_t>(name + " f16", level->to_f16, x);
    check_shifts(name + " blocks", [&](int shift) {
      const Shifted<float> in(x, shift), scales(3, shift), sums(3, shift);
      const Shifted<int8_t> codes(96, shift);
      const Shifted<int32_t> code_sums(3, shift);
      level->quantize_blocks(in.data(), 96, codes.data(), scales.data(), sums.data(),
                             code_sums.data());
      std::vector<float> out = scales.values();
      for (const float v : sums.values())
        out.push_back(v);
      for (const int8_t v : codes.values())
        out.push_back(v);
      for (const int32_t v : code_sums.values())
        out.push_back(static_cast<float>(v));
      return out;
    });
  }
}

TEST(attention_primitives_do_not_depend_on_alignment) {
  Random random(53);
  const int dim = 80, rows = 5; // five times four registers of eight, and a tail
  const std::vector<float> p = random.normals(rows), q = random.normals(dim),
                           v = random.normals(static_cast<size_t>(rows) * dim);
  const std::vector<uint16_t> halves = converted<uint16_t>(v, float_to_half);
  std::vector<int8_t> bytes;
  std::vector<int16_t> query;
  for (size_t i = 0; i < v.size(); ++i)
    bytes.push_back(static_cast<int8_t>(random.between(-127, 127)));
  for (int i = 0; i < dim; ++i)
    query.push_back(static_cast<int16_t>(random.between(-32767, 32767)));
  for (const kernels::Table* level : levels()) {
    const std::string name = level->name;
    check_dot_rows(name + " dot i8", level->dot_rows_i8, query, bytes);
    check_dot_rows(name + " dot f16", level->dot_rows_f16, q, halves);
    check_dot_rows(name + " dot f32", level->dot_rows_f32, q, v);
    check_weighted_rows(name + " weighted i8", level->weighted_rows_i8, p, bytes, q);
    check_weighted_rows(name + " weighted f16", level->weighted_rows_f16, p, halves, q);
    check_weighted_rows(name + " weighted f32", level->weighted_rows_f32, p, v, q);
    check_shifts(name + " exp_sum", [&](int shift) {
      const Shifted<float> x(v, shift);
      const float sum = level->exp_sum(x.data(), static_cast<int>(v.size()), 7.0f);
      std::vector<float> out = x.values();
      out.push_back(sum);
      return out;
    });
  }
}

TEST(elementwise_kernels_do_not_depend_on_alignment) {
  Random random(54);
  const int n = 45; // whole registers and a tail
  const std::vector<float> a = random.normals(n), b = random.normals(n), c = random.normals(n),
                           pairs = random.normals(2 * n);
  for (const kernels::Table* level : levels()) {
    const std::string name = level->name;
    check_shifts(name + " rms_norm", [&](int shift) {
      const Shifted<float> x(a, shift), weight(b, shift), y(n, shift);
      level->rms_norm(x.data(), weight.data(), n, 1e-5f, y.data());
      return y.values();
    });
    check_shifts(name + " swiglu", [&](int shift) {
      const Shifted<float> gate(a, shift), up(b, shift), out(n, shift);
      level->swiglu(gate.data(), up.data(), n, out.data());
      return out.values();
    });
    check_shifts(name + " add", [&](int shift) {
      const Shifted<float> x(a, shift), y(b, shift);
      level->add(x.data(), n, y.data());
      return y.values();
    });
    check_shifts(name + " cos_sin", [&](int shift) {
      const Shifted<float> angle(a, shift), cosine(n, shift), sine(n, shift);
      level->cos_sin(angle.data(), n, cosine.data(), sine.data());
      std::vector<float> out = cosine.values();
      for (const float v : sine.values())
        out.push_back(v);
      return out;
    });
    check_shifts(name + " rope", [&](int shift) {
      const Shifted<float> x(pairs, shift), cosine(b, shift), sine(c, shift);
      level->rope(x.data(), cosine.data(), sine.data(), n);
      return x.values();
    });
  }
}

} // namespace ptmo::test

PTMO_TEST_MAIN()
