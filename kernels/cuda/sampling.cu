// Chooses tokens from logits, as ptmo_secure/engine/sampler.py does.
//
// Weights of tokens are integers, 2^44 the likeliest's: their sums are exact, so that no result
// depends on the order of threads. What is rounded away is below 2^-27 of the whole for 2^18
// tokens. A block has one row. It takes the likeliest tokens in sorted batches, as many as the draw
// reaches: one as a rule, found in about five passes over the logits; all of them, 1024 a batch,
// where the distribution is flat.
#include "cuda_kernels.h"
#include "launch.cuh"
#include "ptx.cuh"

namespace ptmo::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / kWarpLanes;
constexpr unsigned kAll = 0xffffffffu;
constexpr int kPartLogits = 8192; // of a block of argmax()

// Orders a logit and its token: larger is likelier, the lower token of equals; NaN above all.
using Key = uint64_t;
__device__ __forceinline__ uint32_t order_of(float logit) {
  if (!(logit == logit))
    return kAll;
  const auto bits = static_cast<uint32_t>(__float_as_int(logit + 0.0f)); // -0 as 0
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ Key key_of(float logit, int token) {
  return static_cast<Key>(order_of(logit)) << 32 | ~static_cast<uint32_t>(token);
}
__device__ __forceinline__ int token_of(Key key) {
  return static_cast<int>(~static_cast<uint32_t>(key));
}
__device__ __forceinline__ float logit_of(Key key) {
  const auto order = static_cast<uint32_t>(key >> 32);
  return __int_as_float(static_cast<int>(order >> 31 != 0 ? order & 0x7fffffffu : ~order));
}
constexpr uint32_t kPlusInfinity = 0xff800000u, kMinusInfinity = 0x007fffffu; // their order

__device__ __forceinline__ bool is_finite(Key best) {
  const auto order = static_cast<uint32_t>(best >> 32);
  return order < kPlusInfinity && order > kMinusInfinity;
}

// Of all threads' values, for all threads. `shared` has a word a warp.
template <typename Combine>
__device__ uint64_t combine(uint64_t value, uint64_t* shared, const Combine& with) {
#pragma unroll
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2)
    value = with(value, __shfl_xor_sync(kAll, value, lanes));
  __syncthreads(); // all have read what the last call left
  if (threadIdx.x % kWarpLanes == 0)
    shared[threadIdx.x / kWarpLanes] = value;
  __syncthreads();
  value = shared[threadIdx.x % kWarps];
#pragma unroll
  for (int lanes = kWarps / 2; lanes > 0; lanes /= 2)
    value = with(value, __shfl_xor_sync(kAll, value, lanes));
  return value;
}
__device__ uint64_t largest(uint64_t value, uint64_t* shared) {
  return combine(value, shared, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
}
__device__ uint64_t sum(uint64_t value, uint64_t* shared) {
  return combine(value, shared, [](uint64_t a, uint64_t b) { return a + b; });
}

__device__ Key best_of(const float* logits, int from, int to, uint64_t* shared) {
  Key best = 0;
  for (int i = from + static_cast<int>(threadIdx.x); i < to; i += kThreads) {
    const Key key = key_of(logits[i], i);
    best = key > best ? key : best;
  }
  return largest(best, shared);
}

// ---------------------------------------------------------------- argmax

__global__ void __launch_bounds__(kThreads)
    best_of_parts(const float* logits, int vocab, uint64_t* scratch) {
  PTMO_SHARED(uint64_t, shared, kWarps);
  const int from = static_cast<int>(blockIdx.x) * kPartLogits;
  const int to = from + kPartLogits < vocab ? from + kPartLogits : vocab;
  const Key best = best_of(logits + static_cast<size_t>(blockIdx.y) * vocab, from, to, shared);
  if (threadIdx.x == 0)
    scratch[blockIdx.y * gridDim.x + blockIdx.x] = best;
}

__global__ void best_of_row(const uint64_t* scratch, int parts, int32_t* out) {
  Key best = 0;
  for (int i = static_cast<int>(threadIdx.x); i < parts; i += kWarpLanes) {
    const Key key = scratch[static_cast<size_t>(blockIdx.x) * parts + i];
    best = key > best ? key : best;
  }
#pragma unroll
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) {
    const Key other = __shfl_xor_sync(kAll, best, lanes);
    best = other > best ? other : best;
  }
  if (threadIdx.x == 0)
    out[blockIdx.x] = is_finite(best) ? token_of(best) : kNoToken;
}

// ---------------------------------------------------------------- sampling

constexpr int kBatch = 2 * kThreads; // tokens sorted together
constexpr int kEnough = kBatch / 4;  // of a batch that is not the last
constexpr int kPivots = 7;

// A row in the order of likelihood, a sorted batch at a time. All threads call all functions with
// the same arguments and get the same results.
class Likeliest {
public:
  __device__ Likeliest(const float* logits, int vocab, float temperature, Key best,
                       uint64_t* shared, Key* keys, uint64_t* weights)
      : logits_(logits), vocab_(vocab), temperature_(temperature), max_(logit_of(best)),
        shared_(shared), keys_(keys), weights_(weights) {}

  __device__ uint64_t weight(float logit) const {
    return static_cast<uint64_t>(expf((logit - max_) / temperature_) * 0x1p44f + 0.5f);
  }
  // Of all tokens.
  __device__ uint64_t total() const {
    uint64_t own = 0;
    for (int i = static_cast<int>(threadIdx.x); i < vocab_; i += kThreads)
      own += weight(logits_[i]);
    return sum(own, shared_);
  }
  // Of the `count` likeliest, 1..vocab.
  __device__ uint64_t weight_of(int count) {
    while (before_ + size_ < count)
      next_batch();
    return weight_before_ + weights_[count - 1 - before_];
  }
  // The first token at which the weight so far reaches `wanted`, 1..total(), and that weight.
  struct Reached {
    int token;
    uint64_t weight;
  };
  __device__ Reached reach(uint64_t wanted) {
    if (wanted <= weight_before_) { // in a batch that is gone
      before_ = size_ = 0;
      weight_before_ = 0;
      end_ = ~Key{0};
    }
    while (size_ == 0 || weight_before_ + weights_[size_ - 1] < wanted)
      next_batch();
    int low = 0, high = size_ - 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (weight_before_ + weights_[middle] >= wanted)
        high = middle;
      else
        low = middle + 1;
    }
    return {token_of(keys_[low]), weight_before_ + weights_[low]};
  }

private:
  __device__ Key batch_begin() const;
  __device__ void next_batch();
  __device__ void sort();
  __device__ void add_up();

  const float* logits_;
  const int vocab_;
  const float temperature_, max_;
  uint64_t* shared_;
  Key* keys_;                  // [kBatch] of the batch, the likeliest first
  uint64_t* weights_;          // [kBatch], of the batch up to each
  int before_ = 0, size_ = 0;  // tokens before the batch, and in it
  uint64_t weight_before_ = 0; // of the tokens before the batch
  Key end_ = ~Key{0};          // keys of later batches are below
};

// Where the next batch begins: kEnough to kBatch keys stand from there to end_, or all that are
// left. Keys differ, so that halving (by eight) comes to an end.
__device__ Key Likeliest::batch_begin() const {
  if (vocab_ - before_ - size_ <= kBatch)
    return 0;
  Key low = 0, high = end_; // too many keys from low to end_, too few from high
  const int thread = static_cast<int>(threadIdx.x);
  PTMO_SHARED(unsigned, totals, kPivots); // of keys from low + (i + 1) step to end_
  for (;;) {
    const Key step = (high - low) / (kPivots + 1);
    __syncthreads(); // all have read the last totals
    if (thread < kPivots)
      totals[thread] = 0;
    __syncthreads();
    unsigned counts[kPivots] = {};
    for (int i = thread; i < vocab_; i += kThreads) {
      const Key key = key_of(logits_[i], i);
#pragma unroll
      for (int j = 0; j < kPivots; ++j)
        counts[j] += key < end_ && key >= low + step * static_cast<Key>(j + 1);
    }
#pragma unroll
    for (int j = 0; j < kPivots; ++j) {
      const unsigned of_warp = __reduce_add_sync(kAll, counts[j]);
      if (thread % kWarpLanes == 0)
        atomicAdd(totals + j, of_warp);
    }
    __syncthreads();
    const Key from = low;
    for (int j = 0; j < kPivots; ++j) {
      const Key pivot = from + step * static_cast<Key>(j + 1);
      if (totals[j] > kBatch) {
        low = pivot;
      } else if (totals[j] >= kEnough) {
        return pivot;
      } else {
        high = pivot;
        break;
      }
    }
  }
}

__device__ void Likeliest::next_batch() {
  if (size_ > 0)
    weight_before_ += weights_[size_ - 1];
  const Key begin = batch_begin();
  before_ += size_;
  PTMO_SHARED(unsigned, filled, 1);
  __syncthreads(); // all have read the last batch
  if (threadIdx.x == 0)
    *filled = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kBatch; i += kThreads)
    keys_[i] = 0; // after every token's key
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < vocab_; i += kThreads) {
    const Key key = key_of(logits_[i], i);
    if (key < end_ && key >= begin)
      keys_[atomicAdd(filled, 1u)] = key; // in any order: they are sorted
  }
  __syncthreads();
  size_ = static_cast<int>(*filled);
  end_ = begin;
  sort();
  add_up();
}

// Batcher's bitonic sort of the least power of two that holds the batch, the largest first.
__device__ void Likeliest::sort() {
  const int pair = static_cast<int>(threadIdx.x);
  int length = 2;
  while (length < size_)
    length *= 2;
  for (int run = 2; run <= length; run *= 2) {
    for (int apart = run / 2; apart > 0; apart /= 2) {
      const int i = pair / apart * 2 * apart + pair % apart, j = i + apart;
      if (j < length) {
        const Key a = keys_[i], b = keys_[j];
        if ((a < b) == ((i & run) == 0)) {
          keys_[i] = b;
          keys_[j] = a;
        }
      }
      __syncthreads();
    }
  }
}

// Sums up to each (Hillis & Steele 1986).
__device__ void Likeliest::add_up() {
  constexpr int kOwn = kBatch / kThreads;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < size_; i += kThreads)
    weights_[i] = weight(logit_of(keys_[i]));
  __syncthreads();
  for (int apart = 1; apart < size_; apart *= 2) {
    uint64_t more[kOwn];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int i = thread + k * kThreads;
      more[k] = i >= apart && i < size_ ? weights_[i - apart] : 0;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      if (thread + k * kThreads < size_)
        weights_[thread + k * kThreads] += more[k];
    }
    __syncthreads();
  }
}

// The least weight that is a share of the whole, and at most all of it.
__device__ __forceinline__ uint64_t share_of(uint64_t whole, double share) {
  const auto part = static_cast<uint64_t>(ceil(share * static_cast<double>(whole)));
  return part < whole ? part : whole;
}

__device__ int draw(Likeliest& tokens, const SampleParams& p, int vocab) {
  uint64_t mass =
      p.top_k > 0 ? tokens.weight_of(p.top_k < vocab ? p.top_k : vocab) : tokens.total();
  if (p.top_p < 1.0)
    mass = tokens.reach(share_of(mass, p.top_p)).weight;
  const auto passed = static_cast<uint64_t>(p.uniform * static_cast<double>(mass));
  return tokens.reach(passed < mass ? passed + 1 : mass).token;
}

__global__ void __launch_bounds__(kThreads, 1)
    sample_rows(const float* logits, int vocab, const SampleParams* params, int32_t* out) {
  PTMO_SHARED(uint64_t, shared, kWarps);
  PTMO_SHARED(Key, keys, kBatch);
  PTMO_SHARED(uint64_t, weights, kBatch);
  const float* row = logits + static_cast<size_t>(blockIdx.x) * vocab;
  const SampleParams p = params[blockIdx.x];
  const Key best = best_of(row, 0, vocab, shared);
  int token = is_finite(best) ? token_of(best) : kNoToken;
  if (token != kNoToken && p.temperature > 0.0f) {
    Likeliest tokens(row, vocab, p.temperature, best, shared, keys, weights);
    token = draw(tokens, p, vocab);
  }
  if (threadIdx.x == 0)
    out[blockIdx.x] = token;
}

int parts_of(int vocab) {
  return (vocab + kPartLogits - 1) / kPartLogits;
}

} // namespace

size_t argmax_scratch(int rows, int vocab) {
  return static_cast<size_t>(rows) * static_cast<size_t>(parts_of(vocab));
}

cudaError_t argmax(const float* logits, int rows, int vocab, uint64_t* scratch, int32_t* out,
                   cudaStream_t stream) {
  if (rows == 0)
    return cudaSuccess;
  const int parts = parts_of(vocab);
  const cudaError_t error =
      launch(best_of_parts, dim3(parts, rows), dim3(kThreads), stream, logits, vocab, scratch);
  if (error != cudaSuccess)
    return error;
  return launch(best_of_row, dim3(rows), dim3(kWarpLanes), stream, scratch, parts, out);
}

cudaError_t sample(const float* logits, int rows, int vocab, const SampleParams* params,
                   int32_t* out, cudaStream_t stream) {
  if (rows == 0)
    return cudaSuccess;
  return launch(sample_rows, dim3(rows), dim3(kThreads), stream, logits, vocab, params, out);
}

} // namespace ptmo::cuda
