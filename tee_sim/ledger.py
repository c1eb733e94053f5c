"""What the host asked of a TEE: crossings and bytes, per session and command.

The ledger counts and prices nothing: a price is linear in the counts, so one run can be read under
any figures afterwards (`CostModel` in `ptmo_secure.tee_cost`). It stands in the normal world, where
every count of it is known anyway.
"""

import operator
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field

from tee_sim.protocol import APPLICATIONS, Kind, Values, referenced_bytes

# Looking a member up in its enumeration takes longer than comparing it.
_INVOKE, _REGISTER = int(Kind.INVOKE), int(Kind.REGISTER_MEMORY)


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls on a TEE moved. Two of them can be added, and subtracted: after minus before."""

    crossings: int = 0  # commands sent; each is one way into the TEE and back
    bytes_in: int = 0  # in registered memory, named by commands for the TEE to copy in
    bytes_out: int = 0  # the same, for the TEE to write
    registrations: int = 0  # buffers mapped; not crossings
    registered_bytes: int = 0
    # Waited for replies to commands, on this machine and without injected time; not compared.
    wall_ms: float = field(default=0.0, compare=False)

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(*map(operator.sub, astuple(self), astuple(other)))


Price = Callable[[Usage], float]  # simulated milliseconds


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What one command of one session came to."""

    session: int
    application: str
    command: str
    usage: Usage


class _Count:
    """The running counts of one command of one session."""

    __slots__ = ("bytes_in", "bytes_out", "command", "crossings", "wall_ns")

    def __init__(self, command: int) -> None:
        self.command = command
        self.crossings = self.bytes_in = self.bytes_out = self.wall_ns = 0


class CostLedger:
    """Counts of one TEE process, or of several that took each other's place.

    Not thread-safe by itself: the channel holds its lock while it writes here.

    Security: sizes, command names and session numbers; no content.
    """

    def __init__(self) -> None:
        self._counts: dict[int, _Count] = {}  # by session << 32 | command
        self._applications: dict[int, str] = {}
        self._memory = Usage()
        self._price: Price | None = None
        self._waiting: _Count | None = None  # for the reply to a command
        self.owed_ms = 0.0  # of the request under way
        self.injected_ms = 0.0

    @property
    def crossings(self) -> int:
        """Commands sent so far."""
        return sum(count.crossings for count in list(self._counts.values()))

    def usage(self) -> Usage:
        """Return the sum over everything so far."""
        return sum((row.usage for row in self.rows()), self._memory)

    def rows(self) -> tuple[LedgerRow, ...]:
        """Return one row per session and command, in the order they were first used."""
        return tuple(
            LedgerRow(
                key >> 32,
                self._applications.get(key >> 32, "unknown"),
                getattr(count.command, "name", str(count.command)),
                Usage(
                    count.crossings, count.bytes_in, count.bytes_out, wall_ms=count.wall_ns / 1e6
                ),
            )
            for key, count in list(self._counts.items())
        )

    def inject(self, price: Price | None) -> None:
        """From now on spend the simulated time of every call, on top of the call's own.

        Args:
            price: simulated milliseconds of one call's usage; None spends nothing again.
        """
        self._price = price

    def opened(self, session: int, uuid: tuple[int, int]) -> None:
        """Take down which application a session belongs to."""
        self._applications[session] = APPLICATIONS.get(uuid, "unknown")

    def sent(self, kind: Kind, session: int, command: int, types: int, values: Values) -> None:
        """Count a request. Called between sending it and waiting, while the TEE is at work."""
        if kind == _INVOKE:
            key = session << 32 | command
            count = self._counts.get(key)
            if count is None:
                count = self._counts[key] = _Count(command)
            self._waiting = count
            bytes_in, bytes_out = referenced_bytes(types, values)
            count.crossings += 1
            count.bytes_in += bytes_in
            count.bytes_out += bytes_out
            if self._price is not None:
                self.owed_ms = self._price(Usage(1, bytes_in, bytes_out))
        elif kind == _REGISTER:
            mapped = Usage(registrations=1, registered_bytes=values[0])
            self._memory += mapped
            if self._price is not None:
                self.owed_ms = self._price(mapped)

    def answered(self, started_ns: int) -> None:
        """Take down how long the reply took, and spend what the request owes.

        Args:
            started_ns: `time.perf_counter_ns` before it was sent.
        """
        if self._waiting is not None:
            self._waiting.wall_ns += time.perf_counter_ns() - started_ns
            self._waiting = None
        if self.owed_ms:
            self._settle()

    def _settle(self) -> None:
        """Spin, never sleep.

        A sleep of 25 us takes three times as long, and a call into a real TEE keeps its core busy
        as well.
        """
        start = time.perf_counter_ns()
        end = start + self.owed_ms * 1e6
        self.owed_ms = 0.0
        while time.perf_counter_ns() < end:
            pass
        self.injected_ms += (time.perf_counter_ns() - start) / 1e6
