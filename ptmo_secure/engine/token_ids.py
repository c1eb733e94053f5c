"""Lists of token ids, and places in them."""

import operator
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from ptmo_secure.engine.native_setup import cuda_module
from ptmo_secure.errors import InputError, native_error

_DLPACK_CPU = 1  # DLDeviceType kDLCPU


def checked_ids(token_ids: Sequence[int]) -> list[int]:
    """Return the ids as plain ints; the decoder checks them against the vocabulary.

    A tensor that DLPack knows (NumPy, torch, CuPy) is read at once, wherever it is: ids stand in
    the session, on the host.
    """
    if hasattr(token_ids, "__dlpack_device__"):
        token_ids = _tensor_ids(token_ids)
    try:
        ids = [operator.index(t) for t in token_ids if not isinstance(t, bool)]
        if len(ids) != len(token_ids):
            raise TypeError("a bool")
    except TypeError:
        raise InputError("token_ids is not a list of whole numbers") from None
    if not ids:
        raise InputError("no tokens to run")
    for token in ids:
        if not 0 <= token < 1 << 31:
            raise InputError(f"token id {token} is out of range")
    return ids


def _tensor_ids(tensor: Any) -> list[int]:
    try:
        on_host = isinstance(tensor, np.ndarray) or tensor.__dlpack_device__()[0] == _DLPACK_CPU
        ids = np.asarray(tensor) if on_host else cuda_module().read_ids(tensor)
    except (ValueError, TypeError, BufferError) as error:
        raise InputError(f"token_ids: {error}") from None
    except RuntimeError as error:
        raise native_error(error) from None
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"token_ids is a tensor of {ids.dtype} {list(ids.shape)}, not of ids")
    return cast("list[int]", ids.tolist())


def require_prompt(prompt: object) -> None:
    """Raise InputError unless it is text or a list; what is in the list is checked elsewhere."""
    if isinstance(prompt, bytes) or not isinstance(prompt, str | Sequence | np.ndarray):
        raise InputError(f"the prompt {prompt!a:.80} is no text, list of messages or list of ids")


def checked_index(name: str, value: object, high: int) -> int:
    """Return `value` as a plain int; InputError unless it is a whole number in 0..high."""
    try:
        index = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        index = -1
    if not 0 <= index <= high:
        raise InputError(f"{name}={value!r} is not a whole number in 0..{high}")
    return index


def shared_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many ids both begin with."""
    shared = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        shared += 1
    return shared
