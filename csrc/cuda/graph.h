// Work of a stream recorded once and launched again with one call, as a decoder repeats its step.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "device.h"
#include "kernels/cuda/cuda_kernels.h"

namespace ptmo::cuda {

class Graph {
public:
  explicit Graph(const Stream& stream) : stream_(stream) {}
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Takes what `work` puts on the stream in place of what was there. None of it is run; addresses
  // and sizes are those of now, for every launch.
  void record(const std::function<void()>& work);
  bool recorded() const { return launchable_ != nullptr; }

  // While recording: what was put on the stream last is a kernel with keys (cuda_kernels.h), those
  // of `group`. It is recorded with zeros in their place.
  void note_keys(int group);
  // Gives the kernels of `group` their keys, for the launches to come; zeros take their place
  // again.
  void set_keys(int group, const SealKeys& keys);
  void forget_keys();

  void launch();

private:
  struct Keyed {
    int group;
    cudaGraphNode_t node;
    cudaKernelNodeParams launch;
    void* job;
  };

  cudaError_t put_keys(const Keyed& keyed, const SealKeys& keys);
  void drop();

  const Stream& stream_;
  cudaGraph_t recorded_ = nullptr;
  cudaGraphExec_t launchable_ = nullptr;
  std::vector<Keyed> keyed_;
  const OwnerProcess owner_;
};

} // namespace ptmo::cuda
