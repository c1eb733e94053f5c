// The secret arena: Python sees its descriptor and slot offsets, never its bytes.
#include "bindings.h"
#include "secmem/secret_arena.h"

namespace ptmo {

void register_tee(py::module_& m) {
  py::class_<SecretArena>(m, "SecretArena",
                          "Locked memory for keys; the TEE writes into it through `fd`.")
      .def(py::init<size_t, bool>(), py::arg("size"), py::arg("allow_memfd_secret") = true)
      .def_property_readonly("fd", &SecretArena::fd)
      .def_property_readonly("size", &SecretArena::size)
      .def_property_readonly(
          "kind",
          [](const SecretArena& a) { return a.is_memfd_secret() ? "memfd_secret" : "mlock"; })
      .def("close_fd", &SecretArena::close_fd)
      .def("take_slot", &SecretArena::take_slot)
      .def("free_slot", &SecretArena::free_slot, py::arg("offset"));
}

} // namespace ptmo
