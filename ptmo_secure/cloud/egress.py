"""The one decision about what leaves: a clearance says for whom, the guard says whether.

    egress = Egress(guard, EgressLog(folder))
    with egress.clearance(vault, "chat", user="ann", session="s1"):
        reply = client.complete(request)

Everything that a cloud client would send passes `Egress.check`, with the very bytes. It refuses,
and logs that it did, when no clearance is in force, when the guard is gone, when a value of the
vault stands in the bytes (invariant I1), when a text holds a private span that is no placeholder of
the vault, or when the log cannot be written. What passes is logged before it is sent.
"""

import contextvars
import hashlib
import re
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, Protocol

from ptmo_secure.cloud.body import BodyError, Text, texts_of
from ptmo_secure.cloud.egress_log import EgressLog, LogEntry
from ptmo_secure.errors import EgressRefusedError, InputError, PtmoError
from tee_sim.client import Checked, ScanResult, kinds_in

MAX_BODY_BYTES = 240 << 10  # the guard reads 256 KiB at once
ENDPOINTS = ("/chat/completions", "/completions", "/models", "/embeddings")
_MAX_KNOWN = 8192
_WHY = re.compile(r"[a-z0-9_.:-]{1,64}")
_SAID = {
    "no_clearance": "no clearance is in force",
    "guard": "the guard gave no verdict",
    "held": "a masked value stands in it",
    "private": "something private stands in it",
    "too_long": "it is too long to be checked",
    "not_json": "it is no JSON",
    "too_deep": "it is nested too deep",
    "unreadable": "it holds an image, a sound or a file, which the guard cannot read",
    "endpoint": "it goes to no known endpoint",
    "credential": "it carries a key that is not the provider's",
}


class Guard(Protocol):
    """Finds private spans; a `TeeClient` in the guard role is one."""

    def scan(self, text: str) -> ScanResult:
        """Find what is private in a text."""


class CheckingVault(Protocol):
    """Knows the values that were masked; a `tee_sim.client.Vault` is one."""

    number: int

    def check(self, text: str, *, words: bool = True, scan: bool = True) -> Checked:
        """Say whether a text holds a value of this vault, or any other private span."""


@dataclass(slots=True)
class Clearance:
    """Leave to send, for one request of one user; made by `Egress.clearance`.

    Args:
        egress: that gave it.
        vault: whose values must not leave; None: nothing was masked.
        why, user, session: for the log.
        over: whether its block has ended.
        left: requests that passed the check and may have reached the socket.
    """

    egress: "Egress"
    vault: CheckingVault | None
    why: str
    user: str
    session: str
    over: bool = False
    left: int = 0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it would go over the wire.

    Args:
        provider, model: to whom; the model's name is the configuration's, not the user's.
        method, path: "POST", "/v1/chat/completions", with the query.
        headers: those that are not fixed by the transport.
        body: the very bytes.
    """

    provider: str
    model: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


_CLEARANCE: contextvars.ContextVar[Clearance | None] = contextvars.ContextVar(
    "clearance", default=None
)


class _Refusal(Exception):
    def __init__(self, code: str, place: str = "", kind: str = "") -> None:
        super().__init__(code)
        self.code, self.place, self.kind = code, place, kind


class Egress:
    """Checks and logs what would leave. Thread-safe.

    Args:
        guard: reads texts where no vault is given.
        log: of every decision.

    Security: fails closed: whatever goes wrong in here, nothing is sent. The guard looks at each
    text by itself; a text that it called harmless, or that `know` was given, is remembered by a
    keyed hash, and only those not seen before are scanned. Values of the vault are looked for every
    time.
    """

    def __init__(self, guard: Guard, log: EgressLog) -> None:
        self.guard, self.log = guard, log
        self._lock = threading.Lock()
        self._salt = secrets.token_bytes(32)
        self._harmless: OrderedDict[bytes, None] = OrderedDict()

    @contextmanager
    def clearance(
        self,
        vault: CheckingVault | None,
        why: str,
        user: str = "",
        session: str = "",
    ) -> Iterator[Clearance]:
        """Allow the requests of a block to be sent, if they pass the check.

        It holds for this thread and for what is started with a copy of its context, until the block
        ends.

        Args:
            vault: whose values must not leave; None when nothing was masked.
            why: a code for the log: small letters, digits, "_.:-", at most 64.
            user, session: for the log, where keyed hashes of them stand.

        Raises:
            InputError: `why` is no code.
        """
        if not isinstance(why, str) or not _WHY.fullmatch(why):
            raise InputError("why: a code of small letters, digits and _.:- is needed")
        given = Clearance(self, vault, why, user, session)
        token = _CLEARANCE.set(given)
        try:
            yield given
        finally:
            given.over = True
            _CLEARANCE.reset(token)

    def check(self, going: Outgoing) -> None:
        """Let a request pass, logged, or refuse it, logged.

        Raises:
            EgressRefusedError: nothing may be sent.
        """
        clearance = _CLEARANCE.get()
        if clearance is None or clearance.over or clearance.egress is not self:
            self._refuse(going, Clearance(self, None, "none", "", ""), _Refusal("no_clearance"))
        try:
            kinds = self._inspect(going, clearance.vault)
        except _Refusal as refusal:
            self._refuse(going, clearance, refusal)
        except Exception as failure:  # fail closed: the guard is gone, or its answer makes no sense
            self._refuse(going, clearance, _Refusal("guard", kind=type(failure).__name__))
        self._log(going, clearance, "sent", kinds)
        with self._lock:
            clearance.left += 1

    def not_left(self) -> None:
        """Take back that a request which passed left: no byte of it was written."""
        clearance = _CLEARANCE.get()
        if clearance is not None:
            with self._lock:
                clearance.left -= 1

    def know(self, vault: CheckingVault, texts: Iterable[str]) -> None:
        """Take in texts whose words the cloud knows, so that they may be told.

        Security: what the guard finds private in them refuses no request of this vault any more.
        Values of the vault are looked for in them as in all.

        Args:
            vault: that masked what was asked.
            texts: that a cloud wrote, with placeholders, that hold nothing private but what stands
                in others that it is told, or that were made up here.
        """
        for text in texts:
            self._let(self._seen(text, vault))

    def unfit(self, vault: CheckingVault, texts: Sequence[Text]) -> set[str]:
        """Return which of some texts would each refuse a request by itself; nothing is logged.

        Args:
            vault: whose values must not leave.
            texts: by their words as well, as `check` reads them.

        Raises:
            TeeError: the guard gave no verdict.
        """
        read = [(one.text, part) for one in texts for part in (one.text, one.words) if part]
        joined = "\n".join(part for _, part in read)
        if not read or len(joined.encode("utf-8", "surrogatepass")) > MAX_BODY_BYTES:
            return set()  # such a request is refused whole
        held = vault.check(joined, scan=False).held is not None
        found = {text for text, part in read if held and vault.check(part, scan=False).held}
        numbers = {one.text for one in texts if one.is_number}
        for text, part in read:
            if text not in found and text not in numbers and self._private(part, vault):
                found.add(text)
        return found

    def _inspect(self, going: Outgoing, vault: CheckingVault | None) -> Mapping[str, int]:
        """Return the placeholders of a request that may go.

        Raises:
            _Refusal: it may not.
        """
        beside = [Text("url", going.path)] if "?" in going.path else []
        beside += [
            Text(f"header {index}", part)
            for index, (name, value) in enumerate(going.headers)
            for part in (name, value)
        ]
        texts = [*beside, *self._texts(going)]
        # A short value between the words of a name ("call_Bob") is a word to who reads it
        texts += [Text(text.place, text.words) for text in texts if text.words is not None]
        around = "\n".join((going.path, *(text.text for text in beside)))
        raw = going.body.decode("utf-8", "replace")
        # A value cut in two by the parts of a message is whole for who reads them
        parts = "".join(text.text for text in texts if ".content[" in text.place)
        joined = "\n".join([*(text.text for text in texts), parts])
        sizes = (len(whole.encode("utf-8", "surrogatepass")) for whole in (around + raw, joined))
        if max(sizes) > MAX_BODY_BYTES:
            raise _Refusal("too_long")
        if vault is not None:
            for whole, words in ((f"{around}\n{raw}", False), (joined, True)):
                held = vault.check(whole, words=words, scan=False).held
                if held is not None:
                    raise _Refusal("held", self._where(vault, texts), held)
        for text in texts:
            private = None if text.is_number else self._private(text.text, vault)
            if private is not None:
                raise _Refusal("private", text.place, private)
        return Counter(kinds_in(raw))

    def _texts(self, going: Outgoing) -> list[Text]:
        if not going.body:
            return []
        if len(going.body) > MAX_BODY_BYTES:
            raise _Refusal("too_long")
        try:
            found = texts_of(going.body)
        except BodyError as error:
            raise _Refusal(error.code) from None
        return [text for text in found if text != Text("model", going.model)]

    def _private(self, text: str, vault: CheckingVault | None) -> str | None:
        """Return the kind of a private span in a text; None for a text that is harmless."""
        seen = self._seen(text, vault)
        with self._lock:
            if seen in self._harmless:
                self._harmless.move_to_end(seen)
                return None
        if vault is None:
            spans = self.guard.scan(text).spans
            private = spans[0].kind if spans else None
        else:
            checked = vault.check(text)
            private = checked.held or checked.private
        if private is None:
            self._let(seen)
        return private

    def _seen(self, text: str, vault: CheckingVault | None) -> bytes:
        number = 0 if vault is None else vault.number
        written = number.to_bytes(8, "little") + text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(written, key=self._salt, digest_size=16).digest()

    def _let(self, seen: bytes) -> None:
        with self._lock:
            self._harmless[seen] = None
            self._harmless.move_to_end(seen)
            while len(self._harmless) > _MAX_KNOWN:
                self._harmless.popitem(last=False)

    @staticmethod
    def _where(vault: CheckingVault, texts: list[Text]) -> str:
        """Return the place of the first text that alone holds a value; "" when none does."""
        return next((t.place for t in texts if vault.check(t.text, scan=False).held), "")

    def _refuse(self, going: Outgoing, clearance: Clearance, refusal: _Refusal) -> NoReturn:
        said = _SAID[refusal.code] + (f" ({refusal.kind})" if refusal.kind else "")
        where = f", at {refusal.place}" if refusal.place else ""
        try:
            code = ":".join(filter(None, (refusal.code, refusal.kind)))
            self._log(going, clearance, "refused", {}, code, refusal.place)
        except EgressRefusedError:
            said += "; and this could not be logged"
        raise EgressRefusedError(f"nothing was sent: {said}{where}", refusal.code) from None

    def _log(
        self,
        going: Outgoing,
        clearance: Clearance,
        decision: str,
        kinds: Mapping[str, int],
        code: str = "",
        place: str = "",
    ) -> None:
        # No more of the path than is known: what was refused may have stood in it
        path = next((end for end in ENDPOINTS if going.path.endswith(end)), "")
        entry = LogEntry(
            decision,
            going.provider,
            going.model,
            path,
            going.body,
            clearance.why,
            clearance.user,
            clearance.session,
            kinds,
            code,
            place,
        )
        try:
            self.log.append(entry)
        except (PtmoError, OSError, ValueError) as failure:
            raise EgressRefusedError(
                f"nothing was sent: the egress log cannot be written ({type(failure).__name__})",
                "log",
            ) from None

    def refuse(self, going: Outgoing, code: str) -> NoReturn:
        """Refuse a request for what the transport found, logged.

        Raises:
            EgressRefusedError: always.
        """
        clearance = _CLEARANCE.get() or Clearance(self, None, "none", "", "")
        self._refuse(going, clearance, _Refusal(code))
