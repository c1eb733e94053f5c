// The last step of a forward pass: logits of the rows whose sequences ask for them.
#include <algorithm>
#include <cstring>

#include "decoder.h"

namespace ptmo {
namespace {

kernels::PackedMatrix panels_of(const Matrix& w, int first, int count) {
  kernels::PackedMatrix m = w.packed;
  m.data += static_cast<size_t>(first) * m.panel_bytes;
  m.rows = std::min(count * kernels::kPanelRows, m.rows - first * kernels::kPanelRows);
  return m;
}

} // namespace

// The logits that the sequences want of the chunk in hand.
void Decoder::chunk_logits(const Batch& batch) {
  const std::vector<OutputRow> outputs = batch.outputs(config_.vocab_size);
  for (size_t done = 0; done < outputs.size(); done += kOutputRows)
    output(outputs.data() + done,
           static_cast<int>(std::min<size_t>(kOutputRows, outputs.size() - done)));
}

void Decoder::output(const OutputRow* rows, int n) {
  const auto d = static_cast<size_t>(config_.d_model);
  for (int t = 0; t < n; ++t)
    kernels_.rms_norm(x_.data() + static_cast<size_t>(rows[t].row) * d, weights_.final_norm.data(),
                      config_.d_model, config_.rms_eps, normed_.data() + t * d);
  set_input(input_, Bits::k16, normed_.data(), config_.d_model, n);
  const Matrix& head = weights_.output();
  pool_.parallel_for(head.panels(), [&](int begin, int end, int thread) {
    float* y = output_slabs_[static_cast<size_t>(thread)].data();
    for (int at = begin; at < end; at += kOutputPanels) {
      const int panels = std::min(kOutputPanels, end - at);
      const kernels::PackedMatrix slab = panels_of(head, at, panels);
      const auto width = static_cast<size_t>(slab.rows);
      kernels_.matmul(slab, 0, panels, input_.view, n, y, width);
      for (int t = 0; t < n; ++t)
        std::memcpy(rows[t].logits + at * kernels::kPanelRows, y + t * width,
                    sizeof(float) * width);
    }
    prefetch_share(weights_.layers[0].q, thread);
  });
}

} // namespace ptmo
