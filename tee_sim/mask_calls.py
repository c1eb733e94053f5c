"""The client's calls on the guard's vault: text in, masked text out, and back.

with TeeClient.launch("guard") as guard, guard.open_vault("ann") as vault:
    masked = vault.mask("Call Dr. Kim at 010-1234-5678")
    answer = vault.unmask(ask_the_cloud(masked.text))
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tee_sim.check_calls import CheckCalls, Checked
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.placeholders import KINDS
from tee_sim.protocol import (
    NO_VALUES,
    GuardCommand,
    ParamType,
    Values,
    memref,
    param_types,
)
from tee_sim.scan_result import (
    LEVELS,
    SPAN_BYTES,
    STYLES,
    Level,
    Span,
    Style,
    encode_text,
    unpack_score,
    unpack_spans,
    unpack_verdict,
)

DEFAULT_TTL_S = 3600
_IN, _OUT, _BOTH = ParamType.VALUE_INPUT, ParamType.VALUE_OUTPUT, ParamType.VALUE_INOUT
_OPEN = param_types(_IN, _IN, _OUT)
_TEXT = param_types(ParamType.MEMREF_INPUT, ParamType.MEMREF_OUTPUT, _BOTH, _BOTH)
_FORGET = param_types(_IN, _IN, _OUT)
_CLOSE = param_types(_IN, _IN)
_SAVE = param_types(ParamType.MEMREF_OUTPUT, _OUT, _IN, _IN)
_LOAD = param_types(ParamType.MEMREF_INPUT, _OUT, _IN, _IN)
_SAVED_ROOM = 64 << 10
_MIN_ROOM = 64 * SPAN_BYTES
_MAX_ROOM = 64 << 20
_FINAL_BIT, _CONTEXT_SHIFT = 1, 32


@dataclass(frozen=True, slots=True)
class Masked:
    """A masked text, and what a scan of the text says.

    Args:
        text: what may leave the device.
        level, score, spans: of the unmasked text, as `TeeClient.scan` gives them.
        places: the same spans where they stand in the masked text.
        topics, reason, refers_back: of the unmasked text, as in `ScanResult`.
    """

    text: str
    level: Level
    score: float
    spans: tuple[Span, ...]
    places: tuple[Span, ...]
    topics: tuple[str, ...] = ()
    reason: str = "nothing_private"
    refers_back: bool = False


class MaskCalls(CheckCalls):
    """What `TeeClient` offers for role "guard" beside scans."""

    def open_vault(self, user: str = "", ttl_s: int = DEFAULT_TTL_S) -> "Vault":
        """Open a vault for one conversation of one user (role "guard").

        Security: its number is drawn by the guard and tells nothing of other vaults. A user's name
        goes to the guard as a hash.

        Args:
            user: whose it is; no other user's calls reach it.
            ttl_s: seconds after its last use at which it is forgotten, 1 to 2,592,000.
        """
        owner = _owner(user)
        if type(ttl_s) is not int or not 0 <= ttl_s < 1 << 63:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.API, f"ttl_s={ttl_s!r}")
        values = self._invoke(
            GuardCommand.OPEN_VAULT,
            _OPEN,
            (*owner, ttl_s, 0, 0, 0, 0, 0),
            undo=lambda opened: self._forget(owner, opened[4]),
        )
        return Vault(self, owner, values[4])

    def load_vault(self, saved: bytes, user: str = "", number: int = 0) -> "Vault":
        """Open a vault that `Vault.save` returned, on the same device (role "guard").

        Security: every changed byte is noticed. An older version of the vault is not, unless this
        guard forgot something of it since: keep it where rollback is noticed (`SealedStore`).

        Args:
            saved: what `save` returned.
            user: whose it must be.
            number: the vault it must be; 0: any of that user's.

        Raises:
            TeeError: as docs/tee.md lists for LOAD_VAULT; nothing was restored.
        """
        owner, size = _owner(user), len(saved)
        with self._channel.lock:
            window = self._shared_window(max(size, 1))
            try:
                window.buffer[:size] = saved
                replied = self._invoke(
                    GuardCommand.LOAD_VAULT,
                    _LOAD,
                    (*memref(window.id, 0, size), 0, 0, number, 0, *owner),
                    undo=lambda loaded: self._close_vault(owner, loaded[2]),
                )
            finally:
                window.wipe(size)
        return Vault(self, owner, replied[2])

    def _save(self, owner: tuple[int, int], number: int) -> bytes:
        room = _SAVED_ROOM
        with self._channel.lock:
            while True:
                window = self._shared_window(room)
                values = (*memref(window.id, 0, room), 0, 0, number, 0, *owner)
                size = self._invoke(GuardCommand.SAVE_VAULT, _SAVE, values)[2]
                if size <= room:
                    return bytes(window.buffer[:size])
                if size > _MAX_ROOM:
                    raise TeeError(ResultCode.COMMUNICATION, Origin.API, "the vault is too long")
                room = size

    def _close_vault(self, owner: tuple[int, int], number: int) -> None:
        self._invoke(GuardCommand.CLOSE_VAULT, _CLOSE, (*owner, number, *NO_VALUES[3:]))

    def _forget(self, owner: tuple[int, int], number: int, named: int = 0) -> tuple[int, int]:
        values = (*owner, number, named, 0, 0, 0, 0)
        replied = self._invoke(GuardCommand.FORGET, _FORGET, values)
        return replied[4], replied[5]

    def _transform(
        self, command: GuardCommand, data: bytes, room: int, values: Values
    ) -> tuple[bytes, Values]:
        """Call with room for the answer, and again with more when it was too little."""
        with self._channel.lock:
            while True:
                answer, replied = self._transform_once(command, data, room, values)
                if answer is not None:
                    return answer, replied
                room = _answer_bytes(command, replied)
                if room > _MAX_ROOM:
                    raise TeeError(ResultCode.COMMUNICATION, Origin.API, "the answer is too long")

    def _transform_once(
        self, command: GuardCommand, data: bytes, room: int, values: Values
    ) -> tuple[bytes | None, Values]:
        size = len(data)
        window = self._shared_window(size + room)
        try:
            window.buffer[:size] = data
            places = (*memref(window.id, 0, size), *memref(window.id, size, room))
            replied = self._invoke(command, _TEXT, (*places, *values))
            n_bytes = _answer_bytes(command, replied)
            if n_bytes > room:
                return None, replied
            return bytes(window.buffer[size : size + n_bytes]), replied
        finally:
            window.wipe(size + room)


def _owner(user: str) -> tuple[int, int]:
    high, low = struct.unpack("<2Q", hashlib.sha256(encode_text(user)).digest()[:16])
    return high, low


def _answer_bytes(command: GuardCommand, replied: Values) -> int:
    return replied[6] + replied[7] if command == GuardCommand.MASK else replied[4]


class Vault:
    """One conversation's masked values, which stay in the guard. Thread-safe.

    Every method raises `TeeError`: ITEM_NOT_FOUND once the vault was forgotten or its time is over,
    OUT_OF_MEMORY when it is full or the text longer than 256 KiB. A failure is never a masked text.
    """

    def __init__(self, calls: MaskCalls, owner: tuple[int, int], number: int) -> None:
        """Use `TeeClient.open_vault`."""
        self._calls = calls
        self._owner = owner
        self.number = number

    def __enter__(self) -> "Vault":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Have the guard let go of all of it; what `save` returned stays good.

        Idempotent; a guard that is gone has let go of it.
        """
        try:
            self._calls._close_vault(self._owner, self.number)
        except TeeError:
            pass

    def mask(self, text: str, style: Style = "placeholder") -> Masked:
        """Put something else in the place of what is private.

        Security: the text crosses in shared memory that is wiped before this returns or raises.

        Args:
            text: valid Unicode, at most 256 KiB of UTF-8.
            style: "placeholder" as [PERSON_1], "surrogate" (made-up values of the same type), or
                "generalise" (an age's decade, a city's country, else the kind), which `unmask` does
                not take back.
        """
        if style not in STYLES:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.API, f"unknown style {style!r}")
        data = encode_text(text)
        room = 3 * len(data) + _MIN_ROOM
        values = (self.number, STYLES.index(style), *self._owner)
        answer, replied = self._calls._transform(GuardCommand.MASK, data, room, values)
        level, score_bits, n_text, _ = replied[4:8]
        try:
            records = unpack_spans(answer[n_text:])
            count = len(records) // 2
            masked = answer[:n_text].decode("utf-8")
            topics, reason, back = unpack_verdict(level >> 8)
            spans, places = records[:count], records[count:]
            rated = LEVELS[level & 0xFF], unpack_score(score_bits)
            return Masked(masked, *rated, spans, places, topics, reason, back)
        except (ValueError, IndexError):
            raise _unreadable() from None

    def unmask(self, text: str) -> str:
        """Put the values back where their placeholders or surrogates are, altered ones too.

        Security: what this vault did not give out stays as it is.

        Args:
            text: an answer, at most 256 KiB of UTF-8.
        """
        return self._unmask(encode_text(text), 0, final=True)[0]

    def unmasker(self) -> "Unmasker":
        """Return what unmasks an answer that comes piece by piece."""
        return Unmasker(self)

    def check(self, text: str, *, words: bool = True, scan: bool = True) -> Checked:
        """Say whether a text that is to leave the device holds a value of this vault, or any other.

        Security: tells one kind of each, not the value nor where it stands. The text crosses as in
        `mask`.

        Args:
            text: at most 256 KiB of UTF-8.
            words: whether values shorter than five characters count, as whole words.
            scan: whether to look for private spans too.
        """
        data = encode_text(text)
        return self._calls._check(self._owner, self.number, data, words=words, scan=scan)

    def forget(self, placeholder: str | None = None) -> int:
        """Forget a value in all its spellings, or all of the vault; return how many values.

        Args:
            placeholder: as `mask` wrote it, "[PERSON_1]"; None: all, and the vault is closed.

        What `save` returned before is refused by this guard from then on: save anew, and let go of
        the old.
        """
        return self._calls._forget(self._owner, self.number, _named(placeholder))[0]

    def save(self) -> bytes:
        """Return the vault sealed, for `TeeClient.load_vault`; it stays open.

        Security: ciphertext of this device's guard alone. It shows a hash of the user, the vault's
        number, how often and when it was saved, its time to live, and its size. From then on its
        time runs at rest as well.
        """
        return self._calls._save(self._owner, self.number)

    def forget_user(self) -> int:
        """Forget every vault of this one's user that is open; return how many."""
        return self._calls._forget(self._owner, 0)[1]

    def _unmask(self, data: bytes, given: int, *, final: bool) -> tuple[str, int]:
        """Return the restored text, and how many bytes of `data` it stands for."""
        flags = given << _CONTEXT_SHIFT | (_FINAL_BIT if final else 0)
        values = (self.number, flags, *self._owner)
        room = 2 * len(data) + _MIN_ROOM
        answer, replied = self._calls._transform(GuardCommand.UNMASK, data, room, values)
        if replied[5] > len(data):
            raise _unreadable()
        try:
            return answer.decode("utf-8"), replied[5]
        except UnicodeDecodeError:
            raise _unreadable() from None


class Unmasker:
    """Unmasks an answer piece by piece, wherever it is split: together as `Vault.unmask` does.

    Keeps back what may still become a placeholder: at most 64 characters, with surrogates 160.
    """

    def __init__(self, vault: "_Unmasking") -> None:
        """Use `Vault.unmasker`."""
        self._vault = vault
        self._kept = b""
        self._before = b""  # the character before it

    def feed(self, piece: str) -> str:
        """Take the next piece; return what is ready."""
        return self._advance(encode_text(piece), final=False)

    def finish(self) -> str:
        """Return what was kept back. The unmasker may be used anew."""
        rest = self._advance(b"", final=True)
        self._kept = self._before = b""
        return rest

    def each(self, pieces: Iterator[str]) -> Iterator[str]:
        """Yield the restored text of a stream."""
        for piece in pieces:
            if ready := self.feed(piece):
                yield ready
        if rest := self.finish():
            yield rest

    def _advance(self, data: bytes, *, final: bool) -> str:
        whole = self._before + self._kept + data
        given = len(self._before)
        if len(whole) == given:
            return ""
        ready, used = self._vault._unmask(whole, given, final=final)
        if used > given:
            self._before = whole[:used].decode("utf-8")[-1].encode("utf-8")
        self._kept = whole[used:]
        return ready


class _Unmasking(Protocol):
    """What an unmasker asks of a vault."""

    def _unmask(self, data: bytes, given: int, *, final: bool) -> tuple[str, int]: ...


def _named(placeholder: str | None) -> int:
    """Return kind and number of a placeholder as FORGET takes them."""
    if placeholder is None:
        return 0
    kind, _, number = placeholder.strip("[]").rpartition("_")
    digits = number.rstrip("bcdefghijklmnopqrtuvwxyz")
    if kind not in KINDS or not digits.isdecimal() or not 0 < int(digits) < 1 << 31:
        raise TeeError(ResultCode.BAD_PARAMETERS, Origin.API, "no placeholder of the form [KIND_1]")
    return KINDS.index(kind) + 1 | int(digits) << 32


def _unreadable() -> TeeError:
    return TeeError(ResultCode.COMMUNICATION, Origin.API, "the guard's answer cannot be read")
