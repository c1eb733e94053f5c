// A kernel's time on a device: a graph of many calls, replayed between two events.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "../graph.h"

namespace ptmo::cuda {

// A graph between two events: short kernels follow each other as in a decoder that repeats its
// step.
class TimedGraph {
public:
  explicit TimedGraph(const Stream& stream);
  ~TimedGraph();
  TimedGraph(const TimedGraph&) = delete;
  TimedGraph& operator=(const TimedGraph&) = delete;

  void record(const std::function<void()>& work) { graph_.record(work); }
  // Milliseconds between the device's events before and behind one replay.
  double replay();

private:
  const Stream& stream_;
  cudaEvent_t before_ = nullptr, behind_ = nullptr;
  Graph graph_;
};

// What every bench offers. Calls take their buffers in turn from a rotation larger than the
// device's cache, as decoding finds the weights of its next layer.
class DeviceBench {
public:
  virtual ~DeviceBench() = default;
  // Milliseconds of one call: a replay's over the calls in it.
  double milliseconds() { return graph_.replay() / calls_; }
  int calls() const { return calls_; }
  size_t call_bytes() const { return call_bytes_; } // that a call must move: each operand once
  size_t working_set_bytes() const { return working_set_bytes_; } // of the rotation

protected:
  DeviceBench() : graph_(stream_) {}
  // Records enough calls for a replay of some `bytes`, and all of the rotation's at least. The
  // first runs alone before: code that is loaded while a graph is recorded may break the recording.
  void record(const std::function<void(int turn)>& call, int rotation);
  void record_calls(const std::function<void(int turn)>& call, int calls);

  Stream stream_;
  TimedGraph graph_;
  int calls_ = 0;
  size_t call_bytes_ = 0, working_set_bytes_ = 0;
};

// Bytes of the device's last cache.
size_t cache_bytes();

// Seeded random bytes, repeated every few megabytes.
void fill_random(uint8_t* device, size_t bytes, const Stream& stream);

// Copies a large buffer to another: the bandwidth that others are measured against. A call moves
// every byte twice, in and out.
class CopyBench : public DeviceBench {
public:
  explicit CopyBench(size_t bytes);

private:
  DeviceMemory from_, to_;
};

} // namespace ptmo::cuda
