#include "aes_block.h"

#include <cstring>

namespace ptmo {
namespace {

// The S-box from its definition: inversion in GF(2^8) and an affine map (FIPS 197, 5.1.1).
struct Sbox {
  uint8_t at[256];
  Sbox() {
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

const uint8_t* sbox() {
  static const Sbox box;
  return box.at;
}

inline uint8_t twice(uint8_t x) {
  return static_cast<uint8_t>(x << 1 ^ (x & 0x80 ? 0x1b : 0));
}

} // namespace

void aes_expand(const uint8_t* key, size_t key_bytes, uint8_t* w) {
  const uint8_t* box = sbox();
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
      rcon = twice(rcon);
    } else if (key_bytes > 24 && i % key_bytes == 16) {
      for (uint8_t& b : t)
        b = box[b];
    }
    for (size_t j = 0; j < 4; ++j)
      w[i + j] = w[i - key_bytes + j] ^ t[j];
  }
}

void aes_encrypt_block(const uint8_t* round_keys, int rounds, uint8_t state[16]) {
  const uint8_t* box = sbox();
  for (int i = 0; i < 16; ++i)
    state[i] ^= round_keys[i];
  for (int round = 1; round <= rounds; ++round) {
    uint8_t t[16];
    for (int c = 0; c < 4; ++c)
      for (int r = 0; r < 4; ++r)
        t[4 * c + r] = box[state[4 * ((c + r) % 4) + r]];
    for (int c = 0; c < 4 && round < rounds; ++c) {
      uint8_t* a = t + 4 * c;
      const uint8_t all = a[0] ^ a[1] ^ a[2] ^ a[3], first = a[0];
      for (int r = 0; r < 3; ++r)
        a[r] ^= all ^ twice(a[r] ^ a[r + 1]);
      a[3] ^= all ^ twice(a[3] ^ first);
    }
    for (int i = 0; i < 16; ++i)
      state[i] = t[i] ^ round_keys[16 * round + i];
  }
}

} // namespace ptmo
