#include "graph.h"

#include "common/check.h"

namespace ptmo::cuda {
namespace {

// What was put last on a stream that is recorded.
cudaGraphNode_t last_node(const Stream& stream) {
  cudaStreamCaptureStatus status{};
  const cudaGraphNode_t* nodes = nullptr;
  size_t count = 0;
#if CUDART_VERSION >= 13000
  check_call(cudaStreamGetCaptureInfo(stream, &status, nullptr, nullptr, &nodes, nullptr, &count),
             "recording");
#else
  check_call(cudaStreamGetCaptureInfo_v2(stream, &status, nullptr, nullptr, &nodes, &count),
             "recording");
#endif
  ensure(status == cudaStreamCaptureStatusActive && count == 1, "nothing is being recorded");
  return nodes[0];
}

} // namespace

Graph::~Graph() {
  if (owner_.is_here())
    drop();
}

void Graph::drop() {
  keyed_.clear();
  if (launchable_ != nullptr)
    cudaGraphExecDestroy(launchable_);
  if (recorded_ != nullptr)
    cudaGraphDestroy(recorded_);
  launchable_ = nullptr;
  recorded_ = nullptr;
}

void Graph::record(const std::function<void()>& work) {
  drop();
  check_call(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording");
  try {
    work();
  } catch (...) { // a stream that stays in recording would refuse its own end
    cudaStreamEndCapture(stream_, &recorded_);
    drop();
    throw;
  }
  check_call(cudaStreamEndCapture(stream_, &recorded_), "recording");
  for (Keyed& keyed : keyed_) {
    check_call(cudaGraphKernelNodeGetParams(keyed.node, &keyed.launch), "a recorded kernel");
    keyed.job = keyed.launch.kernelParams[0]; // the node's own, which lives with the graph
  }
  const cudaError_t error = cudaGraphInstantiateWithFlags(&launchable_, recorded_, 0);
  if (error != cudaSuccess)
    drop();
  check_call(error, "making a graph");
}

void Graph::note_keys(int group) {
  keyed_.push_back({group, last_node(stream_), {}, nullptr});
}

cudaError_t Graph::put_keys(const Keyed& keyed, const SealKeys& keys) {
  void* parameters[] = {keyed.job, const_cast<SealKeys*>(&keys)};
  cudaKernelNodeParams launch = keyed.launch;
  launch.kernelParams = parameters;
  return cudaGraphExecKernelNodeSetParams(launchable_, keyed.node, &launch);
}

void Graph::set_keys(int group, const SealKeys& keys) {
  for (const Keyed& keyed : keyed_)
    if (keyed.group == group)
      check_call(put_keys(keyed, keys), "a kernel's keys");
}

// A device that refuses here refuses all that comes: no one is told twice.
void Graph::forget_keys() {
  const SealKeys none{};
  for (const Keyed& keyed : keyed_)
    put_keys(keyed, none);
}

void Graph::launch() {
  ensure(recorded(), "nothing was recorded");
  check_call(cudaGraphLaunch(launchable_, stream_), "a graph");
}

} // namespace ptmo::cuda
