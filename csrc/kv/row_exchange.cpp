#include "row_exchange.h"

#include <cstring>

#include "common/check.h"
#include "secmem/secret_arena.h"

namespace ptmo {
namespace {

// The place of a head's K (0) or V (1) rows in the buffer.
uint8_t* place_of(const RowOrder& order, const PageLayout& l, int which, int head, int rows) {
  const size_t bytes = l.element_bytes() * static_cast<size_t>(l.head_dim) * rows;
  return order.buffer + (static_cast<size_t>(which) * l.n_kv_heads + head) * bytes;
}

// Transposes [rows, cols] elements into [cols, rows].
void transpose(const uint8_t* in, size_t rows, size_t cols, size_t element, uint8_t* out) {
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < cols; ++c)
      std::memcpy(out + (c * rows + r) * element, in + (r * cols + c) * element, element);
}

} // namespace

RowScratch::RowScratch(const PageLayout& l, const RowOrder& order)
    : tile(l.head_bytes()), ordered(l.tile_bytes()),
      scales(2 * static_cast<size_t>(l.rows) * l.n_kv_heads), shared(order.buffer),
      shared_bytes(order.bytes) {}

RowScratch::~RowScratch() {
  secure_wipe(tile.data(), tile.size());
  secure_wipe(ordered.data(), ordered.size());
  secure_wipe(scales.data(), scales.size() * sizeof(float));
  secure_wipe(page.data(), page.size());
  if (shared != nullptr)
    secure_wipe(shared, shared_bytes);
}

void require_room(const RowOrder& order, const PageLayout& l, int rows) {
  if (order.buffer == nullptr)
    return;
  const size_t row = l.element_bytes() * static_cast<size_t>(l.head_dim);
  const size_t needed = 2 * row * static_cast<size_t>(rows) * l.n_kv_heads;
  require(order.bytes >= needed, "the row buffer holds ", order.bytes, " bytes, a layer needs ",
          needed);
}

void put_rows(const RowOrder& order, const PageLayout& l, int which, int head, int rows,
              const uint8_t* in) {
  uint8_t* out = place_of(order, l, which, head, rows);
  const auto n = static_cast<size_t>(rows), dim = static_cast<size_t>(l.head_dim), half = dim / 2;
  if (l.type != KvType::kInt4) {
    transpose(in, n, dim, l.element_bytes(), out);
    return;
  }
  for (size_t r = 0; r < n; ++r, in += half) {
    for (size_t c = 0; c < half; ++c) {
      out[c * n + r] = in[c] & 15;
      out[(c + half) * n + r] = in[c] >> 4;
    }
  }
}

void take_rows(const RowOrder& order, const PageLayout& l, int which, int head, int rows,
               uint8_t* out) {
  const uint8_t* in = place_of(order, l, which, head, rows);
  const auto n = static_cast<size_t>(rows), dim = static_cast<size_t>(l.head_dim), half = dim / 2;
  if (l.type != KvType::kInt4) {
    transpose(in, dim, n, l.element_bytes(), out);
    return;
  }
  for (size_t r = 0; r < n; ++r, out += half)
    for (size_t c = 0; c < half; ++c)
      out[c] = static_cast<uint8_t>((in[c * n + r] & 15) | in[(c + half) * n + r] << 4);
}

} // namespace ptmo
