#include "device_bench.h"

#include <algorithm>
#include <random>

#include "bench/random_inputs.h"
#include "common/check.h"

namespace ptmo::cuda {
namespace {

constexpr int kCalls = 32; // of a replay at least: one launch of a graph is then little beside it
constexpr size_t kRandomBytes = size_t{4} << 20;

} // namespace

TimedGraph::TimedGraph(const Stream& stream) : stream_(stream) {
  check_call(cudaEventCreate(&before_), "making an event");
  check_call(cudaEventCreate(&behind_), "making an event");
}

TimedGraph::~TimedGraph() {
  drop();
  cudaEventDestroy(before_);
  cudaEventDestroy(behind_);
}

void TimedGraph::drop() {
  if (graph_ != nullptr)
    cudaGraphExecDestroy(graph_);
  graph_ = nullptr;
}

void TimedGraph::record(const std::function<void()>& work) {
  drop();
  cudaGraph_t recorded = nullptr;
  check_call(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording");
  try {
    work();
  } catch (...) { // a stream that stays in recording would refuse its own end
    cudaStreamEndCapture(stream_, &recorded);
    if (recorded != nullptr)
      cudaGraphDestroy(recorded);
    throw;
  }
  check_call(cudaStreamEndCapture(stream_, &recorded), "recording");
  const cudaError_t error = cudaGraphInstantiateWithFlags(&graph_, recorded, 0);
  cudaGraphDestroy(recorded);
  check_call(error, "making a graph");
}

double TimedGraph::replay() {
  ensure(graph_ != nullptr, "nothing was recorded");
  check_call(cudaEventRecord(before_, stream_), "an event");
  check_call(cudaGraphLaunch(graph_, stream_), "a graph");
  check_call(cudaEventRecord(behind_, stream_), "an event");
  check_call(cudaEventSynchronize(behind_), "a replay");
  float milliseconds = 0.0f;
  check_call(cudaEventElapsedTime(&milliseconds, before_, behind_), "an event");
  return milliseconds;
}

void DeviceBench::record(const std::function<void(int turn)>& call, int rotation) {
  calls_ = (kCalls + rotation - 1) / rotation * rotation;
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
  record(
      [this](int) {
        check_call(cudaMemcpyAsync(to_.data(), from_.data(), from_.size(), cudaMemcpyDeviceToDevice,
                                   stream_),
                   "copying");
      },
      1);
}

} // namespace ptmo::cuda
