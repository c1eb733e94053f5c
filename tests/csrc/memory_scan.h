// Looks for bytes in the memory of this process, as a thief of it would.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace ptmo::test {

#if defined(PTMO_SANITIZED)
constexpr bool kSanitized = true; // such a build keeps everything in memory, keys too
#else
constexpr bool kSanitized = false;
#endif

// Under ThreadSanitizer kernels are not inlined, and its own calls keep registers on stacks: what
// is found there says nothing of any other build.
#if defined(PTMO_SANITIZED_THREADS)
constexpr bool kRegistersOnStacks = true;
#else
constexpr bool kRegistersOnStacks = false;
#endif

// 16 bytes to look for, kept inverted so that the search does not find itself.
using Pattern = std::array<uint32_t, 4>;

inline Pattern inverted(const uint8_t* bytes) {
  Pattern out;
  std::memcpy(out.data(), bytes, 16);
  for (uint32_t& word : out)
    word = ~word;
  return out;
}

// Whether a word is the inverse of a pattern's. The compiler must not make the word out of that,
// once for the whole search: it would stand on the stack, and be found.
inline bool inverse(uint32_t word, uint32_t of) {
  uint32_t both = word ^ of;
  asm("" : "+r"(both));
  return both == 0xffffffffu;
}

// Plain loads: the ranges hold memory that a sanitizer has poisoned or keeps no record of.
__attribute__((no_sanitize("address"), no_sanitize("thread"), noinline)) inline int
count_in(const uint32_t* from, const uint32_t* to, const Pattern& pattern) {
  int found = 0;
  for (const uint32_t* at = from; at + 4 <= to; ++at)
    found += inverse(at[0], pattern[0]) && inverse(at[1], pattern[1]) &&
             inverse(at[2], pattern[2]) && inverse(at[3], pattern[3]);
  return found;
}

// Occurrences, at 4-byte steps, in the writable private memory of this process: heap, stacks and
// mappings. Ranges above 32 MiB (a sanitizer's own tables) are left out.
inline int occurrences(const Pattern& pattern) {
  std::FILE* maps = std::fopen("/proc/self/maps", "r");
  if (maps == nullptr)
    throw std::runtime_error("cannot read the memory map");
  int found = 0;
  char line[512];
  while (std::fgets(line, sizeof(line), maps) != nullptr) {
    unsigned long from = 0, to = 0;
    char flags[5] = "";
    if (std::sscanf(line, "%lx-%lx %4s", &from, &to, flags) == 3 && flags[0] == 'r' &&
        flags[1] == 'w' && flags[3] == 'p' && to - from <= 32ul << 20)
      found += count_in(reinterpret_cast<const uint32_t*>(from),
                        reinterpret_cast<const uint32_t*>(to), pattern);
  }
  std::fclose(maps);
  return found;
}

} // namespace ptmo::test
