// Streams and graphs of the emulator; included by cuda_runtime.h.
//
// What is put on a stream is done at once, or noted down while the stream is recorded: then nothing
// of it runs before the graph is launched. What CUDA forbids while a stream is recorded fails.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#define CUDART_VERSION 13000

constexpr cudaError_t cudaErrorNoKernelImageForDevice = 209,
                      cudaErrorStreamCaptureUnsupported = 900;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };

// Without the grid, whose fields have the names of what kernels read.
struct cudaKernelNodeParams {
  void* func = nullptr;
  void** kernelParams = nullptr;
};

// A copy, or a kernel with its own copy of its parameters.
struct EmulatedNode {
  size_t number = 0; // in its graph
  std::function<void(void* const* parameters)> run;
  cudaKernelNodeParams kernel{};
  std::vector<std::vector<uint8_t>> values;
  std::vector<void*> places;

  void take(void* const* parameters) {
    for (size_t i = 0; i < values.size(); ++i)
      std::memcpy(values[i].data(), parameters[i], values[i].size());
  }
  // Where this node stands, and not the one it was copied from.
  void settle() {
    places.clear();
    for (auto& value : values)
      places.push_back(value.data());
    kernel.kernelParams = places.data();
  }
};
using cudaGraphNode_t = EmulatedNode*;

struct EmulatedGraph {
  std::vector<std::unique_ptr<EmulatedNode>> nodes;
};
using cudaGraph_t = EmulatedGraph*;
using cudaGraphExec_t = EmulatedGraph*; // nodes of its own

struct EmulatedStream {
  std::unique_ptr<EmulatedGraph> recording;
  cudaGraphNode_t last = nullptr;
};

namespace cuda_emulator {

inline int& recordings() {
  static int count = 0;
  return count;
}

// What can be made to fail.
enum class Call { kGraphLaunch, kInstantiate, kMemset, kCopy, kLaunch };

// How many calls of a kind will do before all that follow fail, as on a device that is lost; below
// zero: all will do.
inline int& calls_before_failure(Call call) {
  static int left[5] = {-1, -1, -1, -1, -1};
  return left[static_cast<int>(call)];
}
inline bool fails(Call call) {
  int& left = calls_before_failure(call);
  return left == 0 || (left > 0 && left-- == 0);
}

inline bool recorded(cudaStream_t stream) {
  return stream != nullptr && stream->recording != nullptr;
}

inline void note(cudaStream_t stream, EmulatedNode node) {
  auto& nodes = stream->recording->nodes;
  node.number = nodes.size();
  nodes.push_back(std::make_unique<EmulatedNode>(std::move(node)));
  nodes.back()->settle();
  stream->last = nodes.back().get();
}

inline cudaError_t put(cudaStream_t stream, const std::function<void()>& work) {
  if (recorded(stream))
    note(stream, {0, [work](void* const*) { work(); }, {}, {}, {}});
  else
    work();
  return cudaSuccess;
}

template <typename... Parameters, size_t... kAt>
void run_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void* const* at,
                std::index_sequence<kAt...>) {
  run_grid(grid, block, [&] { kernel(*static_cast<std::decay_t<Parameters>*>(at[kAt])...); });
}

// Parameters are read where they stand.
template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream,
                   const std::decay_t<Parameters>&... parameters) {
  if (fails(Call::kLaunch)) // as code for another architecture does
    return cudaErrorNoKernelImageForDevice;
  void* places[] = {const_cast<void*>(static_cast<const void*>(&parameters))...};
  const auto run = [=](void* const* at) {
    run_kernel(kernel, grid, block, at, std::index_sequence_for<Parameters...>());
  };
  if (recorded(stream)) {
    EmulatedNode node{0, run, {}, {}, {}};
    node.kernel.func = reinterpret_cast<void*>(kernel);
    (node.values.emplace_back(sizeof(parameters)), ...);
    node.take(places);
    note(stream, std::move(node));
  } else {
    run(places);
  }
  return cudaSuccess;
}

} // namespace cuda_emulator

// No blocking streams: recording one would disturb whoever uses the default stream meanwhile.
constexpr unsigned cudaStreamNonBlocking = 1;
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags != cudaStreamNonBlocking)
    return cudaErrorInvalidValue;
  *stream = new EmulatedStream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return cuda_emulator::recorded(stream) ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream->recording != nullptr)
    return cudaErrorInvalidValue;
  stream->recording = std::make_unique<EmulatedGraph>();
  stream->last = nullptr;
  ++cuda_emulator::recordings();
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!cuda_emulator::recorded(stream))
    return cudaErrorInvalidValue;
  *graph = stream->recording.release();
  --cuda_emulator::recordings();
  return cudaSuccess;
}
inline cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                            unsigned long long*, cudaGraph_t*,
                                            const cudaGraphNode_t** last, const void*,
                                            size_t* count) {
  const bool recorded = cuda_emulator::recorded(stream);
  *status = recorded ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  *count = recorded && stream->last != nullptr;
  *last = *count > 0 ? &stream->last : nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* out, cudaGraph_t graph,
                                                 unsigned long long) {
  if (cuda_emulator::fails(cuda_emulator::Call::kInstantiate))
    return cudaErrorInvalidValue;
  *out = new EmulatedGraph;
  for (const auto& node : graph->nodes) {
    (*out)->nodes.push_back(std::make_unique<EmulatedNode>(*node));
    (*out)->nodes.back()->settle();
  }
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  if (cuda_emulator::recorded(stream))
    return cudaErrorStreamCaptureUnsupported;
  if (cuda_emulator::fails(cuda_emulator::Call::kGraphLaunch))
    return cudaErrorInvalidValue;
  for (const auto& node : graph->nodes)
    node->run(node->places.data());
  return cudaSuccess;
}
inline cudaError_t cudaGraphKernelNodeGetParams(cudaGraphNode_t node, cudaKernelNodeParams* out) {
  if (node->kernel.func == nullptr)
    return cudaErrorInvalidValue;
  *out = node->kernel;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t graph, cudaGraphNode_t node,
                                                    const cudaKernelNodeParams* parameters) {
  EmulatedNode& own = *graph->nodes.at(node->number);
  if (own.kernel.func == nullptr || own.kernel.func != parameters->func)
    return cudaErrorInvalidValue;
  own.take(parameters->kernelParams);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}
