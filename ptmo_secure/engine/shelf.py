"""Sessions that a scheduler keeps between requests, so that a conversation's next turn reuses them.

Kept rows are a cache: a request gives the whole conversation, and what of it is kept under the
request's name need not be computed again. Whatever cannot be kept, saved or opened again is
computed anew, and counted.
"""

import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path

from ptmo_secure.engine.adapter_store import AdapterSelection
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.session import Session
from ptmo_secure.errors import InputError, PtmoError, SecurityError, TeeDiedError

_NAME = re.compile(r"[0-9a-f]{16,64}")
_SUFFIX = ".session"


class SessionShelf:
    """Kept sessions by name, the least recently used first. Thread-safe.

    Args:
        engine: whose sessions they are.
        keep: how many stay in memory, >= 0; each holds KV pages and a key slot.
        folder: where those that leave memory are saved; it is made if it is not there. None: they
            are dropped. With `EngineConfig.tee_state` they open again after a restart.
        keep_files: how many files stay in the folder, the newest.

    Attributes:
        counts: "reused", "resumed", "saved", "dropped", "refused" so far.

    Security: a session serves its name alone. In memory it is as protected as any open session; in
    its file it is sealed (`saved_session`), and one that was changed, rolled back or put in
    another's place is refused, counted, and its rows are computed anew. A file moved to a name
    that never had one opens there, and then serves only a prompt that starts with all of its own.
    """

    def __init__(
        self, engine: Engine, keep: int = 16, folder: Path | None = None, keep_files: int = 256
    ) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
            raise InputError(f"keep={keep!r} is not a whole number >= 0")
        if folder is not None:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{folder}: {error.strerror}") from None
        self._engine, self._keep, self._folder, self._keep_files = engine, keep, folder, keep_files
        self._idle: OrderedDict[str, Session] = OrderedDict()
        self._taken: set[str] = set()
        self._lock = threading.RLock()  # taken after the engine's, never before
        self.counts: Counter[str] = Counter()
        self._sweep()

    def __len__(self) -> int:
        """Number of idle sessions in memory."""
        return len(self._idle)

    @staticmethod
    def check_name(name: str) -> str:
        """Return the name if it is 16 to 64 hex digits; InputError otherwise."""
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise InputError("a kept session's name is 16 to 64 lower-case hex digits")
        return name

    def take(
        self, name: str, ids: Sequence[int], adapters: AdapterSelection
    ) -> tuple[bool, Session | None]:
        """Take what is kept under a name, cut back to the rows that `ids` starts with.

        Returns:
            Whether the name is now the caller's, to `give_back` or `release`; and the session, None
            where there is none to go on with. A name that another request holds is not given out.

        Raises:
            TeeDiedError: the TEE is gone.
        """
        with self._engine.sessions.lock, self._lock:
            if name in self._taken:
                return False, None
            session = self._idle.pop(name, None)
            if session is None or session.closed:
                session = self._resume(name, adapters)
            going_on = None if session is None else session.continued_by(ids[:-1], adapters)
            if going_on is not None:
                self.counts["reused"] += 1
            elif session is not None:  # another conversation
                session.close_family()
            self._taken.add(name)  # last: what raises before takes nothing
            return True, going_on

    def give_back(self, name: str, session: Session) -> None:
        """Keep a session under its name; the least recently used gives way."""
        with self._engine.sessions.lock, self._lock:
            self._taken.discard(name)
            if not session.closed:
                self._idle[name] = session
            while len(self._idle) > self._keep:
                self.reclaim()

    def release(self, name: str) -> None:
        """Give a name back without a session."""
        with self._lock:
            self._taken.discard(name)

    def reclaim(self) -> bool:
        """Take the least recently used session out of memory; False if there is none."""
        with self._engine.sessions.lock, self._lock:
            if not self._idle:
                return False
            name, session = self._idle.popitem(last=False)
            self._put_away(name, session)
            return True

    def save_all(self) -> int:
        """Take every idle session out of memory, into files where there is a folder.

        Returns:
            How many were saved.
        """
        before = self.counts["saved"]
        while self.reclaim():
            pass
        self._sweep()
        return self.counts["saved"] - before

    def forget(self, name: str) -> None:
        """Drop what is kept under a name, its file too."""
        with self._engine.sessions.lock, self._lock:
            session = self._idle.pop(name, None)
            if session is not None:
                session.close_family()
            path = self._path(name)
            if path is not None:
                path.unlink(missing_ok=True)

    # What follows serves the calls above; each runs with both locks held.

    def _put_away(self, name: str, session: Session) -> None:
        path = self._path(name)
        saved = False
        if path is not None and not session.closed:
            try:
                session.save(path)
                saved = True
            except (PtmoError, OSError):
                path.unlink(missing_ok=True)  # an older version is of an earlier turn
        self.counts["saved" if saved else "dropped"] += 1
        session.close_family()

    def _resume(self, name: str, adapters: AdapterSelection) -> Session | None:
        path = self._path(name)
        if path is None or not path.exists():
            return None
        pool, session = self._engine.sessions, None
        try:
            saved = pool.saved_session(path, self._engine.context_tokens)
            session = pool.open(adapters)
            session.load(saved)
        except TeeDiedError:
            raise
        except (PtmoError, OSError) as error:
            if session is not None:
                session.close()
            self.counts["refused" if isinstance(error, SecurityError) else "dropped"] += 1
            return None
        self.counts["resumed"] += 1
        return session

    def _path(self, name: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{name}{_SUFFIX}"

    def _sweep(self) -> None:
        """Remove the oldest files beyond the limit."""
        if self._folder is None:
            return
        files = sorted(self._folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime)
        for path in files[: max(0, len(files) - self._keep_files)]:
            path.unlink(missing_ok=True)
