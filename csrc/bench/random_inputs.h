// Seeded inputs of the benches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace ptmo {

constexpr uint32_t kInputSeed = 20240607; // any: speed does not depend on the values

inline std::vector<float> random_floats(size_t n) {
  std::mt19937 bits(kInputSeed);
  std::vector<float> out(n);
  for (float& x : out)
    x = static_cast<float>(bits()) * 0x1p-31f - 1.0f;
  return out;
}

// Codes as `pack_int8` takes them: -127..127.
inline std::vector<int8_t> random_codes(size_t n) {
  std::mt19937 bits(kInputSeed);
  std::vector<int8_t> out(n);
  for (int8_t& code : out)
    code = static_cast<int8_t>(static_cast<int>(bits() % 255) - 127);
  return out;
}

} // namespace ptmo
