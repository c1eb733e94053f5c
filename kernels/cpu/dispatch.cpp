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
#ifndef PTMO_AVXVNNI_KERNELS
const Table* avxvnni() {
  return nullptr;
}
#endif
#ifndef PTMO_NEON_KERNELS
const Table* neon() {
  return nullptr;
}
#endif

const Levels& levels() {
  static const Levels found = [] {
    Levels out{};
    for (const Table* table : {avx512vnni(), avxvnni(), avx2(), neon(), &reference()})
      if (table != nullptr)
        out.tables[out.count++] = table;
    return out;
  }();
  return found;
}

namespace {
const Table& choose() {
  const char* wanted = std::getenv("PTMO_KERNEL_LEVEL");
  if (wanted == nullptr || *wanted == '\0')
    return **levels().begin();
  std::string names;
  for (const Table* table : levels()) {
    if (std::string(wanted) == table->name)
      return *table;
    names += (names.empty() ? "" : ", ") + std::string(table->name);
  }
  throw std::invalid_argument("PTMO_KERNEL_LEVEL=" + std::string(wanted) +
                              " is not a level this CPU has (" + names + ")");
}
} // namespace

const Table& best() {
  static const Table& table = choose();
  return table;
}

} // namespace ptmo::kernels
