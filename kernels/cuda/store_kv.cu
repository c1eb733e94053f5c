// QK-norm, RoPE, and K and V into their pages: a warp takes one row of a head, a K row with its V
// row or a query row.
//
// K and V are encoded into the warp's shared memory. Then each lane computes one block of the
// rows' keystream (32 blocks at most: FP16 rows of 512) and adds it there, all blocks in the time
// of one, and the warp copies the record out, 8 bytes a lane.
#include "head_rows.cuh"
#include "launch.cuh"

namespace ptmo::cuda {
namespace {

using kernels::ChaChaBlock;
using kernels::RowPart;

// A row's record in the warp's shared memory, in words of 8 bytes: K | V | scales.
template <KvElement kElement, int kPairs> struct SharedRecord {
  static constexpr bool kScaled = kElement != KvElement::kF16;
  static constexpr int kRowWords = KvPages{kElement, 1, 64 * kPairs, 16}.row_bytes() / 8;
  static constexpr int kWords = 2 * kRowWords + (kScaled ? 1 : 0);
  static constexpr int kBlockWords = kernels::kChaChaBytes / 8;
  uint64_t* words;

  __device__ __forceinline__ uint64_t* part(RowPart p) const {
    return words + static_cast<int>(p) * kRowWords;
  }

  // Adds the keystream: a lane, a block. All lanes of the warp come here.
  __device__ __forceinline__ void seal(const kernels::ChaChaKey& key, const kernels::RowId& id,
                                       int row_words, int lane) const {
    const int blocks = (row_words + kBlockWords - 1) / kBlockWords;
    const int p = lane / blocks, number = lane % blocks;
    if (p > (kScaled ? 2 : 1) || (p == 2 && number > 0))
      return;
    const ChaChaBlock block =
        kernels::row_keystream(key, id, static_cast<RowPart>(p), static_cast<uint32_t>(number));
    if (p == 2) {
      const kernels::ScaleWords with = kernels::scale_words(block, id.seq);
      *part(RowPart::kScales) ^= with.k | static_cast<uint64_t>(with.v) << 32;
      return;
    }
    uint64_t* at = part(static_cast<RowPart>(p)) + number * kBlockWords;
    const int count = row_words - number * kBlockWords;
#pragma unroll
    for (int i = 0; i < kBlockWords; ++i) {
      if (i < count)
        at[i] ^= block.words[2 * i] | static_cast<uint64_t>(block.words[2 * i + 1]) << 32;
    }
  }

  // Moves `count` words of a part into the page. The zeros must be written, though nothing reads
  // them.
  __device__ __forceinline__ void move(RowPart p, uint8_t* to, int count, int lane) const {
    auto* out = reinterpret_cast<uint64_t*>(to);
    for (int i = lane; i < count; i += kWarpLanes) {
      uint64_t* word = part(p) + i;
      out[i] = *word;
      *static_cast<volatile uint64_t*>(word) = 0;
    }
  }
};

// The rows of a token's KV head into its page; k is finished.
template <KvElement kElement, int kPairs>
__device__ __forceinline__ void store_row(const StoreKvJob& job, const SealKeys& keys, int token,
                                          int head, const RowPairs<kPairs>& k,
                                          const RowPairs<kPairs>& v,
                                          const SharedRecord<kElement, kPairs>& record, int lane) {
  const KvPages& pages = job.pages;
  const int half = pages.dim / 2;
  const float k_scale =
      encode_row<kElement>(k, half, lane, reinterpret_cast<uint8_t*>(record.part(RowPart::kKey)));
  const float v_scale =
      encode_row<kElement>(v, half, lane, reinterpret_cast<uint8_t*>(record.part(RowPart::kValue)));
  if (record.kScaled && lane == 0)
    *record.part(RowPart::kScales) =
        static_cast<uint32_t>(__float_as_int(k_scale)) |
        static_cast<uint64_t>(static_cast<uint32_t>(__float_as_int(v_scale))) << 32;
  __syncwarp();

  const KvPlace place = job.places[token];
  const int row_words = static_cast<int>(pages.row_bytes() / 8);
  if (place.key >= 0)
    record.seal(keys.keys[place.key],
                {place.seq, static_cast<uint16_t>(job.layer), static_cast<uint16_t>(head)},
                row_words, lane);
  __syncwarp();

  uint8_t* at = place.page + pages.head_offset(job.layer, head);
  const size_t row = static_cast<size_t>(place.row);
  record.move(RowPart::kKey, at + row * pages.row_bytes(), row_words, lane);
  record.move(RowPart::kValue, at + pages.tile_bytes() + row * pages.row_bytes(), row_words, lane);
  if (record.kScaled)
    record.move(RowPart::kScales, at + 2 * pages.tile_bytes() + 8 * row, 1, lane);
  if (head == 0 && lane == 0)
    reinterpret_cast<uint64_t*>(place.page + kPageHeaderBytes)[row] = place.seq;
}

template <KvElement kElement, int kPairs>
__global__ void __launch_bounds__(kRowWarps* kWarpLanes, kPairs == 8 ? 2 : 4)
    store_rows(const __grid_constant__ StoreKvJob job, const __grid_constant__ SealKeys keys) {
  using Record = SharedRecord<kElement, kPairs>;
  PTMO_SHARED(uint64_t, shared, kRowWarps* Record::kWords);
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes,
            warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int dim = job.pages.dim, half = dim / 2;
  const int kv_heads = job.pages.n_kv_heads, group = job.n_heads / kv_heads;
  const int item = static_cast<int>(blockIdx.x) * kRowWarps + warp;
  const int rows = kv_heads + job.n_heads; // of a token: its K and V rows, then its query rows
  const int token = item / rows, head = item % rows - kv_heads;
  const bool wanted = token < job.tokens, query = head >= 0;
  const size_t kv_head = query ? head / group : head + kv_heads;
  const size_t kv_row = (static_cast<size_t>(token) * kv_heads + kv_head) * dim;
  float* q = query ? job.q + (static_cast<size_t>(token) * job.n_heads + head) * dim : nullptr;

  RowPairs<kPairs> row{}, v{}; // row: of q or k
  if (wanted)
    row.load(query ? q : job.k + kv_row, half, lane);
  if (wanted && !query)
    v.load(job.v + kv_row, half, lane);
  if (job.q_norm != nullptr || job.k_norm != nullptr) {
    const float* weights = query ? job.q_norm : job.k_norm;
    norm_rows(row, weights == nullptr ? nullptr : weights + kv_head * dim, dim, job.eps, warp,
              lane);
  }
  if (!wanted)
    return;
  const size_t angles =
      static_cast<size_t>(token) * job.table_width + (job.table_width > half ? kv_head * half : 0);
  row.rotate(job.cosine + angles, job.sine + angles, half, lane);
  if (query)
    row.store(q, half, lane);
  else
    store_row<kElement>(job, keys, token, static_cast<int>(kv_head), row, v,
                        Record{shared + warp * Record::kWords}, lane);
}

template <KvElement kElement, int kPairs>
cudaError_t launch_pairs(const StoreKvJob& job, const SealKeys& keys, cudaStream_t stream) {
  const int rows = job.tokens * (job.pages.n_kv_heads + job.n_heads);
  return launch_in_place(store_rows<kElement, kPairs>, dim3((rows + kRowWarps - 1) / kRowWarps),
                         dim3(kRowWarps * kWarpLanes), stream, job, keys);
}

template <KvElement kElement>
cudaError_t launch_type(const StoreKvJob& job, const SealKeys& keys, cudaStream_t stream) {
  const int dim = job.pages.dim;
  return dim <= 64    ? launch_pairs<kElement, 1>(job, keys, stream)
         : dim <= 128 ? launch_pairs<kElement, 2>(job, keys, stream)
         : dim <= 256 ? launch_pairs<kElement, 4>(job, keys, stream)
                      : launch_pairs<kElement, 8>(job, keys, stream);
}

} // namespace

cudaError_t store_kv(const StoreKvJob& job, const SealKeys* keys_or_none, cudaStream_t stream) {
  const SealKeys& keys = keys_or_none == nullptr ? kNoKeys : *keys_or_none;
  if (job.tokens == 0)
    return cudaSuccess;
  switch (job.pages.element) {
  case KvElement::kInt8:
    return launch_type<KvElement::kInt8>(job, keys, stream);
  case KvElement::kInt4:
    return launch_type<KvElement::kInt4>(job, keys, stream);
  default:
    return launch_type<KvElement::kF16>(job, keys, stream);
  }
}

} // namespace ptmo::cuda
