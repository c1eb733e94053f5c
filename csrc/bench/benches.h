// What the benchmark suites (benchmarks/) time: one object a kernel, which holds seeded inputs and
// repeats the kernel on them without going back to Python.
//
// A bench counts the bytes that a call must read (`call_bytes`) and those it goes round in
// (`working_set_bytes`): a weight set larger than the caches is rotated, so that no call finds its
// matrix where the last one left it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/huge_arena.h"
#include "common/thread_pool.h"
#include "crypto/aes_ctr.h"
#include "kernels/kernels.h"
#include "kv/kv_cache.h"
#include "model/attention.h"
#include "quant/int4.h"

namespace ptmo {

// y [tokens, rows] = W [rows, cols] x: one matrix a call, `working_set_bytes` or more in rotation.
class MatmulBench {
public:
  // `type` kInt4 or kInt4Symmetric with group 32, 64 or 128, or kInt8 (group 32).
  MatmulBench(kernels::WeightType type, int rows, int cols, int group, int tokens, int threads,
              size_t working_set_bytes);
  void run(int repeats);
  size_t call_bytes() const { return matrix_bytes_; }
  size_t working_set_bytes() const { return matrix_bytes_ * matrices_.size(); }

private:
  const kernels::Table& kernels_;
  ThreadPool pool_;
  const int tokens_;
  size_t matrix_bytes_ = 0, next_ = 0;
  HugeArena weights_;
  std::vector<kernels::PackedMatrix> matrices_;
  kernels::Activations input_{};
  std::vector<int8_t> codes_;
  std::vector<float> scales_, sums_, y_;
  std::vector<int32_t> code_sums_;
};

// An elementwise kernel of the table, by its name there, on vectors of n elements that stay in the
// first cache.
class VectorBench {
public:
  VectorBench(const std::string& kernel, int n);
  VectorBench(const VectorBench&) = delete;
  VectorBench& operator=(const VectorBench&) = delete;
  void run(int repeats);
  size_t call_bytes() const { return call_bytes_; } // read and written
  size_t working_set_bytes() const { return call_bytes_; }

private:
  std::function<void()> call_; // on the vectors below
  size_t call_bytes_ = 0;
  std::vector<float> x_, weight_, out_, scales_, sums_;
  std::vector<int8_t> codes_;
  std::vector<int16_t> wide_codes_;
  std::vector<uint16_t> halves_;
  std::vector<int32_t> code_sums_;
};

// Attention of `tokens` queries over every layer of a cache, which is the rotation. Fills the
// session with random rows up to `context`.
class AttentionBench {
public:
  AttentionBench(KvSession& session, int n_heads, int context, int tokens, int threads);
  void run(int repeats);
  size_t call_bytes() const { return call_bytes_; }
  size_t working_set_bytes() const { return call_bytes_; }

private:
  void fill(int context);

  const kernels::Table& kernels_;
  const ModelConfig config_;
  KvSession& session_;
  ThreadPool pool_;
  Attention attention_;
  const int tokens_;
  size_t call_bytes_ = 0;
  std::vector<float> q_, out_;
};

// The sealed cache's keystream over a tile of `records` records in the first cache.
class KeystreamBench {
public:
  KeystreamBench(int records, size_t record_bytes);
  void run(int repeats);
  size_t call_bytes() const { return tile_.size(); }
  size_t working_set_bytes() const { return tile_.size(); }

private:
  AesRoundKeys keys_;
  std::vector<uint64_t> seqs_;
  const size_t record_bytes_;
  std::vector<uint8_t> tile_;
};

} // namespace ptmo
