// Page arena and sessions. Python may read pages exactly as an attacker would, and no other way.
#include <memory>
#include <utility>

#include "bindings.h"
#include "common/check.h"
#include "kv/kv_cache.h"

namespace ptmo {

void register_kv(py::module_& m) {
  py::enum_<KvType>(m, "KvType")
      .value("int8", KvType::kInt8)
      .value("fp16", KvType::kF16)
      .value("fp32", KvType::kF32);

  py::class_<PageLayout>(m, "PageLayout")
      .def(py::init<int, int, int, int, KvType>(), py::arg("n_layers"), py::arg("n_kv_heads"),
           py::arg("head_dim"), py::arg("rows"), py::arg("type"))
      .def_property_readonly("page_bytes", &PageLayout::page_bytes)
      .def_property_readonly("bytes_per_token", &PageLayout::bytes_per_token)
      .def_property_readonly("data_offset", &PageLayout::data_offset)
      .def_property_readonly("head_bytes", &PageLayout::head_bytes);

  py::class_<PageArena>(m, "PageArena")
      .def(py::init<const PageLayout&, int>(), py::arg("layout"), py::arg("capacity_pages"))
      .def(
          "addresses",
          [](const PageArena& a) {
            std::vector<uintptr_t> out;
            for (const int page : a.pages_in_use())
              out.push_back(reinterpret_cast<uintptr_t>(a.page(page)));
            return out;
          },
          "Virtual address of every page in use, ascending by page.")
      .def(
          "dump",
          [](const PageArena& a) {
            std::string out;
            for (const int page : a.pages_in_use())
              out.append(reinterpret_cast<const char*>(a.page(page)), a.layout().page_bytes());
            return py::bytes(out);
          },
          "The bytes of every page in use, as they stand in memory.");

  py::class_<KvSession>(m, "KvSession")
      .def(py::init<PageArena&, uint32_t>(), py::arg("arena"), py::arg("session_id"),
           py::keep_alive<1, 2>())
      .def(py::init<PageArena&, uint32_t, uint32_t, SecretArena&, size_t>(), py::arg("arena"),
           py::arg("session_id"), py::arg("epoch"), py::arg("secrets"), py::arg("slot"),
           py::keep_alive<1, 2>(), py::keep_alive<1, 5>())
      .def_property_readonly("length", &KvSession::length)
      .def_property_readonly("sealed", &KvSession::sealed)
      .def_property_readonly("page_count", &KvSession::page_count)
      .def_property_readonly("closed", &KvSession::closed)
      .def("close", &KvSession::close)
      .def("append", &KvSession::append, py::arg("rows"))
      .def("truncate", &KvSession::truncate, py::arg("length"));
}

} // namespace ptmo
