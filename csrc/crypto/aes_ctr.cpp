#include "aes_ctr.h"

#include <cstring>

#if defined(__aarch64__)
#include "aes_armv8.h"
#else
#include "aes_ni.h"
#include "aes_vaes.h"
#endif

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

void encrypt_block(const AesRoundKeys& keys, uint8_t state[16]) {
  const uint8_t* box = sbox();
  for (int i = 0; i < 16; ++i)
    state[i] ^= keys.bytes[i];
  for (int round = 1; round <= 10; ++round) {
    uint8_t t[16];
    for (int c = 0; c < 4; ++c)
      for (int r = 0; r < 4; ++r)
        t[4 * c + r] = box[state[4 * ((c + r) % 4) + r]];
    for (int c = 0; c < 4; ++c) {
      uint8_t* a = t + 4 * c;
      if (round < 10) {
        const uint8_t all = a[0] ^ a[1] ^ a[2] ^ a[3], first = a[0];
        for (int r = 0; r < 3; ++r)
          a[r] ^= all ^ twice(a[r] ^ a[r + 1]);
        a[3] ^= all ^ twice(a[3] ^ first);
      }
    }
    for (int i = 0; i < 16; ++i)
      state[i] = t[i] ^ keys.bytes[16 * round + i];
  }
}

} // namespace

void aes128_expand(const uint8_t key[16], AesRoundKeys* out) {
  const uint8_t* box = sbox();
  uint8_t* w = out->bytes;
  std::memcpy(w, key, 16);
  uint8_t rcon = 1;
  for (int i = 16; i < 176; i += 4) {
    uint8_t t[4] = {w[i - 4], w[i - 3], w[i - 2], w[i - 1]};
    if (i % 16 == 0) {
      const uint8_t first = t[0];
      t[0] = box[t[1]] ^ rcon;
      t[1] = box[t[2]];
      t[2] = box[t[3]];
      t[3] = box[first];
      rcon = twice(rcon);
    }
    for (int j = 0; j < 4; ++j)
      w[i + j] = w[i - 16 + j] ^ t[j];
  }
}

void aes128_ctr_xor_portable(const AesRoundKeys& keys, const uint64_t* seqs, int records,
                             uint16_t layer, StreamKind kind, uint16_t head, const uint8_t* in,
                             size_t record_bytes, uint8_t* out) {
  const auto stream = static_cast<uint16_t>(static_cast<uint16_t>(kind) << 14 | head);
  for (int i = 0; i < records; ++i) {
    for (size_t at = 0; at < record_bytes; at += 16) {
      uint8_t block[16];
      for (int b = 0; b < 8; ++b)
        block[b] = static_cast<uint8_t>(seqs[i] >> (56 - 8 * b));
      block[8] = static_cast<uint8_t>(layer >> 8);
      block[9] = static_cast<uint8_t>(layer);
      block[10] = static_cast<uint8_t>(stream >> 8);
      block[11] = static_cast<uint8_t>(stream);
      const auto counter = static_cast<uint32_t>(at / 16);
      for (int b = 0; b < 4; ++b)
        block[12 + b] = static_cast<uint8_t>(counter >> (24 - 8 * b));
      encrypt_block(keys, block);
      const size_t base = static_cast<size_t>(i) * record_bytes + at;
      for (size_t b = 0; b < 16 && at + b < record_bytes; ++b)
        out[base + b] = in[base + b] ^ block[b];
    }
  }
}

std::vector<AesLevel> aes_hardware_levels() {
  std::vector<AesLevel> out;
#if defined(__aarch64__)
  if (aes_armv8_supported())
    out.push_back({"armv8", aes_armv8_ctr_xor});
#else
  if (aes_vaes_supported() && aes_ni_supported())
    out.push_back({"vaes512", aes_vaes_ctr_xor});
  if (aes_ni_supported())
    out.push_back({"aes-ni", aes_ni_ctr_xor});
#endif
  return out;
}

namespace {
const AesLevel& best_level() {
  static const std::vector<AesLevel> levels = aes_hardware_levels();
  static const AesLevel none{"portable", nullptr};
  return levels.empty() ? none : levels.front();
}
} // namespace

const char* aes_level() {
  return best_level().name;
}

bool aes_hardware() {
  return best_level().ctr_xor != nullptr;
}

void aes128_ctr_xor(const AesRoundKeys& keys, const uint64_t* seqs, int records, uint16_t layer,
                    StreamKind kind, uint16_t head, const uint8_t* in, size_t record_bytes,
                    uint8_t* out) {
  const auto stream = static_cast<uint16_t>(static_cast<uint16_t>(kind) << 14 | head);
  if (const auto ctr_xor = best_level().ctr_xor) {
    ctr_xor(keys, seqs, records, layer, stream, in, record_bytes, out);
  } else {
    aes128_ctr_xor_portable(keys, seqs, records, layer, kind, head, in, record_bytes, out);
  }
}

} // namespace ptmo
