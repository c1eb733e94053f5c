#include "seal.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "counter_ledger.h"

namespace ptmo {
namespace {

// The records of a head's block (page_table.h) at `at`.
template <typename Byte> KvRecords<Byte> records(Byte* at, const PageLayout& layout) {
  const size_t tile = layout.tile_bytes();
  return {at, at + tile, layout.has_scales() ? at + 2 * tile : nullptr};
}

// The cipher takes this for granted; debug builds look.
void check_ascending([[maybe_unused]] const KvRows& rows) {
#ifdef PTMO_COUNT_COUNTERS
  for (int i = 1; i < rows.count; ++i)
    require(rows.seqs[i - 1] < rows.seqs[i], "sequence number ", rows.seqs[i], " of row ", i,
            " does not ascend");
#endif
}

} // namespace

void PlainShield::write_row(uint8_t* block, const PageLayout& layout, int /*layer*/, int /*head*/,
                            int row, uint64_t /*seq*/, const uint8_t* k, const uint8_t* v,
                            const float* scales) const {
  std::memcpy(block + row * layout.row_bytes(), k, layout.row_bytes());
  std::memcpy(block + layout.tile_bytes() + row * layout.row_bytes(), v, layout.row_bytes());
  if (layout.has_scales())
    std::memcpy(block + 2 * layout.tile_bytes() + 8 * row, scales, 8);
}

void PlainShield::open_tiles(const uint8_t* const* pages, int count, const PageLayout& layout,
                             int layer, int head, int /*last_rows*/, uint8_t* /*scratch*/,
                             Tile* tiles) const {
  for (int i = 0; i < count; ++i) {
    const uint8_t* at = pages[i] + layout.head_offset(layer, head);
    const auto* scales = reinterpret_cast<const float*>(at + 2 * layout.tile_bytes());
    tiles[i] = {at, at + layout.tile_bytes(), layout.has_scales() ? scales : nullptr};
  }
}

void SealShield::write_row(uint8_t* block, const PageLayout& layout, int layer, int head, int row,
                           uint64_t seq, const uint8_t* k, const uint8_t* v,
                           const float* scales) const {
  count_counters(keys_, seq, layer, head, layout.has_scales());
  const size_t bytes = layout.row_bytes();
  KvRows one{&seq, 1, {k, v, nullptr}, records(block, layout)};
  if (layout.has_scales()) {
    one.in.scales = reinterpret_cast<const uint8_t*>(scales);
    one.out.scales += 8 * row;
  }
  one.out.k += row * bytes;
  one.out.v += row * bytes;
  aes128_ctr_xor(keys_, static_cast<uint16_t>(layer), static_cast<uint16_t>(head), &one, 1, bytes);
}

void SealShield::open_tiles(const uint8_t* const* pages, int count, const PageLayout& layout,
                            int layer, int head, int last_rows, uint8_t* scratch,
                            Tile* tiles) const {
  constexpr int kTogether = 8;
  KvRows parts[kTogether];
  for (int done = 0; done < count; done += kTogether) {
    const int now = std::min(count - done, kTogether);
    for (int i = 0; i < now; ++i, scratch += layout.head_bytes()) {
      const uint8_t* page = pages[done + i];
      const KvRecords<uint8_t> out = records(scratch, layout);
      parts[i] = {reinterpret_cast<const uint64_t*>(page + sizeof(PageHeader)),
                  done + i + 1 == count ? last_rows : layout.rows,
                  records(page + layout.head_offset(layer, head), layout), out};
      check_ascending(parts[i]);
      tiles[done + i] = {out.k, out.v, reinterpret_cast<const float*>(out.scales)};
    }
    aes128_ctr_xor(keys_, static_cast<uint16_t>(layer), static_cast<uint16_t>(head), parts, now,
                   layout.row_bytes());
  }
}

} // namespace ptmo
