"""Lists of token ids, and places in them."""

import operator
from collections.abc import Sequence

import numpy as np

from ptmo_secure.errors import InputError


def checked_ids(token_ids: Sequence[int]) -> list[int]:
    """Return the ids as plain ints; the decoder checks them against the vocabulary."""
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
