// Matrix products of the device over a rotation of weights, with and without a low-rank update.
#pragma once

#include <string>

#include "device_bench.h"
#include "kernels/cuda/cuda_kernels.h"

namespace ptmo::cuda {

// What one call does.
enum class MatmulCall {
  kMatmul,        // the product alone: its input has been made
  kInputMatmul,   // quantises its input, then the product
  kFusedUpdate,   // the same two launches, which do the update on the way
  kUnfusedUpdate, // quantises its input; A x, W x and y += B u are products of their own
};

struct MatmulShape {
  WeightType type;
  int rows, cols, group, tokens, planes;
};

constexpr int kUpdateRank = 16;

class DeviceMatmulBench : public DeviceBench {
public:
  DeviceMatmulBench(const MatmulShape& shape, MatmulCall call, size_t working_set_bytes);
  std::vector<float> output() const; // y of the last call [tokens, rows]

private:
  // Where a set's parts begin: W, and what its update takes as the fused or as the unfused kernels
  // want it.
  struct Places {
    size_t codes, scales, a_codes, a_scales, b_codes, b_scales, plain_b_codes, plain_b_scales, end;
  };
  static Places places(const MatmulShape& shape);

  void fill(uint8_t* set) const;
  void prepare_terms();
  DeviceMatrix matrix(int set, WeightType type, int rows, int cols, size_t codes,
                      size_t scales) const;
  void call(int turn, MatmulCall what);
  void multiply(const DeviceMatrix& w, const DeviceInput& x, float* y, bool add, int set) const;

  const MatmulShape shape_;
  const Places at_;
  int sets_ = 0;
  DeviceMemory weights_;
  DeviceArray<float> x_, y_, u_;
  DeviceArray<int8_t> codes_, u_codes_;
  DeviceArray<float2> scales_, u_scales_;
  DeviceArray<DeviceShrink> shrinks_;
  DeviceArray<DeviceLowRankTerm> terms_;
  int units_ = 0;
  bool update_ = false; // the launches of multiply() and of the input take the update along
};

} // namespace ptmo::cuda
