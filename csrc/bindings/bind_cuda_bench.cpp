// The device's kernels as benchmarks/bench_gpu.py times them (csrc/cuda/bench).
#include <map>
#include <memory>
#include <string>

#include "bindings.h"
#include "common/check.h"
#include "cuda/bench/attention_bench.h"
#include "cuda/bench/matmul_bench.h"

namespace ptmo {
namespace {

template <typename T>
T named(const std::map<std::string, T>& known, const char* what, const std::string& name) {
  const auto found = known.find(name);
  require(found != known.end(), what, "=", name, " is unknown");
  return found->second;
}

const std::map<std::string, kernels::WeightType> kTypes = {
    {"int4", kernels::WeightType::kInt4},
    {"int4-symmetric", kernels::WeightType::kInt4Symmetric},
    {"int8", kernels::WeightType::kInt8}};
const std::map<std::string, cuda::MatmulCall> kCalls = {
    {"matmul", cuda::MatmulCall::kMatmul},
    {"input-matmul", cuda::MatmulCall::kInputMatmul},
    {"fused-update", cuda::MatmulCall::kFusedUpdate},
    {"unfused-update", cuda::MatmulCall::kUnfusedUpdate}};
const std::map<std::string, cuda::KvElement> kElements = {{"int8", cuda::KvElement::kInt8},
                                                          {"int4", cuda::KvElement::kInt4},
                                                          {"fp16", cuda::KvElement::kF16}};
const std::map<std::string, cuda::Angles> kAngles = {{"shared", cuda::Angles::kShared},
                                                     {"per-head", cuda::Angles::kPerHead}};

// What every bench offers to Python.
template <typename Bench> py::class_<Bench> bench_class(py::module_& m, const char* name) {
  return py::class_<Bench>(m, name)
      .def("milliseconds", &Bench::milliseconds, py::call_guard<py::gil_scoped_release>(),
           "Of one call: a replay of all calls, by the device's events, over their number.")
      .def_property_readonly("calls", &Bench::calls)
      .def_property_readonly("call_bytes", &Bench::call_bytes)
      .def_property_readonly("working_set_bytes", &Bench::working_set_bytes);
}

std::string device_name() {
  int device = 0;
  cudaDeviceProp properties{};
  cuda::check_call(cudaGetDevice(&device), "its number");
  cuda::check_call(cudaGetDeviceProperties(&properties, device), "its properties");
  return properties.name;
}

} // namespace

void register_cuda_bench(py::module_& m) {
  m.def("device_name", &device_name, "Name of the device in use.");
  m.def("cache_bytes", &cuda::cache_bytes, "Bytes of the device's last cache.");
  bench_class<cuda::CopyBench>(m, "CopyBench").def(py::init<size_t>(), py::arg("bytes"));
  bench_class<cuda::DeviceMatmulBench>(m, "MatmulBench")
      .def(py::init([](const std::string& type, int rows, int cols, int group, int tokens,
                       int planes, const std::string& call, size_t working_set_bytes) {
             return std::make_unique<cuda::DeviceMatmulBench>(
                 cuda::MatmulShape{named(kTypes, "type", type), rows, cols, group, tokens, planes},
                 named(kCalls, "call", call), working_set_bytes);
           }),
           py::kw_only(), py::arg("type"), py::arg("rows"), py::arg("cols"), py::arg("group"),
           py::arg("tokens"), py::arg("planes"), py::arg("call"), py::arg("working_set_bytes"));
  bench_class<cuda::DeviceAttentionBench>(m, "AttentionBench")
      .def(py::init([](const std::string& element, int n_heads, int n_kv_heads, int dim,
                       int context, bool sealed, bool store, const std::string& angles,
                       size_t working_set_bytes) {
             return std::make_unique<cuda::DeviceAttentionBench>(
                 cuda::AttentionShape{named(kElements, "element", element), n_heads, n_kv_heads,
                                      dim, context},
                 cuda::AttentionCall{sealed, store, named(kAngles, "angles", angles)},
                 working_set_bytes);
           }),
           py::kw_only(), py::arg("element"), py::arg("n_heads"), py::arg("n_kv_heads"),
           py::arg("dim"), py::arg("context"), py::arg("sealed") = false, py::arg("store") = false,
           py::arg("angles") = "shared", py::arg("working_set_bytes"));
}

} // namespace ptmo
