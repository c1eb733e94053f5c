// The vector AES instructions of AVX-512 (VAES) behind aes_ctr.h; absent elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptmo {

struct AesRoundKeys;

bool aes_vaes_supported();
// Rows of 32 bytes, of whole multiples of 64, and scales; other sizes go to aes_ni.
void aes_vaes_ctr_xor(const AesRoundKeys& keys, const uint64_t* seqs, int records, uint16_t layer,
                      uint16_t stream, const uint8_t* in, size_t record_bytes, uint8_t* out);

} // namespace ptmo
