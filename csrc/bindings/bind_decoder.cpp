// The CPU's decoder.
#include <utility>
#include <vector>

#include "decoder_methods.h"
#include "model/decoder.h"

namespace ptmo {

void register_decoder(py::module_& m) {
  py::class_<ModelConfig>(m, "ModelConfig")
      .def(py::init([](int n_layers, int d_model, int n_heads, int n_kv_heads, int head_dim,
                       int d_ff, int vocab_size, int context_length, float rms_eps,
                       float attention_scale, bool qk_norm, bool post_norms, bool gelu_tanh,
                       float embed_scale, int sliding_window, std::vector<bool> local_layers) {
             const ModelConfig c{n_layers,
                                 d_model,
                                 n_heads,
                                 n_kv_heads,
                                 head_dim,
                                 d_ff,
                                 vocab_size,
                                 context_length,
                                 rms_eps,
                                 attention_scale,
                                 qk_norm,
                                 post_norms,
                                 gelu_tanh ? Activation::kGeluTanh : Activation::kSilu,
                                 embed_scale,
                                 sliding_window,
                                 std::move(local_layers)};
             validate(c);
             return c;
           }),
           py::kw_only(), py::arg("n_layers"), py::arg("d_model"), py::arg("n_heads"),
           py::arg("n_kv_heads"), py::arg("head_dim"), py::arg("d_ff"), py::arg("vocab_size"),
           py::arg("context_length"), py::arg("rms_eps"), py::arg("attention_scale"),
           py::arg("qk_norm"), py::arg("post_norms"), py::arg("gelu_tanh"), py::arg("embed_scale"),
           py::arg("sliding_window"), py::arg("local_layers"));

  py::class_<Decoder> decoder(m, "Decoder");
  decoder.def(py::init<const ModelConfig&, const PageLayout&, int, bool, int>(), py::arg("config"),
              py::arg("layout"), py::arg("threads"), py::arg("integer_activations"),
              py::arg("chunk_tokens"));
  bind_decoder_methods(decoder);
}

} // namespace ptmo
