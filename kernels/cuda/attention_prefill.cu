// Prefill attention: blocks of queries walk the pages from the first row that one of them sees to
// the last, with a running softmax (Milakov & Gimelshein 2018; Dao et al. 2022); no T x T matrix.
//
// A query is a token and one of the query heads of a KV head; they are numbered token by token, so
// that all heads share a tile of rows, which is copied and opened once for the 64 queries of a
// block (32 with rows above 128 elements). A warp has 8 (4) of them. Later blocks see more rows and
// start first.
//
// P.V is a tensor-core product too (attention_tile.cuh). In float steps it would cost a fused
// multiply-add for every query and element, 64 * dim a row and block, and dim conversions; as
// integers it costs dim / 16 products a tile for four queries, dim / 2 byte permutations a row and
// warp, and a step of five float operations for every query, element and tile of 32 rows: dim * 10
// a row and block.
//
// A permuted head needs no gather: see attention_tile.cuh. Bytes and operations: kernels/README.md.
#include "attention_launch.cuh"
#include "attention_tile.cuh"

namespace ptmo::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarpLanes;

// Groups of queries of a warp: as many as its sums leave registers for.
template <KvElement kElement, int kRowBytes> constexpr int prefill_groups() {
  constexpr int dim = kElement == KvElement::kF16    ? kRowBytes / 2
                      : kElement == KvElement::kInt4 ? 2 * kRowBytes
                                                     : kRowBytes;
  return dim <= 128 ? 2 : 1;
}

template <KvElement kElement, int kRowBytes, bool kSealed>
__global__ void __launch_bounds__(kThreads, 1)
    attention_block(const __grid_constant__ AttentionJob job,
                    const __grid_constant__ SealKeys keys) {
  constexpr int kGroups = prefill_groups<kElement, kRowBytes>();
  using Warp = WarpAttention<kElement, kRowBytes, kGroups>;
  using Tile = KvTile<kRowBytes>;
  constexpr int kStages = kRowBytes <= 256 ? 2 : 1; // pairs of tiles that 48 KB hold
  constexpr bool kScales = kElement != KvElement::kF16;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpLanes,
            warp = thread / kWarpLanes;
  const int dim = job.cache.dim, heads = job.n_heads / job.cache.n_kv_heads; // of a KV head
  const int kv_head = static_cast<int>(blockIdx.y);
  const DeviceSequence sequence = job.sequences[blockIdx.z];
  const int first_query = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kWarps * Warp::kQueries;
  if (first_query / heads >= sequence.tokens)
    return;

  PTMO_SHARED(uint8_t, tiles, kStages * 2 * Tile::kBytes); // K, V
  PTMO_SHARED(uint2, scales, kScales ? kWindowRows : 2);
  PTMO_SHARED(uint64_t, seqs, kSealed ? kWindowRows : 2);

  // Rows that some query from `query` on sees, of `count` of them.
  const auto seen_by = [&](int query, int count) {
    const int last = (query + count - 1) / heads;
    SeenRows rows(job, sequence, query / heads);
    rows.end = sequence.first + (last < sequence.tokens ? last + 1 : sequence.tokens);
    return rows;
  };
  const SeenRows all = seen_by(first_query, kWarps * Warp::kQueries);
  const CachedRows rows(job, sequence, kv_head, all.begin, all.end);
  const RowWalk<kThreads> walk(rows.row_bytes, thread);
  const Opener<kSealed> opener(keys, sequence, job.layer, kv_head);
  const RowWindow window{kScales ? scales : nullptr, kSealed ? seqs : nullptr};

  const int warp_query = first_query + warp * Warp::kQueries;
  const bool warp_works = warp_query / heads < sequence.tokens;
  const SeenRows warp_rows = seen_by(warp_query, Warp::kQueries);
  const auto row_of = [&](int query) { // of q and out
    return (static_cast<size_t>(sequence.row + query / heads) * job.n_heads + kv_head * heads +
            query % heads) *
           static_cast<size_t>(dim);
  };
  Warp queries(lane);
  typename Warp::Seen sees; // positions here, rows of a tile below
#pragma unroll
  for (int k = 0; k < kGroups; ++k) {
    const int loaded = warp_query + k * kGroupQueries + lane / 8;
    queries.load(k, loaded / heads < sequence.tokens ? job.q + row_of(loaded) : nullptr, dim,
                 job.scale);
    const int token = (warp_query + k * kGroupQueries + queries.p) / heads;
    const SeenRows of_token(job, sequence, token);
    sees.from[k] = of_token.begin;
    sees.to[k] = token < sequence.tokens ? of_token.end : 0;
  }

  const auto fetch = [&](int at) {
    if (at < rows.end) {
      uint8_t* stage = tiles + at / kTileRows % kStages * 2 * Tile::kBytes;
      fetch_tile<kThreads, kRowBytes>(stage, rows, walk, 0, at, thread);
      fetch_tile<kThreads, kRowBytes>(stage + Tile::kBytes, rows, walk, 1, at, thread);
    }
    commit_copies(); // an empty group too: each pair of tiles is one
  };
  const int begin = rows.begin / kTileRows * kTileRows;
  fetch(begin);
  for (int at = begin; at < rows.end; at += kTileRows) {
    if (at == begin || at % kWindowRows == 0)
      window.template load<kThreads>(rows, opener, at / kWindowRows * kWindowRows, thread);
    if (kStages > 1)
      fetch(at + kTileRows);
    uint8_t* const key_tile = tiles + at / kTileRows % kStages * 2 * Tile::kBytes;
    uint8_t* const value_tile = key_tile + Tile::kBytes;
    const uint64_t* tile_seqs = seqs + at % kWindowRows;
    open_tile<kThreads, kRowBytes>(key_tile, rows, opener, tile_seqs, kernels::RowPart::kKey, at,
                                   thread, [] {
                                     wait_copies<kStages - 1>();
                                     __syncthreads();
                                   });
    if constexpr (kSealed) {
      // The threads that K leaves idle, where it does, take V first.
      open_tile<kThreads, kRowBytes>(value_tile, rows, opener, tile_seqs, kernels::RowPart::kValue,
                                     at, kThreads - 1 - thread, [] {});
      __syncthreads();
    }
    if (warp_works && at < warp_rows.end && at + kTileRows > warp_rows.begin) {
      typename Warp::Seen in_tile;
#pragma unroll
      for (int k = 0; k < kGroups; ++k) {
        in_tile.from[k] = sees.from[k] - at;
        in_tile.to[k] = sees.to[k] - at;
      }
      const typename Warp::Weights weights =
          queries.weigh(key_tile, scales + at % kWindowRows, in_tile, rows.row_bytes);
      queries.add(value_tile, weights, rows.row_bytes);
    }
    __syncthreads(); // all have left the tiles and the window that are filled next
    if (kStages == 1)
      fetch(at + kTileRows);
  }
  wait_copies<0>();
  queries.finish();
  queries.each(dim, [&](int k, int element, float value) {
    const int query = warp_query + k * kGroupQueries + queries.p;
    if (query / heads < sequence.tokens)
      job.out[row_of(query) + element] = value / queries.sum[k];
  });
  wipe_shared<kThreads, kStages * 2 * Tile::kBytes>(tiles, thread);
  wipe_shared<kThreads, (kScales ? kWindowRows : 2) * 8>(scales, thread);
  wipe_shared<kThreads, (kSealed ? kWindowRows : 2) * 8>(seqs, thread);
}

} // namespace

cudaError_t attention_prefill(const AttentionJob& job, const SealKeys* keys, cudaStream_t stream) {
  return with_cache_shape(job, [&](auto element, auto bytes) {
    constexpr KvElement kElement = decltype(element)::value;
    constexpr int kRowBytes = decltype(bytes)::value;
    constexpr int kQueries =
        kWarps * kGroupQueries * prefill_groups<kElement, kRowBytes>(); // of a block
    const int queries = job.most * (job.n_heads / job.cache.n_kv_heads);
    const dim3 grid((queries + kQueries - 1) / kQueries, job.cache.n_kv_heads, job.count);
    if (keys == nullptr)
      return launch_in_place(attention_block<kElement, kRowBytes, false>, grid, dim3(kThreads),
                             stream, job, kNoKeys);
    return launch_in_place(attention_block<kElement, kRowBytes, true>, grid, dim3(kThreads), stream,
                           job, *keys);
  });
}

} // namespace ptmo::cuda
