// Sealed rows: AES-128-CTR ciphertext in memory, decrypted tile by tile for the attention kernel.
#pragma once

#include "crypto/aes_ctr.h"
#include "shield.h"

namespace ptmo {

// Every record (K row, V row, pair of scales) of a row has its own counter range under the row's
// sequence number (crypto/aes_ctr.h). A reader of the pages learns lengths and sequence numbers.
class SealShield : public Shield {
public:
  // `keys` stay in the secret arena; the shield only points at them.
  explicit SealShield(const AesRoundKeys& keys) : keys_(keys) {}
  void write_row(uint8_t* block, const PageLayout& layout, int layer, int head, int row,
                 uint64_t seq, const uint8_t* k, const uint8_t* v,
                 const float* scales) const override;
  void open_tiles(const uint8_t* const* pages, int count, const PageLayout& layout, int layer,
                  int head, int last_rows, uint8_t* scratch, Tile* tiles) const override;

private:
  const AesRoundKeys& keys_;
};

} // namespace ptmo
