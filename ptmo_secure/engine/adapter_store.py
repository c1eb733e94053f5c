"""The adapters an engine has loaded, in compute form, and the sets that requests name."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ptmo_secure import _native
from ptmo_secure.config import MAX_ADAPTERS
from ptmo_secure.engine.adapters import AdapterWeights, check_fits, split_name
from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.gguf_import import LlamaConfig
from ptmo_secure.engine.low_rank import LowRankTensors, as_tensors
from ptmo_secure.engine.native_setup import NativeDecoder
from ptmo_secure.engine.peft_config import is_number
from ptmo_secure.engine.tee_link import TeeLink
from ptmo_secure.engine.tensors import FloatTensor, Int8Tensor
from ptmo_secure.errors import EngineError, InputError, ModelFormatError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What an engine tells about a loaded adapter."""

    name: str
    rank: int  # the largest, where ranks differ
    targets: tuple[str, ...]  # linear layers: "q", "k", "v", "o", "gate", "up", "down"
    bytes: int  # in compute form: what decoding a token reads of it
    scale: float  # the factor it was loaded with


@dataclass(slots=True)
class _Loaded:
    info: AdapterInfo
    digest: bytes
    native: _native.Adapter
    # Under `permute`: what to permute again, and which permutation `native` has.
    tensors: Mapping[str, LowRankTensors] | None = None
    permutation: object = None


@dataclass(frozen=True, slots=True)
class AdapterSelection:
    """A request's adapters: `native` is what the decoder takes, None for none.

    `tag` names the set by its weights, scales and order: rows of the KV cache that were computed
    under equal tags are interchangeable. 0 is no adapter.
    """

    names: tuple[str, ...] = ()
    tag: int = 0
    native: _native.AdapterSet | None = None
    members: tuple[_Loaded, ...] = field(default=(), repr=False, compare=False)


NO_ADAPTERS = AdapterSelection()


@dataclass(slots=True)
class AdapterStore:
    """Adapters by name. The engine's lock serialises every call.

    Security: under `permute` the B's of q, k and v, and the A of o where W_o is folded, are
    permuted in the TEE with the model's own permutation, once for each epoch of it. As with the
    base weights, a permuted adapter beside its original discloses the permutation (A2).
    """

    decoder: NativeDecoder
    model: LlamaConfig
    config: EngineConfig
    _loaded: dict[str, _Loaded] = field(default_factory=dict)
    _selections: dict[tuple[str, ...], AdapterSelection] = field(default_factory=dict)

    def add(
        self, name: str, weights: AdapterWeights, scale: float, link: TeeLink | None
    ) -> AdapterInfo:
        """Pack an adapter under a name; all or nothing.

        Raises:
            InputError: a bad or taken name, a scale that is no number, weights that do not fit.
            EngineError: the TEE is gone, or memory is short.
        """
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise InputError(
                f"adapter name {name!a} is not 1 to 64 ASCII letters, digits, '_', '.', '-'"
            )
        if name in self._loaded:
            raise InputError(f"an adapter {name!r} is loaded already: unload it first")
        if not is_number(scale):
            raise InputError(f"adapter {name!r}: its scale is not a number that a double holds")
        if not isinstance(weights, AdapterWeights):
            raise InputError(f"adapter {name!r}: weights is no AdapterWeights")
        try:
            check_fits(weights, self.model)
            scaled = weights.scaled(float(scale))
            tensors = self._compute_form(scaled)
            native = self._pack(tensors, link)
        except InputError as error:
            raise type(error)(f"adapter {name!r}: {error}") from None
        info = AdapterInfo(name, weights.rank, weights.roles, native.bytes, float(scale))
        loaded = _Loaded(info, _digest(scaled), native)
        if self.config.permuted:
            loaded.tensors, loaded.permutation = tensors, _permutation(link)
        self._loaded[name] = loaded
        return info

    def remove(self, name: str) -> None:
        """Forget an adapter; a generation that is using it keeps it until it ends.

        Raises:
            InputError: there is none of that name.
        """
        self._find(name)
        del self._loaded[name]
        self._selections = {n: s for n, s in self._selections.items() if name not in n}

    def infos(self) -> dict[str, AdapterInfo]:
        """Return what is loaded, in order of loading."""
        return {name: loaded.info for name, loaded in self._loaded.items()}

    def select(self, names: Sequence[str], link: TeeLink | None) -> AdapterSelection:
        """Return the set of these adapters, added up in this order.

        Raises:
            InputError: an unknown or repeated name, or more than 8.
        """
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise InputError(f"adapters={names!r} is not a list of names")
        key = tuple(names)
        if not key:
            return NO_ADAPTERS
        if len(key) > MAX_ADAPTERS:
            raise InputError(f"{len(key)} adapters: at most {MAX_ADAPTERS} add up")
        if not all(isinstance(name, str) for name in key):
            raise InputError(f"adapters={names!r} is not a list of names")
        if len(set(key)) != len(key):
            raise InputError(f"an adapter is named twice: {', '.join(map(str, key))}")
        members = tuple(self._find(name) for name in key)
        self._permute_for(members, link)
        selection = self._selections.get(key)
        if selection is None:
            selection = self._selections[key] = _selection(key, members)
        return selection

    def renew(self, selection: AdapterSelection, link: TeeLink | None) -> AdapterSelection:
        """Return the set as this TEE has it, also when its adapters have been unloaded since."""
        self._permute_for(selection.members, link)
        return _selection(selection.names, selection.members) if selection.names else selection

    def _find(self, name: str) -> _Loaded:
        loaded = self._loaded.get(name) if isinstance(name, str) else None
        if loaded is None:
            there = ", ".join(self._loaded) or "no adapter is loaded"
            raise InputError(f"unknown adapter {name!a}: {there}")
        return loaded

    def _permute_for(self, members: Sequence[_Loaded], link: TeeLink | None) -> None:
        """Give adapters the permutation of a TEE, or of an epoch, later than their load."""
        for loaded in members:
            if loaded.tensors is not None and loaded.permutation is not _permutation(link):
                loaded.native = self._pack(loaded.tensors, link)
                loaded.permutation = _permutation(link)
                self._selections.clear()

    def _compute_form(self, weights: AdapterWeights) -> dict[str, LowRankTensors]:
        integer = self.config.activations == "int8"
        tensors = {}
        for name, pair in weights.pairs.items():
            try:
                tensors[name] = as_tensors(pair, integer)
            except ModelFormatError as error:
                raise ModelFormatError(f"{name}: {error}") from None
        return tensors

    def _pack(self, tensors: Mapping[str, LowRankTensors], link: TeeLink | None) -> _native.Adapter:
        if self.config.permuted:
            if link is None:
                raise EngineError("an adapter under 'permute' needs a TEE")
            tensors = link.permute_adapter(tensors)
        places = {name: split_name(name) for name in tensors}
        parts = [
            (layer, getattr(_native.Linear, role), tensors[name].rank, tensors[name].integer)
            for name, (layer, role) in places.items()
        ]
        try:
            native = _native.Adapter(self.decoder.config, parts)
            for name, (layer, role) in places.items():
                _fill(native, layer, getattr(_native.Linear, role), tensors[name])
        except ValueError as error:
            raise InputError(str(error)) from None
        except (RuntimeError, MemoryError) as error:
            raise EngineError(f"no room for the adapter: {error}") from None
        return native


def _permutation(link: TeeLink | None) -> object:
    return None if link is None else link.permutation


def _selection(names: tuple[str, ...], members: tuple[_Loaded, ...]) -> AdapterSelection:
    digest = hashlib.sha256(b"".join(loaded.digest for loaded in members)).digest()
    tag = int.from_bytes(digest[:8], "little") or 1
    native = _native.AdapterSet([loaded.native for loaded in members])
    return AdapterSelection(names, tag, native, members)


def _fill(
    native: _native.Adapter, layer: int, linear: _native.Linear, tensors: LowRankTensors
) -> None:
    a, b = tensors.a, tensors.b
    if isinstance(a, Int8Tensor) and isinstance(b, Int8Tensor):
        native.set_int8(layer, linear, a.codes, a.scales, b.codes, b.scales, tensors.scale)
    elif isinstance(a, FloatTensor) and isinstance(b, FloatTensor):
        native.set_float(layer, linear, a.data, b.data, tensors.scale)
    else:
        raise EngineError("an update's A and B are of different kinds")


def _digest(weights: AdapterWeights) -> bytes:
    """SHA-256 over names, shapes, scales and weights."""
    digest = hashlib.sha256()
    for name in sorted(weights.pairs):
        pair = weights.pairs[name]
        digest.update(f"{name} {pair.a.shape} {pair.b.shape} {pair.scale!r}".encode())
        digest.update(np.ascontiguousarray(pair.a, "<f4").tobytes())
        digest.update(np.ascontiguousarray(pair.b, "<f4").tobytes())
    return digest.digest()
