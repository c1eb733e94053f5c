#include "aes_armv8.h"

#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "aes_ctr_records.h"
#include "wipe_registers.h"

namespace ptmo {
namespace {

struct Armv8Aes {
  using Block = uint8x16_t;

  static Block pair(uint64_t seq, uint64_t place) {
    return vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(seq), vcreate_u64(place)));
  }
  static Block next(Block pair) {
    const uint64x2_t one = vcombine_u64(vcreate_u64(0), vcreate_u64(1));
    return vreinterpretq_u8_u64(vaddq_u64(vreinterpretq_u64_u8(pair), one));
  }
  static Block counter(Block pair) { return vrev64q_u8(pair); }
  static Block add(Block a, Block b) { return veorq_u8(a, b); }
  static Block load(const uint8_t* p) { return vld1q_u8(p); }
  static Block load_half(const uint8_t* p) { return vcombine_u8(vld1_u8(p), vdup_n_u8(0)); }
  static void store(uint8_t* p, Block b) { vst1q_u8(p, b); }
  static void store_half(uint8_t* p, Block b) { vst1_u8(p, vget_low_u8(b)); }

  // The round keys are read from the arena at each use: they must not be kept in registers long
  // enough for the compiler to spill them to the stack. aese adds the round key before the
  // substitution, so the last key is added apart.
  template <int N> static void encrypt(const uint8_t* keys, Block* b) {
    for (int round = 0; round < 9; ++round) {
      const Block k = load(keys + 16 * round);
      for (int i = 0; i < N; ++i)
        b[i] = vaesmcq_u8(vaeseq_u8(b[i], k));
    }
    const Block k = load(keys + 144), last = load(keys + 160);
    for (int i = 0; i < N; ++i)
      b[i] = veorq_u8(vaeseq_u8(b[i], k), last);
  }
};

} // namespace

bool aes_armv8_supported() {
  return (getauxval(AT_HWCAP) & HWCAP_AES) != 0;
}

void aes_armv8_ctr_xor(const AesRoundKeys& keys, uint16_t layer, uint16_t head, const KvRows* parts,
                       int count, size_t row_bytes) {
  xor_rows<Armv8Aes>(keys, layer, head, parts, count, row_bytes);
  wipe_registers();
}

} // namespace ptmo
