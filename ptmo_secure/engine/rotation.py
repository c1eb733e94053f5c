"""Rotation of seal keys: when one has served, and how the next takes its place.

The TEE is passive, so the policy is the engine's. It is applied before a forward pass and never
within one: an idle session keeps its key until its next pass, or until `Engine.rotate`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.errors import EngineError, InputError

if TYPE_CHECKING:
    from ptmo_secure.engine.session import Session


@dataclass(slots=True)
class Family:
    """A session and its forks, and what they know of the key they share."""

    members: "list[Session]" = field(default_factory=list)
    tee_handle: int | None = None
    drawn: float = 0.0  # when the key was, by the policy's clock
    written: int = 0  # token rows since; those that a rotation writes anew do not count


@dataclass(slots=True)
class Rotation:
    """When seal keys are due, and how many were replaced.

    Attributes:
        after_tokens: token rows that a key seals at most, unless one pass alone has more.
        after_seconds: age at which a key is due.
        clock: seconds, monotonic.
        seal_keys, permutations: what was replaced so far.
    """

    after_tokens: int | None = None
    after_seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    seal_keys: int = 0
    permutations: int = 0

    @classmethod
    def of(cls, config: EngineConfig) -> "Rotation":
        """Return what a config asks for."""
        return cls(config.rotate_after_tokens, config.rotate_after_seconds)

    def counts(self) -> dict[str, int]:
        """Return what was replaced so far, for `Engine.stats`."""
        return {
            "seal_keys_rotated": self.seal_keys,
            "permutations_rotated": self.permutations,
        }

    def is_due(self, family: Family, rows: int) -> bool:
        """Whether a key must be replaced before so many rows are written."""
        if self.after_tokens is not None and 0 < family.written > self.after_tokens - rows:
            return True
        age = self.after_seconds
        return age is not None and self.clock() - family.drawn >= age


def replace_due_keys(feeds: "Sequence[tuple[Session, int]]") -> None:
    """Rotate the keys that are due before so many rows are written.

    Args:
        feeds: (session, rows) pairs of one pass, no session twice.

    Raises:
        CapacityError: a key is due and every key slot is in use; no row is lost.
        EngineError: as `rotate_key`.
    """
    families: dict[int, tuple[Session, int]] = {}
    for session, rows in feeds:
        known = families.get(id(session._family), (session, 0))[1]
        families[id(session._family)] = session, known + rows
    for session, rows in families.values():
        if session._host.sealed and session._host.rotation.is_due(session._family, rows):
            rotate_key(session)


def count_rows(feeds: "Sequence[tuple[Session, int]]") -> None:
    """Note rows that are about to be written, under keys that may be; see `replace_due_keys`."""
    replace_due_keys(feeds)
    for session, rows in feeds:
        session._family.written += rows


def rotate_key(session: "Session") -> None:
    """Put a session's rows, and its forks', under the next seal key: one crossing.

    Raises:
        InputError: the shield has no seal key.
        CapacityError: every key slot is in use; the key stays.
        TeeDiedError: the TEE is gone; the family is closed and wiped.
        EngineError: the TEE refuses, and the key stays; or a CUDA device failed, and the family is
            closed and wiped.
    """
    family, tee, rotation = session._family, session._tee, session._host.rotation
    if tee is None or family.tee_handle is None:
        raise InputError("this shield has no seal key to rotate: 'seal' and 'permute+seal' do")
    try:
        tee.next_key(session._native, family.tee_handle)
    except EngineError:
        if session.closed or not tee.alive():
            session.close_family()
        raise
    family.drawn, family.written = rotation.clock(), 0
    rotation.seal_keys += 1
