"""What torch does of the same shapes, on the same device and in the same process.

Its calls are recorded in a CUDA graph as ours are, over tensors taken in turn.
"""

import time
from collections.abc import Callable
from typing import Any

CALLS = 128  # of a replay at least, as csrc/cuda/bench has it
SQUARE = 8192  # of the product that shows the device's bf16 rate
NO_TORCH = "no torch with CUDA"


def find_torch() -> "TorchPeers | str":
    """The peers, or why there are none."""
    try:
        import torch
    except ModuleNotFoundError:
        return NO_TORCH
    except (ImportError, OSError) as error:  # it is there, and a library that it needs is not
        return f"torch does not load: {first_line(error)}"
    return TorchPeers(torch) if torch.cuda.is_available() else NO_TORCH


def why_not(error: Exception) -> str:
    """Why a peer of torch's could not be made."""
    if type(error).__name__ == "OutOfMemoryError":  # a RuntimeError to whom has no torch
        return f"torch has too little of the device's memory: {first_line(error)}"
    if isinstance(error, (TypeError, AttributeError)):  # of another version
        return f"torch has no such kernel here: {first_line(error)}"
    return f"torch does not run it here: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """What an error says, fit for a table."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


class TorchGraph:
    """A recorded row of calls; the last argument of `call` is its turn."""

    def __init__(self, torch: Any, call: Callable[[int], object], rotation: int, flops: int = 0):
        self._torch = torch
        self.flops = flops  # of a call
        self.calls = -(-CALLS // rotation) * rotation
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for turn in range(rotation):  # libraries choose and load their code now
                call(turn)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for turn in range(self.calls):
                call(turn)
        self._before, self._behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.milliseconds()

    def milliseconds(self) -> float:
        """Of one call: a replay of all, by the device's events, over their number."""
        self._before.record()
        self._graph.replay()
        self._behind.record()
        self._behind.synchronize()
        return float(self._before.elapsed_time(self._behind)) / self.calls


class TorchPeers:
    """torch's kernels."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def linear(self, layer: str, tokens: int, working_set: int) -> TorchGraph:
        """A bf16 product, which is cuBLAS'."""
        torch = self.torch
        rows, cols = (int(size) for size in layer.split("x"))
        x = torch.randn(tokens, cols, device="cuda", dtype=torch.bfloat16)
        weights = [
            torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16)
            for _ in range(-(-working_set // (2 * rows * cols)))
        ]

        def call(turn: int) -> object:
            return torch.nn.functional.linear(x, weights[turn % len(weights)])

        return TorchGraph(torch, call, len(weights), 2 * rows * cols * tokens)

    def int4(self, layer: str, group: int, working_set: int) -> TorchGraph:
        """torch's own INT4 product (tinygemm) of one token: scales and mins, as ours."""
        torch = self.torch
        rows, cols = (int(size) for size in layer.split("x"))
        x = torch.randn(1, cols, device="cuda", dtype=torch.bfloat16)
        weights = []
        for _ in range(-(-working_set // (rows * cols // 2))):
            codes = torch.randint(0, 256, (rows, cols // 2), device="cuda", dtype=torch.uint8)
            packed = torch._convert_weight_to_int4pack(codes, 8)
            scales = 0.01 * torch.rand(cols // group, rows, 2, device="cuda")
            weights.append((packed, scales.to(torch.bfloat16)))

        def call(turn: int) -> object:
            packed, scales = weights[turn % len(weights)]
            return torch._weight_int4pack_mm(x, packed, group, scales)

        return TorchGraph(torch, call, len(weights))

    def square_product(self) -> TorchGraph:
        """A large bf16 product: the rate that the device can reach."""
        torch = self.torch
        a, b = (torch.randn(SQUARE, SQUARE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        return TorchGraph(torch, lambda _: torch.mm(a, b), 1, 2 * SQUARE**3)


class EagerDecoder:
    """SmolLM2-135M's shape in transformers, without a graph; random weights cost the same time."""

    def __init__(self, torch: Any, context: int) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        self._torch, self._context = torch, context
        config = LlamaConfig(
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            vocab_size=49152,
            tie_word_embeddings=True,
        )
        self._model = LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()
        self._prompt = torch.randint(0, config.vocab_size, (1, context), device="cuda")
        self.seconds_per_token(8)  # warms up

    def seconds_per_token(self, tokens: int) -> float:
        """Feed the prompt, then time greedy tokens behind it."""
        torch = self._torch
        with torch.inference_mode():
            out = self._model(self._prompt, use_cache=True)
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(tokens):
                token = out.logits[:, -1:].argmax(-1)
                out = self._model(token, past_key_values=out.past_key_values, use_cache=True)
            torch.cuda.synchronize()
            return (time.perf_counter() - start) / tokens
