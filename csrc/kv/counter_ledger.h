// Debug builds (PTMO_COUNT_COUNTERS) remember every (key, sequence number, layer, stream) that ever
// encrypted a record and throw when one comes again. Other builds compile nothing of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "crypto/aes_ctr.h"

namespace ptmo {

#ifdef PTMO_COUNT_COUNTERS
// The K, V and (with `scales`) scales records of one row of (layer, head). Thread-safe.
// Throws std::logic_error on a repeat.
void count_counters(const AesRoundKeys& keys, uint64_t seq, int layer, int head, bool scales);
size_t counted_counters(); // records so far
#else
inline void count_counters(const AesRoundKeys&, uint64_t, int, int, bool) {}
#endif

} // namespace ptmo
