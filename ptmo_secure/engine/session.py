"""One conversation's rows in the KV cache."""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptmo_secure import _native
from ptmo_secure.engine import saved_session
from ptmo_secure.engine.adapter_store import NO_ADAPTERS, AdapterSelection
from ptmo_secure.engine.feed import compute_rows, feed_batch, require_open
from ptmo_secure.engine.native_setup import NativeDecoder
from ptmo_secure.engine.owner import OwnedLock
from ptmo_secure.engine.rotation import Family, Rotation, replace_due_keys, rotate_key
from ptmo_secure.engine.saved_session import Rows, SavedSession, SavedShape
from ptmo_secure.engine.tee_link import TeeLink, tee_failure
from ptmo_secure.engine.token_ids import checked_index, shared_prefix
from ptmo_secure.errors import CapacityError, EngineError, InputError, native_error
from tee_sim.client import TeeError

NO_STORAGE_KEY = "shield 'none' has no TEE, and so no key to save a session under: use 'seal'"


@dataclass(frozen=True, slots=True)
class SessionHost:
    """What an engine gives its sessions to stand on."""

    decoder: NativeDecoder
    pages: _native.PageArena
    layout: _native.PageLayout
    tee: TeeLink | None
    sealed: bool
    rotation: Rotation
    owner: OwnedLock  # its lock is the engine's: it serialises everything native
    new_id: Callable[[], int]
    shape: Callable[[], SavedShape]  # reads the model file the first time
    select_adapters: Callable[[Sequence[str]], AdapterSelection]
    engine_closed: Callable[[], bool]


class Session:
    """Token rows in KV pages, with the ids they stand for.

    Rows are fed in order and may be cut back (`truncate`), so that a conversation's next turn
    reuses the rows it shares with the last. A `fork` shares the rows there are. Closing frees and
    zeroes the pages no fork uses; the last of a family wipes the key.

    Thread-safe: calls wait for each other, and a close waits for the forward pass under way.

    Security: with a TEE behind it, a session stops and wipes itself, and its forks, as soon as the
    TEE is gone.
    """

    def __init__(self, host: SessionHost, origin: "Session | None" = None) -> None:
        """Open an empty session, or one over the rows of `origin`: use `fork`."""
        self._host = host
        self._tee = host.tee
        self._native: _native.KvSession
        self._family: Family
        self.tokens: list[int] = []
        self.row_tags: list[int] = []  # of each row: the tag of the adapters it was computed under
        self.prompt_tokens = 0  # rows of the last prompt: what a continuation must share
        self._adapters = NO_ADAPTERS
        if origin is not None:
            self.row_tags.extend(origin.row_tags)
            self._adapters = origin._adapters
            self._native = origin._native.fork(host.new_id())
            self._family = origin._family
            self.tokens.extend(origin.tokens)
            self.prompt_tokens = origin.prompt_tokens
        else:
            self._family = Family(drawn=host.rotation.clock())
            if not host.sealed:
                self._native = _native.KvSession(host.pages, host.new_id())
            elif host.tee is None:
                raise EngineError("a sealed session needs a TEE")
            else:
                self._native, self._family.tee_handle = host.tee.open_sealed_session(
                    host.pages, host.new_id()
                )
        self._family.members.append(self)

    def feed(
        self, token_ids: Sequence[int], *, all_logits: bool = False
    ) -> npt.NDArray[np.float32]:
        """Append tokens and return logits.

        Args:
            token_ids: ids in [0, vocab_size), at least one, at most what the context still holds.
            all_logits: logits of every token, not of the last alone.

        Returns:
            float32 [1 or n, vocab_size].

        Raises:
            InputError: an id out of range or too many tokens; the session is unchanged.
            CapacityError: the cache is full; the session is unchanged.
            EngineError: the TEE is gone; the session is closed and wiped.
        """
        return feed_batch([(self, token_ids)], all_logits=all_logits)[0]

    def feed_into(
        self, logits: object, token_ids: Sequence[int], *, all_logits: bool = False
    ) -> None:
        """Append tokens and leave their logits on the device (device="cuda").

        The pass writes straight into the tensor, whoever made it: nothing is copied, and all of it
        is there when this returns. A step that writes into the same tensor as the last one is
        launched as one graph.

        Security: the logits are the caller's from then on; nobody zeroes them but their owner.

        Args:
            logits: DLPack tensor (torch, CuPy, `_cuda.DeviceTensor`) on the engine's device:
                float32 [1 or n, vocab_size], contiguous, aligned to 16 bytes.
            token_ids, all_logits: as `feed`; the ids may be a tensor too, which is read.

        Raises:
            InputError: as `feed`; a tensor that does not fit, or an engine on the CPU.
            CapacityError, EngineError: as `feed`.
        """
        feed_batch([(self, token_ids)], all_logits=all_logits, into=logits)

    def truncate(self, n_tokens: int) -> None:
        """Forget every row from `n_tokens` on.

        Raises:
            InputError: it is no whole number, negative, or more than there are.
            EngineError: the session is closed, or the TEE is gone.
        """
        with self._lock:
            self._require_open()
            n_tokens = checked_index("n_tokens", n_tokens, len(self.tokens))
            self.settle(n_tokens)

    def settle(self, at_most: int | None = None) -> None:
        """Cut rows, ids and tags to the shortest of them, and to `at_most` if it is given.

        They differ only where an interrupt (Ctrl-C) came between two steps. Unequal, every later
        row would stand at a wrong position.
        """
        with self._lock:
            if self.closed:
                return
            lengths = [self._native.length, len(self.tokens), len(self.row_tags)]
            rows = min(lengths if at_most is None else [*lengths, at_most])
            if rows < self._native.length:
                self._native.truncate(rows)
            del self.tokens[rows:], self.row_tags[rows:]
            if self._native.adapter_tag != self.adapter_tag:  # `select`, cut short
                self._native.adapter_tag = self.adapter_tag  # needs no page: no page is shared now

    def use_adapters(self, names: Sequence[str], *, keep_kv: bool = False) -> None:
        """Change the adapters; rows that others computed are computed anew.

        Args:
            names: loaded adapters, added up in this order; () for none.
            keep_kv: keep the rows as they are, and use the new adapters for later ones alone. The
                logits are then those of no single model, as an activated LoRA has them
                (arXiv 2504.12397): quick, and right for adapters trained that way.

        An interrupt (Ctrl-C) raises once the rows are computed; where it stops the pass itself, as
        it may while the TEE restores an output, the rows up to the first changed one are left.

        Raises:
            InputError: an unknown name; the session is unchanged.
            EngineError: the session is closed, or the TEE is gone.
            CapacityError: the cache has no room for the rows beside those of forks; the session is
                unchanged.
        """
        with self._lock:
            self._require_open()
            selection = self._host.select_adapters(names)
            keep = len(self.tokens) if keep_kv else self._rows_under(selection.tag)
            stale = self.tokens[keep:]
            replace_due_keys([(self, len(stale))])  # what fails must fail before rows go
            self._rewind(keep, selection, new_rows=len(stale))
            if stale:
                compute_rows([(self, stale)])

    def select(self, selection: AdapterSelection) -> None:
        """Use these adapters for the rows fed from now on.

        Sessions share pages under equal sets only: a fork copies the pages it shares.

        Raises:
            EngineError: the session is closed.
            CapacityError: the cache has no room for the copies; the session is unchanged.
        """
        with self._lock:
            self._require_open()
            try:
                self._native.adapter_tag = selection.tag
            except RuntimeError as error:
                raise native_error(error) from None
            self._adapters = selection

    def _rewind(self, keep: int, selection: AdapterSelection, *, new_rows: int = 0) -> None:
        """Cut back to `keep` rows and select adapters, if the cache has room for what follows.

        Args:
            keep: rows to keep.
            selection: for the rows after them.
            new_rows: rows that will be fed next.

        Raises:
            CapacityError: it has not; the session is unchanged.
        """
        if len(self._family.members) > 1:  # alone it takes no page that it does not give up first
            self._require_pages(keep, new_rows, selection.tag)
        if keep < len(self.tokens):
            self.truncate(keep)
        self.select(selection)

    def _require_pages(self, keep: int, new_rows: int, tag: int) -> None:
        """Raise CapacityError unless there are pages to rewind and go on beside the forks."""
        per_page = self._host.layout.rows
        forks = [member for member in self._family.members if member is not self]
        shared = {page for fork in forks for page in fork._native.page_ids}
        pages = self._native.page_ids
        kept = -(-keep // per_page)
        if tag != self.adapter_tag:
            copied = sum(page in shared for page in pages[:kept])
        else:  # a fork that goes on in a page that is not full
            copied = int(new_rows > 0 and keep % per_page != 0 and pages[kept - 1] in shared)
        needed = copied + -(-(keep + new_rows) // per_page) - kept
        free = self._host.pages.free_pages + sum(page not in shared for page in pages[kept:])
        if needed > free:
            raise CapacityError(
                f"the KV cache is full: {needed} pages are needed for the change, {free} are free"
            )

    def _rows_under(self, tag: int) -> int:
        """Return how many rows, from the first on, were computed under a tag."""
        return next((i for i, t in enumerate(self.row_tags) if t != tag), len(self.row_tags))

    def fork(self) -> "Session":
        """Return a second session over the same rows, for another way to go on.

        It costs no memory: a page is copied when either session writes to it. Both feed on
        independently and give the logits that a session of their own would give.

        Raises:
            EngineError: the session is closed, or the TEE is gone.

        Security: forks share one seal key and one counter, which never goes back; a copied page
        keeps its ciphertext. A reader of the pages sees that two sessions are of one family.
        """
        with self._lock:
            self._require_open()
            return Session(self._host, origin=self)

    def family(self) -> "list[Session]":
        """Return the sessions that share this one's key and pages, itself among them."""
        return list(self._family.members)

    def continued_by(
        self, ids: Sequence[int], selection: AdapterSelection, *, keep_kv: bool = False
    ) -> "Session | None":
        """Cut one of the family back to rows that `ids` starts with, and return it.

        Rows computed under other adapters than `selection` do not count, unless `keep_kv`.

        It is the one that shares the most with `ids` and whose last prompt `ids` holds whole: a
        query that only shares a template with it is another conversation. None if there is none.
        """
        with self._lock:
            best, kept = None, 0
            for member in self._family.members:
                member.settle()
                shared = shared_prefix(member.tokens, ids)
                if not keep_kv:
                    shared = min(shared, member._rows_under(selection.tag))
                if shared > kept and 0 < member.prompt_tokens <= shared:
                    best, kept = member, shared
            if best is not None:
                best._rewind(kept, selection)
            return best

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a file that `Engine.resume` opens again.

        With `EngineConfig.tee_state` the device opens it again after a restart, as the newest
        version of this path alone. Without, the file opens as long as the TEE process lives that
        saved it: its root key is drawn when it starts. It is put in place whole or not at all,
        with mode 0600.

        Raises:
            InputError: shield `none` (no TEE, no key), or a path that cannot be written to.
            CapacityError: fewer than two key slots are free; the session is unchanged.
            EngineError: the session is closed, the TEE is gone or refuses, or the disk is full.

        Security: rows and token ids are AES-256-GCM-SIV ciphertext under a key of this file alone
        (`saved_session`); rows are in the model's own order, whatever the shield.
        """
        with self._lock:
            self._require_open()
            if self._tee is None:
                raise InputError(NO_STORAGE_KEY)
            if self._rows_under(self._adapters.tag) < len(self.tokens):
                raise InputError("rows of several adapter sets (keep_kv) cannot be saved")
            rows = Rows(self._native, self._host.layout, self.tokens, self.prompt_tokens)
            try:
                saved_session.save(path, rows, self._host.shape(), self._tee)
            except TeeError as error:
                raise tee_failure(error) from None

    def load(self, saved: SavedSession) -> None:
        """Take the rows of a saved session into this one, which is empty; see `Engine.resume`.

        Raises:
            InputError, SecurityError, EngineError: as `SavedSession.load`; the session is closed.
        """
        with self._lock:
            try:
                self._require_open()
                if self._tee is None:
                    raise InputError(NO_STORAGE_KEY)
                saved.require_adapters(self._adapters.tag)
                ids, self.prompt_tokens = saved.load(self._native, self._host.layout)
                self.tokens.extend(ids)
                self.row_tags.extend([self._adapters.tag] * len(ids))
                self._family.written += len(ids)
            except BaseException as error:
                self.close()
                if isinstance(error, TeeError):
                    raise tee_failure(error) from None
                raise

    def rotate(self) -> None:
        """Seal all rows, and those of forks, anew under the next key; the old one is wiped.

        Raises:
            InputError: the shield has no seal key.
            CapacityError: every key slot is in use; the session is unchanged.
            EngineError: the session is closed, or the TEE is gone or refuses.
        """
        with self._lock:
            self._require_open()
            rotate_key(self)

    def close(self) -> None:
        """Free the pages no fork uses, zeroed; the last of the family wipes the key. Idempotent.

        In a forked child nothing happens: the session is its parent's.
        """
        if self._host.owner.inherited:
            return
        with self._lock:
            self._native.close()
            self.tokens.clear()
            self.row_tags.clear()
            family = self._family
            if self in family.members:  # each step is done again after an interrupt, none twice
                family.members.remove(self)
            if not family.members and self._tee is not None and family.tee_handle is not None:
                handle, family.tee_handle = family.tee_handle, None
                self._tee.drop_epoch(handle)

    def close_family(self) -> None:
        """Close this session and all its forks."""
        with self._lock:
            for member in self.family():
                member.close()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that rows fed from now on are computed under."""
        return self._adapters.names

    @property
    def adapter_tag(self) -> int:
        """64 bits that name this set, in page headers and saved sessions; 0 is none."""
        return self._adapters.tag

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the rows are gone."""
        return self._native.closed

    @property
    def _lock(self) -> threading.RLock:
        return self._host.owner.lock

    def _tee_alive(self) -> bool:
        return self._tee is None or self._tee.alive()

    def _require_open(self) -> None:
        require_open([self])
