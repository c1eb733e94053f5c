// tee_sim._gather: the TEE's one hot loop, as a Python module of one function.
//
// A token under `restore=tee` passes here once a layer. The arguments are checked in full: an index
// or a length that does not fit raises ValueError, and nothing is written.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#include <cstring>

namespace {

struct Buffers {
  Py_buffer out{}, source{}, index{};
  ~Buffers() {
    PyBuffer_Release(&out);
    PyBuffer_Release(&source);
    PyBuffer_Release(&index);
  }
};

// One block: out[i] = source[index[i]] for elements of `unit` bytes.
void gather_block(char* out, const char* source, const uint32_t* index, size_t n, size_t unit) {
  if (unit == sizeof(float)) { // of a size that the compiler knows: a load and a store
    for (size_t i = 0; i < n; ++i)
      std::memcpy(out + i * sizeof(float), source + index[i] * sizeof(float), sizeof(float));
    return;
  }
  for (size_t i = 0; i < n; ++i)
    std::memcpy(out + i * unit, source + index[i] * unit, unit);
}

const char* objection(const Buffers& b, Py_ssize_t unit, const uint32_t* index, size_t n) {
  if (unit < 1 || !n || static_cast<size_t>(unit) > PY_SSIZE_T_MAX / n)
    return "unit: not a size of elements that the index can name";
  if (reinterpret_cast<uintptr_t>(index) % alignof(uint32_t) || b.index.len % sizeof(uint32_t))
    return "index: not an array of uint32";
  if (b.out.len != b.source.len || b.out.len % (static_cast<Py_ssize_t>(n) * unit))
    return "out, source: not whole blocks of equal length";
  const char* out = static_cast<const char*>(b.out.buf);
  const char* source = static_cast<const char*>(b.source.buf);
  if (out < source + b.source.len && source < out + b.out.len)
    return "out overlaps source";
  uint32_t highest = 0;
  for (size_t i = 0; i < n; ++i)
    highest = index[i] > highest ? index[i] : highest;
  return highest < n ? nullptr : "index: an entry is out of range";
}

PyObject* gather(PyObject*, PyObject* args) {
  Buffers b;
  Py_ssize_t unit = 0;
  if (!PyArg_ParseTuple(args, "w*y*y*n:gather", &b.out, &b.source, &b.index, &unit))
    return nullptr;
  const auto* index = static_cast<const uint32_t*>(b.index.buf);
  const size_t n = static_cast<size_t>(b.index.len) / sizeof(uint32_t);
  if (const char* wrong = objection(b, unit, index, n)) {
    PyErr_SetString(PyExc_ValueError, wrong);
    return nullptr;
  }
  const size_t block = n * static_cast<size_t>(unit);
  for (size_t at = 0; at < static_cast<size_t>(b.out.len); at += block)
    gather_block(static_cast<char*>(b.out.buf) + at, static_cast<const char*>(b.source.buf) + at,
                 index, n, static_cast<size_t>(unit));
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"gather", gather, METH_VARARGS,
     "gather(out, source, index, unit): out[i] = source[index[i]] in every block of len(index) "
     "elements of `unit` bytes; index is an array of uint32."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_gather", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit__gather() {
  return PyModule_Create(&module);
}
