// Looks for given bytes where a thief would: in memory that others gave back, in the engine's own
// allocations, and in the shared memory that the last kernel left.
#pragma once

#include <cstdint>
#include <vector>

#include "device_under_test.h"

namespace ptmo::test {

// Words of eight bytes: a place of the device that holds one of them, at a multiple of eight bytes,
// is a hit. No word of few different bytes, which chance would find.
class Needles {
public:
  // Takes all words of a row that will do.
  void add(const uint8_t* row, size_t bytes);
  size_t size() const { return words_.size(); }
  const std::vector<uint64_t>& words() const { return words_; }

private:
  std::vector<uint64_t> words_;
};

// Places that hold a needle, of everything that cudaMalloc() gave out and no one gave back.
size_t hits_in_allocations(const Needles& needles);

// Nearly all memory of the device that no one has, as it was left; given back by the destructor.
// Some is left to the system, which may live in it too.
class RestOfMemory {
public:
  RestOfMemory();
  ~RestOfMemory();
  RestOfMemory(const RestOfMemory&) = delete;
  RestOfMemory& operator=(const RestOfMemory&) = delete;
  size_t bytes() const { return bytes_; }
  // Says what part of the free memory this is: what a search of it can speak for.
  void print_share() const;
  size_t hits(const Needles& needles) const;
  void fill(uint8_t value) const;

private:
  std::vector<DeviceBlock> blocks_;
  size_t bytes_ = 0, free_bytes_ = 0;
};

// Places of the shared memory of all multiprocessors that hold a needle, as a kernel finds it that
// wrote none of it.
size_t hits_in_shared_memory(const Needles& needles);
// Leaves needles in the shared memory of all multiprocessors.
void fill_shared_memory(const Needles& needles);

} // namespace ptmo::test
