// Read-mostly memory in 2 MiB pages where the system has them: one TLB entry for what 512 small
// pages would need. A bump allocator: parts are freed together, with the arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ptmo {

class HugeArena {
public:
  HugeArena() = default;
  ~HugeArena();
  HugeArena(const HugeArena&) = delete;
  HugeArena& operator=(const HugeArena&) = delete;

  // 64-byte aligned, zeroed. Successive parts lie side by side while they fit in a chunk.
  uint8_t* allocate(size_t bytes);

private:
  struct Chunk {
    uint8_t* base;
    size_t bytes;
  };
  std::vector<Chunk> chunks_;
  size_t used_ = 0; // of the last chunk
};

} // namespace ptmo
