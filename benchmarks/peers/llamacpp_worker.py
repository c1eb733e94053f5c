"""Runs llama.cpp for `compare_llamacpp.py` (protocol: peers/__init__.py).

The Python of the peers' own environment runs this file: it imports llama_cpp, numpy and the module
beside it, nothing else of this project.

The peer gets its best: memory-mapped weights, `n_threads` for prompts and tokens alike, one context
with flash attention and one without (the caller takes the faster), logits of the last token only,
and the low-level calls, so that no Python of its binding stands between two tokens.
"""

import ctypes
import sys
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from json_lines import serve

KV_TYPES = {"fp32": 0, "fp16": 1, "int8": 8}  # ggml.h: GGML_TYPE_F32, F16, Q8_0
FLASH = {"flash-off": 0, "flash-on": 1}  # llama.h: LLAMA_FLASH_ATTN_TYPE_DISABLED, ENABLED


class Llama:
    """A model and two contexts of it."""

    def __init__(self, model: str, threads: int, context_tokens: int, kv_dtype: str) -> None:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.use_mmap = True
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.row = ctypes.c_float * llama_cpp.llama_vocab_n_tokens(vocab)
        self.contexts = {
            name: self._context(flash, threads, context_tokens, KV_TYPES[kv_dtype])
            for name, flash in FLASH.items()
        }

    def _context(self, flash: int, threads: int, context_tokens: int, kv_type: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context_tokens
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = flash
        params.type_k = params.type_v = kv_type
        params.offload_kqv = False
        params.no_perf = True
        return llama_cpp.llama_init_from_model(self.model, params)  # None: not with this KV type

    def measure(self, ids: Sequence[int], decode_tokens: int, variant: str) -> dict[str, Any]:
        """Seconds of the prompt and of greedy decoding in an empty cache, and what was decoded."""
        context = self.contexts[variant]
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        start = time.perf_counter()
        logits = self._feed(context, ids)
        prefilled = time.perf_counter()
        tokens = []
        for _ in range(decode_tokens):
            tokens.append(int(np.argmax(logits)))
            logits = self._feed(context, tokens[-1:])
        end = time.perf_counter()
        return {"prefill_s": prefilled - start, "decode_s": end - prefilled, "tokens": tokens}

    def _feed(self, context: Any, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        array = (ctypes.c_int32 * len(ids))(*ids)  # the batch points at it
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(ids))) != 0:
            raise RuntimeError("llama_decode failed")
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        return np.frombuffer(self.row.from_address(ctypes.addressof(logits.contents)), np.float32)


class Worker:
    """The requests of the protocol."""

    llama: Llama

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load a model."""
        self.llama = Llama(
            request["model"], request["threads"], request["context_tokens"], request["kv_dtype"]
        )
        variants = [name for name, context in self.llama.contexts.items() if context]
        return {"version": f"llama-cpp-python {llama_cpp.__version__}", "variants": variants}

    def measure(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time a prompt and greedy decoding."""
        return self.llama.measure(request["ids"], request["decode_tokens"], request["variant"])


@llama_cpp.llama_log_callback
def log_errors(level: int, text: bytes, data: object) -> None:
    """Pass llama.cpp's errors on to stderr, drop the rest."""
    if level == 4:  # ggml.h: GGML_LOG_LEVEL_ERROR
        sys.stderr.write(text.decode(errors="replace"))


if __name__ == "__main__":
    llama_cpp.llama_log_set(log_errors, None)
    worker = Worker()
    serve({"load": worker.load, "measure": worker.measure})
