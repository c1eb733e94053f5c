#include "device_bench.h"

#include <algorithm>
#include <random>

#include "bench/random_inputs.h"
#include "common/check.h"

namespace ptmo::cuda {
namespace {

// Of a replay at least: the launch of the graph, some microseconds between the events, is then
// below a hundredth of calls of that length. A copy takes a hundred times as long.
constexpr int kCalls = 128, kCopies = 4;
constexpr size_t kRandomBytes = size_t{4} << 20;

} // namespace

TimedGraph::TimedGraph(const Stream& stream) : stream_(stream), graph_(stream) {
  check_call(cudaEventCreate(&before_), "making an event");
  check_call(cudaEventCreate(&behind_), "making an event");
}

TimedGraph::~TimedGraph() {
  cudaEventDestroy(before_);
  cudaEventDestroy(behind_);
}

double TimedGraph::replay() {
  check_call(cudaEventRecord(before_, stream_), "an event");
  graph_.launch();
  check_call(cudaEventRecord(behind_, stream_), "an event");
  check_call(cudaEventSynchronize(behind_), "a replay");
  float milliseconds = 0.0f;
  check_call(cudaEventElapsedTime(&milliseconds, before_, behind_), "an event");
  return milliseconds;
}

void DeviceBench::record(const std::function<void(int turn)>& call, int rotation) {
  record_calls(call, (kCalls + rotation - 1) / rotation * rotation);
}

void DeviceBench::record_calls(const std::function<void(int turn)>& call, int calls) {
  calls_ = calls;
  call(0);
  stream_.wait();
  graph_.record([&] {
    for (int turn = 0; turn < calls_; ++turn)
      call(turn);
  });
  graph_.replay(); // the first one uploads the graph
}

size_t cache_bytes() {
  int device = 0, bytes = 0;
  check_call(cudaGetDevice(&device), "its number");
  check_call(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device), "its cache's size");
  return static_cast<size_t>(bytes);
}

void fill_random(uint8_t* device, size_t bytes, const Stream& stream) {
  std::mt19937 bits(kInputSeed);
  std::vector<uint32_t> words(std::min(bytes + 3, kRandomBytes) / 4);
  for (uint32_t& word : words)
    word = static_cast<uint32_t>(bits());
  for (size_t at = 0; at < bytes; at += kRandomBytes)
    check_call(cudaMemcpyAsync(device + at, words.data(), std::min(kRandomBytes, bytes - at),
                               cudaMemcpyHostToDevice, stream),
               "copying in");
  stream.wait(); // the words may go now
}

CopyBench::CopyBench(size_t bytes) : from_(bytes), to_(bytes) {
  fill_random(from_.data(), bytes, stream_);
  call_bytes_ = working_set_bytes_ = 2 * bytes;
  record_calls(
      [this](int) {
        check_call(cudaMemcpyAsync(to_.data(), from_.data(), from_.size(), cudaMemcpyDeviceToDevice,
                                   stream_),
                   "copying");
      },
      kCopies);
}

} // namespace ptmo::cuda
