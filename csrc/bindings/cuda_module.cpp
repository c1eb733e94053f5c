// The CUDA engine: pages and a decoder on the device. Sessions, layouts and adapters are _native's.
#include <string>
#include <utility>

#include "bindings.h"
#include "cuda/device_decoder.h"
#include "cuda/usable.h"
#include "decoder_methods.h"
#include "dlpack.h"
#include "kernels/cuda/cuda_kernels.h"

namespace ptmo::cuda {
namespace {

// forward_batch() with logits [rows, vocab_size] that stay on the device, in a tensor of anybody's.
void forward_batch_into(DeviceDecoder& d, const py::object& logits,
                        const std::vector<KvSession*>& sessions,
                        const std::vector<Array<int32_t>>& tokens, bool all_logits,
                        const py::object& buffer, const py::object& restore,
                        const std::vector<std::shared_ptr<AdapterSet>>& adapters) {
  BatchCall call(d.config(), sessions, tokens, all_logits, buffer, restore, adapters);
  const BorrowedTensor out(logits, "logits", kFloat32, 2, d.stream());
  require(out.size(0) == call.rows() && out.size(1) == d.config().vocab_size, "logits have shape [",
          out.size(0), ", ", out.size(1), "], not [", call.rows(), ", ", d.config().vocab_size,
          "]");
  call.run(out.data<float>(), [&](const Sequence* batch, int count, const AttentionRestore& hook) {
    d.forward(batch, count, hook, DeviceDecoder::LogitsIn::kDevice);
  });
}

// (temperature, top_k, top_p, uniform draw) of each row of logits [rows, vocab] on the device;
// returns a token of each, kNoToken where a logit is not finite.
std::vector<int32_t> sample_rows(const py::object& logits,
                                 const std::vector<std::tuple<float, int, double, double>>& draws) {
  const Stream stream;
  const BorrowedTensor in(logits, "logits", kFloat32, 2, stream);
  require(in.size(0) == static_cast<int64_t>(draws.size()), "logits have ", in.size(0),
          " rows, draws are ", draws.size());
  require(in.size(1) >= 1 && in.size(1) <= INT32_MAX, "logits have ", in.size(1), " columns");
  const int rows = static_cast<int>(in.size(0)), vocab = static_cast<int>(in.size(1));
  std::vector<int32_t> out(draws.size(), kNoToken);
  if (rows == 0)
    return out;
  std::vector<SampleParams> params;
  bool greedy = true;
  for (const auto& [temperature, top_k, top_p, uniform] : draws) {
    require(temperature >= 0.0f && top_k >= 0 && top_p > 0.0 && top_p <= 1.0 && uniform >= 0.0 &&
                uniform < 1.0,
            "a draw is out of range");
    params.push_back({temperature, top_k, top_p, uniform});
    greedy = greedy && temperature == 0.0f;
  }
  const DeviceArray<int32_t> chosen(out.size());
  const py::gil_scoped_release release;
  const DeviceArray<uint64_t> scratch(greedy ? argmax_scratch(rows, vocab) : 0);
  const DeviceArray<SampleParams> on_device(params, stream);
  check_call(greedy
                 ? argmax(in.data<float>(), rows, vocab, scratch.data(), chosen.data(), stream)
                 : sample(in.data<float>(), rows, vocab, on_device.data(), chosen.data(), stream),
             "choosing tokens");
  check_call(
      cudaMemcpyAsync(out.data(), chosen.data(), chosen.bytes(), cudaMemcpyDeviceToHost, stream),
      "copying out");
  stream.wait();
  return out;
}

DeviceTensor to_device(const py::array& values) {
  const bool floats = values.dtype().is(py::dtype("float32"));
  require((floats || values.dtype().is(py::dtype("int32"))) &&
              (values.flags() & py::array::c_style) != 0,
          "values are not a contiguous array of float32 or int32");
  DeviceTensor out(floats ? kFloat32 : kInt32, {values.shape(), values.shape() + values.ndim()});
  const Stream stream;
  if (values.nbytes() > 0)
    check_call(cudaMemcpyAsync(out.data(), values.data(), static_cast<size_t>(values.nbytes()),
                               cudaMemcpyHostToDevice, stream),
               "copying in");
  stream.wait();
  return out;
}

// The values of a vector of integers on the device.
py::array read_ids(const py::object& ids) {
  const Stream stream;
  const BorrowedTensor in(ids, "token_ids", {DlKind::kInt, 0, 1}, 1, stream);
  py::array out(py::dtype(in.bits() == 32 ? "int32" : "int64"), std::vector<int64_t>{in.size(0)});
  if (in.size(0) > 0)
    check_call(cudaMemcpyAsync(out.mutable_data(), in.data<uint8_t>(),
                               static_cast<size_t>(out.nbytes()), cudaMemcpyDeviceToHost, stream),
               "copying out");
  stream.wait();
  return out;
}

// How many devices this process can use; why there is none, where there is none.
std::pair<int, std::string> devices() {
  const py::gil_scoped_release release; // the first call starts the device
  const UsableDevices found = usable_devices(PTMO_BUILT_FOR);
  return {found.count, found.why_none};
}

} // namespace
} // namespace ptmo::cuda

PYBIND11_MODULE(_cuda, m) {
  using namespace ptmo;
  m.doc() = "PTMO-Secure's engine on a CUDA device.";
  py::module_::import("ptmo_secure._native"); // the types that both modules know
  m.def("devices", &cuda::devices, "(usable CUDA devices, why there is none).");
  m.attr("architectures") = PTMO_BUILT_FOR; // that it has code for: "sm_87 sm_90a"
  py::class_<cuda::DevicePages, PageArena>(m, "DevicePages")
      .def(py::init<const PageLayout&, int>(), py::arg("layout"), py::arg("capacity_pages"));
  py::class_<cuda::DeviceDecoder> decoder(m, "Decoder");
  decoder.def(py::init<const ModelConfig&, cuda::DevicePages&, int>(), py::arg("config"),
              py::arg("pages"), py::arg("chunk_tokens"), py::keep_alive<1, 3>());
  bind_decoder_methods(decoder);
  decoder
      .def(
          "forward_batch_into", &cuda::forward_batch_into, py::arg("logits"), py::arg("sessions"),
          py::arg("token_ids"), py::arg("all_logits") = false,
          py::arg("attention_buffer") = py::none(), py::arg("restore") = py::none(),
          py::arg("adapters") = std::vector<std::shared_ptr<AdapterSet>>{},
          "As forward_batch; logits [rows, vocab_size] float32, a DLPack tensor on the device, are "
          "written where it has them.")
      .def_property_readonly("graph_launches", &cuda::DeviceDecoder::graph_launches,
                             "Decoding steps that were launched as one graph.");
  cuda::bind_device_tensor(m);
  m.def("to_device", &cuda::to_device, py::arg("values"),
        "A copy of float32 or int32 values on the device.");
  m.def("read_ids", &cuda::read_ids, py::arg("token_ids"),
        "A vector of int32 or int64 on the device, copied to the host.");
  m.def("sample", &cuda::sample_rows, py::arg("logits"), py::arg("draws"),
        "A token for each row of logits [rows, vocab] float32 on the device; draws: (temperature, "
        "top_k, top_p, uniform in [0, 1)) a row. -1 where a logit is not finite.");
  register_cuda_bench(m);
}
