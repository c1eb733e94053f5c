// A decoder's parameters and adapters in a device's memory, each repacked once
// (kernels/cuda/layout.h).
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "kernels/cuda/cuda_kernels.h"
#include "model/lora.h"
#include "model/weights.h"
#include "quant/int4.h"

namespace ptmo::cuda {

// A matrix in the device's order.
class MatrixOnDevice {
public:
  MatrixOnDevice() = default;
  // Of INT4 or INT8 panels (kernels.h); std::invalid_argument naming `name` for another type.
  MatrixOnDevice(const std::string& name, const kernels::PackedMatrix& panels,
                 const Stream& stream);
  const DeviceMatrix& view() const { return view_; }
  bool empty() const { return codes_.empty(); }
  size_t bytes() const { return codes_.bytes() + scales_.bytes(); }

private:
  DeviceArray<uint8_t> codes_;
  DeviceArray<uint16_t> scales_;
  DeviceMatrix view_{};
};

struct LayerOnDevice {
  std::array<MatrixOnDevice, kLinears> linears; // by Linear
  DeviceArray<float> attn_norm, ffn_norm, q_bias, k_bias, v_bias, q_norm, k_norm, attn_post_norm,
      ffn_post_norm, inv_freq; // as LayerWeights; empty where that is
};

// The parameters: set one after the other in the host's form, complete before the first pass.
class WeightsOnDevice {
public:
  WeightsOnDevice(const ModelConfig& config, const Stream& stream)
      : layers(static_cast<size_t>(config.n_layers)), config_(config), stream_(stream),
        host_(config) {}

  // Panels of matrix `name` to be filled by the caller, and handed over by finish().
  // Throws std::invalid_argument on a wrong name, shape or a type that devices have no kernel for.
  Matrix& prepare(const std::string& name, kernels::WeightType type, int rows, int cols, int group);
  void finish(const std::string& name);
  void set_vector(const std::string& name, const std::vector<float>& values);
  // Throws std::invalid_argument naming what was never set.
  void require_complete() const;

  MatrixOnDevice embed, head; // head: empty when tied to embed
  DeviceArray<float> final_norm, inv_freq, inv_freq_local;
  std::vector<LayerOnDevice> layers;
  const MatrixOnDevice& output() const { return head.empty() ? embed : head; }
  // Another one whenever a parameter was set: it may stand elsewhere.
  uint64_t version() const { return version_; }
  size_t bytes() const;
  // As Weights::bytes_per_token.
  size_t bytes_per_token() const { return bytes() - (head.empty() ? 0 : embed.bytes()); }

private:
  MatrixOnDevice* matrix(const std::string& name);
  DeviceArray<float>* vector(const std::string& name);

  const ModelConfig config_;
  const Stream& stream_;
  Weights host_; // names and shapes; holds no parameter
  Matrix pending_;
  uint64_t version_ = 0;
  AlignedBuffer panels_; // of the matrix that is being filled
};

// Both factors of an adapter's updates.
class AdapterOnDevice {
public:
  // Throws std::invalid_argument where a part is not INT8.
  AdapterOnDevice(const Adapter& adapter, const Stream& stream);

  struct Part {
    MatrixOnDevice a;
    DeviceArray<int8_t> b;          // [rows, chunks * 16]
    DeviceArray<uint16_t> b_scales; // [rows, chunks]
    float scale = 0.0f;
    int chunks = 0; // 0: no such part
  };
  const Part& part(int layer, Linear linear) const {
    return parts_[static_cast<size_t>(layer)][static_cast<size_t>(linear)];
  }

private:
  std::vector<std::array<Part, kLinears>> parts_;
};

} // namespace ptmo::cuda
