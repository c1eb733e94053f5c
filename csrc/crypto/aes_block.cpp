#include "aes_block.h"

#include <cstring>

namespace ptmo {
namespace {

// The S-box from its definition: inversion in GF(2^8) and an affine map (FIPS 197, 5.1.1).
struct Sbox {
  uint8_t at[256] = {};
  constexpr Sbox() {
    uint8_t p = 1, q = 1;
    do {
      p = static_cast<uint8_t>(p ^ (p << 1) ^ (p & 0x80 ? 0x1b : 0)); // times 3
      q = static_cast<uint8_t>(q ^ (q << 1));                         // divided by 3
      q = static_cast<uint8_t>(q ^ (q << 2));
      q = static_cast<uint8_t>(q ^ (q << 4));
      if (q & 0x80)
        q ^= 0x09;
      const auto rotl = [q](int n) { return static_cast<uint8_t>(q << n | q >> (8 - n)); };
      at[p] = static_cast<uint8_t>(q ^ rotl(1) ^ rotl(2) ^ rotl(3) ^ rotl(4) ^ 0x63);
    } while (p != 1);
    at[0] = 0x63;
  }
};

constexpr Sbox kSbox;

// A column of the state is one word, its first byte the lowest: as a little-endian CPU reads it.
inline uint32_t load_column(const uint8_t* p) {
  uint32_t column;
  std::memcpy(&column, p, sizeof(column));
  return column;
}

// Each byte times 2 in GF(2^8).
inline uint32_t twice(uint32_t x) {
  return (x & 0x7f7f7f7f) << 1 ^ (x >> 7 & 0x01010101) * 0x1b;
}

// MixColumns (5.1.3): byte i becomes 2 a[i] + 3 a[i + 1] + a[i + 2] + a[i + 3].
inline uint32_t mixed(uint32_t a) {
  const uint32_t next = a >> 8 | a << 24;
  return twice(a ^ next) ^ next ^ (a >> 16 | a << 16) ^ (a >> 24 | a << 8);
}

} // namespace

void aes_expand(const uint8_t* key, size_t key_bytes, uint8_t* w) {
  const uint8_t* box = kSbox.at;
  const size_t all = 16 * (key_bytes / 4 + 7);
  std::memmove(w, key, key_bytes);
  uint8_t rcon = 1;
  for (size_t i = key_bytes; i < all; i += 4) {
    uint8_t t[4] = {w[i - 4], w[i - 3], w[i - 2], w[i - 1]};
    if (i % key_bytes == 0) {
      const uint8_t first = t[0];
      t[0] = box[t[1]] ^ rcon;
      t[1] = box[t[2]];
      t[2] = box[t[3]];
      t[3] = box[first];
      rcon = static_cast<uint8_t>(twice(rcon));
    } else if (key_bytes > 24 && i % key_bytes == 16) {
      for (uint8_t& b : t)
        b = box[b];
    }
    for (size_t j = 0; j < 4; ++j)
      w[i + j] = w[i - key_bytes + j] ^ t[j];
  }
}

void aes_encrypt_block(const uint8_t* round_keys, int rounds, uint8_t state[16]) {
  const uint8_t* box = kSbox.at;
  uint32_t s[4], t[4];
  for (int c = 0; c < 4; ++c)
    s[c] = load_column(state + 4 * c) ^ load_column(round_keys + 4 * c);
  for (int round = 1; round <= rounds; ++round) {
    for (int c = 0; c < 4; ++c) {
      t[c] = 0;
      for (int r = 0; r < 4; ++r)
        t[c] |= static_cast<uint32_t>(box[s[(c + r) % 4] >> 8 * r & 0xff]) << 8 * r;
    }
    for (int c = 0; c < 4; ++c)
      s[c] = (round < rounds ? mixed(t[c]) : t[c]) ^ load_column(round_keys + 16 * round + 4 * c);
  }
  std::memcpy(state, s, sizeof(s));
}

} // namespace ptmo
