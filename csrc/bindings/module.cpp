#include "bindings.h"

PYBIND11_MODULE(_native, m) {
  m.doc() = "PTMO-Secure's native engine: INT4 decoder, paged and sealed KV cache, secret arena.";
  ptmo::register_ops(m);
  ptmo::register_tee(m);
  ptmo::register_kv(m);
  ptmo::register_lora(m);
  ptmo::register_decoder(m);
  ptmo::register_bench(m);
}
