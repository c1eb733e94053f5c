#include "dlpack.h"

#include <numeric>

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
  const auto [kind, id] = object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
  require((kind == kDlCuda || kind == kDlCudaManaged) && id == this_device(), name,
          " is not on the engine's CUDA device");
  // The owner lets our stream wait for its own.
  const auto ours = reinterpret_cast<uintptr_t>(static_cast<cudaStream_t>(stream));
  const py::object capsule = object.attr("__dlpack__")(py::arg("stream") = ours);
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
  require(reinterpret_cast<uintptr_t>(data_) % 16 == 0, name, " is not aligned to 16 bytes");
}

DeviceTensor::DeviceTensor(DlType type, std::vector<int64_t> shape)
    : type_(type), shape_(std::move(shape)) {
  const int64_t count =
      std::accumulate(shape_.begin(), shape_.end(), int64_t{1}, std::multiplies<int64_t>());
  memory_ = std::make_shared<DeviceMemory>(static_cast<size_t>(count) * type.bits / 8);
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
          py::arg("shape"), "float32, its values undefined.")
      .def_property_readonly("shape",
                             [](const DeviceTensor& t) { return py::tuple(py::cast(t.shape())); })
      .def_property_readonly("dtype",
                             [](const DeviceTensor& t) {
                               return t.type().kind == DlKind::kFloat ? "float32" : "int32";
                             })
      .def("__dlpack__",
           [](const DeviceTensor& t, const py::args&, const py::kwargs&) { return t.dlpack(); })
      .def("__dlpack_device__",
           [](const DeviceTensor&) { return std::pair<int, int>(kDlCuda, this_device()); })
      .def("numpy", &DeviceTensor::numpy, "A copy in the host's memory.");
}

} // namespace ptmo::cuda
