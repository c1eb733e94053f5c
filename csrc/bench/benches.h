// What the benchmark suites (benchmarks/) time: one object a kernel, which holds seeded inputs and
// repeats the kernel on them without going back to Python.
//
// A bench counts the bytes that a call must read (`call_bytes`) and those it goes round in
// (`working_set_bytes`): a weight set larger than the caches is rotated, so that no call finds its
// matrix where the last one left it.
#pragma once

#include <functional>
#include <memory>
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

// Equal weights side by side, working_set_bytes or more, that the calls of a bench take in turn.
class Rotation {
public:
  Rotation(size_t bytes, size_t working_set_bytes);
  uint8_t* first() { return copies_[0]; }
  void repeat_first(); // into all the others
  const uint8_t* next() {
    const uint8_t* out = copies_[next_];
    next_ = (next_ + 1) % copies_.size();
    return out;
  }
  size_t call_bytes() const { return bytes_; }
  size_t working_set_bytes() const { return bytes_ * copies_.size(); }

private:
  const size_t bytes_; // of one
  size_t next_ = 0;
  HugeArena arena_;
  std::vector<uint8_t*> copies_;
};

// y [tokens, rows] = W [rows, cols] x: one matrix of the rotation a call.
class MatmulBench {
public:
  // `type` kInt4 or kInt4Symmetric with group 32, 64 or 128, or kInt8 (group 32); x in 8 or 16
  // `activation_bits`.
  MatmulBench(kernels::WeightType type, int rows, int cols, int group, int activation_bits,
              int tokens, int threads, size_t working_set_bytes);
  void run(int repeats);
  size_t call_bytes() const { return rotation_->call_bytes(); }
  size_t working_set_bytes() const { return rotation_->working_set_bytes(); }

private:
  const kernels::Table& kernels_;
  ThreadPool pool_;
  const int tokens_;
  std::unique_ptr<Rotation> rotation_;
  kernels::PackedMatrix matrix_{};
  kernels::Activations input_{};
  std::vector<int8_t> codes_, low_;
  std::vector<float> scales_, sums_, y_;
  std::vector<int32_t> code_sums_;
};

// y [tokens, rows] += B [rows, rank] u, in INT8: one factor of the rotation a call.
class LowRankBench {
public:
  LowRankBench(int rows, int rank, int tokens, int threads, size_t working_set_bytes);
  void run(int repeats);
  size_t call_bytes() const { return rotation_->call_bytes(); }
  size_t working_set_bytes() const { return rotation_->working_set_bytes(); }

private:
  const kernels::Table& kernels_;
  ThreadPool pool_;
  const int tokens_;
  std::unique_ptr<Rotation> rotation_;
  kernels::LowRankTerm term_{};
  std::vector<int8_t> codes_;
  std::vector<float> scales_, y_;
  std::vector<int32_t> code_sums_;
};

// A kernel of the table without weights, by its name there, on vectors of n elements that stay in
// the first cache. Those that take several rows a call get kRows.
class VectorBench {
public:
  static constexpr int kRows = 16;
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
  std::vector<int8_t> codes_, low_;
  std::vector<int16_t> wide_codes_;
  std::vector<uint16_t> halves_;
  std::vector<uint8_t> packed_;
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

// The sealed cache's keystream over a tile of `rows` rows (K, V and INT8's scales) in the first
// cache, by one of the CPU's levels of AES instructions (aes_hardware_levels()).
class KeystreamBench {
public:
  KeystreamBench(int rows, size_t row_bytes, const std::string& level);
  void run(int repeats);
  size_t call_bytes() const { return tile_.size(); }
  size_t working_set_bytes() const { return tile_.size(); }

private:
  AesLevel level_{};
  AesRoundKeys keys_;
  std::vector<uint64_t> seqs_;
  const size_t row_bytes_;
  AlignedBuffer tile_;
};

} // namespace ptmo
