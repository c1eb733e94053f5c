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
}

} // namespace ptmo
