// Argument checks at the boundary, with the offending values in the message.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace ptmo {

template <typename... Parts> std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// A wrong argument: becomes ValueError in Python.
template <typename... Parts> void require(bool condition, const Parts&... message) {
  if (!condition)
    throw std::invalid_argument(concat(message...));
}

// A failed run (no memory, full cache, dead process): becomes RuntimeError in Python.
template <typename... Parts> void ensure(bool condition, const Parts&... message) {
  if (!condition)
    throw std::runtime_error(concat(message...));
}

} // namespace ptmo
