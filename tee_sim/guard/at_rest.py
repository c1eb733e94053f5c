"""A vault at rest: AES-256-GCM-SIV (RFC 8452) under a key derived from the guard's storage key.

`tee_sim.vault_format` gives the bytes. Two clocks tell its age: within one start of the machine
the one that nobody sets, after it that of the wall, which must not stand before the time of saving.
"""

import os
import struct
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag

from tee_sim.clocks import BOOT_ID, clock, wall_clock
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.guard.stand_ins import StandIn
from tee_sim.guard.vault import Session, Vault
from tee_sim.memory import wipe
from tee_sim.placeholders import KINDS, Token
from tee_sim.sealing import expand, gcm_siv
from tee_sim.vault_format import VAULT_HEADER as HEADER
from tee_sim.vault_format import VAULT_KIND, VAULT_TAG_BYTES, VaultHeader, vault_header

_LABEL = b"ptmo/v1/vault"
_COUNTS, _ROW = struct.Struct("<4I"), struct.Struct("<4I")
_HASH_BYTES = 16
_OVERHEAD_BYTES = HEADER.size + VAULT_TAG_BYTES
_Row = tuple[int, int, int, bytes | bytearray]


def seal(key: memoryview, session: Session) -> bytearray:
    """Return a session as it may leave the TEE; its generation is the next one.

    Args:
        key: the guard's storage key, 32 bytes.
        session: stays as it is but for its generation.
    """
    tables, plain = _tables(session), bytearray(sealed_bytes(session) - _OVERHEAD_BYTES)
    try:
        at = _put(plain, 0, _COUNTS.pack(*map(len, tables)))
        at = _put(plain, _put(plain, at, session.key), session.seen)
        for a, b, c, data in (row for table in tables for row in table):
            at = _put(plain, _put(plain, at, _ROW.pack(a, b, c, len(data))), data)
        nonce, generation = os.urandom(12), session.generation + 1
        header = HEADER.pack(
            *(*VAULT_KIND, session.ttl_s, session.user, session.number, generation),
            *(int(wall_clock()), BOOT_ID, int(clock()), nonce),
        )
        blob = bytearray(len(header) + len(plain) + VAULT_TAG_BYTES)
        blob[: len(header)] = header
        with memoryview(blob) as view:
            gcm_siv(expand(key, _LABEL)).encrypt_into(nonce, plain, header, view[len(header) :])
    finally:
        wipe(plain)
    session.generation = generation
    return blob


def sealed_bytes(session: Session) -> int:
    """Return the size of what `seal` returns."""
    rows = sum(_ROW.size + len(row[3]) for table in _tables(session) for row in table)
    return _OVERHEAD_BYTES + _COUNTS.size + len(session.key) + len(session.seen) + rows


def unseal(key: memoryview, vault: Vault, blob: bytearray, user: bytes, number: int) -> Session:
    """Open a session from what `seal` returned.

    Args:
        key: the guard's storage key.
        vault: where it goes; as before when this raises.
        blob: what was stored.
        user, number: whose it must be, and which one; 0: any of theirs.

    Raises:
        TeeError: naming by its code what is wrong, in this order. TRUNCATED, BAD_FORMAT: not of a
            vault's length, magic or version. MAC_INVALID: changed, or another device's.
            WRONG_OBJECT: another user's, or another vault. CLOCK_SET_BACK: it was saved in the
            future. EXPIRED: its time is over. Then as `Vault.adopt`.
    """
    if len(blob) < _OVERHEAD_BYTES:
        raise _refusal(ResultCode.TRUNCATED, "cut short")
    header = vault_header(blob)
    if header is None:
        raise _refusal(ResultCode.BAD_FORMAT, "no vault of this version")
    at, plain = HEADER.size, bytearray(len(blob) - _OVERHEAD_BYTES)
    try:
        with memoryview(blob) as view:
            gcm_siv(expand(key, _LABEL)).decrypt_into(header.nonce, view[at:], view[:at], plain)
        if header.user != user or number not in (0, header.number):
            raise _refusal(ResultCode.WRONG_OBJECT, "another vault")
        if _age_s(header) >= header.ttl_s:
            raise _refusal(ResultCode.EXPIRED, "its time is over")
        session = vault.adopt(user, header.number, header.ttl_s, header.generation)
        try:
            _fill(session, plain)
        except BaseException:
            vault.end(session)
            raise
        return session
    except InvalidTag:
        raise _refusal(ResultCode.MAC_INVALID, "changed") from None
    finally:
        wipe(plain)


def _tables(session: Session) -> tuple[list[_Row], ...]:
    """Return what a session knows beside its key and filter: kinds, values, surrogates, words."""
    entries = session.entries.items()
    values: list[_Row] = [
        (KINDS.index(token.kind), token.number, token.spelling, entry.value)
        for token, entry in entries
    ]
    at = {token: index for index, (token, _) in enumerate(entries)}
    return (
        [(KINDS.index(kind), number, 0, b"") for kind, number in session.last.items()],
        values,
        [(at[s.token], s.word + 1, 0, s.text.encode("utf-8")) for s in session.stand_ins],
        [(0, 0, 0, own + word.encode("utf-8")) for word, own in session.name_words.items()],
    )


def _fill(session: Session, plain: bytearray) -> None:
    counts, at = _COUNTS.unpack_from(plain), _COUNTS.size
    for held in (session.key, session.seen):
        held[:] = plain[at : at + len(held)]
        at += len(held)
    rows = _rows(plain, at)
    kinds, values, surrogates, words = ([next(rows) for _ in range(n)] for n in counts)
    session.last.update({KINDS[kind]: number for kind, number, _, _ in kinds})
    tokens = [Token(KINDS[kind], number, spelling) for kind, number, spelling, _ in values]
    for token, (*_, data) in zip(tokens, values, strict=True):
        session.restore(token, data)
    for index, word, _, text in surrogates:
        stand_in = StandIn(text.decode("utf-8"), tokens[index], word - 1)
        session.stand_ins.add(stand_in)
        if not word:
            session.entries[tokens[index]].stand_in = stand_in.text
    for *_, data in words:
        session.name_words[data[_HASH_BYTES:].decode("utf-8")] = bytes(data[:_HASH_BYTES])


def _rows(plain: bytearray, at: int) -> Iterator[tuple[int, int, int, bytearray]]:
    while at < len(plain):
        a, b, c, size = _ROW.unpack_from(plain, at)
        at += _ROW.size + size
        yield a, b, c, plain[at - size : at]


def _put(plain: bytearray, at: int, data: bytes | bytearray) -> int:
    end = at + len(data)
    plain[at:end] = data
    return end


def _age_s(header: VaultHeader) -> float:
    age_s = wall_clock() - header.saved_s
    if header.boot_id == BOOT_ID:
        age_s = clock() - header.saved_since_boot_s
    if age_s < 0:
        raise _refusal(ResultCode.CLOCK_SET_BACK, "saved in the future")
    return age_s


def _refusal(code: ResultCode, message: str) -> TeeError:
    return TeeError(code, Origin.TRUSTED_APP, message)
