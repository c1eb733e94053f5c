// No kernel asks more of a pointer than its element's own alignment: on every level, arrays that
// begin one element (and more) behind a cache line give the bits that arrays on a line give, and
// nothing is written outside them.
#include "attention_samples.h"
#include "check.h"

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
    if (!values.empty()) // data() may be null then
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

} // namespace

TEST(products_do_not_depend_on_alignment) {
  Random random(51);
  for (const WeightType type : {WeightType::kInt4, WeightType::kInt4Symmetric, WeightType::kInt8,
                                WeightType::kF16, WeightType::kF32}) {
    const int group = kernels::is_integer(type) ? 32 : 0;
    const int rows = 19, cols = 96, tokens = 15; // an odd stride and token tiles of 8, 4, 2 and 1
    const PanelMatrix w(random_matrix(random, type, rows, cols, group));
    const std::vector<float> x = random.normals(static_cast<size_t>(tokens) * cols);
    for (const kernels::Table* level : levels()) {
      for (const int bits : {8, 16, 32}) {
        const std::string what = level->name + std::string(" type ") + show(type);
        check_shifts(what + " bits " + show(bits), [&](int shift) {
          const Inputs in(*level, x, cols, bits);
          const Shifted<float> f32(in.x, shift), scales(in.scales, shift), sums(in.sums, shift);
          const Shifted<int8_t> codes(in.codes, shift), low(in.low, shift);
          const Shifted<int32_t> code_sums(in.code_sums, shift);
          const kernels::Activations act{cols,
                                         f32.data(),
                                         bits < 32 ? codes.data() : nullptr,
                                         bits == 16 ? low.data() : nullptr,
                                         scales.data(),
                                         sums.data(),
                                         code_sums.data()};
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
  std::vector<uint8_t> nibbles(3 * 48);
  for (uint8_t& byte : nibbles)
    byte = static_cast<uint8_t>(random.between(1, 15) + 16 * random.between(1, 15));
  for (const kernels::Table* level : levels()) {
    const std::string name = level->name;
    check_quantise_row<int8_t>(name + " row i8", level->quantize_row_i8, x);
    check_quantise_row<int16_t>(name + " row i16", level->quantize_row_i16, x);
    check_quantise_row<uint16_t>(name + " f16", level->to_f16, x);
    check_shifts(name + " row i4", [&](int shift) {
      const Shifted<float> in(x, shift);
      const Shifted<uint8_t> out(96, shift);
      level->quantize_row_i4(in.data(), 96, out.data());
      std::vector<uint8_t> codes = out.values();
      codes.resize(48); // the rest is scratch
      return codes;
    });
    check_shifts(name + " unpack i4", [&](int shift) {
      const Shifted<uint8_t> packed(nibbles, shift);
      const Shifted<int8_t> codes(2 * nibbles.size(), shift);
      level->unpack_rows_i4(packed.data(), 3, 96, codes.data());
      return codes.values();
    });
    for (const bool wide : {false, true})
      check_shifts(name + " blocks", [&](int shift) {
        const Shifted<float> in(x, shift), scales(3, shift), sums(3, shift);
        const Shifted<int8_t> codes(96, shift), low(96, shift);
        const Shifted<int32_t> code_sums(3, shift);
        level->quantize_blocks(in.data(), 96, codes.data(), wide ? low.data() : nullptr,
                               scales.data(), sums.data(), code_sums.data());
        std::vector<float> out = scales.values();
        for (const float v : sums.values())
          out.push_back(v);
        for (const Shifted<int8_t>* bytes : {&codes, &low})
          for (const int8_t v : bytes->values())
            out.push_back(v);
        for (const int32_t v : code_sums.values())
          out.push_back(static_cast<float>(v));
        return out;
      });
  }
}

TEST(attention_does_not_depend_on_alignment) {
  Random random(53);
  const int dim = 80; // more than a chunk of columns, and a tail
  for (const kernels::Table* level : levels()) {
    for (const Elements type : kElements) {
      SampleQueries q(dim);
      const SampleSpan rows(type, dim, 16, 3);
      rows.fill(random);
      for (int i = 0; i < 5; ++i)
        q.add(*level, random.normals(dim), i, 30 + 3 * i);
      check_shifts(level->name + std::string(" attend ") + name_of(type), [&](int shift) {
        const SampleSpan moved(type, dim, 16, 3, shift);
        for (int r = 0; r < rows.rows(); ++r) {
          for (int which = 0; which < 2; ++which) {
            moved.scale(r, which) = rows.scale(r, which);
            for (int d = 0; d < dim; ++d)
              moved.set(r, which, d, static_cast<float>(rows.code(r, which, d)));
          }
        }
        const Shifted<float> x(q.q, shift), scales(q.code_scales, shift);
        const Shifted<int16_t> codes(q.codes, shift);
        const size_t floats = 5 * (static_cast<size_t>(kPartialHead) + dim);
        const Shifted<float> partials(floats, shift), totals(floats, shift);
        AlignedBuffer scratch(kernels::kAttendScratch);
        const kernels::Queries queries{
            5, dim, q.scale, x.data(), codes.data(), scales.data(), q.first.data(), q.last.data()};
        const auto kernel = type == Elements::kI8    ? level->attend_i8
                            : type == Elements::kF16 ? level->attend_f16
                                                     : level->attend_f32;
        kernel(queries, moved.span, scratch.data(), partials.data());
        level->fold_partials(partials.data(), 5, dim, totals.data());
        std::vector<float> out = partials.values();
        for (const float v : totals.values())
          out.push_back(v);
        return out;
      });
    }
  }
}

TEST(elementwise_kernels_do_not_depend_on_alignment) {
  Random random(54);
  const int n = 45; // whole registers and a tail
  const std::vector<float> a = random.normals(n), b = random.normals(n), c = random.normals(n),
                           pairs = random.normals(2 * n), head = random.normals(80),
                           head_weight = random.normals(80);
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
    check_shifts(name + " geglu", [&](int shift) {
      const Shifted<float> gate(a, shift), up(b, shift), out(n, shift);
      level->geglu(gate.data(), up.data(), n, out.data());
      return out.values();
    });
    check_shifts(name + " head_rms_norm", [&](int shift) {
      const Shifted<float> x(head, shift), weight(head_weight, shift);
      level->head_rms_norm(x.data(), weight.data(), static_cast<int>(head.size()), 1e-5f);
      return x.values();
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
