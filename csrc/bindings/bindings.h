// One register function a topic; module.cpp calls them all.
#pragma once

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace ptmo {

namespace py = pybind11;

template <typename T> using Array = py::array_t<T, py::array::c_style>;

void register_ops(py::module_& m);
void register_tee(py::module_& m);
void register_kv(py::module_& m);
void register_lora(py::module_& m);
void register_decoder(py::module_& m);
void register_bench(py::module_& m);
void register_cuda_bench(py::module_& m); // of _cuda

} // namespace ptmo
