// The rows of several sequences on their way through a decoder: a chunk at a time, all or nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "config.h"
#include "kv/kv_cache.h"
#include "kv/permute.h"
#include "lora.h"

namespace ptmo {

enum class Logits { kLast, kAll };

// One session's share of a forward pass: `tokens` [n] are appended to it, `logits` [1 or n,
// vocab_size] are computed of its last token or of every one.
struct Sequence {
  KvSession* session;
  const int32_t* tokens;
  int n;
  Logits which;
  float* logits;
  const AdapterSet* adapters = nullptr; // null: none
};

// Rows [row, row + n) of a chunk: tokens [begin, begin + n) of a sequence, at positions from
// `first` on.
struct Span {
  const Sequence* sequence;
  int begin, n, row, first;
};

// A row of the chunk whose logits are wanted, and where they go.
struct OutputRow {
  int row;
  float* logits;
};

// Rows [row, row + n) of the activations belong to requests with this set: a segment, as in
// Punica (Chen et al. 2023) and S-LoRA (Sheng et al. 2023).
struct AdapterRows {
  const AdapterSet* set;
  int row, n;
};

class Batch {
public:
  // Throws std::invalid_argument, and nothing has changed, where a decoder of `config` cannot run
  // the sequences on pages of `layout`, this many tokens a chunk.
  static void check(const ModelConfig& config, const PageLayout& layout, const Sequence* sequences,
                    int count, int chunk_tokens, const AttentionRestore& restore);

  // Sequences with one adapter set go side by side, so that a chunk has few segments.
  Batch(const Sequence* sequences, int count, int chunk_tokens);

  // Makes room for the next chunk's rows in their sessions; false when all tokens had their turn.
  bool next();
  // Takes every session back to the length it had: rows, pages and all.
  void roll_back();

  // Of the chunk in hand.
  const std::vector<Span>& spans() const { return spans_; }
  int rows() const { return rows_; }
  const std::vector<int32_t>& positions() const { return positions_; } // [rows]
  std::vector<AdapterRows> adapter_rows() const;
  std::vector<OutputRow> outputs(int vocab_size) const;

  int widest() const { return widest_; } // rows of the largest chunk so far

private:
  std::vector<const Sequence*> order_;
  std::vector<int> lengths_; // of the sessions before
  const int chunk_;
  size_t at_ = 0; // in order_
  int begin_ = 0; // the next token of that sequence
  std::vector<Span> spans_;
  std::vector<int32_t> positions_;
  int rows_ = 0, widest_ = 0;
};

} // namespace ptmo
