"""How sensitive a text is: the guard's verdict, or the worst one when there is none.

from ptmo_secure import SensitivityClassifier

with SensitivityClassifier() as classifier:
    found = classifier.classify("My password is secret123. What is Python?")
    print(found.level.name, found.score)  # SEMI_SENSITIVE 0.75
"""

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ptmo_secure.errors import InputError
from ptmo_secure.privacy.calibration import NOT_PUBLIC
from ptmo_secure.types import Level, PrivateSpan, Sensitivity

if TYPE_CHECKING:
    from tee_sim.client import Masked, ScanResult


class Guard(Protocol):
    """The PII guard as the host uses it; a `TeeClient` in the guard role is one."""

    def scan(self, text: str) -> "ScanResult": ...
    def close(self) -> None: ...


class SensitivityClassifier:
    """Rates texts by the PII guard, in a process of its own; thread-safe; a context manager.

    The guard starts at the first text. It ends with `close`, with the `with` block, or with the
    object.

    Args:
        guard: one that runs already and stays the caller's; None starts one.
        launch_guard: how to start one.

    Security: the text reaches the guard process alone. Nothing widens what may leave the device:
    whatever goes wrong gives PRIVATE with score 1.
    """

    def __init__(
        self, guard: Guard | None = None, *, launch_guard: Callable[[], Guard] | None = None
    ) -> None:
        self._lent = guard is not None
        self._launch = launch_guard or _launch_guard
        self._lock = threading.Lock()
        self._held = _Held(guard)
        if not self._lent:
            weakref.finalize(self, self._held.close)

    def classify(self, text: str) -> Sensitivity:
        """Rate a text: PUBLIC, SEMI_SENSITIVE or PRIVATE, a score, and why.

        Score: ``max(1 - prod(1 - severity), floors)`` over what is private; docs/privacy.md has the
        severities, and how the level follows.

        Args:
            text: any string. More than 256 KiB of UTF-8, and a lone surrogate, are refused by the
                guard, which makes them PRIVATE.

        Returns:
            The verdict. When the guard cannot be started, refuses, dies or does not answer in
            time: PRIVATE, score 1, and `error` names the kind of failure. The next text gets a
            new guard, unless the guard is the caller's.

        Raises:
            InputError: `text` is no string.
        """
        if not isinstance(text, str):
            raise InputError(f"text is {type(text).__name__}, not a string")
        try:
            guard = self._guard()
            try:
                return verdict(guard.scan(text))
            except Exception:
                self._drop(guard)
                raise
        except Exception as failure:  # fail closed, whatever it was
            return Sensitivity(
                Level.PRIVATE, 1.0, reason="guard_failed", error=type(failure).__name__
            )

    def _guard(self) -> Guard:
        with self._lock:
            if self._held.guard is None:
                self._held.guard = self._launch()
            return self._held.guard

    def _drop(self, failed: Guard) -> None:
        """Let go of a guard that failed, so that the next text gets another."""
        with self._lock:
            if not self._lent and self._held.guard is failed:
                self._held.close()

    def close(self) -> None:
        """End the guard that this object started; the next text would start another. Idempotent."""
        with self._lock:
            if not self._lent:
                self._held.close()

    def __enter__(self) -> "SensitivityClassifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Held:
    """The guard of a classifier, apart from it so that it can end after it."""

    def __init__(self, guard: Guard | None) -> None:
        self.guard = guard

    def close(self) -> None:
        guard, self.guard = self.guard, None
        if guard is not None:
            guard.close()


def verdict(result: "ScanResult | Masked") -> Sensitivity:
    """Return what the guard found, as the host's own value.

    Raises:
        KeyError: the guard named no level there is.
    """
    spans = tuple(PrivateSpan(s.start, s.end, s.kind, s.severity, s.source) for s in result.spans)
    score = float(result.score)
    return Sensitivity(
        Level[result.level],
        score,
        spans,
        topics=result.topics,
        reason=result.reason,
        probability=NOT_PUBLIC(score),
        refers_back=result.refers_back,
    )


def _launch_guard() -> Guard:
    from tee_sim.client import TeeClient

    return TeeClient.launch("guard", poll_us=0)
