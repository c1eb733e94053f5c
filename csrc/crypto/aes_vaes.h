// The vector AES instructions of AVX-512 (VAES) behind aes_ctr.h; absent elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptmo {

struct AesRoundKeys;
struct KvRows;

bool aes_vaes_supported();
// Rows of 32 bytes, of whole multiples of 64, and scales; other sizes go to aes_ni.
void aes_vaes_ctr_xor(const AesRoundKeys& keys, uint16_t layer, uint16_t head, const KvRows* parts,
                      int count, size_t row_bytes);

} // namespace ptmo
