"""The KV pages, the TEE behind them, and every session that is open."""

import itertools
import os
import threading
from collections.abc import Sequence

from ptmo_secure import _native
from ptmo_secure.engine.adapter_store import AdapterSelection, AdapterStore
from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.engine.native_setup import NativeDecoder
from ptmo_secure.engine.owner import OwnedLock
from ptmo_secure.engine.rotation import Rotation, rotate_key
from ptmo_secure.engine.saved_session import SavedSession, SavedShape
from ptmo_secure.engine.session import NO_STORAGE_KEY, Session, SessionHost
from ptmo_secure.engine.tee_host import TeeHost
from ptmo_secure.engine.tee_link import TeeLink, tee_failure
from ptmo_secure.engine.weights import Progress
from ptmo_secure.errors import EngineError, InputError, TeeDiedError
from tee_sim.client import Algorithm, CostLedger, TeeError


class SessionPool:
    """Opens sessions side by side and wipes all of them when their TEE goes.

    Attributes:
        owner: the process whose engine this is.
        tee: the link to the living TEE, None for a shield that needs none.
        adapters: the LoRA adapters that sessions may name.
        rotation: when seal keys are replaced, and what was so far.
        host: starts the TEE, for other engines too where they share it.

    Security: a TEE that dies takes every session and its key with it, also while nothing runs. The
    next session starts a new TEE, with new keys.
    """

    def __init__(
        self,
        config: EngineConfig,
        source: ModelSource,
        decoder: NativeDecoder,
        pages: _native.PageArena,
        layout: _native.PageLayout,
        host: TeeHost,
        progress: Progress | None = None,
    ) -> None:
        """Start the TEE where the shield needs one.

        Raises:
            EngineError: it does not start.
        """
        self.owner = OwnedLock()
        self.tee: TeeLink | None = None
        self.host = host
        self.rotation = Rotation.of(config)
        self.adapters = AdapterStore(decoder, source.config, config)
        self._config = config
        self._source = source
        self._decoder = decoder
        self._pages = pages
        self._layout = layout
        self._sessions: list[Session] = []  # one of each family at least
        self._ids = itertools.count(1)
        self._closed = False
        self.connect(progress)

    @property
    def lock(self) -> threading.RLock:
        """Serialises everything native; hold it for steps that belong together.

        Raises:
            EngineError: in a forked child.
        """
        return self.owner.lock

    def open(self, adapters: Sequence[str] | AdapterSelection = ()) -> Session:
        """Return a fresh, empty session beside those that are open.

        Args:
            adapters: loaded LoRA adapters that its rows are computed under, added up in this order;
                or what `select` returned for them, which holds on to adapters unloaded since.

        Raises:
            InputError: an unknown adapter.
            CapacityError: every key slot is in use.
            TeeDiedError: the TEE died meanwhile; every session is closed and wiped.
            EngineError: the TEE is gone and does not start, or the pool is closed.
        """
        with self.lock:
            self.connect()
            try:
                return self._open(self.select(adapters))
            except TeeDiedError:
                self.close_sessions()
                raise

    def select(self, adapters: Sequence[str] | AdapterSelection) -> AdapterSelection:
        """Return the set of these adapters, permuted as the living TEE asks for.

        Args:
            adapters: names, or an earlier set: it is returned as the living TEE has it.

        Raises:
            InputError: an unknown or repeated name, or too many.
        """
        with self.lock:
            if isinstance(adapters, AdapterSelection):
                return self.adapters.renew(adapters, self.tee)
            return self.adapters.select(adapters, self.tee)

    def rotate(self) -> None:
        """Replace every key now: see `Engine.rotate`."""
        with self.lock:
            if self._closed:
                raise EngineError("the engine is closed")
            if self.tee is None:
                raise InputError("shield 'none' has no key to rotate")
            families = [family for session in self._sessions if (family := session.family())]
            try:
                if self._config.sealed:  # first: a full arena is told before weights change
                    self.tee.mark_keys_due()
                    for members in families:
                        rotate_key(members[0])
                if self._config.permuted:
                    self._permute_anew(self.tee, families)
            except TeeDiedError:
                self.close_sessions()
                raise

    def _permute_anew(self, tee: TeeLink, families: Sequence[Sequence[Session]]) -> None:
        """Draw the model's next permutations; where that stops half-way nothing is left."""
        before = tee.permutation
        try:
            with tee.next_permutation(self._decoder, self._source) as move:
                for members in families:
                    move(members[0]._native)
                    for member in members:
                        member.select(self.adapters.renew(member._adapters, tee))
        except BaseException as error:
            if tee.permutation is before and isinstance(error, EngineError):
                raise  # refused at the start
            self.close_sessions()  # weights and rows are of two orders
            tee.close()
            if isinstance(error, TeeError):
                raise tee_failure(error) from None
            raise
        self.rotation.permutations += 1

    def close_sessions(self) -> None:
        """Zero every page, wipe every key."""
        with self.lock:
            for session in self._sessions:
                session.close_family()
            self._sessions.clear()

    def close(self) -> None:
        """Close every session and end the TEE. Final and idempotent.

        A forked child lets go of its copy of the TEE's socket, and of nothing else.
        """
        if self.owner.inherited:
            if self.tee is not None:
                self.tee.close()
            return
        with self.lock:
            self._closed = True
            self.close_sessions()
            if self.tee is not None:
                self.tee.close()

    def saved_shape(self) -> SavedShape:
        """Describe what a saved session must match; the model file is hashed the first time."""
        if self._closed:
            raise EngineError("the engine is closed")
        return SavedShape.of(self._source, self._config)

    def saved_session(self, path: str | os.PathLike[str], context_tokens: int) -> SavedSession:
        """Open a saved session's file; its rows are not read yet.

        Raises:
            InputError, SecurityError: as `SavedSession`, or the shield has no TEE.
            EngineError: the TEE is gone and does not start, or the pool is closed.
        """
        with self.lock:
            self.connect()
            if self.tee is None:
                raise InputError(NO_STORAGE_KEY)
            return SavedSession(path, self.saved_shape(), context_tokens, self.tee)

    def evidence(self, nonce: bytes, algorithm: Algorithm = Algorithm.EDDSA) -> bytes:
        """Return evidence of the TEE that holds this engine's keys; a new one is started first
        where the last has died.

        Args:
            nonce: 8 to 64 bytes that the verifier drew.
            algorithm: of the signature.

        Returns:
            A token for `tee_sim.verify` or `ptmo tee verify`.

        Raises:
            InputError: a nonce of another length, or a shield without a TEE.
            EngineError: the TEE is gone and does not start, or refuses.
        """
        if not isinstance(nonce, bytes) or not 8 <= len(nonce) <= 64:
            raise InputError("nonce: give 8 to 64 bytes")
        with self.lock:
            self.connect()
            if self.tee is None:
                raise InputError(f"shield {self._config.shield!r} has no TEE to attest")
            try:
                return self.tee.client.evidence(nonce, algorithm)
            except TeeError as error:
                raise tee_failure(error, "the TEE gave no evidence: ") from None

    @property
    def free_pages(self) -> int:
        """KV pages that no session holds."""
        with self.lock:
            return self._pages.free_pages

    @property
    def ledger(self) -> CostLedger:
        """What was asked of the TEE, of those that died before it and by all who share it."""
        return self.host.ledger

    @property
    def tee_crossings(self) -> int:
        """Calls into the TEE so far."""
        return self.ledger.crossings

    def connect(self, progress: Progress | None = None) -> None:
        """Make sure a living TEE stands behind a shield that needs one; call it with the lock held.

        Raises:
            EngineError: it does not start, or the pool is closed.
        """
        if self._closed:
            raise EngineError("the engine is closed")
        if not self._config.needs_tee or (self.tee is not None and self.tee.alive()):
            return
        self.close_sessions()
        if self.tee is not None:
            if self.host.is_debug:
                # Its epochs would start again: the same keys and counters over other rows.
                raise EngineError("a TEE with a debug root key is not started twice")
            self.tee.close()
            self.tee = None
        link = TeeLink(self._config, self._source, self._decoder, self.host, progress)
        link.on_death(lambda: self._wipe_after(link))
        self.tee = link

    def _open(self, selection: AdapterSelection) -> Session:
        self._sessions = [session for session in self._sessions if session.family()]
        session = Session(
            SessionHost(
                decoder=self._decoder,
                pages=self._pages,
                layout=self._layout,
                tee=self.tee,
                sealed=self._config.sealed,
                rotation=self.rotation,
                owner=self.owner,
                new_id=lambda: next(self._ids),
                shape=self.saved_shape,
                select_adapters=self.select,
                engine_closed=lambda: self._closed,
            )
        )
        session.select(selection)
        self._sessions.append(session)
        return session

    def _wipe_after(self, link: TeeLink) -> None:
        """Close the sessions of a TEE that is gone, also while nobody is generating."""
        with self.lock:
            if self.tee is link and not self._closed:
                self.close_sessions()
