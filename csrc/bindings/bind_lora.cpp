// Adapters: packed once, then named in forward calls.
#include "bindings.h"
#include "common/check.h"
#include "model/lora.h"

namespace ptmo {
namespace {

void require_shape(const char* name, const py::array& x, py::ssize_t rows, py::ssize_t cols) {
  require(x.ndim() == 2 && x.shape(0) == rows && x.shape(1) == cols, name, " is not [", rows, ", ",
          cols, "]");
}

void fill_int8(Adapter& adapter, int layer, Linear linear, const Array<int8_t>& a,
               const py::array& a_scales, const Array<int8_t>& b, const py::array& b_scales,
               float scale) {
  const int rank = adapter.rank(layer, linear);
  const auto [rows, cols] = linear_shape(adapter.config(), linear);
  const Array<uint16_t> sa = a_scales.attr("view")("uint16"), sb = b_scales.attr("view")("uint16");
  require_shape("a", a, rank, cols);
  require_shape("a_scales", sa, rank, cols / kernels::kBlock);
  require_shape("b", b, rows, kernels::rank_chunks(rank) * kernels::kRankChunk);
  require_shape("b_scales", sb, rows, kernels::rank_chunks(rank));
  adapter.set_int8(layer, linear, a.data(), sa.data(), b.data(), sb.data(), scale);
}

void fill_float(Adapter& adapter, int layer, Linear linear, const Array<float>& a,
                const Array<float>& b, float scale) {
  const int rank = adapter.rank(layer, linear);
  const auto [rows, cols] = linear_shape(adapter.config(), linear);
  require_shape("a", a, rank, cols);
  require_shape("b", b, rows, rank);
  adapter.set_float(layer, linear, a.data(), b.data(), scale);
}

} // namespace

void register_lora(py::module_& m) {
  py::enum_<Linear>(m, "Linear")
      .value("q", Linear::kQ)
      .value("k", Linear::kK)
      .value("v", Linear::kV)
      .value("o", Linear::kO)
      .value("gate", Linear::kGate)
      .value("up", Linear::kUp)
      .value("down", Linear::kDown);

  py::class_<Adapter, std::shared_ptr<Adapter>>(m, "Adapter")
      .def(py::init([](const ModelConfig& config,
                       const std::vector<std::tuple<int, Linear, int, bool>>& parts) {
             std::vector<Adapter::Part> list;
             for (const auto& [layer, linear, rank, integer] : parts)
               list.push_back({layer, linear, rank, integer});
             return std::make_shared<Adapter>(config, list);
           }),
           py::arg("config"), py::arg("parts"),
           "Room for parts (layer, linear, rank, whether INT8); fill each, then use.")
      .def("set_int8", &fill_int8, py::arg("layer"), py::arg("linear"), py::arg("a"),
           py::arg("a_scales"), py::arg("b"), py::arg("b_scales"), py::arg("scale"))
      .def("set_float", &fill_float, py::arg("layer"), py::arg("linear"), py::arg("a"),
           py::arg("b"), py::arg("scale"))
      .def_property_readonly("bytes", &Adapter::bytes);

  py::class_<AdapterSet, std::shared_ptr<AdapterSet>>(m, "AdapterSet")
      .def(py::init([](const std::vector<std::shared_ptr<Adapter>>& adapters) {
             require(adapters.size() <= AdapterSet::kMax, adapters.size(), " adapters, more than ",
                     AdapterSet::kMax);
             for (size_t i = 0; i < adapters.size(); ++i)
               require(adapters[i] != nullptr, "adapters[", i, "] is None");
             return std::make_shared<AdapterSet>(AdapterSet{{adapters.begin(), adapters.end()}});
           }),
           py::arg("adapters"), "Adapters added up in this order; it keeps them alive.");
}

} // namespace ptmo
