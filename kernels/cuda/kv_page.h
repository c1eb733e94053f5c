// The bytes of a KV page as csrc/kv/page_table.h lays them out, for host and device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../host_device.h"

namespace ptmo::cuda {

// The cache's element types that the device has; numbers as KvType's.
enum class KvElement : int { kInt8 = 0, kF16 = 1, kInt4 = 3 };

constexpr size_t kPageHeaderBytes = 64; // the rows' sequence numbers, u64 each, follow

struct KvPages {
  KvElement element;
  int n_kv_heads, dim; // dim: a multiple of 16, 16..512
  int rows;            // of a page: 16, 32 or 64

  PTMO_HD constexpr size_t row_bytes() const {
    const auto elements = static_cast<size_t>(dim);
    return element == KvElement::kF16    ? 2 * elements
           : element == KvElement::kInt8 ? elements
                                         : elements / 2;
  }
  PTMO_HD constexpr bool has_scales() const { return element != KvElement::kF16; }
  PTMO_HD constexpr size_t tile_bytes() const { return row_bytes() * static_cast<size_t>(rows); }
  PTMO_HD constexpr size_t head_bytes() const {
    return 2 * tile_bytes() + (has_scales() ? 8 * static_cast<size_t>(rows) : 0);
  }
  // Offset of (layer, head)'s K tile; V follows at tile_bytes(), scales at 2 * tile_bytes().
  PTMO_HD constexpr size_t head_offset(int layer, int head) const {
    return kPageHeaderBytes + 8 * static_cast<size_t>(rows) +
           (static_cast<size_t>(layer) * static_cast<size_t>(n_kv_heads) +
            static_cast<size_t>(head)) *
               head_bytes();
  }
};

} // namespace ptmo::cuda
