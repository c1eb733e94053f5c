// A decoding step as one graph: recorded when its launches come for the second time.
#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "device_chunk.h"

namespace ptmo::cuda {
namespace {

constexpr size_t kSteps = 32; // shapes that are remembered: 16 sizes of a batch, two lengths
// Another thread that waits for the whole device breaks a recording, too: one failure says little.
constexpr int kMostFailures = 3;

// The keys leave a graph as soon as it is on its way, or has failed: a launch has its own copy.
class KeysInGraph {
public:
  explicit KeysInGraph(Graph& graph) : graph_(graph) {}
  ~KeysInGraph() { graph_.forget_keys(); }
  KeysInGraph(const KeysInGraph&) = delete;
  KeysInGraph& operator=(const KeysInGraph&) = delete;

private:
  Graph& graph_;
};

// Names the graph that launches go to, as long as it lives.
class Recording {
public:
  Recording(Graph*& place, Graph& graph) : place_(place) { place_ = &graph; }
  ~Recording() { place_ = nullptr; }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

private:
  Graph*& place_;
};

} // namespace

// All that a chunk's launches are made of, but for the keys and for what the parcel holds.
std::vector<uint64_t> DeviceDecoder::launches_of(const Chunk& chunk) const {
  const Buffers& b = *b_;
  std::vector<uint64_t> out = {weights_.version(), b.parcel.bytes(), chunk.u_floats};
  const auto add = [&](auto... values) { (out.push_back(static_cast<uint64_t>(values)), ...); };
  const auto add_places = [&](auto*... places) {
    (out.push_back(reinterpret_cast<uintptr_t>(places)), ...);
  };
  add(chunk.rows, chunk.logit_rows(), chunk.logits_in);
  if (chunk.logits_in == LogitsIn::kDevice)
    add_places(chunk.outputs[0].logits);
  add_places(chunk.tokens, chunk.positions, chunk.output_rows, chunk.places, chunk.decoding,
             chunk.prefilling, chunk.shrinks_on_device, chunk.terms, b.scratch.data(), b.u.data(),
             b.parcel.data(), b.parcel.host_data(), b.host_logits.data());
  add(chunk.groups.size(), chunk.shrinks.size());
  for (const KeyGroup& g : chunk.groups)
    add(g.first_span, g.spans, g.row, g.rows, g.longest, g.most_tokens, g.keys.empty());
  for (const DeviceShrink& shrink : chunk.shrinks)
    add(shrink.chunks, shrink.first, shrink.count);
  if (!chunk.shrinks.empty())
    for (const auto* ranges : {&chunk.shrink_ranges, &chunk.term_ranges})
      for (const auto& layer : *ranges)
        for (const Range& range : layer)
          add(range.first, range.count);
  return out;
}

// A driver that cannot record these launches can still run them one by one.
void DeviceDecoder::record(Chunk& chunk, Step& step) {
  try {
    step.graph.record([&] {
      const Recording noted(recording_, step.graph);
      send_and_run_layers(chunk, {});
      head(chunk, 0, chunk.logit_rows());
      check_call(zero(traces(chunk), stream_), "zeroing");
    });
  } catch (const std::runtime_error&) {
    ++step.failures;
  }
}

bool DeviceDecoder::compute_recorded(Chunk& chunk, const AttentionRestore& restore) {
  // A hook runs on the host, between launches. Prompts are seldom alike, and long beside a launch.
  if (restore.buffer != nullptr || !chunk.one_token_each || chunk.outputs.empty() ||
      chunk.logits_together(0, config_.vocab_size) < chunk.logit_rows())
    return false;
  std::vector<uint64_t> launches = launches_of(chunk);
  const auto at = std::find_if(steps_.begin(), steps_.end(),
                               [&](const auto& step) { return step->launches == launches; });
  if (at == steps_.end()) {
    // Launched one by one this time, which also loads the kernels: that may break a recording.
    steps_.insert(steps_.begin(), std::make_unique<Step>(std::move(launches), stream_));
    if (steps_.size() > kSteps)
      steps_.pop_back();
    return false;
  }
  std::rotate(steps_.begin(), at, std::next(at));
  Step& step = *steps_.front();
  Graph& graph = step.graph;
  if (!graph.recorded() && step.failures < kMostFailures)
    record(chunk, step);
  if (!graph.recorded())
    return false;
  {
    const KeysInGraph forgotten(graph);
    for (size_t i = 0; i < chunk.groups.size(); ++i)
      if (!chunk.groups[i].keys.empty())
        graph.set_keys(static_cast<int>(i), *LaunchKeys(chunk.groups[i]));
    graph.launch();
  }
  ++graph_launches_;
  stream_.wait();
  take_logits(chunk, 0, chunk.logit_rows());
  return true;
}

} // namespace ptmo::cuda
