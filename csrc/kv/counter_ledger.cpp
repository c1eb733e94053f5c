#include "counter_ledger.h"

#ifdef PTMO_COUNT_COUNTERS

#include <cstring>
#include <mutex>
#include <set>
#include <stdexcept>
#include <tuple>

#include "common/check.h"

namespace ptmo {
namespace {

using Entry = std::tuple<uint64_t, uint64_t, uint32_t>; // key fingerprint, sequence number, place

struct Ledger {
  std::mutex mutex;
  std::set<Entry> seen;
};

Ledger& ledger() {
  static Ledger all;
  return all;
}

// FNV-1a of the last round key: enough to tell a test's keys apart, and not the key.
uint64_t fingerprint(const AesRoundKeys& keys) {
  uint64_t out = 0xcbf29ce484222325u;
  for (size_t i = sizeof(keys.bytes) - 16; i < sizeof(keys.bytes); ++i)
    out = (out ^ keys.bytes[i]) * 0x100000001b3u;
  return out;
}

} // namespace

void count_counters(const AesRoundKeys& keys, uint64_t seq, int layer, int head, bool scales) {
  const uint64_t key = fingerprint(keys);
  Ledger& all = ledger();
  const std::lock_guard<std::mutex> lock(all.mutex);
  for (const StreamKind kind : {StreamKind::kKey, StreamKind::kValue, StreamKind::kScales}) {
    if (kind == StreamKind::kScales && !scales)
      continue;
    const auto stream = static_cast<uint32_t>(kind) << 14 | static_cast<uint32_t>(head);
    const bool fresh =
        all.seen.emplace(key, seq, static_cast<uint32_t>(layer) << 16 | stream).second;
    if (!fresh)
      throw std::logic_error(concat("a counter is used again: sequence number ", seq, ", layer ",
                                    layer, ", stream ", stream));
  }
}

size_t counted_counters() {
  Ledger& all = ledger();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return all.seen.size();
}

} // namespace ptmo

#endif
