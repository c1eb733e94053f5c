// The CUDA engine: pages and a decoder on the device. Sessions, layouts and adapters are _native's.
#include <string>
#include <utility>

#include "bindings.h"
#include "cuda/device_decoder.h"
#include "decoder_methods.h"

namespace ptmo::cuda {
namespace {

// How many devices this process can use; why there is none, where there is none.
std::pair<int, std::string> devices() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  return {error == cudaSuccess ? count : 0,
          error == cudaSuccess ? std::string() : std::string(cudaGetErrorString(error))};
}

} // namespace
} // namespace ptmo::cuda

PYBIND11_MODULE(_cuda, m) {
  using namespace ptmo;
  m.doc() = "PTMO-Secure's engine on a CUDA device.";
  py::module_::import("ptmo_secure._native"); // the types that both modules know
  m.def("devices", &cuda::devices, "(usable CUDA devices, why there is none).");
  py::class_<cuda::DevicePages, PageArena>(m, "DevicePages")
      .def(py::init<const PageLayout&, int>(), py::arg("layout"), py::arg("capacity_pages"));
  py::class_<cuda::DeviceDecoder> decoder(m, "Decoder");
  decoder.def(py::init<const ModelConfig&, cuda::DevicePages&, int>(), py::arg("config"),
              py::arg("pages"), py::arg("chunk_tokens"), py::keep_alive<1, 3>());
  bind_decoder_methods(decoder);
  register_cuda_bench(m);
}
