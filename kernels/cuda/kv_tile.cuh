// Rows of the paged cache on their way into shared memory: 32 rows of K or V of one head at a time,
// copied 16 bytes at a time while the last ones are used, and opened in place where they are
// sealed. What the attention kernels share.
//
// A tile's rows stand `kRowBytes` + 16 bytes apart, an odd number of 16-byte units, so that lanes
// with a row each read and write 16 bytes, and lanes with 4 bytes of eight rows 4, without a bank
// conflict. Rows that nobody sees are zeros: their codes times a weight of zero must be zero, which
// a NaN in a half is not.
#pragma once

#include "cuda_kernels.h"
#include "ptx.cuh"

namespace ptmo::cuda {

constexpr int kTileRows = 32;
constexpr int kWindowRows = 256; // whose scales and sequence numbers stand in shared memory at once

template <int kRowBytes> struct KvTile {
  static constexpr int kStride = kRowBytes + 16;
  static constexpr int kBytes = kTileRows * kStride;
};

// The positions that token `token` of a sequence sees: [begin, end).
struct SeenRows {
  int begin, end;

  __device__ SeenRows(const AttentionJob& job, const DeviceSequence& sequence, int token)
      : end(sequence.first + token + 1) {
    begin = job.window == 0 || end < job.window ? 0 : end - job.window;
  }
};

// The rows [begin, end) of a sequence's pages, for one layer and KV head.
struct CachedRows {
  const uint8_t* const* pages;
  size_t head;       // of a page: where K begins
  size_t part_bytes; // of K; V follows, then scales
  int row_bytes, page_shift, begin, end;

  __device__ CachedRows(const AttentionJob& job, const DeviceSequence& sequence, int kv_head,
                        int begin, int end)
      : pages(sequence.pages), head(job.cache.head_offset(job.layer, kv_head)),
        part_bytes(job.cache.tile_bytes()), row_bytes(static_cast<int>(job.cache.row_bytes())),
        page_shift(job.cache.rows == 16   ? 4
                   : job.cache.rows == 32 ? 5
                                          : 6),
        begin(begin), end(end) {}
  __device__ bool there(int position) const { return position >= begin && position < end; }
  __device__ const uint8_t* page(int position) const { return pages[position >> page_shift]; }
  __device__ int row(int position) const { return position & ((1 << page_shift) - 1); }
};

// How `kThreads` threads share out the 16-byte units of a tile (8-byte units where a row is no
// multiple of 16): what a thread begins with and how far it goes each time, so that copying has no
// division.
template <int kThreads> struct RowWalk {
  int unit, row, at, row_step, step;

  __device__ RowWalk(int row_bytes, int thread) {
    unit = row_bytes % 16 == 0 ? 16 : 8;
    const int per_row = row_bytes / unit;
    row = thread / per_row;
    at = thread % per_row * unit;
    row_step = kThreads / per_row;
    step = kThreads % per_row * unit;
  }
};

// Asks for the tile of rows from position `first` on, a multiple of 32: K with `part` = 0, V
// with 1. Rows follow each other without a gap in a page, so the tile is two runs of bytes, of 16
// rows each, which may lie in two pages. Of a row that is not there nothing is read, whatever the
// address.
template <int kThreads, int kRowBytes>
__device__ __forceinline__ void fetch_tile(uint8_t* tile, const CachedRows& rows,
                                           const RowWalk<kThreads>& walk, int part, int first,
                                           int thread) {
  uintptr_t run[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int start = first + half * (kTileRows / 2);
    const uint8_t* page = rows.page(start < rows.end ? start : rows.end - 1);
    run[half] = reinterpret_cast<uintptr_t>(page) + rows.head +
                static_cast<size_t>(part) * rows.part_bytes +
                static_cast<size_t>((rows.row(start) - half * (kTileRows / 2)) * rows.row_bytes);
  }
  const auto seen = static_cast<unsigned>(rows.end - rows.begin);
  int row = walk.row, at = walk.at, offset = thread * walk.unit;
#pragma unroll 4
  for (; row < kTileRows; offset += kThreads * walk.unit) {
    const bool there = static_cast<unsigned>(first + row - rows.begin) < seen;
    const auto* from = reinterpret_cast<const void*>((row < kTileRows / 2 ? run[0] : run[1]) +
                                                     static_cast<uintptr_t>(offset));
    uint8_t* to = tile + row * KvTile<kRowBytes>::kStride + at;
    if (walk.unit == 16)
      copy16_async(to, from, there);
    else
      copy8_async(to, from, there);
    row += walk.row_step;
    at += walk.step;
    if (at >= rows.row_bytes) {
      at -= rows.row_bytes;
      ++row;
    }
  }
}

// Whose rows a block opens. The key is read where the launch put it, in constant memory; a pointer
// that could be null would make that a load from anywhere.
template <bool kSealed> struct Opener {
  bool sealed;
  const kernels::ChaChaKey* key;
  uint32_t word13; // layer << 16 | kv_head: a part's own is 2^14 more

  __device__ Opener(const SealKeys& keys, const DeviceSequence& sequence, int layer, int kv_head)
      : sealed(kSealed && sequence.key >= 0), key(&keys.keys[sealed ? sequence.key : 0]),
        word13(static_cast<uint32_t>(layer) << 16 | static_cast<uint32_t>(kv_head)) {}
  __device__ bool opens() const { return kSealed && sealed; }
  __device__ kernels::ChaChaBlock keystream(kernels::RowPart part, uint32_t block,
                                            uint64_t number) const {
    return kernels::chacha_block<kernels::kSealRounds>(
        *key, {{block, word13 | static_cast<uint32_t>(part) << 14, static_cast<uint32_t>(number),
                static_cast<uint32_t>(number >> 32)}});
  }
};

// XORs what a thread has of a tile with its keystream: a block of 64 bytes, which stands in
// registers, is a row's or a part of one. The first is made before `wait`, while the tile is under
// way: 16 registers, which the rest of a block's work leaves free then. `seqs`: of the tile's rows.
template <int kThreads, int kRowBytes, bool kSealed, typename Wait>
__device__ __forceinline__ void
open_tile(uint8_t* tile, const CachedRows& rows, const Opener<kSealed>& opener,
          const uint64_t* seqs, kernels::RowPart part, int first, int thread, const Wait& wait) {
  if constexpr (!kSealed) {
    wait();
    return;
  }
  const int units =
      !opener.opens()
          ? 0
          : kTileRows * ((rows.row_bytes + kernels::kChaChaBytes - 1) / kernels::kChaChaBytes);
  bool waited = false;
#pragma unroll 1 // one block of keystream at a time
  for (int i = thread; i < units || !waited; i += kThreads) {
    const int row = i % kTileRows, block = i / kTileRows;
    const bool mine = i < units && rows.there(first + row);
    kernels::ChaChaBlock with;
    if (mine)
      with = opener.keystream(part, static_cast<uint32_t>(block), seqs[row]);
    if (!waited)
      wait();
    waited = true;
    if (!mine)
      continue;
    uint8_t* at = tile + row * KvTile<kRowBytes>::kStride + block * kernels::kChaChaBytes;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (block * kernels::kChaChaBytes + 16 * j >= rows.row_bytes)
        break;
      uint4* words = reinterpret_cast<uint4*>(at) + j;
      uint4 w = *words;
      w.x ^= with.words[4 * j];
      w.y ^= with.words[4 * j + 1];
      w.z ^= with.words[4 * j + 2];
      w.w ^= with.words[4 * j + 3];
      *words = w;
    }
  }
}

// Scales and sequence numbers of a window's rows, in shared memory.
struct RowWindow {
  uint2* scales;  // [kWindowRows]: bits of the scales of K and V, null where the type has none
  uint64_t* seqs; // [kWindowRows], null for rows in the clear

  // Reads those from position `first` on, zeros for rows nobody sees. Every thread of the block
  // calls it, and may use them after it.
  template <int kThreads, bool kSealed>
  __device__ __forceinline__ void load(const CachedRows& rows, const Opener<kSealed>& opener,
                                       int first, int thread) const {
    for (int i = thread; i < kWindowRows; i += kThreads) {
      const bool there = rows.there(first + i);
      const int position = there ? first + i : rows.begin;
      const uint8_t* page = rows.page(position);
      const int row = rows.row(position);
      if (scales != nullptr)
        scales[i] =
            there
                ? *reinterpret_cast<const uint2*>(page + rows.head + 2 * rows.part_bytes + 8 * row)
                : uint2{0, 0};
      if (seqs != nullptr)
        seqs[i] = there ? *reinterpret_cast<const uint64_t*>(page + kPageHeaderBytes + 8 * row) : 0;
    }
    __syncthreads();
    if (scales != nullptr && opener.opens()) {
      open_scales<kThreads>(rows, opener, first, thread);
      __syncthreads();
    }
  }

private:
  // Eight numbers share a block of keystream. A thread has eight rows, which begin where a block
  // does if numbers follow each other, as they nearly always do: then it makes one block. Whatever
  // the numbers are, it makes as many as it takes.
  template <int kThreads, bool kSealed>
  __device__ __forceinline__ void open_scales(const CachedRows& rows, const Opener<kSealed>& opener,
                                              int first, int thread) const {
    const int begin = rows.begin > first ? rows.begin - first : 0;
    const int end = rows.end - first < kWindowRows ? rows.end - first : kWindowRows;
    const int skew = begin < end ? static_cast<int>(seqs[begin] % 8) : 0;
    for (int from = begin - skew + 8 * thread; from < end; from += 8 * kThreads) {
      int row = from > begin ? from : begin;
      const int to = from + 8 < end ? from + 8 : end;
      while (row < to) {
        const uint64_t number = seqs[row] / 8;
        const kernels::ChaChaBlock with = opener.keystream(kernels::RowPart::kScales, 0, number);
#pragma unroll
        for (int i = 0; i < 8; ++i) { // places are constants: the block stays in registers
          if (row < to && seqs[row] == 8 * number + static_cast<uint64_t>(i)) {
            scales[row].x ^= with.words[2 * i];
            scales[row].y ^= with.words[2 * i + 1];
            ++row;
          }
        }
      }
    }
  }
};

// Zeroes an array of `kBytes` that held what a page seals. A plain store that nothing reads would
// be left out.
template <int kThreads, int kBytes>
__device__ __forceinline__ void wipe_shared(void* array, int thread) {
  static_assert(kBytes % 16 == 0, "");
  for (int i = thread; i < kBytes / 16; i += kThreads)
    wipe16(static_cast<uint8_t*>(array) + 16 * i);
}

} // namespace ptmo::cuda
