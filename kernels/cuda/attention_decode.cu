// Decode attention: one token a sequence. A sequence's rows go in splits of 256 positions, each a
// block for every KV head with all its query heads (more than eight: eight at a time); a second
// kernel folds the splits in order. What a split is depends on positions alone, so no bit of a
// result depends on the batch.
//
// Each warp of a block takes every fourth (or second) tile of 32 rows and streams it through two
// tiles of its own: while it scores K, V is under way, while it adds V, the next K is. No barrier
// of the block lies on that path. The keystream of a sealed tile is made while the tile is under
// way; it, the scores and the weights stand in registers, decrypted rows in the warp's tile, which
// is zeroed when the block ends.
//
// A permuted head needs no gather: see attention_tile.cuh. Bytes and operations: kernels/README.md.
#include "attention_launch.cuh"
#include "attention_tile.cuh"

namespace ptmo::cuda {
namespace {

constexpr int kPartialSums = 2; // of a partial, before its elements: largest score, sum

// Splits that a token of a batch can have: those that its window meets.
int splits_of(const AttentionJob& job) {
  const int all = (job.most + kWindowRows - 1) / kWindowRows;
  const int windowed = (job.window + kWindowRows - 2) / kWindowRows + 1;
  return job.window == 0 || all < windowed ? all : windowed;
}

__device__ __forceinline__ float* partial_of(const AttentionJob& job, int sequence, int head,
                                             int split, int splits) {
  const size_t at = (static_cast<size_t>(sequence) * job.n_heads + head) * splits + split;
  return job.scratch + at * (kPartialSums + job.cache.dim);
}

template <int kRowBytes> constexpr int split_warps() {
  return kRowBytes <= 128 ? 4 : kRowBytes == 256 ? 2 : 1;
}

// Blocks that a multiprocessor is to have at once: what their tiles leave room for, as far as the
// registers go without spilling.
template <int kRowBytes, int kGroups, bool kSealed> constexpr int split_blocks() {
  return kRowBytes == 64    ? (kGroups == 2 ? 4 : 5) - kSealed
         : kRowBytes == 128 ? (kGroups == 2 ? 2
                               : kSealed    ? 3
                                            : 4)
                            : 4;
}

template <KvElement kElement, int kRowBytes, int kGroups, bool kSealed>
__global__ void __launch_bounds__(split_warps<kRowBytes>() * kWarpLanes,
                                  split_blocks<kRowBytes, kGroups, kSealed>())
    split_rows(const __grid_constant__ AttentionJob job, const __grid_constant__ SealKeys keys) {
  using Warp = WarpAttention<kElement, kRowBytes, kGroups>;
  using Tile = KvTile<kRowBytes>;
  constexpr int kWarps = split_warps<kRowBytes>(), kThreads = kWarps * kWarpLanes;
  constexpr bool kScales = kElement != KvElement::kF16;
  constexpr int kTotals = kWarps * Warp::kQueries * 2;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpLanes,
            warp = thread / kWarpLanes;
  const int dim = job.cache.dim, heads = job.n_heads / job.cache.n_kv_heads; // of a KV head
  const int chunks = (heads + Warp::kQueries - 1) / Warp::kQueries;
  const int kv_head = static_cast<int>(blockIdx.y) / chunks;
  const int first_head = static_cast<int>(blockIdx.y) % chunks * Warp::kQueries;
  const DeviceSequence sequence = job.sequences[blockIdx.z];
  const SeenRows seen(job, sequence, 0);
  const int base = (seen.begin / kWindowRows + static_cast<int>(blockIdx.x)) * kWindowRows;
  if (sequence.tokens == 0 || base >= seen.end)
    return;

  PTMO_SHARED(uint8_t, tiles, kWarps * 2 * Tile::kBytes); // of a warp: K, V
  PTMO_SHARED(uint2, scales, kScales ? kWindowRows : 2);
  PTMO_SHARED(uint64_t, seqs, kSealed ? kWindowRows : 2);
  PTMO_SHARED(float, totals, kTotals);
  static_assert(kWarps * 2 * Tile::kBytes >= kWarps * Warp::kQueries *
                                                 static_cast<int>(sizeof(float)) *
                                                 (kElement == KvElement::kF16    ? kRowBytes / 2
                                                  : kElement == KvElement::kInt4 ? 2 * kRowBytes
                                                                                 : kRowBytes),
                "the warps' sums meet where their tiles were");
  uint8_t* const key_tile = tiles + warp * 2 * Tile::kBytes;
  uint8_t* const value_tile = key_tile + Tile::kBytes;

  const CachedRows rows(job, sequence, kv_head, seen.begin > base ? seen.begin : base,
                        seen.end < base + kWindowRows ? seen.end : base + kWindowRows);
  const RowWalk<kWarpLanes> walk(rows.row_bytes, lane);
  const Opener<kSealed> opener(keys, sequence, job.layer, kv_head);
  const RowWindow window{kScales ? scales : nullptr, kSealed ? seqs : nullptr};
  const int first_tile = (rows.begin - base) / kTileRows;
  const int end_tile = (rows.end - base + kTileRows - 1) / kTileRows;
  const auto fetch = [&](int tile, int part) {
    if (tile < end_tile)
      fetch_tile<kWarpLanes, kRowBytes>(part == 0 ? key_tile : value_tile, rows, walk, part,
                                        base + tile * kTileRows, lane);
    commit_copies(); // an empty group too: each tile is one
  };
  const auto open = [&](uint8_t* at, int tile, kernels::RowPart part) {
    open_tile<kWarpLanes, kRowBytes>(at, rows, opener, seqs + tile * kTileRows, part,
                                     base + tile * kTileRows, lane, [] {
                                       wait_copies<1>();
                                       __syncwarp();
                                     });
    __syncwarp();
  };

  int tile = first_tile + ((warp - first_tile) & (kWarps - 1));
  fetch(tile, 0);
  Warp queries(lane);
#pragma unroll
  for (int k = 0; k < kGroups; ++k) {
    const int head = first_head + k * kGroupQueries + lane / 8;
    const size_t row = static_cast<size_t>(sequence.row) * job.n_heads + kv_head * heads + head;
    queries.load(k, head < heads ? job.q + row * dim : nullptr, dim, job.scale);
  }
  window.template load<kThreads>(rows, opener, base, thread);
  for (; tile < end_tile; tile += kWarps) {
    const int at = base + tile * kTileRows;
    fetch(tile, 1);
    open(key_tile, tile, kernels::RowPart::kKey);
    typename Warp::Seen sees;
#pragma unroll
    for (int k = 0; k < kGroups; ++k) {
      sees.from[k] = rows.begin - at;
      sees.to[k] = rows.end - at;
    }
    const typename Warp::Weights weights =
        queries.weigh(key_tile, scales + tile * kTileRows, sees, rows.row_bytes);
    __syncwarp();
    fetch(tile + kWarps, 0);
    open(value_tile, tile, kernels::RowPart::kValue);
    queries.add(value_tile, weights, rows.row_bytes);
    __syncwarp();
  }
  wait_copies<0>();
  queries.finish();

  // The warps' sums meet in shared memory, [warp][query][element], and are added in order.
  __syncthreads();
  float* const sums = reinterpret_cast<float*>(tiles);
  const auto place = [&](int of_warp, int query) { return of_warp * Warp::kQueries + query; };
  queries.each(dim, [&](int k, int element, float value) {
    sums[place(warp, k * kGroupQueries + queries.p) * dim + element] = value;
  });
  if (queries.g == 0) {
#pragma unroll
    for (int k = 0; k < kGroups; ++k) {
      float* total = totals + 2 * place(warp, k * kGroupQueries + queries.p);
      total[0] = queries.largest[k];
      total[1] = queries.sum[k];
    }
  }
  __syncthreads();
  for (int query = 0; query < Warp::kQueries && first_head + query < heads; ++query) {
    float largest = kNothingSeen, take[kWarps], sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      largest = fmaxf(largest, totals[2 * place(w, query)]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      take[w] = exp2f(totals[2 * place(w, query)] - largest);
      sum = __fmaf_rn(totals[2 * place(w, query) + 1], take[w], sum);
    }
    float* partial =
        partial_of(job, static_cast<int>(blockIdx.z), kv_head * heads + first_head + query,
                   static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
    if (thread == 0) {
      partial[0] = largest;
      partial[1] = sum;
    }
    for (int element = thread; element < dim; element += kThreads) {
      float value = 0.0f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w)
        value = __fmaf_rn(sums[place(w, query) * dim + element], take[w], value);
      partial[kPartialSums + element] = value;
    }
  }
  __syncthreads();
  wipe_shared<kThreads, kWarps * 2 * Tile::kBytes>(tiles, thread);
  wipe_shared<kThreads, (kScales ? kWindowRows : 2) * 8>(scales, thread);
  wipe_shared<kThreads, (kSealed ? kWindowRows : 2) * 8>(seqs, thread);
  wipe_shared<kThreads, kTotals * 4>(totals, thread);
}

// Element `threadIdx.x` of a head: its splits folded in order. What a split with one row leaves is
// that row of V: partials are zeroed once they are read.
__global__ void fold_splits(const __grid_constant__ AttentionJob job, int splits) {
  const int head = static_cast<int>(blockIdx.x), at = static_cast<int>(blockIdx.y);
  const int element = static_cast<int>(threadIdx.x), dim = job.cache.dim;
  const DeviceSequence sequence = job.sequences[at];
  if (sequence.tokens == 0)
    return;
  const SeenRows seen(job, sequence, 0);
  const int count = (seen.end + kWindowRows - 1) / kWindowRows - seen.begin / kWindowRows;
  float largest = kNothingSeen, sum = 0.0f, value = 0.0f;
  for (int i = 0; i < count; ++i)
    largest = fmaxf(largest, partial_of(job, at, head, i, splits)[0]);
  for (int i = 0; i < count; ++i) {
    float* partial = partial_of(job, at, head, i, splits);
    const float take = exp2f(partial[0] - largest);
    sum = __fmaf_rn(partial[1], take, sum);
    if (element < dim) {
      value = __fmaf_rn(partial[kPartialSums + element], take, value);
      partial[kPartialSums + element] = 0.0f;
    }
  }
  __syncthreads();
  for (int i = element; i < count; i += static_cast<int>(blockDim.x)) {
    float* partial = partial_of(job, at, head, i, splits);
    partial[0] = partial[1] = 0.0f;
  }
  if (element < dim)
    job.out[(static_cast<size_t>(sequence.row) * job.n_heads + head) * dim + element] = value / sum;
}

template <KvElement kElement, int kRowBytes, int kGroups>
cudaError_t launch_split(const AttentionJob& job, const SealKeys* keys, cudaStream_t stream) {
  using Warp = WarpAttention<kElement, kRowBytes, kGroups>;
  const int heads = job.n_heads / job.cache.n_kv_heads;
  const dim3 grid(splits_of(job),
                  job.cache.n_kv_heads * ((heads + Warp::kQueries - 1) / Warp::kQueries),
                  job.count);
  const dim3 block(split_warps<kRowBytes>() * kWarpLanes);
  if (keys == nullptr)
    return launch_in_place(split_rows<kElement, kRowBytes, kGroups, false>, grid, block, stream,
                           job, kNoKeys);
  return launch_in_place(split_rows<kElement, kRowBytes, kGroups, true>, grid, block, stream, job,
                         *keys);
}

template <KvElement kElement, int kRowBytes>
cudaError_t launch_rows(const AttentionJob& job, const SealKeys* keys, cudaStream_t stream) {
  return job.n_heads / job.cache.n_kv_heads <= kGroupQueries
             ? launch_split<kElement, kRowBytes, 1>(job, keys, stream)
             : launch_split<kElement, kRowBytes, 2>(job, keys, stream);
}

} // namespace

size_t attention_scratch_floats(const AttentionJob& job) {
  return static_cast<size_t>(job.count) * job.n_heads * splits_of(job) *
         (kPartialSums + job.cache.dim);
}

cudaError_t attention_split(const AttentionJob& job, const SealKeys* keys, cudaStream_t stream) {
  return with_cache_shape(job, [&](auto element, auto row_bytes) {
    return launch_rows<decltype(element)::value, decltype(row_bytes)::value>(job, keys, stream);
  });
}

cudaError_t attention_fold(const AttentionJob& job, cudaStream_t stream) {
  const int threads = (job.cache.dim + kWarpLanes - 1) / kWarpLanes * kWarpLanes;
  return launch(fold_splits, dim3(job.n_heads, job.count), dim3(threads), stream, job,
                splits_of(job));
}

} // namespace ptmo::cuda
