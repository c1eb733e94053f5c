// Read bandwidth, and the kernels as the benchmark suites time them (csrc/bench/benches.h).
#include <map>

#include "bench/benches.h"
#include "bindings.h"
#include "common/bandwidth.h"
#include "common/check.h"

namespace ptmo {
namespace {

kernels::WeightType weight_type(const std::string& name) {
  static const std::map<std::string, kernels::WeightType> types = {
      {"int4", kernels::WeightType::kInt4},
      {"int4-symmetric", kernels::WeightType::kInt4Symmetric},
      {"int8", kernels::WeightType::kInt8}};
  const auto found = types.find(name);
  require(found != types.end(), "type=", name, " is not int4, int4-symmetric or int8");
  return found->second;
}

// What every bench offers to Python.
template <typename Bench> py::class_<Bench> bench_class(py::module_& m, const char* name) {
  return py::class_<Bench>(m, name)
      .def(
          "run",
          [](Bench& bench, int repeats) {
            py::gil_scoped_release release;
            bench.run(repeats);
          },
          py::arg("repeats"))
      .def_property_readonly("call_bytes", &Bench::call_bytes)
      .def_property_readonly("working_set_bytes", &Bench::working_set_bytes);
}

} // namespace

void register_bench(py::module_& m) {
  m.def("read_bandwidth", &read_bandwidth, py::arg("bytes"), py::arg("threads"),
        py::arg("passes") = 5, py::call_guard<py::gil_scoped_release>(),
        "Bytes per second read from a buffer of `bytes` bytes: the median of some passes.");

  bench_class<MatmulBench>(m, "MatmulBench")
      .def(py::init([](const std::string& type, int rows, int cols, int group, int activation_bits,
                       int tokens, int threads, size_t working_set_bytes) {
             return std::make_unique<MatmulBench>(weight_type(type), rows, cols, group,
                                                  activation_bits, tokens, threads,
                                                  working_set_bytes);
           }),
           py::kw_only(), py::arg("type"), py::arg("rows"), py::arg("cols"), py::arg("group"),
           py::arg("activation_bits"), py::arg("tokens"), py::arg("threads"),
           py::arg("working_set_bytes"));
  bench_class<LowRankBench>(m, "LowRankBench")
      .def(py::init<int, int, int, int, size_t>(), py::kw_only(), py::arg("rows"), py::arg("rank"),
           py::arg("tokens"), py::arg("threads"), py::arg("working_set_bytes"));
  bench_class<VectorBench>(m, "VectorBench")
      .def(py::init<const std::string&, int>(), py::arg("kernel"), py::arg("n"));
  bench_class<AttentionBench>(m, "AttentionBench")
      .def(py::init<KvSession&, int, int, int, int>(), py::arg("session"), py::arg("n_heads"),
           py::arg("context"), py::arg("tokens"), py::arg("threads"), py::keep_alive<1, 2>());
  bench_class<KeystreamBench>(m, "KeystreamBench")
      .def(py::init<int, size_t, const std::string&>(), py::arg("rows"), py::arg("row_bytes"),
           py::arg("level"));
}

} // namespace ptmo
