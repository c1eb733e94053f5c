// What the decoders' bindings share: parameters in (checked, packed), logits out.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "common/check.h"
#include "kv/permute.h"
#include "model/batch.h"
#include "model/weights.h"
#include "quant/int4.h"

namespace ptmo {

// A float buffer of another process's or library's making, e.g. memory registered with the TEE.
struct FloatBuffer {
  float* data;
  size_t count;
};

inline FloatBuffer writable_floats(const py::buffer& buffer) {
  const py::buffer_info info = buffer.request(true);
  const size_t bytes = static_cast<size_t>(info.size) * static_cast<size_t>(info.itemsize);
  require(reinterpret_cast<uintptr_t>(info.ptr) % sizeof(float) == 0,
          "the attention buffer is not aligned to 4 bytes");
  return {static_cast<float*>(info.ptr), bytes / sizeof(float)};
}

// The panels of matrix `name`, for the caller to fill.
template <typename Decoder>
Matrix& begin_matrix(Decoder& d, const std::string& name, kernels::WeightType type,
                     py::ssize_t rows, py::ssize_t cols, int group) {
  require(rows <= INT32_MAX && cols <= INT32_MAX, name, " has shape [", rows, ", ", cols, "]");
  return d.weights().prepare(name, type, static_cast<int>(rows), static_cast<int>(cols), group);
}

template <typename Decoder>
void set_int4(Decoder& d, const std::string& name, const Array<uint8_t>& codes,
              const py::array& scales, const py::array& mins, int group) {
  const Array<uint16_t> s = scales.attr("view")("uint16"), m = mins.attr("view")("uint16");
  require(codes.ndim() == 2 && s.ndim() == 2 && m.ndim() == 2, name, ": arrays are not matrices");
  const py::ssize_t rows = codes.shape(0), cols = codes.shape(1) * 2;
  require(group > 0 && s.shape(0) == rows && m.shape(0) == rows && s.shape(1) * group == cols &&
              m.shape(1) * group == cols,
          name, ": codes [", rows, ", ", codes.shape(1), "] and scales [", s.shape(0), ", ",
          s.shape(1), "] do not belong together at group=", group);
  const kernels::WeightType type = int4_type(s.data(), m.data(), static_cast<size_t>(s.size()));
  Matrix& out = begin_matrix(d, name, type, rows, cols, group);
  pack_int4(codes.data(), s.data(), type == kernels::WeightType::kInt4 ? m.data() : nullptr,
            static_cast<int>(rows), static_cast<int>(cols), group, out.data);
  d.weights().finish(name);
}

template <typename Decoder>
void set_int8(Decoder& d, const std::string& name, const Array<int8_t>& codes,
              const py::array& scales) {
  const Array<uint16_t> s = scales.attr("view")("uint16");
  require(codes.ndim() == 2 && s.ndim() == 2 && s.shape(0) == codes.shape(0) &&
              s.shape(1) * kernels::kBlock == codes.shape(1),
          name, ": codes and scales do not belong together");
  Matrix& out = begin_matrix(d, name, kernels::WeightType::kInt8, codes.shape(0), codes.shape(1),
                             kernels::kBlock);
  pack_int8(codes.data(), s.data(), out.packed.rows, out.packed.cols, out.data);
  d.weights().finish(name);
}

template <typename Decoder>
void set_float(Decoder& d, const std::string& name, const py::array& values) {
  const bool half = values.dtype().is(py::dtype("float16"));
  if (values.ndim() == 1) {
    const auto v = Array<float>::ensure(values.attr("astype")("float32"));
    d.weights().set_vector(name, {v.data(), v.data() + v.shape(0)});
    return;
  }
  require(values.ndim() == 2, name, " has ", values.ndim(), " dimensions, not 1 or 2");
  const kernels::WeightType type = half ? kernels::WeightType::kF16 : kernels::WeightType::kF32;
  Matrix& out = begin_matrix(d, name, type, values.shape(0), values.shape(1), 0);
  if (half) {
    const Array<uint16_t> v = Array<uint16_t>::ensure(values.attr("view")("uint16"));
    pack_f16(v.data(), out.packed.rows, out.packed.cols, out.data);
  } else {
    const auto v = Array<float>::ensure(values.attr("astype")("float32"));
    pack_f32(v.data(), out.packed.rows, out.packed.cols, out.data);
  }
  d.weights().finish(name);
}

// What a forward pass over a batch is asked for, checked. Rows of its logits: one a sequence or one
// a token, in order.
class BatchCall {
public:
  // The arguments outlive this.
  BatchCall(const ModelConfig& config, const std::vector<KvSession*>& sessions,
            const std::vector<Array<int32_t>>& tokens, bool all_logits, const py::object& buffer,
            const py::object& restore, const std::vector<std::shared_ptr<AdapterSet>>& adapters)
      : vocab_(config.vocab_size) {
    require(sessions.size() == tokens.size(), sessions.size(), " sessions and ", tokens.size(),
            " token_ids do not belong together");
    require(adapters.empty() || adapters.size() == sessions.size(), sessions.size(),
            " sessions and ", adapters.size(), " adapter sets do not belong together");
    if (!buffer.is_none()) {
      const FloatBuffer floats = writable_floats(buffer);
      hook_.buffer = floats.data;
      hook_.max_tokens = static_cast<int>(floats.count / static_cast<size_t>(config.q_size()));
      hook_.restore = [&restore](int layer, int rows) {
        py::gil_scoped_acquire acquire;
        restore(layer, rows);
      };
    }
    for (size_t i = 0; i < sessions.size(); ++i) {
      require(sessions[i] != nullptr, "sessions[", i, "] is None");
      require(tokens[i].ndim() == 1 && tokens[i].shape(0) > 0 && tokens[i].shape(0) <= INT32_MAX,
              "token_ids[", i, "] is not a non-empty vector");
      const int n = static_cast<int>(tokens[i].shape(0));
      batch_.push_back({sessions[i], tokens[i].data(), n, all_logits ? Logits::kAll : Logits::kLast,
                        nullptr, adapters.empty() ? nullptr : adapters[i].get()});
      rows_ += all_logits ? n : 1;
    }
  }

  py::ssize_t rows() const { return rows_; }

  // forward(sequences, count, hook) with logits [rows, vocab_size] to go to `logits`.
  template <typename Forward> void run(float* logits, const Forward& forward) {
    for (Sequence& s : batch_) {
      s.logits = logits;
      logits +=
          static_cast<size_t>(s.which == Logits::kAll ? s.n : 1) * static_cast<size_t>(vocab_);
    }
    py::gil_scoped_release release;
    forward(batch_.data(), static_cast<int>(batch_.size()), hook_);
  }

private:
  const int vocab_;
  AttentionRestore hook_;
  std::vector<Sequence> batch_;
  py::ssize_t rows_ = 0;
};

template <typename Decoder>
Array<float> forward_batch(Decoder& d, const std::vector<KvSession*>& sessions,
                           const std::vector<Array<int32_t>>& tokens, bool all_logits,
                           const py::object& buffer, const py::object& restore,
                           const std::vector<std::shared_ptr<AdapterSet>>& adapters) {
  BatchCall call(d.config(), sessions, tokens, all_logits, buffer, restore, adapters);
  Array<float> out({call.rows(), static_cast<py::ssize_t>(d.config().vocab_size)});
  call.run(out.mutable_data(), [&](const Sequence* batch, int count, const AttentionRestore& hook) {
    d.forward(batch, count, hook);
  });
  return out;
}

// The methods that every decoder has.
template <typename Decoder, typename... Options>
void bind_decoder_methods(py::class_<Decoder, Options...>& c) {
  c.def("set_int4", &set_int4<Decoder>, py::arg("name"), py::arg("codes"), py::arg("scales"),
        py::arg("mins"), py::arg("group"))
      .def("set_int8", &set_int8<Decoder>, py::arg("name"), py::arg("codes"), py::arg("scales"))
      .def("set_float", &set_float<Decoder>, py::arg("name"), py::arg("values"))
      .def_property_readonly("config", &Decoder::config, py::return_value_policy::copy)
      .def("weights_bytes", [](Decoder& d) { return d.weights().bytes(); })
      .def("weights_bytes_per_token", [](Decoder& d) { return d.weights().bytes_per_token(); })
      .def("forward_batch", &forward_batch<Decoder>, py::arg("sessions"), py::arg("token_ids"),
           py::arg("all_logits") = false, py::arg("attention_buffer") = py::none(),
           py::arg("restore") = py::none(),
           py::arg("adapters") = std::vector<std::shared_ptr<AdapterSet>>{},
           "Appends token_ids[i] [n_i] int32 to sessions[i], all in one pass over the weights; "
           "returns logits [count or sum of n_i, vocab_size] float32.");
}

} // namespace ptmo
