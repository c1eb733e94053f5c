#include "dlpack.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "common/check.h"

namespace ptmo::cuda {
namespace {

void release_tensor(DlManagedTensor* tensor) {
  if (tensor != nullptr && tensor->release != nullptr)
    tensor->release(tensor);
}

int this_device() {
  int device = 0;
  check_call(cudaGetDevice(&device), "its number");
  return device;
}

std::pair<int, int> device_of(const py::object& object, const char* name) {
  try {
    return object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
  } catch (const py::cast_error&) {
    throw std::invalid_argument(std::string(name) + " names no device as DLPack does");
  }
}

// Its owner may have reasons not to share it: a tensor of torch that takes part in a gradient.
py::object capsule_of(const py::object& object, const char* name, uintptr_t stream) {
  try {
    return object.attr("__dlpack__")(py::arg("stream") = stream);
  } catch (const py::error_already_set& error) {
    throw std::invalid_argument(std::string(name) +
                                " is not shared: " + std::string(py::str(error.value())));
  }
}

// What an exported tensor keeps alive.
struct Exported {
  DlManagedTensor managed{};
  std::vector<int64_t> shape;
  std::shared_ptr<DeviceMemory> memory;
};

} // namespace

BorrowedTensor::BorrowedTensor(const py::object& object, const char* name, DlType type, int dims,
                               const Stream& stream)
    : held_(nullptr, release_tensor) {
  require(py::hasattr(object, "__dlpack__") && py::hasattr(object, "__dlpack_device__"), name,
          " is no tensor that DLPack knows");
  const auto [kind, id] = device_of(object, name);
  require((kind == kDlCuda || kind == kDlCudaManaged) && id == stream.device(), name,
          " is not on the engine's CUDA device");
  // The owner lets our stream wait for its own.
  const auto ours = reinterpret_cast<uintptr_t>(static_cast<cudaStream_t>(stream));
  const py::object capsule = capsule_of(object, name, ours);
  require(PyCapsule_IsValid(capsule.ptr(), "dltensor") == 1, name, " gives no DLPack capsule");
  held_.reset(static_cast<DlManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor")));
  PyCapsule_SetName(capsule.ptr(), "used_dltensor"); // it is ours to release now
  const DlTensor& t = held_->tensor;
  const bool fits =
      type.bits == 0 ? t.type.bits == 32 || t.type.bits == 64 : t.type.bits == type.bits;
  require(t.type.kind == type.kind && fits && t.type.lanes == 1, name, " does not hold ",
          type.kind == DlKind::kFloat ? "float32 values" : "int32 or int64 values");
  require(t.dims == dims, name, " has ", t.dims, " dimensions, not ", dims);
  int64_t stride = 1;
  for (int i = dims; i-- > 0; stride *= t.shape[i])
    require(t.strides == nullptr || t.shape[i] == 1 || t.strides[i] == stride, name,
            " is not contiguous");
  data_ = static_cast<uint8_t*>(t.data) + t.byte_offset;
  require(reinterpret_cast<uintptr_t>(data_) % (t.type.bits / 8) == 0, name,
          " is not aligned to its elements");
}

// Whoever held the memory before left something there: it begins as zeros. A consumer's work on
// streams that nobody knows of is done before they come back.
DeviceTensor::DeviceTensor(DlType type, std::vector<int64_t> shape)
    : type_(type), shape_(std::move(shape)) {
  constexpr int64_t kMost = int64_t{1} << 40;
  int64_t count = 1;
  for (const int64_t size : shape_) {
    require(size >= 0 && (size == 0 || count <= kMost / size), "a tensor's shape is out of range");
    count *= size;
  }
  memory_ = {new DeviceMemory(static_cast<size_t>(count) * type.bits / 8), [](DeviceMemory* m) {
               cudaDeviceSynchronize();
               delete m;
             }};
  const Stream stream;
  if (memory_->size() > 0)
    check_call(cudaMemsetAsync(memory_->data(), 0, memory_->size(), stream), "zeroing");
  stream.wait();
}

py::capsule DeviceTensor::dlpack() const {
  auto exported = std::make_unique<Exported>();
  exported->shape = shape_;
  exported->memory = memory_;
  exported->managed = {{memory_->data(),
                        {kDlCuda, this_device()},
                        static_cast<int32_t>(shape_.size()),
                        type_,
                        exported->shape.data(),
                        nullptr,
                        0},
                       exported.get(),
                       [](DlManagedTensor* t) { delete static_cast<Exported*>(t->owner); }};
  const py::capsule out(&exported->managed, "dltensor", [](PyObject* capsule) {
    if (PyCapsule_IsValid(capsule, "dltensor") == 1) // nobody took it
      release_tensor(static_cast<DlManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor")));
  });
  exported.release();
  return out;
}

py::array DeviceTensor::numpy() const {
  py::array out(py::dtype(type_.kind == DlKind::kFloat ? "float32" : "int32"), shape_);
  const Stream stream;
  if (memory_->size() > 0)
    check_call(cudaMemcpyAsync(out.mutable_data(), memory_->data(), memory_->size(),
                               cudaMemcpyDeviceToHost, stream),
               "copying out");
  stream.wait();
  return out;
}

void bind_device_tensor(py::module_& m) {
  py::class_<DeviceTensor>(m, "DeviceTensor",
                           "Values on the device; torch, CuPy and others take it by DLPack without "
                           "a copy. Zeroed when the last of its users lets it go.")
      .def(
          py::init([](const std::vector<int64_t>& shape) { return DeviceTensor(kFloat32, shape); }),
          py::arg("shape"), "float32, zeros.")
      .def_property_readonly("shape",
                             [](const DeviceTensor& t) { return py::tuple(py::cast(t.shape())); })
      .def_property_readonly("dtype",
                             [](const DeviceTensor& t) {
                               return t.type().kind == DlKind::kFloat ? "float32" : "int32";
                             })
      .def(
          "__dlpack__",
          [](const DeviceTensor& t, const py::object&, const py::object&, const py::object& device,
             const py::object& copy) {
            const std::pair<int, int> here(kDlCuda, this_device());
            if ((!device.is_none() && device.cast<std::pair<int, int>>() != here) ||
                (!copy.is_none() && copy.cast<bool>()))
              throw py::buffer_error("a DeviceTensor is shared where it is, and never copied");
            return t.dlpack();
          },
          py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
          py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack_device__",
           [](const DeviceTensor&) { return std::pair<int, int>(kDlCuda, this_device()); })
      .def("numpy", &DeviceTensor::numpy, "A copy in the host's memory.");
}

} // namespace ptmo::cuda
