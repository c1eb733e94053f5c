"""Typed look-ups in a model file's metadata."""

import math
from collections.abc import Mapping

import numpy as np

from ptmo_secure.errors import ModelFormatError


class Metadata:
    """Reads single values and says which key of which file is wrong.

    Args:
        values: the metadata of a `GgufFile`.
        source: what error messages call the file.
    """

    def __init__(self, values: Mapping[str, object], source: str) -> None:
        self._values = values
        self._source = source

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def error(self, key: str, problem: str) -> ModelFormatError:
        """Build the error that names this file and this key."""
        return ModelFormatError(f"{self._source}: {key}: {problem}")

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer in low..high; a missing key gives the default or is an error."""
        value = self._values.get(key, default)
        if value is None:
            raise self.error(key, "missing")
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, "not a single integer; such models are not supported")
        if not low <= value <= high:
            raise self.error(key, f"{value} is not in {low}..{high}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Return a finite number in low..high; a missing key gives the default or is an error."""
        value = self._values.get(key, default)
        if value is None:
            raise self.error(key, "missing")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.error(key, "not a number")
        if not math.isfinite(value) or not low <= value <= high:
            raise self.error(key, f"{value} is not in {low}..{high}")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        """Return a boolean, or the default where the key is missing."""
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "not a boolean")
        return value

    def booleans(self, key: str, count: int) -> tuple[bool, ...] | None:
        """Return an array of `count` booleans; None where the key is missing or no array."""
        value = self._values.get(key)
        if not isinstance(value, np.ndarray):
            return None
        if value.dtype != np.bool_ or value.shape != (count,):
            raise self.error(key, f"not an array of {count} booleans")
        return tuple(value.tolist())

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string; a missing key gives the default or is an error."""
        value = self._values.get(key, default)
        if value is None:
            raise self.error(key, "missing")
        if not isinstance(value, str):
            raise self.error(key, "not a string")
        return value

    def texts(self, key: str, default: list[str] | None = None) -> list[str]:
        """Return a list of strings; a missing key gives the default or is an error."""
        value = self._values.get(key, default)
        if value is None:
            raise self.error(key, "missing")
        if isinstance(value, np.ndarray) and value.size == 0:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "not an array of strings")
        return value

    def numbers(self, key: str, count: int, default: float | None = None) -> np.ndarray:
        """Return a float64 array of `count` finite numbers; missing: filled with the default."""
        value = self._values.get(key)
        if value is None:
            if default is None:
                raise self.error(key, "missing")
            return np.full(count, default)
        if not isinstance(value, np.ndarray) or value.dtype == np.bool_ or value.ndim != 1:
            raise self.error(key, "not an array of numbers")
        if value.size != count:
            raise self.error(key, f"has {value.size} entries, not {count}")
        array = value.astype(np.float64)
        if not np.isfinite(array).all():
            raise self.error(key, "holds a number that is not finite")
        return array
