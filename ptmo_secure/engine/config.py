"""What an engine is asked to be: one frozen, checked dataclass."""

import math
import os
from dataclasses import dataclass, fields
from typing import Literal, get_args

from ptmo_secure.engine.paths import path_text
from ptmo_secure.errors import InputError

Shield = Literal["none", "permute", "seal", "permute+seal"]
Restore = Literal["folded", "tee"]
KvDtype = Literal["int8", "int4", "fp16", "fp32"]
Activations = Literal["int8", "fp32"]
Device = Literal["cpu", "cuda"]

MAX_THREADS = 256
MAX_CACHE_TOKENS = 1 << 22
MAX_ROTATION_TOKENS = 1 << 48
MAX_SEALED_SESSIONS = 64  # open at once: each has a slot for its key


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How a model runs and how its KV cache is protected.

    Security: `shield` decides what a reader of the device's memory sees; see
    docs/threat-model.md. `none` and `permute` do not stop an adaptive one.

    Raises:
        InputError: a field is out of range, or two of them do not go together; the text names it.
    """

    shield: Shield = "seal"
    threads: int = 2  # 1..256
    # int8: integer inputs of the matrices; those of q, k, v, W_down and the head have 16 bits
    activations: Activations = "int8"
    kv_dtype: KvDtype = "int8"
    restore: Restore = "folded"  # only read by shields with `permute`
    device: Device = "cpu"  # cuda: INT4 and INT8 weights, integer activations, no fp32 cache
    context_tokens: int | None = None  # None: the model's own
    cache_tokens: int | None = None  # KV rows of all open sessions together; None: one context
    prefill_chunk_tokens: int = 128  # 1..4096, rows that go through the layers together
    rows_per_page: int = 32  # 16 or 32 token rows a KV page
    # Folder of the device's sealed state. None: the TEE draws its root key at start, and nothing
    # that it seals outlives it.
    tee_state: str | os.PathLike[str] | None = None
    # A session's next seal key comes before a pass that would take its key beyond so many token
    # rows, or that finds it so old; None: with `rotate` alone
    rotate_after_tokens: int | None = None  # >= 1
    rotate_after_seconds: float | None = None  # > 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"unknown {name} {getattr(self, name)!r}: choose from {', '.join(choices)}"
                )
        limits = {
            "threads": (1, MAX_THREADS),
            "prefill_chunk_tokens": (1, 4096),
        }
        for name, (low, high) in limits.items():
            _check_int(name, getattr(self, name), low, high)
        if self.rows_per_page not in (16, 32):
            raise InputError(f"rows_per_page={self.rows_per_page!r} is not 16 or 32")
        for name in ("context_tokens", "cache_tokens"):
            if getattr(self, name) is not None:
                _check_int(name, getattr(self, name), 1, MAX_CACHE_TOKENS)
        if self.tee_state is not None:
            folder = os.path.abspath(path_text("tee_state", self.tee_state))
            object.__setattr__(self, "tee_state", folder)  # the working directory may change
        self._check_rotation()
        if self.device == "cuda" and self.activations != "int8":
            raise InputError("device 'cuda' has integer activations alone: use activations='int8'")
        if self.device == "cuda" and self.kv_dtype == "fp32":
            raise InputError(
                "device 'cuda' has no fp32 cache: use kv_dtype 'int8', 'int4' or 'fp16'"
            )

    def _check_rotation(self) -> None:
        tokens, seconds = self.rotate_after_tokens, self.rotate_after_seconds
        if tokens is not None:
            _check_int("rotate_after_tokens", tokens, 1, MAX_ROTATION_TOKENS)
        if seconds is not None and not (
            isinstance(seconds, int | float)
            and not isinstance(seconds, bool)
            and 0 < seconds < math.inf
        ):
            raise InputError(f"rotate_after_seconds={seconds!r} is not a number of seconds > 0")
        if not self.sealed and (tokens, seconds) != (None, None):
            raise InputError(f"rotate_after_...: shield {self.shield!r} has no seal keys to rotate")

    @property
    def permuted(self) -> bool:
        """Whether the weights, and so K and V, are permuted."""
        return "permute" in self.shield

    @property
    def sealed(self) -> bool:
        """Whether KV pages hold ciphertext."""
        return "seal" in self.shield

    @property
    def needs_tee(self) -> bool:
        """Whether a TEE process must stand behind the engine."""
        return self.permuted or self.sealed

    @property
    def restores_in_tee(self) -> bool:
        """Whether attention vectors cross into the TEE at every layer."""
        return self.permuted and self.restore == "tee"

    @classmethod
    def from_fields(cls, **given: object) -> "EngineConfig":
        """Build a config, naming a field that does not exist."""
        known = {f.name for f in fields(cls)}
        for name in given:
            if name not in known:
                raise InputError(
                    f"unknown engine option {name!r}: choose from {', '.join(sorted(known))}"
                )
        return cls(**given)  # type: ignore[arg-type]  # __post_init__ checks every value


_CHOICES: dict[str, tuple[str, ...]] = {
    "shield": get_args(Shield),
    "restore": get_args(Restore),
    "kv_dtype": get_args(KvDtype),
    "activations": get_args(Activations),
    "device": get_args(Device),
}


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name}={value!r} is not a whole number in {low}..{high}")
