// Picks the kernel level once: the best the CPU has, or the one PTMO_KERNEL_LEVEL names.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "../kernels.h"

namespace ptmo::kernels {

#ifndef PTMO_X86_KERNELS
const Table* avx2() {
  return nullptr;
}
const Table* avx512vnni() {
  return nullptr;
}
#endif

namespace {
const Table& choose() {
  const char* wanted = std::getenv("PTMO_KERNEL_LEVEL");
  if (wanted == nullptr || *wanted == '\0') {
    if (avx512vnni() != nullptr)
      return *avx512vnni();
    if (avx2() != nullptr)
      return *avx2();
    return reference();
  }
  const std::string name = wanted;
  if (name == "reference")
    return reference();
  if (name == "avx2" && avx2() != nullptr)
    return *avx2();
  if (name == "avx512vnni" && avx512vnni() != nullptr)
    return *avx512vnni();
  throw std::invalid_argument("PTMO_KERNEL_LEVEL=" + name +
                              " is not a level this CPU has (reference, avx2, avx512vnni)");
}
} // namespace

const Table& best() {
  static const Table& table = choose();
  return table;
}

} // namespace ptmo::kernels
