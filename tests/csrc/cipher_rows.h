// Rows of one head for the tests of the sealed cache's cipher.
#pragma once

#include "check.h"
#include "samples.h"

#include "crypto/aes_ctr.h"

namespace ptmo::test {

using Bytes = std::vector<uint8_t>;

inline AesRoundKeys expanded(const Bytes& key) {
  AesRoundKeys keys;
  aes128_expand(key.data(), &keys);
  return keys;
}

inline Bytes random_bytes(Random& random, size_t count) {
  Bytes out(count);
  for (uint8_t& b : out)
    b = static_cast<uint8_t>(random.bits());
  return out;
}

using Cipher = decltype(&aes128_ctr_xor);

// Rows of K, V and, if asked for, scales.
struct Rows {
  Bytes k, v, scales;

  Rows(size_t rows, size_t row_bytes, bool scaled)
      : k(rows * row_bytes), v(k.size()), scales(scaled ? 8 * rows : 0) {}
  template <typename F> void each(F f) {
    for (Bytes* part : {&k, &v, &scales})
      f(*part);
  }
  void fill(Random& random) {
    each([&](Bytes& part) {
      for (uint8_t& b : part)
        b = static_cast<uint8_t>(random.bits());
    });
  }
  KvRecords<uint8_t> records() {
    return {k.data(), v.data(), scales.empty() ? nullptr : scales.data()};
  }
  // To `out`, or in place.
  void xor_with(Cipher cipher, const AesRoundKeys& keys, const std::vector<uint64_t>& seqs,
                uint16_t layer, uint16_t head, size_t row_bytes, Rows* out = nullptr) {
    const KvRecords<uint8_t> in = records();
    const KvRows rows{seqs.data(),
                      static_cast<int>(seqs.size()),
                      {in.k, in.v, in.scales},
                      out == nullptr ? in : out->records()};
    cipher(keys, layer, head, &rows, 1, row_bytes);
  }
  bool operator==(const Rows& other) const {
    return k == other.k && v == other.v && scales == other.scales;
  }
};

} // namespace ptmo::test
