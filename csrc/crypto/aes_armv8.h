// The ARMv8 AES instructions behind aes_ctr.h; absent elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptmo {

struct AesRoundKeys;
struct KvRows;

bool aes_armv8_supported();
void aes_armv8_ctr_xor(const AesRoundKeys& keys, uint16_t layer, uint16_t head, const KvRows* parts,
                       int count, size_t row_bytes);

} // namespace ptmo
