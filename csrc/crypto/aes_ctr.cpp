#include "aes_ctr.h"

#include "aes_block.h"
#include "secmem/secret_arena.h"

#if defined(__aarch64__)
#include "aes_armv8.h"
#else
#include "aes_ni.h"
#include "aes_vaes.h"
#endif

namespace ptmo {

void aes128_expand(const uint8_t key[16], AesRoundKeys* out) {
  aes_expand(key, 16, out->bytes);
}

namespace {
void xor_record(const AesRoundKeys& keys, uint64_t seq, uint16_t layer, StreamKind kind,
                uint16_t head, const uint8_t* in, size_t bytes, uint8_t* out) {
  const auto stream = static_cast<uint16_t>(static_cast<uint16_t>(kind) << 14 | head);
  for (size_t at = 0; at < bytes; at += 16) {
    uint8_t block[16];
    for (int b = 0; b < 8; ++b)
      block[b] = static_cast<uint8_t>(seq >> (56 - 8 * b));
    block[8] = static_cast<uint8_t>(layer >> 8);
    block[9] = static_cast<uint8_t>(layer);
    block[10] = static_cast<uint8_t>(stream >> 8);
    block[11] = static_cast<uint8_t>(stream);
    const auto counter = static_cast<uint32_t>(at / 16);
    for (int b = 0; b < 4; ++b)
      block[12 + b] = static_cast<uint8_t>(counter >> (24 - 8 * b));
    aes_encrypt_block(keys.bytes, 10, block);
    for (size_t b = 0; b < 16 && at + b < bytes; ++b)
      out[at + b] = in[at + b] ^ block[b];
    secure_wipe(block, sizeof(block));
  }
}
} // namespace

void aes128_ctr_xor_portable(const AesRoundKeys& keys, uint16_t layer, uint16_t head,
                             const KvRows* parts, int count, size_t row_bytes) {
  for (int part = 0; part < count; ++part) {
    const KvRows& rows = parts[part];
    for (int i = 0; i < rows.count; ++i) {
      const auto record = [&](StreamKind kind, const uint8_t* in, size_t bytes, uint8_t* out) {
        const size_t at = bytes * static_cast<size_t>(i);
        xor_record(keys, rows.seqs[i], layer, kind, head, in + at, bytes, out + at);
      };
      record(StreamKind::kKey, rows.in.k, row_bytes, rows.out.k);
      record(StreamKind::kValue, rows.in.v, row_bytes, rows.out.v);
      if (rows.in.scales != nullptr)
        record(StreamKind::kScales, rows.in.scales, 8, rows.out.scales);
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
  static const AesLevel none{"portable", aes128_ctr_xor_portable};
  return levels.empty() ? none : levels.front();
}
} // namespace

const char* aes_level() {
  return best_level().name;
}

bool aes_hardware() {
  return best_level().ctr_xor != aes128_ctr_xor_portable;
}

void aes128_ctr_xor(const AesRoundKeys& keys, uint16_t layer, uint16_t head, const KvRows* parts,
                    int count, size_t row_bytes) {
  best_level().ctr_xor(keys, layer, head, parts, count, row_bytes);
}

} // namespace ptmo
