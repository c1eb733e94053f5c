"""Turns one packet into one reply: sessions, parameter checks, and the call into the application.

Everything in a packet is hostile until checked here. A handler sees only parameters of exactly the
types its command declares and memory that lies inside a registered region.
"""

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol

from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.memory import Budget, MemoryTable, wipe
from tee_sim.protocol import (
    NO_VALUES,
    REPLY_BIT,
    STATUS_DEBUG_BIT,
    ArenaKind,
    Frame,
    Kind,
    MemoryKind,
    ParamType,
    Values,
    decode,
    encode,
    param_types,
    split_memref,
)

if TYPE_CHECKING:  # the guard keeps no log
    from tee_sim.audit import AuditLog

MAX_SESSIONS = 256
MAX_SEQ_GAP = 1 << 16  # calls the host gave up before sending leave gaps; replays go backwards
_VALUE = param_types(ParamType.VALUE_INPUT)
_VALUES_2 = param_types(ParamType.VALUE_INPUT, ParamType.VALUE_INPUT)
_NO_FRAME = Frame(0, 0, 0, 0, 0, 0, NO_VALUES)  # stands for a packet that is none
_OUTPUT_VALUES = (ParamType.VALUE_OUTPUT, ParamType.VALUE_INOUT)


class Params:
    """The four parameters of one call, types already checked, and how the process stands."""

    __slots__ = ("_dispatcher", "_memory", "values")

    def __init__(self, values: Values, dispatcher: "Dispatcher") -> None:
        self.values = values
        self._dispatcher = dispatcher
        self._memory = dispatcher.memory

    def memory(self, index: int) -> memoryview:
        """Return the bounds-checked shared memory that parameter `index` refers to."""
        return self._memory.shared_range(
            *split_memref(self.values[2 * index], self.values[2 * index + 1])
        )

    def write_arena_secret(self, memory_id: int, offset: int, secret: bytearray) -> None:
        """Move a key into the engine's secret arena: `secret` is overwritten, also on errors.

        Security: the key crosses by this mapping and by nothing else.
        """
        try:
            self._memory.get(memory_id).write_secret(offset, secret)
        finally:
            wipe(secret)

    def standing(self) -> tuple[bool, int, ArenaKind]:
        """Return whether this is a debug process, its protections, the weakest arena it was given.

        The protections are a bit set, of `protocol.HARDENING_BITS`.
        """
        dispatcher = self._dispatcher
        return dispatcher.debug, dispatcher.hardening, self._memory.weakest_arena


Handler = Callable[[Params], Values]


class TrustedApplication(Protocol):
    """What the dispatcher needs of a trusted application: its name and its commands.

    `commands` maps a command id to (exact param_types, handler). A handler returns the eight
    output values; the dispatcher sends only those the command declares as outputs.
    """

    @property
    def uuid(self) -> tuple[int, int]: ...

    @property
    def commands(self) -> dict[int, tuple[int, Handler]]: ...

    @property
    def epoch(self) -> int: ...

    def close(self) -> None: ...


class ApplicationLoader(Protocol):
    """Builds the applications a role runs, once the root key is known (None: draw one)."""

    def __call__(
        self, budget: Budget, root_key: bytearray | None
    ) -> Sequence[TrustedApplication]: ...


class Dispatcher:
    """The state of one connection, and of the trusted applications behind it.

    Args:
        load: builds the applications at INITIALIZE.
        hardening: bit set of the start-up protections in effect (`protocol.HARDENING_BITS`).
        audit: where every packet is taken down; None for a role that keeps no log.

    Attributes:
        debug: the host chose the root key, or something else is on that a device in use must not
            have. Whoever switches such a thing on sets this; nothing clears it.
    """

    def __init__(
        self, load: ApplicationLoader, hardening: int = 0, audit: "AuditLog | None" = None
    ) -> None:
        self._load = load
        self.hardening = hardening
        self._audit = audit
        self._answered = (_NO_FRAME, 0, 0)  # request, result code, origin
        self._applications: dict[tuple[int, ...], TrustedApplication] = {}
        self.debug = False  # set it, never clear it: a test has a hand in this process
        self._panicked = False
        self._budget = Budget()
        self.memory = MemoryTable()
        self._sessions: dict[int, TrustedApplication] = {}
        self._last_session = 0
        self._last_seq = 0
        self._crossings = 0
        self._open_fds: list[int] = []
        self._kinds: dict[int, Callable[[Frame], Values]] = {
            Kind.INITIALIZE: self._initialize,
            Kind.OPEN_SESSION: self._open_session,
            Kind.CLOSE_SESSION: self._close_session,
            Kind.INVOKE: self._invoke,
            Kind.REGISTER_MEMORY: self._register_memory,
            Kind.RELEASE_MEMORY: self._release_memory,
            Kind.STATUS: self._status,
        }

    def handle(self, packet: bytes, descriptors: Sequence[int] = ()) -> bytes:
        """Answer one packet with exactly one packet, whatever it holds.

        Security: no exception, text or memory content of the TEE reaches the reply: a result code,
        an origin and the command's declared output values do, or the room it would need.
        Descriptors not taken are closed.

        Args:
            packet: the received bytes.
            descriptors: file descriptors that came with it; ownership passes to this call.
        """
        frame = _NO_FRAME
        self._open_fds = list(descriptors)
        try:
            frame = decode(packet)
            seq = frame.seq
            if not 0 < seq - self._last_seq <= MAX_SEQ_GAP:
                raise TeeError(ResultCode.BAD_FORMAT, Origin.COMMS, "packet out of sequence")
            self._last_seq = seq
            values = self._route(frame)
        except TeeError as error:
            needed = (error.needed_bytes, *NO_VALUES[1:])
            return self._reply(frame, error.code, error.origin, needed)
        except MemoryError:
            return self._reply(frame, ResultCode.OUT_OF_MEMORY, Origin.TEE, NO_VALUES)
        finally:
            for fd in self._open_fds:
                os.close(fd)
            self._open_fds = []
        return self._reply(frame, ResultCode.SUCCESS, 0, values)

    def note(self) -> None:
        """Take the packet answered last down in the log; after its reply was sent, to hold up none.

        Security: a packet has one record or a part of one, whatever it held.
        """
        if self._audit is None or self._audit.repeats(*self._answered):
            return
        frame, code, origin = self._answered
        if frame.kind == Kind.OPEN_SESSION and not code:  # the request has no number yet
            frame = frame._replace(session=self._last_session)
        application = self._sessions.get(frame.session)
        self._audit.begin(frame, application.uuid[0] if application else 0, code, origin)

    def close(self) -> None:
        """Wipe and drop what the applications hold."""
        for application in self._applications.values():
            application.close()
        self._applications.clear()
        self._sessions.clear()

    def _reply(self, frame: Frame, code: int, origin: int, values: Values) -> bytes:
        self._answered = (frame, code, origin)
        return encode(frame.kind | REPLY_BIT, 0, code, 0, origin, frame.seq, values)

    def _route(self, frame: Frame) -> Values:
        handler = self._kinds.get(frame.kind)
        if handler is None or frame.origin:
            raise TeeError(ResultCode.BAD_FORMAT, Origin.COMMS, "unknown kind of request")
        if self._open_fds and frame.kind != Kind.REGISTER_MEMORY:
            raise TeeError(ResultCode.BAD_FORMAT, Origin.COMMS, "unexpected descriptor")
        if not self._applications and frame.kind != Kind.INITIALIZE:
            raise TeeError(ResultCode.BAD_STATE, Origin.TEE, "not initialised")
        return handler(frame)

    def _initialize(self, frame: Frame) -> Values:
        if self._applications:
            raise TeeError(ResultCode.BAD_STATE, Origin.TEE, "initialised already")
        root_key: bytearray | None = None
        if frame.param_types == _VALUES_2:
            root_key = bytearray().join(v.to_bytes(8, "little") for v in frame.values[:4])
        elif frame.param_types:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TEE, "wrong parameter types")
        for application in self._load(self._budget, root_key):
            self._applications[application.uuid] = application
        self.debug |= root_key is not None
        return NO_VALUES

    def _open_session(self, frame: Frame) -> Values:
        _expect(frame, _VALUE)
        application = self._applications.get(frame.values[:2])
        if application is None:
            raise TeeError(ResultCode.ITEM_NOT_FOUND, Origin.TEE, "no such application")
        if len(self._sessions) >= MAX_SESSIONS:
            raise TeeError(ResultCode.BUSY, Origin.TEE, "too many sessions")
        self._last_session += 1
        self._sessions[self._last_session] = application
        return (self._last_session, *NO_VALUES[1:])

    def _close_session(self, frame: Frame) -> Values:
        _expect(frame, 0)
        self._application_of(frame.session)
        del self._sessions[frame.session]
        return NO_VALUES

    def _application_of(self, session: int) -> TrustedApplication:
        application = self._sessions.get(session)
        if application is None:
            raise TeeError(ResultCode.ITEM_NOT_FOUND, Origin.TEE, "no such session")
        return application

    def _invoke(self, frame: Frame) -> Values:
        application = self._application_of(frame.session)
        if self._panicked:
            raise TeeError(ResultCode.TARGET_DEAD, Origin.TEE, "the application has panicked")
        self._crossings += 1
        entry = application.commands.get(frame.command)
        if entry is None:
            raise TeeError(ResultCode.NOT_SUPPORTED, Origin.TRUSTED_APP, "unknown command")
        types, handler = entry
        _expect(frame, types)
        try:
            outputs = handler(Params(frame.values, self))
        except TeeError:
            raise
        except MemoryError:
            raise TeeError(ResultCode.OUT_OF_MEMORY, Origin.TRUSTED_APP) from None
        except Exception:
            # A bug in the application: its state cannot be trusted any more. Nothing of the
            # exception is reported, since its text may quote what the application was given.
            self._panicked = True
            raise TeeError(ResultCode.TARGET_DEAD, Origin.TRUSTED_APP, "panic") from None
        return _declared_outputs(types, outputs)

    def _register_memory(self, frame: Frame) -> Values:
        _expect(frame, _VALUE)
        size_bytes, kind = frame.values[:2]
        if kind not in (MemoryKind.SHARED, MemoryKind.ARENA):
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TEE, "unknown kind of memory")
        if len(self._open_fds) != 1:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TEE, "need exactly one descriptor")
        memory_id = self.memory.register(self._open_fds.pop(), size_bytes, MemoryKind(kind))
        return (memory_id, *NO_VALUES[1:])

    def _release_memory(self, frame: Frame) -> Values:
        _expect(frame, _VALUE)
        self.memory.release(frame.values[0])
        return NO_VALUES

    def _status(self, frame: Frame) -> Values:
        _expect(frame, 0)
        epoch = max(application.epoch for application in self._applications.values())
        budget = self._budget
        flags = STATUS_DEBUG_BIT if self.debug else 0
        return (
            flags,
            os.getpid(),
            budget.limit_bytes,
            budget.used_bytes,
            epoch,
            self._crossings,
            self.hardening,
            len(self.memory),
        )


def _expect(frame: Frame, types: int) -> None:
    """Refuse parameters that are not exactly of the declared types, unused ones included."""
    if frame.param_types != types:
        raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TEE, "wrong parameter types")
    values = frame.values
    for index in _unused(types):
        if values[index]:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TEE, "unused parameter is not zero")


@cache
def _unused(types: int) -> tuple[int, ...]:
    """Return where the eight values are that no input of these types takes."""
    unused = (ParamType.NONE, ParamType.VALUE_OUTPUT)
    return tuple(i for i in range(8) if types >> (4 * (i // 2)) & 0xF in unused)


def _declared_outputs(types: int, outputs: Values) -> Values:
    """Keep the values a command declared as outputs and zero the rest."""
    if outputs is NO_VALUES:
        return outputs
    return tuple(
        value if types >> (4 * (index // 2)) & 0xF in _OUTPUT_VALUES else 0
        for index, value in enumerate(outputs)
    )
