// Sealed rows of pages on a device: ChaCha ciphertext (kernels/chacha.h), which the device's own
// kernels write and read. The host opens rows where a session is saved, and seals them where one is
// resumed.
#pragma once

#include "kernels/chacha.h"
#include "shield.h"

namespace ptmo {

class ChaChaShield : public Shield {
public:
  // `key` stays in the secret arena; the shield only points at it.
  explicit ChaChaShield(const kernels::ChaChaKey& key) : key_(key) {}
  const kernels::ChaChaKey& key() const { return key_; }
  void write_row(uint8_t* block, const PageLayout& layout, int layer, int head, int row,
                 uint64_t seq, const uint8_t* k, const uint8_t* v,
                 const float* scales) const override;
  void open_tiles(const uint8_t* const* pages, int count, const PageLayout& layout, int layer,
                  int head, int last_rows, uint8_t* scratch, Tile* tiles) const override;

private:
  const kernels::ChaChaKey& key_;
};

} // namespace ptmo
