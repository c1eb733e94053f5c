"""Keystream reuse: the attack that a stream cipher over KV pages must not allow.

AES-CTR XORs each row with a keystream that depends on the key and on the counter block alone, and
sequence numbers stand in the clear. If two sessions ever shared a key, equal sequence numbers would
mean equal keystream: an attacker with a session of its own (text it chose, so rows it can compute)
gets the keystream as ciphertext XOR plaintext, and reads the victim's rows with it.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ptmo_secure.attacks.kv.attackers import Attacker
from ptmo_secure.attacks.kv.attacks import (
    Loot,
    check_heads,
    finite_codes,
    split_by_session,
    unit_rows,
)
from ptmo_secure.attacks.kv.pages import FloatArray, IdArray, SessionRows, read_sessions
from ptmo_secure.attacks.kv.public_model import PublicModel
from ptmo_secure.attacks.kv.search import nearest
from ptmo_secure.errors import InputError

Bits = npt.NDArray[np.uint8]  # [..., head_dim * element bytes]; INT4: [..., head_dim] nibbles
INT4_MAX, INT4_OFFSET = 7, 8  # an INT4 code is stored as a nibble, 8 added


@dataclass(frozen=True, slots=True)
class KeystreamReuseAttack:
    """Strip the keystream of the attacker's own session off the victim's, then match codes.

    A victim's row with no counterpart of the same sequence number is matched as it stands. Integer
    codes are predicted by rounding v(t) to its largest element; a code off by one flips a few bits
    of the keystream and is noise to the match.

    Not run against `permute+seal`: there the attacker's own rows are permuted before they are
    sealed, so their plaintext, and with it the keystream, needs the permutation first.
    """

    name: str = "keystream_reuse"
    attacker: Attacker = Attacker.A4
    layer: int = 0

    def applies_to(self, shield: str) -> bool:
        """Sealed pages only: elsewhere there is no keystream to reuse."""
        return shield == "seal"

    def run(self, loot: Loot, model: PublicModel) -> list[IdArray]:
        """Guess every token of every stolen session.

        Raises:
            InputError: there is no session of known text.
        """
        if not loot.known:
            raise InputError("keystream_reuse needs a session of known text")
        keystream: dict[int, Bits] = {}
        for known in loot.known:
            sessions = read_sessions(known.stolen, self.layer, "v")
            if [len(own.seq) for own in sessions] != [len(known.token_ids)]:
                raise InputError(
                    f"the known text has {len(known.token_ids)} tokens, its dump sessions of "
                    f"{[len(own.seq) for own in sessions]} rows"
                )
            own = sessions[0]
            check_heads(own, model)
            plain = encode(model.rows_of(known.token_ids), own)
            for row, seq in enumerate(own.seq):
                keystream[int(seq)] = as_bits(own.codes[row], own) ^ as_bits(plain[row], own)
        sessions = loot.sessions(self.layer)
        if not sessions:
            return []
        queries = np.concatenate([_features(finite_codes(strip(s, keystream))) for s in sessions])
        found = model.token_ids[nearest(queries, model.value_rows, _features)]
        return split_by_session(found, sessions)


def _features(rows: FloatArray) -> FloatArray:
    return unit_rows(rows).reshape(len(rows), -1)


def encode(rows: FloatArray, like: SessionRows) -> npt.NDArray[np.generic]:
    """Rows as the cache of `like` would store them: [T, n_kv_heads, head_dim].

    Integers: code = round(v / s) with s = max|v| / code_max over a token and KV head.
    """
    if like.code_max is None:
        return rows.astype(like.codes.dtype)
    scales = np.abs(rows).max(axis=2, keepdims=True) / like.code_max
    return np.rint(rows / np.where(scales > 0, scales, 1.0)).astype(np.int8)


def as_bits(row: npt.NDArray[np.generic], like: SessionRows) -> Bits:
    """What of a row is encrypted: its bytes, or the nibble of each INT4 code."""
    if like.code_max == INT4_MAX:
        return np.add(row.astype(np.int8), INT4_OFFSET, dtype=np.int8).view(np.uint8)
    return np.ascontiguousarray(row).view(np.uint8)


def from_bits(bits: Bits, like: SessionRows) -> npt.NDArray[np.generic]:
    """The row of these bits."""
    if like.code_max == INT4_MAX:
        return np.subtract(bits.view(np.int8), INT4_OFFSET, dtype=np.int8)
    return bits.view(like.codes.dtype)


def strip(session: SessionRows, keystream: dict[int, Bits]) -> SessionRows:
    """XOR the keystream known for a sequence number off the row that carries it."""
    codes = session.codes.copy()
    for row, seq in enumerate(session.seq):
        if int(seq) in keystream:
            bits = as_bits(codes[row], session) ^ keystream[int(seq)]
            codes[row] = from_bits(bits, session)
    return replace(session, codes=codes)
