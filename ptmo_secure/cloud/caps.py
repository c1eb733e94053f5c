"""Caps on what cloud calls may cost: dollars, seconds and joules, per request, day and month.

A call reserves the most it can cost before it is made and settles what it did cost afterwards. What
was reserved and never settled (the program died) stays spent. The state is one JSON file:

    {"version": 1, "latest": s, "limits": {"day": {"usd": 1.0}}, "days": {"2026-04-01":
     [usd, seconds, joules, calls]}, "months": {"2026-04": [...]}}

Days and months are UTC. Time never goes back: with a clock that was put back, the latest day
counts.
"""

import fcntl
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from ptmo_secure.cloud.pricing import DIMENSIONS, Cost
from ptmo_secure.errors import EngineError, InputError, SecurityError, SpendCapError

SCOPES = ("request", "day", "month")
_VERSION = 1
_MAX_FILE_BYTES = 1 << 20
_KEPT_DAYS, _KEPT_MONTHS = 62, 24
_SLACK = 1e-9  # of sums of floats
Limits = Mapping[str, Mapping[str, float]]


@dataclass(slots=True)
class _Book:
    """The state as it is read, changed and stored."""

    latest: float = 0.0
    limits: dict[str, dict[str, float]] = field(default_factory=dict)
    days: dict[str, list[float]] = field(default_factory=dict)
    months: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a call was allowed to cost; made by `SpendCaps.reserve`.

    Args:
        cost: at most.
        day, month: in which it counts, whenever it is settled.
    """

    cost: Cost
    day: str
    month: str


class SpendCaps:
    """Counts costs, and refuses calls that could pass a cap. Thread-safe, also between programs.

    Args:
        path: of the state file, whose folder is made; None: kept in this object alone.
        clock: seconds since the epoch.

    Every method raises `EngineError` when the file cannot be read or stored, and `SecurityError`
    when it holds no caps: an unreadable file is no empty one, and nothing is spent on it.

    Security: the file is its owner's; whoever can write it can raise the caps, and whoever removes
    it takes them away: a device without the file has no caps.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._lock = threading.Lock()
        self._book = _Book()

    def limits(self) -> Limits:
        """Return the caps in force: {scope: {dimension: most}}."""
        with self._opened() as (book, _):
            return {scope: dict(row) for scope, row in book.limits.items()}

    def set_limit(self, scope: str, dimension: str, most: float | None) -> None:
        """Change a cap from the next call on; what runs already was reserved under the old one.

        Args:
            scope: "request", "day" or "month".
            dimension: "usd", "seconds" or "joules".
            most: 0 or more; None takes the cap away.

        Raises:
            InputError: an unknown name, or no such number.
        """
        if scope not in SCOPES or dimension not in DIMENSIONS:
            raise InputError(
                f"cap {scope!a} {dimension!a}: choose from {', '.join(SCOPES)} and "
                f"{', '.join(DIMENSIONS)}"
            )
        is_number = isinstance(most, (int, float)) and not isinstance(most, bool)
        if most is not None and not (is_number and math.isfinite(most) and most >= 0):
            raise InputError(f"a cap of {most!a} {dimension} makes no sense")
        with self._opened() as (book, save):
            row = book.limits.setdefault(scope, {})
            row.pop(dimension, None)
            if most is not None:
                row[dimension] = float(most)
            save()

    def reserve(self, cost: Cost) -> Reservation:
        """Count a call that is about to be made, at the most it can cost.

        Raises:
            SpendCapError: it could pass a cap; nothing was counted.
        """
        with self._opened() as (book, save):
            now, day, spent = self._spent(book)
            for scope, row in book.limits.items():
                for index, dimension in enumerate(DIMENSIONS):
                    would = spent[scope][index] + getattr(cost, dimension)
                    if would > row.get(dimension, math.inf) + _SLACK:
                        raise SpendCapError(
                            f"the cap of {row[dimension]:g} {dimension} a {scope} could be passed"
                        )
            for scope in ("day", "month"):
                _add(spent[scope], cost, 1)
                spent[scope][3] += 1
            book.latest = now
            save()
            return Reservation(cost, day, day[:7])

    def most_seconds(self, watts: float) -> float:
        """Return the longest call that the caps on seconds and joules leave room for; inf: no cap.

        Args:
            watts: of the device while it waits.
        """
        with self._opened() as (book, _):
            _, _, spent = self._spent(book)
            left = [
                (row[name] - spent[scope][DIMENSIONS.index(name)]) / rate
                for scope, row in book.limits.items()
                for name, rate in (("seconds", 1.0), ("joules", watts))
                if name in row and rate > 0
            ]
            return min(left, default=math.inf)

    def settle(self, reservation: Reservation, cost: Cost) -> None:
        """Put what a call did cost in the place of what was reserved for it. Once each.

        Args:
            reservation: of `reserve`.
            cost: actual; `Cost()` for a call that was never sent.
        """
        with self._opened() as (book, save):
            for rows, name in ((book.days, reservation.day), (book.months, reservation.month)):
                row = rows.setdefault(name, [0.0] * 4)
                _add(row, reservation.cost, -1)
                _add(row, cost, 1)
            save()

    def status(self) -> dict[str, object]:
        """Return caps, and what was spent today and this month, as a JSON object."""
        with self._opened() as (book, _):
            now = max(self._clock(), book.latest)
            day = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%d")
            return {
                "limits": {scope: dict(row) for scope, row in book.limits.items()},
                "day": {"date": day, **_named(book.days.get(day))},
                "month": {"date": day[:7], **_named(book.months.get(day[:7]))},
            }

    def _spent(self, book: _Book) -> tuple[float, str, dict[str, list[float]]]:
        """Return now, the day, and the rows of a book that count for a call of now."""
        now = max(self._clock(), book.latest)
        day = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%d")
        rows = {
            "request": [0.0] * 4,
            "day": book.days.setdefault(day, [0.0] * 4),
            "month": book.months.setdefault(day[:7], [0.0] * 4),
        }
        return now, day, rows

    @contextmanager
    def _opened(self) -> Iterator[tuple[_Book, Callable[[], None]]]:
        """Yield the newest state and what stores it, for nobody else meanwhile."""
        with self._lock:
            if self._path is None:
                yield self._book, lambda: None
                return
            path = self._path
            with _locked(path):
                book = _read(path)
                yield book, lambda: _store(path, book)


def _add(row: list[float], cost: Cost, sign: int) -> None:
    for index, dimension in enumerate(DIMENSIONS):
        row[index] = max(0.0, row[index] + sign * getattr(cost, dimension))


def _named(row: list[float] | None) -> dict[str, float]:
    values = row or [0.0] * 4
    return {
        name: round(value, 9) for name, value in zip((*DIMENSIONS, "calls"), values, strict=True)
    }


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file beside the state: the state itself is replaced, so it cannot be locked."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(path: Path) -> _Book:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return _Book()
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from None
    try:
        state = json.loads(data)
        if state["version"] != _VERSION or len(data) > _MAX_FILE_BYTES:
            raise ValueError
        limits = {
            scope: {name: _number(row[name]) for name in DIMENSIONS if name in row}
            for scope, row in state["limits"].items()
            if SCOPES.index(scope) >= 0
        }
        days, months = (
            {name: [_number(value) for value in row] for name, row in state[rows].items()}
            for rows in ("days", "months")
        )
        if any(len(row) != 4 for row in (*days.values(), *months.values())):
            raise ValueError
        return _Book(_number(state["latest"]), limits, days, months)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SecurityError(f"{path}: holds no caps: mend or remove it") from None


def _store(path: Path, book: _Book) -> None:
    state = {
        "version": _VERSION,
        "latest": book.latest,
        "limits": book.limits,
        "days": {day: book.days[day] for day in sorted(book.days)[-_KEPT_DAYS:]},
        "months": {month: book.months[month] for month in sorted(book.months)[-_KEPT_MONTHS:]},
    }
    name = None
    try:
        with tempfile.NamedTemporaryFile(
            "wb", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            name = file.name
            file.write(json.dumps(state).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if name is not None:
            with suppress(OSError):
                os.unlink(name)
        raise EngineError(f"{path}: {error.strerror}") from None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    if not (math.isfinite(value) and value >= 0):
        raise ValueError
    return float(value)
