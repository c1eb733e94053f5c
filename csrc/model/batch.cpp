#include "batch.h"

#include <algorithm>
#include <functional>

#include "common/check.h"

namespace ptmo {
namespace {

bool same_layout(const PageLayout& a, const PageLayout& b) {
  return a.n_layers == b.n_layers && a.n_kv_heads == b.n_kv_heads && a.head_dim == b.head_dim &&
         a.rows == b.rows && a.type == b.type;
}

} // namespace

void Batch::check(const ModelConfig& config, const PageLayout& layout, const Sequence* sequences,
                  int count, int chunk_tokens, const AttentionRestore& restore) {
  require(count >= 1, "count=", count, ": no sequences");
  int64_t rows = 0;
  for (int i = 0; i < count; ++i) {
    const Sequence& s = sequences[i];
    require(!s.session->closed(), "the session is closed");
    require(same_layout(s.session->layout(), layout),
            "the session's page layout is not the decoder's");
    require(s.n >= 1, "n=", s.n, ": no tokens");
    rows += s.n;
    require(s.n <= config.context_length - s.session->length(),
            "the prompt does not fit: ", s.session->length(), " + ", s.n,
            " tokens exceed the context of ", config.context_length);
    for (int t = 0; t < s.n; ++t)
      require(s.tokens[t] >= 0 && s.tokens[t] < config.vocab_size, "token id ", s.tokens[t],
              " is not in 0..", config.vocab_size - 1);
    if (s.adapters != nullptr) {
      require(s.adapters->adapters.size() <= AdapterSet::kMax, "more than ", AdapterSet::kMax,
              " adapters");
      for (const auto& adapter : s.adapters->adapters)
        adapter->require_complete(config);
    }
    for (int j = 0; j < i; ++j)
      require(sequences[j].session != s.session, "a session stands in the batch twice");
  }
  const int widest = static_cast<int>(std::min<int64_t>(rows, chunk_tokens));
  require(restore.buffer == nullptr || restore.max_tokens >= widest, "the attention buffer holds ",
          restore.max_tokens, " rows, a chunk has ", widest);
}

Batch::Batch(const Sequence* sequences, int count, int chunk_tokens) : chunk_(chunk_tokens) {
  for (int i = 0; i < count; ++i)
    order_.push_back(sequences + i);
  std::stable_sort(order_.begin(), order_.end(), [](const Sequence* a, const Sequence* b) {
    return std::less<const AdapterSet*>()(a->adapters, b->adapters);
  });
  for (const Sequence* s : order_)
    lengths_.push_back(s->session->length());
}

bool Batch::next() {
  spans_.clear();
  positions_.clear();
  rows_ = 0;
  while (at_ < order_.size() && rows_ < chunk_) {
    const Sequence& s = *order_[at_];
    const int n = std::min(s.n - begin_, chunk_ - rows_), first = s.session->length();
    spans_.push_back({&s, begin_, n, rows_, first});
    for (int t = 0; t < n; ++t)
      positions_.push_back(first + t);
    rows_ += n;
    widest_ = std::max(widest_, rows_);
    s.session->append(n);
    begin_ += n;
    if (begin_ == s.n) {
      ++at_;
      begin_ = 0;
    }
  }
  return rows_ > 0;
}

void Batch::roll_back() {
  for (size_t i = 0; i < order_.size(); ++i)
    order_[i]->session->truncate(lengths_[i]);
}

std::vector<AdapterRows> Batch::adapter_rows() const {
  std::vector<AdapterRows> out;
  for (const Span& span : spans_) {
    const AdapterSet* set = span.sequence->adapters;
    if (set == nullptr)
      continue;
    AdapterRows* last = out.empty() ? nullptr : &out.back();
    if (last != nullptr && last->set == set && last->row + last->n == span.row)
      last->n += span.n;
    else
      out.push_back({set, span.row, span.n});
  }
  return out;
}

std::vector<OutputRow> Batch::outputs(int vocab_size) const {
  std::vector<OutputRow> out;
  const auto width = static_cast<size_t>(vocab_size);
  for (const Span& span : spans_) {
    const Sequence& s = *span.sequence;
    if (s.which == Logits::kAll) {
      for (int t = 0; t < span.n; ++t)
        out.push_back({span.row + t, s.logits + static_cast<size_t>(span.begin + t) * width});
    } else if (span.begin + span.n == s.n) {
      out.push_back({span.row + span.n - 1, s.logits});
    }
  }
  return out;
}

} // namespace ptmo
