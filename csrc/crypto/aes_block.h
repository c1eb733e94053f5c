// The AES block cipher (FIPS 197) in plain C++, for any key size: key expansion for every path, and
// the portable encryption (table look-ups: not constant time; the hardware paths are).
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptmo {

// Expands a key of `key_bytes` (16 or 32) into key_bytes / 4 + 7 round keys of 16 bytes each. The
// first key_bytes of `round_keys` are the key itself: round_keys == key is allowed.
void aes_expand(const uint8_t* key, size_t key_bytes, uint8_t* round_keys);

// Encrypts one block in place with `rounds` rounds (10 for AES-128, 14 for AES-256).
void aes_encrypt_block(const uint8_t* round_keys, int rounds, uint8_t state[16]);

} // namespace ptmo
