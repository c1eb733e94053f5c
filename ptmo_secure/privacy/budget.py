"""How much may be disclosed: epsilon per user and per session over a sliding window.

Composition of costs ``e_1 .. e_k`` in the window:

    basic     sum e_i                                                  (Dwork et al., 2006)
    advanced  sqrt(2 ln(1/delta) sum e_i^2) + sum e_i (exp(e_i) - 1) / (exp(e_i) + 1)
              (Dwork, Rothblum and Vadhan, 2010; this form: Kairouz, Oh and Viswanath, 2015)

The smaller one is what counts as spent: few large costs add up by the first, many small ones by the
second. The costs are DP-style figures of `risk`; this is accounting, not a guarantee.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ptmo_secure.errors import InputError, PtmoError
from ptmo_secure.privacy.budget_state import BudgetState, MemoryState, Spend, decode, encode

MAX_SPENDS = 4096  # per user; beyond it the oldest two are counted as one, at their sum
_MAX_NAME_CHARS = 128


class BudgetSpentError(PtmoError):
    """A disclosure would cost more than is left."""


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """How much may be spent.

    Args:
        user_epsilon: by one user within the window, > 0.
        session_epsilon: by one session of a user within the window, > 0.
        window_s: length of the window in seconds, > 0.
        delta: of advanced composition, in (0, 1).
    """

    user_epsilon: float = 5.0
    session_epsilon: float = 2.0
    window_s: float = 86_400.0
    delta: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("user_epsilon", "session_epsilon", "window_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value}; it must be above 0")
        if not 0 < self.delta < 1:
            raise InputError(f"delta is {self.delta}; it must be between 0 and 1")


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """Where a user's budget stands.

    Args:
        user: whose.
        spent, limit: epsilon within the window, and how much there may be.
        basic, advanced: what the two compositions come to; `spent` is the smaller.
        spends: disclosures counted.
        sessions: epsilon spent by each session within the window.
    """

    user: str
    spent: float
    limit: float
    basic: float
    advanced: float
    spends: int
    sessions: dict[str, float]

    @property
    def left(self) -> float:
        """Epsilon that may still be spent."""
        return max(0.0, self.limit - self.spent)

    def as_json(self) -> dict[str, object]:
        """The object that `ptmo privacy status --json` prints for a user."""
        return {
            "user": self.user,
            "spent_epsilon": round(self.spent, 6),
            "left_epsilon": round(self.left, 6),
            "limit_epsilon": self.limit,
            "basic_epsilon": round(self.basic, 6),
            "advanced_epsilon": round(self.advanced, 6),
            "spends": self.spends,
            "sessions": {name: round(spent, 6) for name, spent in self.sessions.items()},
        }


def compose_basic(costs: Iterable[float]) -> float:
    """Return ``sum e_i``."""
    return math.fsum(costs)


def compose_advanced(costs: Iterable[float], delta: float) -> float:
    """Return ``sqrt(2 ln(1/delta) sum e_i^2) + sum e_i tanh(e_i / 2)``.

    Args:
        costs: each >= 0.
        delta: in (0, 1).
    """
    each = list(costs)
    squares = math.fsum(cost * cost for cost in each)
    drift = math.fsum(cost * math.tanh(cost / 2) for cost in each)
    return math.sqrt(2 * math.log(1 / delta) * squares) + drift


def compose(costs: Iterable[float], delta: float) -> float:
    """Return the smaller of both compositions."""
    each = list(costs)
    return min(compose_basic(each), compose_advanced(each, delta))


class PrivacyBudget:
    """Counts what users disclose, and refuses what would pass a limit. Thread-safe.

    Every method reads the state and, when it changes, stores it before it returns. State that
    cannot be read or stored is an error and no empty budget.

    Args:
        limits: how much may be spent.
        state: where it is kept; None: in this object alone.
        clock: seconds since the epoch. Time never goes back: a clock that is put back stands still
            until it has caught up. One that is put forward lets spends leave the window early:
            there is no trusted clock.

    Security: state holds names of users and sessions, times and costs; no text.
    """

    def __init__(
        self,
        limits: BudgetLimits | None = None,
        state: BudgetState | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.limits = limits or BudgetLimits()
        self._state = state or MemoryState()
        self._clock = clock
        self._lock = threading.Lock()

    def spend(self, user: str, session: str, cost: float) -> BudgetStatus:
        """Count a disclosure, if both limits allow it.

        Args:
            user, session: up to 128 characters each.
            cost: epsilon, >= 0 and finite.

        Returns:
            Where the budget stands after it.

        Raises:
            BudgetSpentError: it would pass a limit; nothing was counted.
            InputError: a bad name or cost.
            SecurityError: the state was tampered with.
            EngineError: it cannot be read or stored.
        """
        check_names(user, session)
        if not (isinstance(cost, (int, float)) and math.isfinite(cost) and cost >= 0):
            raise InputError(f"cost {cost!a} is not a finite number of 0 or more")
        with self._lock:
            now, users = self._load()
            spends = [*self._in_window(users.get(user, ()), now), Spend(now, session, cost)]
            if len(spends) > MAX_SPENDS:
                spends = _merged(spends)
            status = self._status(user, spends)
            over_session = status.sessions[session] > self.limits.session_epsilon
            if status.spent > self.limits.user_epsilon or over_session:
                whose = "session" if over_session else "user"
                raise BudgetSpentError(f"the privacy budget of this {whose} is spent")
            self._save(now, {**users, user: tuple(spends)})
            return status

    def give_back(self, user: str, session: str, charged: float, unspent: float) -> None:
        """Take back a spend, or a part of it, for what certainly was not disclosed.

        Args:
            user, session: as in `spend`.
            charged: the cost that was counted. One that cannot be found any more, since it was
                counted together with others, stays.
            unspent: how much of it, at most all.

        Raises:
            InputError, SecurityError, EngineError: as `spend`.
        """
        check_names(user, session)
        if not 0 <= unspent <= charged:
            raise InputError(f"unspent {unspent!a} is not within what was charged")
        with self._lock:
            now, users = self._load()
            spends = list(users.get(user, ()))
            for index in reversed(range(len(spends))):
                spend = spends[index]
                if (spend.session, spend.cost) == (session, charged):
                    rest = [replace(spend, cost=charged - unspent)] if unspent < charged else []
                    spends[index : index + 1] = rest
                    self._save(now, {**users, user: tuple(spends)})
                    return

    def status(self, user: str) -> BudgetStatus:
        """Return where a user's budget stands now.

        Raises:
            InputError, SecurityError, EngineError: as `spend`.
        """
        check_names(user)
        with self._lock:
            now, users = self._load()
            return self._status(user, self._in_window(users.get(user, ()), now))

    def users(self) -> list[str]:
        """Return the users of whom anything is counted, sorted."""
        with self._lock:
            now, users = self._load()
            return sorted(u for u, spends in users.items() if self._in_window(spends, now))

    def reset(self, user: str | None = None) -> None:
        """Forget what a user spent, or all users; all also mends a state that was damaged.

        The owner of the device may do this; a budget protects from programs and habits, not from
        its owner.

        Raises:
            InputError, SecurityError, EngineError: as `spend`.
        """
        if user is not None:
            check_names(user)
        with self._lock:
            if user is None:
                self._save(self._clock(), {})
                return
            now, users = self._load()
            self._save(now, {name: spends for name, spends in users.items() if name != user})

    def close(self) -> None:
        """Let go of the state. Idempotent."""
        self._state.close()

    def _load(self) -> tuple[float, dict[str, tuple[Spend, ...]]]:
        """Return the time, which never goes back, and all spends."""
        data = self._state.load()
        if data is None:
            return self._clock(), {}
        latest, users = decode(data)
        return max(self._clock(), latest), users

    def _save(self, now: float, users: dict[str, tuple[Spend, ...]]) -> None:
        kept = {user: self._in_window(spends, now) for user, spends in users.items()}
        self._state.save(encode(now, {user: spends for user, spends in kept.items() if spends}))

    def _in_window(self, spends: Iterable[Spend], now: float) -> tuple[Spend, ...]:
        return tuple(spend for spend in spends if spend.time > now - self.limits.window_s)

    def _status(self, user: str, spends: Iterable[Spend]) -> BudgetStatus:
        by_session: dict[str, list[float]] = {}
        each = []
        for spend in spends:
            each.append(spend.cost)
            by_session.setdefault(spend.session, []).append(spend.cost)
        delta = self.limits.delta
        return BudgetStatus(
            user,
            compose(each, delta),
            self.limits.user_epsilon,
            compose_basic(each),
            compose_advanced(each, delta),
            len(each),
            {name: compose(costs, delta) for name, costs in sorted(by_session.items())},
        )


def _merged(spends: list[Spend]) -> list[Spend]:
    """Count the two oldest spends of one session as one, as late as the later: never less."""
    for index, first in enumerate(spends):
        for other in range(index + 1, len(spends)):
            if spends[other].session == first.session:
                later = spends[other]
                joined = Spend(later.time, first.session, first.cost + later.cost)
                return [*spends[:index], *spends[index + 1 : other], joined, *spends[other + 1 :]]
    raise BudgetSpentError(f"more than {MAX_SPENDS} sessions spent within the window")


def check_names(user: str, session: str = "-") -> None:
    """Refuse names that no budget is kept under.

    Raises:
        InputError: one is no string of 1 to 128 characters, or not valid UTF-8.
    """
    for what, name in (("user", user), ("session", session)):
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS:
            raise InputError(f"{what}: a name of 1 to {_MAX_NAME_CHARS} characters is needed")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"the {what} is not valid UTF-8") from None
