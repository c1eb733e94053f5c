// Pages that leave memory: rows opened tile by tile and sealed anew with AES-256-GCM-SIV.
//
// Record r of a file has nonce r. Its associated data is the file's header, and for a page also the
// page's index, first position and rows, u32 little-endian each: a record opens in its own place of
// its own file or not at all. A page's plaintext is, for each layer and KV head, K codes
// [rows, head_dim] | V codes | scales [rows, 2], in the model's order.
//
// The storage key and what derives from it stand in two slots of the secret arena. Plaintext stands
// in one wiped tile at a time, as in the attention kernel, and under `permute` also in the buffer
// shared with the TEE, one layer of one page. Both passes of GCM-SIV open the tiles anew.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "crypto/gcm_siv.h"
#include "kv_cache.h"
#include "permute.h"

namespace ptmo {

// A record that was changed, moved, or sealed under another key.
struct AuthenticationError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class PageStorage {
public:
  // `slot` holds the 32-byte storage key of one file as the TEE wrote it. Takes over the slot.
  PageStorage(SecretArena& secrets, size_t slot);
  ~PageStorage();
  PageStorage(const PageStorage&) = delete;
  PageStorage& operator=(const PageStorage&) = delete;

  void close(); // wipes the keys; idempotent

  // Seals `plain` as record `record`: ciphertext and tag. Each record number once a file.
  std::vector<uint8_t> seal(uint32_t record, const std::string& header,
                            const std::vector<uint8_t>& plain);
  std::vector<uint8_t> open(uint32_t record, const std::string& header, const uint8_t* sealed,
                            size_t bytes);

  // Bytes of a page of `rows` rows once sealed.
  static size_t sealed_bytes(const PageLayout& layout, int rows);
  // Rows of page `index` of a session; throws std::invalid_argument where it has no such page.
  static int page_rows(const KvSession& session, int index);
  // Seals page `index` of the session as record index + 1 into out[sealed_bytes].
  void seal_page(const KvSession& session, int index, const std::string& header,
                 const RowOrder& order, uint8_t* out);
  // Checks record index + 1, then appends its rows to the session, which holds whole pages up to
  // there: new sequence numbers, the session's own key. A throw leaves the session as it was.
  void open_page(KvSession& session, int index, int rows, const std::string& header,
                 const RowOrder& order, const uint8_t* sealed);

private:
  GcmSivMessage message(uint32_t record);
  void write_rows(KvSession& session, int first, int rows, const RowOrder& order, GcmSivMessage& m,
                  const uint8_t* sealed);

  SecretArena* secrets_; // null once closed
  size_t slot_, message_slot_;
  const Aes256RoundKeys* keys_ = nullptr;
  GcmSivMessageKeys* message_keys_ = nullptr;
};

} // namespace ptmo
