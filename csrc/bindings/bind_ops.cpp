// Quantisation, the kernel level and the AES keystream (for the tests).
#include <vector>

#include "bindings.h"
#include "common/check.h"
#include "crypto/aes_ctr.h"
#include "kernels/kernels.h"
#include "quant/int4.h"

namespace ptmo {
namespace {

py::tuple quantize(const Array<float>& x, int group, bool symmetric) {
  require(x.ndim() == 2, "x has ", x.ndim(), " dimensions, not 2");
  const int rows = static_cast<int>(x.shape(0)), cols = static_cast<int>(x.shape(1));
  require(group == 32 || group == 64 || group == 128, "group=", group, " is not 32, 64 or 128");
  require(cols > 0 && cols % group == 0, "cols=", cols, " is not a multiple of group=", group);
  Array<uint8_t> codes({rows, cols / 2});
  Array<uint16_t> scales({rows, cols / group}), mins({rows, cols / group});
  const float* from = x.data();
  auto* c = codes.mutable_data();
  auto *s = scales.mutable_data(), *m = mins.mutable_data();
  {
    py::gil_scoped_release release;
    quantize_int4(from, rows, cols, group, symmetric, c, s, m);
  }
  const py::dtype half("float16");
  return py::make_tuple(codes, scales.attr("view")(half), mins.attr("view")(half));
}

py::bytes ctr_xor(const py::bytes& key, const std::vector<uint64_t>& seqs, int layer, int kind,
                  int head, const py::bytes& data, bool portable) {
  const std::string k = key, in = data;
  require(k.size() == 16, "the key has ", k.size(), " bytes, not 16");
  require(!seqs.empty() && in.size() % seqs.size() == 0, in.size(), " bytes are not ", seqs.size(),
          " equal records");
  require(kind >= 0 && kind <= 2, "kind=", kind, " is not 0, 1 or 2");
  AesRoundKeys round_keys;
  aes128_expand(reinterpret_cast<const uint8_t*>(k.data()), &round_keys);
  std::string out(in.size(), '\0');
  (portable ? aes128_ctr_xor_portable : aes128_ctr_xor)(
      round_keys, seqs.data(), static_cast<int>(seqs.size()), static_cast<uint16_t>(layer),
      static_cast<StreamKind>(kind), static_cast<uint16_t>(head),
      reinterpret_cast<const uint8_t*>(in.data()), in.size() / seqs.size(),
      reinterpret_cast<uint8_t*>(out.data()));
  return out;
}

} // namespace

void register_ops(py::module_& m) {
  m.def(
      "kernel_level", [] { return std::string(kernels::best().name); },
      "Name of the CPU kernel level in use.");
  m.def("aes_level", &aes_level, "The CPU's AES instructions in use, or \"portable\".");
  m.def(
      "aes_levels",
      [] {
        std::vector<std::string> names;
        for (const AesLevel& level : aes_hardware_levels())
          names.emplace_back(level.name);
        return names;
      },
      "All that this CPU has, best first.");
  m.def("quantize_int4", &quantize, py::arg("x"), py::arg("group") = 32,
        py::arg("symmetric") = false,
        "Group-wise INT4 of x [N, K] float32: (codes u8 [N, K/2], scales f16, mins f16 [N, K/g]).");
  m.def(
      "aes128_ctr_xor", &ctr_xor, py::arg("key"), py::arg("seqs"), py::arg("layer"),
      py::arg("kind"), py::arg("head"), py::arg("data"), py::arg("portable") = false,
      "The sealed cache's keystream under a key given in the clear: for tests, never for secrets.");
}

} // namespace ptmo
