"""The vault: which value stands behind which placeholder, for each guard session.

A session belongs to one user. Its number is drawn at random, its placeholders count from 1 by kind,
so neither tells anything of other sessions. Values are byte arrays, overwritten when they are
forgotten; what a value is found by is a keyed hash, not the value.
"""

import os
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b

from tee_sim.clocks import clock
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.guard.stand_ins import StandIns
from tee_sim.guard.words import entries
from tee_sim.memory import Budget, wipe
from tee_sim.placeholders import ESCAPED, MAX_NUMBER, MAX_SPELLINGS, Token

MAX_VAULTS = 256
MAX_VALUES = 16_384  # of a session
MAX_VALUE_BYTES = 4 << 20  # of a session, together
DEFAULT_TTL_S = 3600
MAX_TTL_S = 30 * 86_400
_KEY_BYTES = 32
_VALUE_BUDGET_BYTES = 1024  # what a value costs as Python objects, beside its bytes
_SEEN_BYTES = 16 << 10
_VAULT_BUDGET_BYTES = _SEEN_BYTES + (8 << 10)
_MAX_FORGOTTEN, _NEVER = 4096, 1 << 64

# Compared character by character; all other kinds as words, or without separators
_EXACT = frozenset({"SECRET", "API_KEY", "PRIVATE_KEY", "JWT", "CRYPTO_ADDRESS", "URL", ESCAPED})
_WORDS = frozenset(entries("word_kinds"))
_TITLES = frozenset("dr mr mrs ms mx prof sir madam miss".split())


class Entry:
    """One value of a session.

    Attributes:
        value: its UTF-8 bytes.
        stand_in: the surrogate it was given, or "".
        keys: the hashes it is found by.
    """

    __slots__ = ("cost", "keys", "stand_in", "value")

    def __init__(self, value: bytearray, keys: tuple[bytes, ...], cost: int) -> None:
        self.value, self.keys, self.cost, self.stand_in = value, keys, cost, ""


class Session:
    """The values of one conversation of one user. Made by `Vault.open`.

    Attributes:
        entries: by the token that stands for them.
        key: of every draw and hash of this session; 32 bytes.
        stand_ins: its surrogates.
        name_words: the hash of the word that a word of a surrogate name stands for.
        seen: a Bloom filter of the words that stood in texts masked with surrogates.
        last: the highest number of each kind.
        generation: how often it was saved.
    """

    def __init__(
        self, budget: Budget, user: bytes, number: int, ttl_s: int, generation: int = 0
    ) -> None:
        """Use `Vault.open`."""
        self.user, self.number, self.ttl_s, self.generation = user, number, ttl_s, generation
        self.key = bytearray(os.urandom(_KEY_BYTES))
        self.entries: dict[Token, Entry] = {}
        self.stand_ins = StandIns()
        self.name_words: dict[str, bytes] = {}
        self.seen = bytearray(_SEEN_BYTES)
        self.expires = clock() + ttl_s
        self._budget = budget
        self._bytes = 0
        self._tokens: dict[bytes, Token] = {}  # by the very value
        self._numbers: dict[bytes, int] = {}  # by what values that are the same share
        self.last: dict[str, int] = {}
        self._spellings: dict[tuple[str, int], int] = {}
        self._alive: dict[tuple[str, int], int] = {}

    def issue(self, kind: str, value: str) -> Token:
        """Return the token of a value, a new one if it has none.

        Values that differ in case, blanks or separators alone have one number, and so have parts of
        a name that only one known name holds; each spelling has a letter, to be restored exactly.

        Raises:
            TeeError: OUT_OF_MEMORY beyond `MAX_VALUES` or `MAX_VALUE_BYTES`, or the budget.
        """
        data = bytearray(value.encode("utf-8"))
        own = self._hash(b"=", kind, data)
        known = self._tokens.get(own)
        if known is not None:
            wipe(data)
            return known
        if len(self.entries) >= MAX_VALUES or len(data) > MAX_VALUE_BYTES - self._bytes:
            wipe(data)
            raise TeeError(ResultCode.OUT_OF_MEMORY, Origin.TRUSTED_APP, "the vault is full")
        shared = self._shared(kind, value)
        number = self._numbers.get(shared[0], 0) or self._name_of(shared)
        spelling = self._spellings.get((kind, number), -1) + 1
        if not number or spelling > MAX_SPELLINGS:
            number, spelling = self.last.get(kind, 0) + 1, 0
        if number > MAX_NUMBER:
            raise TeeError(ResultCode.OUT_OF_MEMORY, Origin.TRUSTED_APP, "no number is left")
        token = Token(kind, number, spelling)
        self._keep(token, data, own, shared)
        return token

    def restore(self, token: Token, data: bytearray) -> None:
        """Take in a value that `issue` gave this token in an earlier life of the session."""
        own = self._hash(b"=", token.kind, data)
        self._keep(token, data, own, self._shared(token.kind, data.decode("utf-8")))

    def _keep(self, token: Token, data: bytearray, own: bytes, shared: list[bytes]) -> None:
        kind, number, spelling = token
        cost = _VALUE_BUDGET_BYTES + 2 * len(data)
        with self._budget.keeping(cost):
            self.entries[token] = Entry(data, (own, *shared), cost)
        self._bytes += len(data)
        self._tokens[own] = token
        for at, form in enumerate(shared):
            other = self._numbers.setdefault(form, number)
            if at and other != number:
                self._numbers[form] = 0  # a part that two names share names nobody
        self.last[kind] = max(number, self.last.get(kind, 0))
        self._spellings[kind, number] = spelling
        self._alive[kind, number] = self._alive.get((kind, number), 0) + 1

    def _name_of(self, shared: list[bytes]) -> int:
        """Return the number of the one name whose parts all of these are, or 0."""
        numbers = {self._numbers.get(form, 0) for form in shared[1:]}
        return numbers.pop() if len(numbers) == 1 else 0

    def value(self, token: Token) -> str | None:
        """Return the value behind a token, or None if this session gave none such."""
        entry = self.entries.get(token)
        return None if entry is None else entry.value.decode("utf-8")

    def drop(self, tokens: Iterable[Token]) -> int:
        """Overwrite and forget values; return how many there were. Numbers are not used again."""
        gone = list(tokens)
        if len(self.stand_ins):
            self.stand_ins.remove(gone)
        dropped = 0
        for token in gone:
            entry = self.entries.pop(token, None)
            if entry is None:
                continue
            self._bytes -= len(entry.value)
            wipe(entry.value)
            self._budget.refund(entry.cost)
            dropped += 1
            self._tokens.pop(entry.keys[0], None)
            self._alive[token[:2]] -= 1
            if not self._alive[token[:2]]:
                for key in entry.keys[1:]:
                    if self._numbers.get(key) == token.number:
                        del self._numbers[key]
        return dropped

    def close(self) -> None:
        """Overwrite everything."""
        for entry in self.entries.values():
            wipe(entry.value)
            self._budget.refund(entry.cost)
        self.entries.clear()
        wipe(self.key, self.seen)

    def draw(self, purpose: str, *parts: object) -> bytes:
        """Return 64 bytes of this session's own PRF (keyed BLAKE2b, RFC 7693)."""
        text = "\x1f".join((purpose, *map(str, parts)))
        digest: bytes = blake2b(text.encode("utf-8"), key=self.key, digest_size=64).digest()
        return digest

    def _shared(self, kind: str, value: str) -> list[bytes]:
        return [self._hash(b"~", kind, form.encode("utf-8")) for form in _forms(kind, value)]

    def _hash(self, purpose: bytes, kind: str, data: bytes | bytearray) -> bytes:
        state = blake2b(purpose + kind.encode() + b"\0", key=self.key, digest_size=16)
        state.update(data)
        digest: bytes = state.digest()
        return digest


class Vault:
    """All sessions of a guard process.

    Args:
        budget: pays for them.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._sessions: dict[int, Session] = {}
        self._forgotten: dict[int, int] = {}  # vault: the first generation that may come back

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, user: bytes, ttl_s: int) -> Session:
        """Begin a session.

        Args:
            user: 16 bytes.
            ttl_s: seconds after its last use at which it is forgotten, 1 to `MAX_TTL_S`.

        Raises:
            TeeError: BAD_PARAMETERS, BUSY beyond `MAX_VAULTS` sessions, or OUT_OF_MEMORY.
        """
        self.sweep()
        if not 1 <= ttl_s <= MAX_TTL_S:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, "time to live")
        number = 0
        while not number or number in self._sessions:
            number = int.from_bytes(os.urandom(8), "little")
        return self._admit(user, number, ttl_s, 0)

    def adopt(self, user: bytes, number: int, ttl_s: int, generation: int) -> Session:
        """Begin a session that was saved, to be filled with what it held.

        Raises:
            TeeError: BAD_STATE: it is open. ROLLED_BACK: something of it was forgotten since, in
                this process. BUSY, OUT_OF_MEMORY: as `open`.
        """
        self.sweep()
        if number in self._sessions:
            raise TeeError(ResultCode.BAD_STATE, Origin.TRUSTED_APP, "this vault is open")
        if generation < self._forgotten.get(number, 0):
            raise TeeError(ResultCode.ROLLED_BACK, Origin.TRUSTED_APP, "forgotten since")
        return self._admit(user, number, ttl_s, generation)

    def _admit(self, user: bytes, number: int, ttl_s: int, generation: int) -> Session:
        if len(self._sessions) >= MAX_VAULTS:
            raise TeeError(ResultCode.BUSY, Origin.TRUSTED_APP, "too many vaults")
        with self._budget.keeping(_VAULT_BUDGET_BYTES):
            session = Session(self._budget, user, number, ttl_s, generation)
            self._sessions[number] = session
        return session

    def get(self, user: bytes, number: int) -> Session:
        """Return a session of a user, whose time begins anew.

        Raises:
            TeeError: ITEM_NOT_FOUND: it is not there, not theirs, or over.
        """
        self.sweep()
        session = self._sessions.get(number)
        if session is None or session.user != user:
            raise TeeError(ResultCode.ITEM_NOT_FOUND, Origin.TRUSTED_APP, "no such vault")
        session.expires = clock() + session.ttl_s
        return session

    def of_user(self, user: bytes) -> list[Session]:
        """Return every session of a user."""
        self.sweep()
        return [session for session in self._sessions.values() if session.user == user]

    def end(self, session: Session) -> int:
        """Forget a session; return how many values it had."""
        count = len(session.entries)
        del self._sessions[session.number]
        session.close()  # takes no memory, so that nothing comes between
        self._budget.refund(_VAULT_BUDGET_BYTES)
        return count

    def forget(self, session: Session, tokens: Iterable[Token] | None = None) -> int:
        """Forget values, or a whole session, for good: what was saved before does not come back.

        Args:
            session: whose.
            tokens: of the values; None: all, and the session ends.

        Returns:
            How many values it had of them.
        """
        if len(self._forgotten) >= _MAX_FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]
        self._forgotten[session.number] = _NEVER if tokens is None else session.generation + 1
        return self.end(session) if tokens is None else session.drop(tokens)

    def sweep(self) -> None:
        """Forget the sessions whose time is over."""
        now = clock()
        for session in [s for s in self._sessions.values() if s.expires <= now]:
            self.end(session)

    def close(self) -> None:
        """Forget every session."""
        for session in list(self._sessions.values()):
            self.end(session)


def _forms(kind: str, value: str) -> list[str]:
    """Return what values that are the same share; of a name its words after it."""
    if kind in _EXACT:
        return [value]
    folded = " ".join(unicodedata.normalize("NFC", value).casefold().split()).rstrip(".")
    if kind not in _WORDS:
        return ["".join(char for char in folded if char.isalnum()) or folded]
    if kind != "PERSON":
        return [folded]
    words = [word.strip(".,'\u2019") for word in folded.split()]
    parts = [word for word in words if word and word not in _TITLES]
    return [folded, *(f"\0{part}" for part in dict.fromkeys(parts))]
