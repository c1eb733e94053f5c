// Rows that need not be remembered: each is a function of its place and of who wrote it.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "check.h"
#include "kv/kv_cache.h"
#include "samples.h"

namespace ptmo::test {

struct Row {
  std::vector<uint8_t> k, v;
  float scales[2];
  Row(const PageLayout& l, int layer, int head, int position, int writer)
      : scales{0.5f + static_cast<float>(position), -2.0f - static_cast<float>(writer)} {
    Random random((static_cast<uint64_t>(writer * 1000 + layer) * 1000 + head) * 100000 + position);
    for (auto* row : {&k, &v})
      for (size_t i = 0; i < l.row_bytes(); ++i)
        row->push_back(static_cast<uint8_t>(random.bits() | 1)); // never zero: a wipe shows
  }
};

// Writes rows [from, length) of a session as `writer`'s.
inline void write_rows(KvSession& session, int from, int writer = 0) {
  const PageLayout& l = session.layout();
  for (int position = from; position < session.length(); ++position) {
    for (int layer = 0; layer < l.n_layers; ++layer) {
      for (int head = 0; head < l.n_kv_heads; ++head) {
        const Row row(l, layer, head, position, writer);
        session.write(layer, head, position, row.k.data(), row.v.data(),
                      l.has_scales() ? row.scales : nullptr);
      }
    }
  }
}

inline void append_rows(KvSession& session, int rows, int writer = 0) {
  session.append(rows);
  write_rows(session, session.length() - rows, writer);
}

// The session's rows come back through its shield as `writers[position]` wrote them.
inline void check_rows(const KvSession& session, const std::vector<int>& writers) {
  const PageLayout& l = session.layout();
  CHECK_EQ(session.length(), static_cast<int>(writers.size()));
  AlignedBuffer scratch(l.head_bytes());
  std::vector<uint8_t> copy;
  for (int position = 0; position < session.length(); position += l.rows) {
    const int rows = std::min(l.rows, session.length() - position);
    const uint8_t* page = session.page_bytes(position / l.rows, copy);
    for (int layer = 0; layer < l.n_layers; ++layer) {
      for (int head = 0; head < l.n_kv_heads; ++head) {
        const Tile tile = session.shield().open_tile(page, l, layer, head, rows, scratch.data());
        for (int r = 0; r < rows; ++r) {
          const Row want(l, layer, head, position + r, writers[static_cast<size_t>(position + r)]);
          CHECK(std::memcmp(tile.k + r * l.row_bytes(), want.k.data(), l.row_bytes()) == 0);
          CHECK(std::memcmp(tile.v + r * l.row_bytes(), want.v.data(), l.row_bytes()) == 0);
          CHECK_EQ(tile.scales != nullptr, l.has_scales());
          if (l.has_scales())
            CHECK(std::memcmp(tile.scales + 2 * r, want.scales, 8) == 0);
        }
      }
    }
  }
}

inline void check_rows(const KvSession& session) {
  check_rows(session, std::vector<int>(static_cast<size_t>(session.length()), 0));
}

inline std::vector<uint8_t> memory_of(const PageArena& arena, int pages) {
  return {arena.page(0), arena.page(pages)};
}

inline size_t nonzero(const std::vector<uint8_t>& bytes) {
  return bytes.size() - static_cast<size_t>(std::count(bytes.begin(), bytes.end(), 0));
}

inline uint64_t seq_of(const KvSession& session, int position) {
  const int rows = session.layout().rows;
  uint64_t out;
  std::memcpy(&out, session.page(position / rows) + 64 + 8 * (position % rows), 8);
  return out;
}

inline PageHeader header_of(const KvSession& session, int page) {
  PageHeader out;
  std::memcpy(&out, session.page(page), sizeof(out));
  return out;
}

} // namespace ptmo::test
