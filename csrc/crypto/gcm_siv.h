// AES-256-GCM-SIV (RFC 8452), one message at a time and in pieces: nobody need hold a whole
// plaintext. The plaintext is read twice, once for its tag, once for its ciphertext.
//
//   GcmSivMessage m(kernels, generating_keys, nonce, &message_keys);
//   m.begin(aad, aad_bytes);
//   for (piece) m.authenticate(piece);   m.tag(tag);
//   m.start(tag);   for (piece) m.crypt(piece, ...);     // the same call decrypts
//
// Whoever opens a message decrypts it twice: once to compute the tag and compare (same_tag), and
// only then to use it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptmo {

constexpr size_t kGcmSivKeyBytes = 32, kGcmSivTagBytes = 16, kGcmSivNonceBytes = 12;

struct alignas(16) Aes256RoundKeys {
  uint8_t bytes[15 * 16];
};

// The keys of one message (RFC 8452, section 4). Like the key they derive from, they belong in the
// secret arena and nowhere else.
struct alignas(16) GcmSivMessageKeys {
  Aes256RoundKeys encryption;
  uint8_t authentication[16];
};

// The two primitives. `ctr` XORs whole blocks with AES(counter), AES(counter + 1), ...: the counter
// is the first 4 bytes of its block, little-endian, and wraps. `polyval` takes whole blocks into
// `sum` (RFC 8452, section 3).
struct GcmSivKernels {
  const char* name;
  void (*ctr)(const Aes256RoundKeys& keys, uint8_t counter[16], const uint8_t* in, size_t blocks,
              uint8_t* out);
  void (*polyval)(const uint8_t key[16], uint8_t sum[16], const uint8_t* in, size_t blocks);
};

const GcmSivKernels& gcm_siv_portable();
const GcmSivKernels* gcm_siv_x86(); // null where AES and carry-less multiplication are missing
const GcmSivKernels& gcm_siv_best();

class GcmSivMessage {
public:
  // Derives the message's keys into `keys`, which are wiped with this object.
  GcmSivMessage(const GcmSivKernels& kernels, const Aes256RoundKeys& generating,
                const uint8_t nonce[kGcmSivNonceBytes], GcmSivMessageKeys* keys);
  ~GcmSivMessage();
  GcmSivMessage(const GcmSivMessage&) = delete;
  GcmSivMessage& operator=(const GcmSivMessage&) = delete;

  void begin(const uint8_t* aad, size_t bytes);
  void authenticate(const uint8_t* plaintext, size_t bytes);
  void tag(uint8_t out[kGcmSivTagBytes]);
  void start(const uint8_t tag[kGcmSivTagBytes]);
  void crypt(const uint8_t* in, size_t bytes, uint8_t* out); // in == out is allowed

private:
  void absorb(const uint8_t* in, size_t bytes);
  void pad();

  const GcmSivKernels& kernels_;
  GcmSivMessageKeys& keys_;
  uint8_t nonce_[kGcmSivNonceBytes];
  uint8_t sum_[16] = {}, pending_[16] = {}; // POLYVAL's state and the start of a block for it
  uint8_t counter_[16] = {}, stream_[16] = {};
  size_t pending_bytes_ = 0, stream_used_ = 16;
  uint64_t aad_bytes_ = 0, text_bytes_ = 0;
};

// Compares in constant time.
bool same_tag(const uint8_t a[kGcmSivTagBytes], const uint8_t b[kGcmSivTagBytes]);

} // namespace ptmo
