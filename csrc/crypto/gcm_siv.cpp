#include "gcm_siv.h"

#include <algorithm>
#include <cstring>

#include "aes_block.h"
#include "secmem/secret_arena.h"

namespace ptmo {
namespace {

inline uint64_t load64(const uint8_t* p) {
  uint64_t out = 0;
  for (int i = 7; i >= 0; --i)
    out = out << 8 | p[i];
  return out;
}

inline void store64(uint64_t value, uint8_t* p) {
  for (int i = 0; i < 8; ++i)
    p[i] = static_cast<uint8_t>(value >> (8 * i));
}

inline void add_to_counter(uint8_t counter[16], uint32_t n) {
  uint32_t c = 0;
  for (int i = 3; i >= 0; --i)
    c = c << 8 | counter[i];
  c += n;
  for (int i = 0; i < 4; ++i)
    counter[i] = static_cast<uint8_t>(c >> (8 * i));
}

void ctr_portable(const Aes256RoundKeys& keys, uint8_t counter[16], const uint8_t* in,
                  size_t blocks, uint8_t* out) {
  uint8_t block[16];
  for (size_t i = 0; i < blocks; ++i) {
    std::memcpy(block, counter, 16);
    aes_encrypt_block(keys.bytes, 14, block);
    for (size_t b = 0; b < 16; ++b)
      out[16 * i + b] = in[16 * i + b] ^ block[b];
    add_to_counter(counter, 1);
  }
  secure_wipe(block, sizeof(block));
}

// sum = (sum + block) * key * x^-128 in GF(2^128) modulo x^128 + x^127 + x^126 + x^121 + 1, bit by
// bit from the lowest: each step adds the key or nothing and divides by x. No branch on a secret.
void polyval_portable(const uint8_t key[16], uint8_t sum[16], const uint8_t* in, size_t blocks) {
  const uint64_t key_low = load64(key), key_high = load64(key + 8);
  uint64_t factor[2] = {load64(sum), load64(sum + 8)};
  for (size_t i = 0; i < blocks; ++i) {
    factor[0] ^= load64(in + 16 * i);
    factor[1] ^= load64(in + 16 * i + 8);
    uint64_t low = 0, high = 0;
    for (int bit = 0; bit < 128; ++bit) {
      const uint64_t add = ~((factor[bit / 64] >> (bit % 64) & 1) - 1);
      low ^= key_low & add;
      high ^= key_high & add;
      const uint64_t odd = ~((low & 1) - 1);
      low = low >> 1 | high << 63;
      high = high >> 1 ^ (odd & 0xe100000000000000u);
    }
    factor[0] = low;
    factor[1] = high;
  }
  store64(factor[0], sum);
  store64(factor[1], sum + 8);
}

} // namespace

const GcmSivKernels& gcm_siv_portable() {
  static const GcmSivKernels kernels{"portable", ctr_portable, polyval_portable};
  return kernels;
}

const GcmSivKernels& gcm_siv_best() {
  const GcmSivKernels* fast = gcm_siv_x86();
  return fast != nullptr ? *fast : gcm_siv_portable();
}

GcmSivMessage::GcmSivMessage(const GcmSivKernels& kernels, const Aes256RoundKeys& generating,
                             const uint8_t nonce[kGcmSivNonceBytes], GcmSivMessageKeys* keys)
    : kernels_(kernels), keys_(*keys) {
  std::memcpy(nonce_, nonce, sizeof(nonce_));
  // Blocks 0 .. 5 of AES(i | nonce) give 8 bytes of key each: 16 for POLYVAL, 32 for AES.
  uint8_t counter[16] = {}, blocks[6 * 16] = {};
  std::memcpy(counter + 4, nonce, kGcmSivNonceBytes);
  kernels.ctr(generating, counter, blocks, 6, blocks);
  for (size_t i = 0; i < 6; ++i)
    std::memcpy((i < 2 ? keys->authentication + 8 * i : keys->encryption.bytes + 8 * (i - 2)),
                blocks + 16 * i, 8);
  secure_wipe(blocks, sizeof(blocks));
  aes_expand(keys->encryption.bytes, kGcmSivKeyBytes, keys->encryption.bytes);
}

GcmSivMessage::~GcmSivMessage() {
  secure_wipe(&keys_, sizeof(keys_));
  for (uint8_t* state : {sum_, pending_, counter_, stream_})
    secure_wipe(state, 16);
}

void GcmSivMessage::begin(const uint8_t* aad, size_t bytes) {
  std::memset(sum_, 0, sizeof(sum_));
  pending_bytes_ = 0;
  aad_bytes_ = bytes;
  text_bytes_ = 0;
  absorb(aad, bytes);
  pad();
}

void GcmSivMessage::authenticate(const uint8_t* plaintext, size_t bytes) {
  text_bytes_ += bytes;
  absorb(plaintext, bytes);
}

void GcmSivMessage::absorb(const uint8_t* in, size_t bytes) {
  if (pending_bytes_ > 0) {
    const size_t now = std::min(bytes, 16 - pending_bytes_);
    std::memcpy(pending_ + pending_bytes_, in, now);
    pending_bytes_ += now;
    in += now;
    bytes -= now;
    if (pending_bytes_ < 16)
      return;
    kernels_.polyval(keys_.authentication, sum_, pending_, 1);
  }
  kernels_.polyval(keys_.authentication, sum_, in, bytes / 16);
  pending_bytes_ = bytes % 16;
  if (pending_bytes_ > 0)
    std::memcpy(pending_, in + bytes - pending_bytes_, pending_bytes_);
}

void GcmSivMessage::pad() {
  if (pending_bytes_ == 0)
    return;
  std::memset(pending_ + pending_bytes_, 0, 16 - pending_bytes_);
  kernels_.polyval(keys_.authentication, sum_, pending_, 1);
  pending_bytes_ = 0;
}

void GcmSivMessage::tag(uint8_t out[kGcmSivTagBytes]) {
  pad();
  uint8_t lengths[16], zeros[16] = {};
  store64(8 * aad_bytes_, lengths);
  store64(8 * text_bytes_, lengths + 8);
  kernels_.polyval(keys_.authentication, sum_, lengths, 1);
  for (size_t i = 0; i < kGcmSivNonceBytes; ++i)
    sum_[i] ^= nonce_[i];
  sum_[15] &= 0x7f;
  kernels_.ctr(keys_.encryption, sum_, zeros, 1, out);
}

void GcmSivMessage::start(const uint8_t tag[kGcmSivTagBytes]) {
  std::memcpy(counter_, tag, 16);
  counter_[15] |= 0x80;
  stream_used_ = 16;
}

void GcmSivMessage::crypt(const uint8_t* in, size_t bytes, uint8_t* out) {
  size_t at = 0;
  while (at < bytes) {
    if (stream_used_ == 16 && bytes - at >= 16) {
      const size_t blocks = (bytes - at) / 16;
      kernels_.ctr(keys_.encryption, counter_, in + at, blocks, out + at);
      at += 16 * blocks;
      continue;
    }
    if (stream_used_ == 16) {
      std::memset(stream_, 0, 16);
      kernels_.ctr(keys_.encryption, counter_, stream_, 1, stream_);
      stream_used_ = 0;
    }
    for (; at < bytes && stream_used_ < 16; ++at)
      out[at] = in[at] ^ stream_[stream_used_++];
  }
}

bool same_tag(const uint8_t a[kGcmSivTagBytes], const uint8_t b[kGcmSivTagBytes]) {
  uint8_t differ = 0;
  for (size_t i = 0; i < kGcmSivTagBytes; ++i)
    differ |= a[i] ^ b[i];
  return differ == 0;
}

} // namespace ptmo
