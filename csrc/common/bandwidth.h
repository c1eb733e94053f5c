// The machine's own read bandwidth: what any figure of bytes per second is a fraction of.
#pragma once

#include <cstddef>

namespace ptmo {

// Bytes per second at which `threads` threads read one buffer of `bytes` bytes, each its own
// contiguous share with the widest loads the CPU has: the median of `passes` passes after one that
// does not count. Small buffers are read several times a pass, so that a pass takes milliseconds.
// The buffer lies where weights lie, in a HugeArena, so that page walks cost both alike.
double read_bandwidth(size_t bytes, int threads, int passes);

} // namespace ptmo
