// The ARMv8 AES instructions behind aes_ctr.h; absent elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptmo {

struct AesRoundKeys;

bool aes_armv8_supported();
void aes_armv8_ctr_xor(const AesRoundKeys& keys, const uint64_t* seqs, int records, uint16_t layer,
                       uint16_t stream, const uint8_t* in, size_t record_bytes, uint8_t* out);

} // namespace ptmo
