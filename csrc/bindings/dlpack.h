// Tensors of other libraries and ours, by DLPack (github.com/dmlc/dlpack, version 0.8): the memory
// is handed over, never copied.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "bindings.h"
#include "cuda/device.h"

namespace ptmo::cuda {

// The parts of dlpack.h that a CUDA tensor needs, in its layout.
constexpr int32_t kDlCuda = 2, kDlCudaManaged = 13;
enum class DlKind : uint8_t { kInt = 0, kUint = 1, kFloat = 2 };
struct DlDevice {
  int32_t type, id;
};
struct DlType {
  DlKind kind;
  uint8_t bits;
  uint16_t lanes;
};
struct DlTensor {
  void* data;
  DlDevice device;
  int32_t dims;
  DlType type;
  int64_t* shape;
  int64_t* strides; // in elements; null: rows behind each other
  uint64_t byte_offset;
};
struct DlManagedTensor {
  DlTensor tensor;
  void* owner;
  void (*release)(DlManagedTensor*);
};

// A tensor that somebody else owns, held until this goes.
class BorrowedTensor {
public:
  // Takes what `object.__dlpack__()` gives, once the work that its owner has begun on it is done.
  // Throws std::invalid_argument naming `name` where it is no contiguous tensor of this type (bits
  // 0: of 32 or 64) and number of dimensions on the device.
  BorrowedTensor(const py::object& object, const char* name, DlType type, int dims,
                 const Stream& stream);
  template <typename T> T* data() const { return reinterpret_cast<T*>(data_); }
  int64_t size(int dim) const { return held_->tensor.shape[dim]; }
  int bits() const { return held_->tensor.type.bits; }

private:
  std::unique_ptr<DlManagedTensor, void (*)(DlManagedTensor*)> held_;
  uint8_t* data_ = nullptr;
};

// float32 or int32 values on the device that Python owns.
class DeviceTensor {
public:
  DeviceTensor(DlType type, std::vector<int64_t> shape);
  // A capsule as the protocol has it. All work on the tensor is done when Python has it, so that a
  // consumer may use any stream.
  py::capsule dlpack() const;
  py::array numpy() const;
  void* data() const { return memory_->data(); }
  const std::vector<int64_t>& shape() const { return shape_; }
  DlType type() const { return type_; }

private:
  DlType type_;
  std::vector<int64_t> shape_;
  std::shared_ptr<DeviceMemory> memory_; // shared with what consumers hold
};

constexpr DlType kFloat32{DlKind::kFloat, 32, 1}, kInt32{DlKind::kInt, 32, 1};

void bind_device_tensor(py::module_& m);

} // namespace ptmo::cuda
