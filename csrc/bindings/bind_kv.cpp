// Page arena and sessions. Python may read pages exactly as an attacker would, and no other way.
#include <memory>
#include <utility>

#include "bindings.h"
#include "common/check.h"
#include "kv/counter_ledger.h"
#include "kv/kv_cache.h"
#include "kv/page_storage.h"

namespace ptmo {
namespace {

const uint8_t* bytes_of(const py::bytes& bytes) {
  return reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(bytes.ptr()));
}

size_t size_of(const py::bytes& bytes) {
  return static_cast<size_t>(PyBytes_GET_SIZE(bytes.ptr()));
}

py::bytes to_bytes(const std::vector<uint8_t>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void write_row(KvSession& session, int layer, int head, int position, const py::bytes& k,
               const py::bytes& v, std::pair<float, float> scales) {
  const PageLayout& l = session.layout();
  require(layer >= 0 && layer < l.n_layers && head >= 0 && head < l.n_kv_heads, "layer=", layer,
          ", head=", head, " is not in the layout");
  require(size_of(k) == l.row_bytes() && size_of(v) == l.row_bytes(), "a row has ", l.row_bytes(),
          " bytes, not ", size_of(k), " and ", size_of(v));
  const float pair[2] = {scales.first, scales.second};
  session.write(layer, head, position, bytes_of(k), bytes_of(v), pair);
}

// A buffer shared with the TEE and the call that has it reorder what stands there; None: neither.
RowOrder row_order(const py::object& buffer, const py::object& reorder) {
  RowOrder order;
  if (buffer.is_none())
    return order;
  const py::buffer_info info = py::cast<py::buffer>(buffer).request(true);
  order.buffer = static_cast<uint8_t*>(info.ptr);
  order.bytes = static_cast<size_t>(info.size) * static_cast<size_t>(info.itemsize);
  order.reorder = [&reorder](int layer, int rows) {
    py::gil_scoped_acquire acquire;
    reorder(layer, rows);
  };
  return order;
}

void reorder_session(KvSession& session, const py::object& buffer, const py::object& reorder) {
  const RowOrder order = row_order(buffer, reorder);
  py::gil_scoped_release release;
  session.reorder(order);
}

py::bytes seal_page(PageStorage& storage, const KvSession& session, int page,
                    const std::string& header, const py::object& buffer,
                    const py::object& reorder) {
  const int rows = PageStorage::page_rows(session, page);
  const RowOrder order = row_order(buffer, reorder);
  std::vector<uint8_t> out(PageStorage::sealed_bytes(session.layout(), rows));
  {
    py::gil_scoped_release release;
    storage.seal_page(session, page, header, order, out.data());
  }
  return to_bytes(out);
}

void open_page(PageStorage& storage, KvSession& session, int page, int rows,
               const std::string& header, const py::bytes& sealed, const py::object& buffer,
               const py::object& reorder) {
  const size_t wanted = PageStorage::sealed_bytes(session.layout(), rows);
  require(size_of(sealed) == wanted, "a page of ", rows, " rows has ", wanted, " bytes, not ",
          size_of(sealed));
  const RowOrder order = row_order(buffer, reorder);
  const uint8_t* in = bytes_of(sealed);
  py::gil_scoped_release release;
  storage.open_page(session, page, rows, header, order, in);
}

void register_storage(py::module_& m) {
  py::register_exception<AuthenticationError>(m, "AuthenticationError", PyExc_RuntimeError);
  py::class_<PageStorage>(m, "PageStorage",
                          "Seals one file's records under the storage key in a slot of the arena.")
      .def(py::init<SecretArena&, size_t>(), py::arg("secrets"), py::arg("slot"),
           py::keep_alive<1, 2>())
      .def("close", &PageStorage::close)
      .def(
          "seal",
          [](PageStorage& s, uint32_t record, const std::string& header, const py::bytes& plain) {
            const uint8_t* in = bytes_of(plain);
            return to_bytes(s.seal(record, header, {in, in + size_of(plain)}));
          },
          py::arg("record"), py::arg("header"), py::arg("plain"))
      .def(
          "open",
          [](PageStorage& s, uint32_t record, const std::string& header, const py::bytes& sealed) {
            return to_bytes(s.open(record, header, bytes_of(sealed), size_of(sealed)));
          },
          py::arg("record"), py::arg("header"), py::arg("sealed"))
      .def_static("sealed_bytes", &PageStorage::sealed_bytes, py::arg("layout"), py::arg("rows"))
      .def("seal_page", &seal_page, py::arg("session"), py::arg("page"), py::arg("header"),
           py::arg("buffer") = py::none(), py::arg("reorder") = py::none())
      .def("open_page", &open_page, py::arg("session"), py::arg("page"), py::arg("rows"),
           py::arg("header"), py::arg("sealed"), py::arg("buffer") = py::none(),
           py::arg("reorder") = py::none());
#ifdef PTMO_COUNT_COUNTERS
  m.def("counted_counters", &counted_counters, "Records the counter ledger has seen encrypted.");
#endif
}

void register_layout(py::module_& m) {
  py::enum_<KvType>(m, "KvType")
      .value("int8", KvType::kInt8)
      .value("int4", KvType::kInt4)
      .value("fp16", KvType::kF16)
      .value("fp32", KvType::kF32);

  py::class_<PageLayout>(m, "PageLayout")
      .def(py::init<int, int, int, int, KvType>(), py::arg("n_layers"), py::arg("n_kv_heads"),
           py::arg("head_dim"), py::arg("rows"), py::arg("type"))
      .def_readonly("rows", &PageLayout::rows)
      .def_property_readonly("page_bytes", &PageLayout::page_bytes)
      .def_property_readonly("bytes_per_token", &PageLayout::bytes_per_token)
      .def_property_readonly("data_offset", &PageLayout::data_offset)
      .def_property_readonly("head_bytes", &PageLayout::head_bytes);

  py::class_<PageArena>(m, "PageArena")
      .def(py::init<const PageLayout&, int>(), py::arg("layout"), py::arg("capacity_pages"))
      .def_property_readonly("free_pages",
                             [](const PageArena& a) {
                               return a.capacity_pages() -
                                      static_cast<int>(a.pages_in_use().size());
                             })
      .def(
          "addresses",
          [](const PageArena& a) {
            std::vector<uint64_t> out;
            for (const int page : a.pages_in_use())
              out.push_back(a.address(page));
            return out;
          },
          "Where every page in use stands, ascending by page.")
      .def(
          "dump",
          [](const PageArena& a) {
            std::string out;
            const size_t bytes = a.layout().page_bytes();
            for (const int page : a.pages_in_use()) {
              out.resize(out.size() + bytes);
              a.read(page, 0, bytes, reinterpret_cast<uint8_t*>(&out[out.size() - bytes]));
            }
            return py::bytes(out);
          },
          "The bytes of every page in use, as they stand in memory.");
}

} // namespace

void register_kv(py::module_& m) {
  register_layout(m);
  py::class_<KvSession>(m, "KvSession")
      .def(py::init<PageArena&, uint32_t>(), py::arg("arena"), py::arg("session_id"),
           py::keep_alive<1, 2>())
      .def(py::init<PageArena&, uint32_t, uint32_t, SecretArena&, size_t>(), py::arg("arena"),
           py::arg("session_id"), py::arg("epoch"), py::arg("secrets"), py::arg("slot"),
           py::keep_alive<1, 2>(), py::keep_alive<1, 5>())
      .def_property_readonly("length", &KvSession::length)
      .def_property_readonly("sealed", &KvSession::sealed)
      .def_property_readonly("page_count", &KvSession::page_count)
      .def_property_readonly(
          "page_ids",
          [](const KvSession& s) {
            std::vector<int> out;
            for (int i = 0; i < s.page_count(); ++i)
              out.push_back(s.page_id(i));
            return out;
          },
          "Ids of the session's pages, by position; forks share them.")
      .def_property_readonly("closed", &KvSession::closed)
      .def_property("adapter_tag", &KvSession::adapter_tag, &KvSession::set_adapter_tag,
                    "The adapter set that rows appended from now on are computed under.")
      .def("fork", &KvSession::fork, py::arg("session_id"), py::keep_alive<0, 1>())
      .def("rekey", &KvSession::rekey, py::arg("epoch"), py::arg("slot"),
           py::call_guard<py::gil_scoped_release>())
      .def("reorder", &reorder_session, py::arg("buffer"), py::arg("reorder"))
      .def("close", &KvSession::close)
      .def("append", &KvSession::append, py::arg("rows"))
      .def("write", &write_row, py::arg("layer"), py::arg("head"), py::arg("position"),
           py::arg("k"), py::arg("v"), py::arg("scales") = std::make_pair(0.0f, 0.0f))
      .def("truncate", &KvSession::truncate, py::arg("length"));
  register_storage(m);
}

} // namespace ptmo
