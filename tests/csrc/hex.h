// Bytes as the standards print them.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace ptmo::test {

inline std::vector<uint8_t> hex(const std::string& text) {
  std::vector<uint8_t> out;
  for (size_t i = 0; i + 1 < text.size(); i += 2)
    out.push_back(static_cast<uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return out;
}

inline std::string text(const std::vector<uint8_t>& bytes) {
  std::string out;
  for (const uint8_t b : bytes) {
    char two[3];
    std::snprintf(two, sizeof(two), "%02x", b);
    out += two;
  }
  return out;
}

} // namespace ptmo::test
