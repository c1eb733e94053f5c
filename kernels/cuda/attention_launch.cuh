// From a cache's shape to the attention kernels made for it.
#pragma once

#include <type_traits>

#include "cuda_kernels.h"
#include "launch.cuh"

namespace ptmo::cuda {

// use(element, row bytes) as constants: the least of 64, 128, 256, 512 bytes that holds a row. That
// many instantiations, not one for every head size: what a row leaves of it is skipped.
template <typename Use> cudaError_t with_cache_shape(const AttentionJob& job, const Use& use) {
  using Int8 = std::integral_constant<KvElement, KvElement::kInt8>;
  using Int4 = std::integral_constant<KvElement, KvElement::kInt4>;
  using Halves = std::integral_constant<KvElement, KvElement::kF16>;
  constexpr std::integral_constant<int, 64> k64{};
  constexpr std::integral_constant<int, 128> k128{};
  constexpr std::integral_constant<int, 256> k256{};
  constexpr std::integral_constant<int, 512> k512{};
  const KvPages& cache = job.cache;
  const size_t bytes = cache.row_bytes();
  if (cache.dim < 16 || cache.dim > 256 || cache.dim % 16 != 0 ||
      (cache.rows != 16 && cache.rows != 32 && cache.rows != 64) || cache.n_kv_heads < 1 ||
      job.n_heads % cache.n_kv_heads != 0 || job.window < 0)
    return cudaErrorInvalidValue;
  switch (cache.element) {
  case KvElement::kInt8:
    return bytes <= 64 ? use(Int8{}, k64) : bytes <= 128 ? use(Int8{}, k128) : use(Int8{}, k256);
  case KvElement::kInt4:
    return bytes <= 64 ? use(Int4{}, k64) : use(Int4{}, k128);
  case KvElement::kF16:
    return bytes <= 128   ? use(Halves{}, k128)
           : bytes <= 256 ? use(Halves{}, k256)
                          : use(Halves{}, k512);
  }
  return cudaErrorInvalidValue;
}

} // namespace ptmo::cuda
