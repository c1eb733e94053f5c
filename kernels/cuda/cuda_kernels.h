// Every kernel of the device, declared once: raw device pointers, sizes and a stream. Nothing here
// allocates; a launcher returns the error of the launch.
#pragma once

#include <cuda_runtime.h>

#include "../chacha.h"
#include "kv_page.h"
#include "layout.h"

namespace ptmo::cuda {

// W [rows, cols] in the order of layout.h: kInt4, kInt4Symmetric (groups of 32, 64, 128) or kInt8.
struct DeviceMatrix {
  WeightType type;
  int rows, cols, group;
  const uint8_t* codes;   // 16-byte aligned
  const uint16_t* scales; // 16-byte aligned
};

// Integer activations of `tokens` rows, per block of 32 columns x ~= scale * c (kernels.h): c =
// code with one plane, 256 * code + low with two.
struct DeviceInput {
  int tokens, cols, planes;
  const int8_t* codes;  // [tokens, planes, padded(cols)] in the order of layout.h, 16-byte aligned
  const float2* scales; // [tokens, padded(cols) / 32]: scale, scale * sum(c); 16-byte aligned
};

// s B of a low-rank update and the u = A x that goes with it, for tokens [first, first + count).
struct DeviceLowRankTerm {
  const int8_t* b;          // [rows, chunks * 16] codes, chunks = ceil(rank / 16)
  const uint16_t* b_scales; // fp16 [rows, chunks]
  const float* u;           // [count, chunks * 16]
  int chunks, first, count;
  int filler = 0; // padding would take what stood in the host's memory to the device
};

// A matrix, and where its product goes.
struct MatmulPart {
  DeviceMatrix w;
  const float* bias;              // [rows] or null
  const DeviceLowRankTerm* terms; // in device memory
  int term_count;
  float* y; // [tokens, y_stride]
  size_t y_stride;
};

constexpr int kMostParts = 3; // W_q, W_k and W_v
struct MatmulJob {
  DeviceInput x;
  bool add; // y += instead of y =
  int count;
  MatmulPart parts[kMostParts];
};

// Of each part: y[t, n] (+)= sum_k W[n, k] x[t, k] + bias[n] + sum over terms, in order, of sum_r
// B[n, r] u[t, r]. Neighbours of one type and group go in one launch. Sums of a block of 32 columns
// are exact integers; how blocks are added depends on the shape, not on the place of a row or of a
// token, nor on the other parts. Without tokens it does nothing.
cudaError_t matmul(const MatmulJob& job, cudaStream_t stream);

// cosine, sine [tokens, width] of the angles positions[t] * inv_freq[i], in float32 as the models
// were trained with; |angle| < 2^24. The error of a value is at most 0.58 * 2^-24 (rotary.h).
struct RotaryTableJob {
  int tokens, width;
  const int32_t* positions; // [tokens]
  const float* inv_freq;    // [width]
  float *cosine, *sine;
};
cudaError_t fill_rotary_table(const RotaryTableJob& job, cudaStream_t stream);

// The keys of a launch. They travel as kernel parameters, so that they stand in the driver's
// constant bank while it runs and in no buffer of ours: more sequences take more launches. The
// kernels that take keys have two parameters: the job, then the keys. Their bytes go from where
// they stand to the driver and are copied nowhere else.
constexpr int kMaxSealKeys = 16;
struct SealKeys {
  kernels::ChaChaKey keys[kMaxSealKeys];
};

// Where a token's rows go.
struct KvPlace {
  uint8_t* page; // 64-byte aligned
  uint64_t seq;  // of this write: the page keeps it beside the row
  int32_t row;   // in the page
  int32_t key;   // of SealKeys; -1: the rows are stored in the clear
};

struct StoreKvJob {
  int tokens, n_heads, layer;
  KvPages pages;
  float* q;           // [tokens, n_heads * dim], finished in place
  const float *k, *v; // [tokens, n_kv_heads * dim], which stay as the projections left them
  const float *q_norm, *k_norm; // [n_kv_heads, dim], a query head has its KV head's; null: none
  float eps;
  const float *cosine, *sine; // [tokens, table_width]
  int table_width;            // dim / 2, or n_kv_heads * dim / 2: each KV head its own angles
  const KvPlace* places;      // [tokens], in device memory
};

// What lies between the projections and attention: QK-norm and RoPE on q and k; K and V rows
// encoded and put into their pages, sealed (chacha.h) where the token has a key. Codes and scales
// are the reference level's bit for bit. No plain K or V leaves the registers and the shared memory
// of its warp, which is zeroed. `keys`: null when no token has one.
cudaError_t store_kv(const StoreKvJob& job, const SealKeys* keys, cudaStream_t stream);

// Query tokens of a sequence and the cache rows they see: the rows of tokens up to their own, which
// are written. A batch may have sequences without tokens.
struct DeviceSequence {
  const uint8_t* const* pages; // in device memory; page i, 64-byte aligned, has rows i * rows..
  int first, tokens;           // position of the first token; decoding takes 1 token at most
  int row;                     // of q and out that the first token has
  int key;                     // of SealKeys; -1: its rows are in the clear
};

struct AttentionJob {
  KvPages cache; // dim: 16..256; rows of a page: 16, 32 or 64
  int layer, n_heads;
  int window;                      // positions a token sees with its own at most; 0: all
  float scale;                     // of q . k
  const DeviceSequence* sequences; // [count], in device memory
  int count;
  int most;       // decoding: the largest first + 1; prefill: the largest count of tokens
  const float* q; // [tokens, n_heads * dim], 16-byte aligned
  float* out;     // [tokens, n_heads * dim]
  float* scratch; // decoding: attention_scratch_floats() of them, 16-byte aligned
};

// out[t, h] = softmax(scale * q[t, h] . K) V over the positions that t sees. With integer elements
// q . k is an exact sum of 16-bit query codes times key codes, and each element of out has its own
// chain of exact sums and fused steps over rows: permuting a head's elements, of q and K alike or
// of V, changes no bit but their places. Rows in the clear and sealed rows give the same bits, and
// so does a sequence in any batch.
//
// `keys`: null when no sequence has one.

// One token a sequence: what each split of its rows adds up to, then `out` of all of them.
// `job.scratch` is zeros afterwards where it was used.
size_t attention_scratch_floats(const AttentionJob& job);
cudaError_t attention_split(const AttentionJob& job, const SealKeys* keys, cudaStream_t stream);
cudaError_t attention_fold(const AttentionJob& job, cudaStream_t stream);
// Any count of tokens.
cudaError_t attention_prefill(const AttentionJob& job, const SealKeys* keys, cudaStream_t stream);

// ---------------------------------------------------------------- what goes into a matrix product

enum class InputKind : int {
  kPlain,    // x
  kNorm,     // RMS norm of x, times a weight
  kSilu,     // silu(x) * up
  kGeluTanh, // gelu_tanh(x) * up
};

// The first half of a low-rank update, u = s A x, of tokens [first, first + count).
struct DeviceShrink {
  const uint8_t* a;         // A [chunks * 16, cols] as a kInt8 matrix, zero past its ranks
  const uint16_t* a_scales; // the same
  float* u;                 // [count, chunks * 16], for a DeviceLowRankTerm
  float scale;              // s
  int chunks, first, count;
};

// How many units of work the shrinks of a launch are; any larger number will do too, as when the
// list changes under a recorded launch.
int shrink_units(const DeviceShrink* shrinks, int count, int planes);

// Columns: a multiple of 32. Pointers 16-byte aligned.
struct PrepareJob {
  InputKind kind;
  int tokens, cols, planes;
  const int32_t* rows; // token t is row rows[t] of x, up and added; null: row t
  const float* x;      // [rows, cols]
  const float* up;     // [rows, cols]: kSilu, kGeluTanh
  const float* weight; // [cols]: kNorm
  float eps;
  // kPlain, kNorm: x + added stands for x. With a weight, added is first normed with it.
  const float* added; // [rows, cols] or null
  const float* added_weight;
  float* sum;    // x + added [tokens, cols] or null; none of the buffers that are read
  float* values; // [tokens, cols] or null; none of the buffers that are read
  // The integer input, both null or neither: a DeviceInput.
  int8_t* codes;
  float2* scales;
  const DeviceShrink* shrinks; // in device memory
  int shrink_count, units;     // units: shrink_units() or more
  RotaryTableJob angles;       // filled on the way, for store_kv; no tokens: none
};

// Makes the input of matrix products: the values, quantised as kernels.h has it, and what the
// adapters' A make of them. Bits of a token do not depend on the others. Without tokens it does
// nothing.
cudaError_t prepare_input(const PrepareJob& job, cudaStream_t stream);

// out[t] = scale * row tokens[t] of W; zeros where W has no such row.
cudaError_t embed(const DeviceMatrix& w, const int32_t* tokens, int count, float scale, float* out,
                  cudaStream_t stream);

struct ZeroJob {
  static constexpr int kMost = 24;
  struct {
    uint32_t* start;
    size_t words;
  } ranges[kMost];
  int count;

  template <typename T> void add(T* start, size_t elements) {
    static_assert(sizeof(T) % 4 == 0 || sizeof(T) == 1);
    ranges[count++] = {reinterpret_cast<uint32_t*>(start), elements * sizeof(T) / 4};
  }
};
cudaError_t zero(const ZeroJob& job, cudaStream_t stream);

// ---------------------------------------------------------------- choosing tokens

constexpr int kNoToken = -1; // a logit is NaN or +infinity, or all are -infinity

// 8-byte words that argmax() needs for its work.
size_t argmax_scratch(int rows, int vocab);

// out[i] = the token of the largest of logits [rows, vocab]; the lowest of equals.
cudaError_t argmax(const float* logits, int rows, int vocab, uint64_t* scratch, int32_t* out,
                   cudaStream_t stream);

// How to draw a row's token (ptmo_secure/engine/sampler.py).
struct SampleParams {
  float temperature; // 0: the largest logit
  int top_k;         // 0: all
  double top_p;      // in (0, 1]
  double uniform;    // the draw, in [0, 1)
};

// out[i] = the token that params[i] (in device memory) draws of logits [rows, vocab]: softmax of
// logits / temperature, cut to the top_k likeliest, then to the fewest likeliest that reach top_p.
cudaError_t sample(const float* logits, int rows, int vocab, const SampleParams* params,
                   int32_t* out, cudaStream_t stream);

} // namespace ptmo::cuda
