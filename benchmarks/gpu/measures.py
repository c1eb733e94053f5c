"""What measures each ratio of floors.GPU_METRICS, at one of its shapes or lengths."""

import statistics
from collections.abc import Callable
from typing import Any

from ratios.decoding import Decoding, open_engine
from ratios.measured import Measured, Settings
from rounds import compare

from gpu.device import Device, gb_per_s, microseconds
from gpu.peers import EagerDecoder, TorchGraph, TorchPeers, why_not
from ptmo_secure.engine.registry import resolve
from ptmo_secure.errors import InputError

DECODE_CONTEXT = 128
DECODE_TOKENS = 64

# (device, variant) -> the figure, or why there is no peer. What our own module raises passes: that
# is a failure.
Measure = Callable[[Device, str], Measured | str]


def _bandwidth(group: int) -> Measure:
    def measure(device: Device, layer: str) -> Measured:
        ours = device.matmul(layer, "matmul", group=group)
        return device.compare(
            lambda: gb_per_s(ours), lambda: gb_per_s(device.copy), a="GB_per_s", b="copy_GB_per_s"
        )

    return measure


def _over_peer(tokens: int, peer_of: Callable[[TorchPeers, str, int], TorchGraph]) -> Measure:
    """The peer's time over ours. Our product's input is ready, as a decoder's norm leaves it.

    With a launch that quantises the input first, which torch has no need of, the ratio is
    `with_its_input`.
    """

    def measure(device: Device, layer: str) -> Measured | str:
        if isinstance(device.peers, str):
            return device.peers
        try:
            peer = peer_of(device.peers, layer, device.working_set)
        except (RuntimeError, TypeError, AttributeError) as error:
            return why_not(error)
        ours = device.matmul(layer, "matmul", tokens=tokens)
        found = device.compare(
            lambda: microseconds(peer), lambda: microseconds(ours), a="peer_us", b="ours_us"
        )
        whole = device.matmul(layer, "input-matmul", tokens=tokens)
        both = device.compare(lambda: microseconds(peer), lambda: microseconds(whole))
        return Measured(found.value, found.rounds, {**found.detail, "with_its_input": both.value})

    return measure


def lora_fused(device: Device, layer: str) -> Measured:
    """Both sides make their input; `unfused` is the ratio of three products of their own."""
    sides = {
        call: device.matmul(layer, call)
        for call in ("fused-update", "unfused-update", "input-matmul")
    }
    times = {name: lambda side=side: microseconds(side) for name, side in sides.items()}
    base = times["input-matmul"]
    fused = device.compare(times["fused-update"], base, a="fused_us", b="base_us")
    unfused = device.compare(times["unfused-update"], base, a="unfused_us")
    parts = {**fused.detail, **unfused.detail, "unfused": unfused.value}
    return Measured(fused.value, fused.rounds, parts)


def attention_permuted(device: Device, context: str) -> Measured:
    """The layer's input, store_kv and attention.

    A device's side of `permute` is the angles: each KV head its own, made with the layer's input.
    """
    permuted, plain = (
        device.attention("int8", int(context), store=True, angles=angles)
        for angles in ("per-head", "shared")
    )
    return _times(device, permuted, plain, "permuted_us", "plain_us")


def attention_sealed(device: Device, context: str) -> Measured:
    """Attention alone: rows are decrypted on their way."""
    sealed = device.attention("int8", int(context), sealed=True)
    clear = device.attention("int8", int(context))
    return _times(device, sealed, clear, "sealed_us", "clear_us")


def attention_int8(device: Device, context: str) -> Measured:
    """Attention alone, half the bytes a row and some more."""
    int8, fp16 = (device.attention(element, int(context)) for element in ("int8", "fp16"))
    return _times(device, int8, fp16, "int8_us", "fp16_us")


def _times(device: Device, a: Any, b: Any, of_a: str, of_b: str) -> Measured:
    return device.compare(lambda: microseconds(a), lambda: microseconds(b), a=of_a, b=of_b)


def smollm2_decode(device: Device, _: str) -> Measured | str:
    """Our engine as it is by default, pages sealed, beside transformers in bf16."""
    if isinstance(device.peers, str):
        return device.peers
    settings = Settings(rounds=device.rounds, decode_tokens=DECODE_TOKENS)
    try:
        resolve(settings.model)
    except InputError as error:  # the model was not pulled
        return str(error)
    try:
        peer = EagerDecoder(device.peers.torch, DECODE_CONTEXT)
    except ImportError:
        return "no transformers"
    except (RuntimeError, TypeError, AttributeError) as error:
        return why_not(error)
    with open_engine(settings, 1, DECODE_CONTEXT, device="cuda") as engine:
        ours = Decoding(engine, DECODE_CONTEXT)
        ours.seconds_per_token(DECODE_TOKENS)  # warms up
        taken = compare(
            lambda: 1 / ours.seconds_per_token(DECODE_TOKENS),
            lambda: 1 / peer.seconds_per_token(DECODE_TOKENS),
            device.rounds,
        )
    parts = {
        "ours_per_s": statistics.median(taken.a),
        "transformers_per_s": statistics.median(taken.b),
    }
    return Measured(taken.ratio, taken.ratios, parts)


def _bf16(tokens: int) -> Measure:
    return _over_peer(tokens, lambda peers, layer, room: peers.linear(layer, tokens, room))


MEASURES: dict[str, Measure] = {
    "gemv_g128": _bandwidth(128),
    "gemv_g32": _bandwidth(32),
    "gemv_bf16": _bf16(1),
    "gemv_torch_int4": _over_peer(1, lambda peers, layer, room: peers.int4(layer, 128, room)),
    "gemm_16": _bf16(16),
    "gemm_128": _bf16(128),
    "lora_fused": lora_fused,
    "attention_permuted": attention_permuted,
    "attention_sealed": attention_sealed,
    "attention_int8": attention_int8,
    "smollm2_decode": smollm2_decode,
}
