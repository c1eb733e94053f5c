"""The layer-0 dictionary attacks: from stolen KV pages and a public model to token ids.

Each attack matches every stolen value row against the rows of the whole public vocabulary
(`PublicModel.value_rows`). They differ in what they compare:

| name | compares | defeats |
| --- | --- | --- |
| layer0_dictionary | the row as it stands | no shield |
| layer0_sorted | each head's row, sorted | any permutation within a head, fresh per row or not |
| layer0_codes | each head's row at unit length | hiding the scales alone |
| layer0_codes_sorted | the same, sorted | hiding the scales and permuting |
| layer0_scales | one scale per head, nothing else | hiding the codes alone |

The last three exist for sealed pages: an attacker who knows the format tries every part of it on
its own, so a result at chance is not the artefact of one broken part. The verdict on a shield is
that of the best of them all.

The dictionary is computed in float32. The engine's own rows come from 16-bit activations, so a
scale differs from the dictionary's by a rounding that `layer0_scales` does not model: an attacker
who runs the public engine's kernels over the vocabulary has the exact scales, and does at least as
well.

Sources: the scheme is KV-Shield (H. Yang et al., arXiv 2409.04040). Matching against a vocabulary,
and sorting to undo a permutation, are those of "Hidden No More" (ICML 2025, arXiv 2505.18332),
applied here to value rows, where the dictionary needs no forward pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from ptmo_secure.attacks.kv.attackers import Attacker
from ptmo_secure.attacks.kv.pages import (
    FloatArray,
    IdArray,
    SessionRows,
    StolenMemory,
    read_sessions,
)
from ptmo_secure.attacks.kv.public_model import PublicModel
from ptmo_secure.attacks.kv.search import nearest
from ptmo_secure.errors import InputError

INT8_MAX = 127.0
# A stored row differs from its dictionary row by rounding, a few percent of its length. One outside
# half the shortest and twice the longest row of the vocabulary is no plaintext row.
LENGTH_MARGIN = 2.0


@dataclass(frozen=True, slots=True)
class KnownSession:
    """Pages of a session whose text the attacker knows (A3, A4): its own, or a template."""

    stolen: StolenMemory
    token_ids: IdArray  # [T]


@dataclass(frozen=True, slots=True)
class Loot:
    """All an attack may look at. It holds no key, no engine and no victim's token.

    Args:
        stolen: readings of the KV pages, any number of sessions each.
        known: sessions of known text; empty for A0, A1 and A2.
    """

    stolen: tuple[StolenMemory, ...]
    known: tuple[KnownSession, ...] = ()

    def sessions(self, layer: int) -> list[SessionRows]:
        """Value rows of `layer`, one entry per stolen session, in order."""
        return [rows for dump in self.stolen for rows in read_sessions(dump, layer, "v")]


class Attack(Protocol):
    """What `matrix.run` needs of an attack; a new one plugs in by having these."""

    @property
    def name(self) -> str:
        """Name in tables and JSON."""
        ...

    @property
    def attacker(self) -> Attacker:
        """The weakest attacker that can run it."""
        ...

    @property
    def layer(self) -> int:
        """The layer whose rows it reads."""
        ...

    def applies_to(self, shield: str) -> bool:
        """Whether running it against `shield` says anything."""
        ...

    def run(self, loot: Loot, model: PublicModel) -> list[IdArray]:
        """A guess of the token id at every position of every stolen session, in `loot`'s order."""
        ...


class View(str, Enum):
    """The part of a stolen row that an attack compares."""

    VALUES = "values"
    CODES = "codes"
    SCALES = "scales"


@dataclass(frozen=True, slots=True)
class DictionaryAttack:
    """Nearest neighbour of every layer-0 value row in the public dictionary, all heads at once.

    Args:
        name: name in tables and JSON.
        view: what is compared.
        sort: sort each head's row on both sides first; the multiset survives any permutation.
    """

    name: str
    view: View = View.VALUES
    sort: bool = False
    attacker: Attacker = Attacker.A0
    layer: int = 0

    def applies_to(self, shield: str) -> bool:
        """Every shield: A0 does not know which one is on."""
        return True

    def run(self, loot: Loot, model: PublicModel) -> list[IdArray]:
        """Guess every token of every stolen session.

        Raises:
            InputError: the pages do not have the model's heads, or are malformed.
        """
        sessions = loot.sessions(self.layer)
        if not sessions:
            return []
        for session in sessions:
            check_heads(session, model)
        table = model.value_rows
        queries = np.concatenate([*map(self._features_of_rows(table), sessions)])
        found = model.token_ids[nearest(queries, table, self._features)]
        return split_by_session(found, sessions)

    def _features(self, rows: FloatArray) -> FloatArray:
        """Features of plain value rows: [N, n_kv_heads, head_dim] -> [N, F]."""
        if self.view is View.SCALES:
            return log_scales(np.abs(rows).max(axis=2) / INT8_MAX)
        shaped = unit_rows(rows) if self.view is View.CODES else rows
        shaped = np.sort(shaped, axis=2) if self.sort else shaped
        return np.ascontiguousarray(shaped.reshape(len(rows), -1), np.float32)

    def _features_of_rows(self, table: FloatArray) -> Callable[[SessionRows], FloatArray]:
        """Return what makes features of stolen rows, which may be ciphertext: always finite.

        The table is measured here, once for all sessions.
        """
        if self.view is View.SCALES:
            scales = HeadRange.of(log_scales(np.abs(table).max(axis=2) / INT8_MAX))
            return lambda session: plausible_scales(session, scales)
        if self.view is View.CODES:
            return lambda session: self._features(unit_rows(finite_codes(session)))
        lengths = HeadRange.of(np.linalg.norm(table, axis=2))
        return lambda session: self._features(plausible_values(session, lengths))


def split_by_session(guesses: IdArray, sessions: Sequence[SessionRows]) -> list[IdArray]:
    """Cut guesses for the rows of all sessions, end to end, into one array per session."""
    ends = np.cumsum([len(session.seq) for session in sessions])[:-1]
    return [np.asarray(part, np.int64) for part in np.split(guesses, ends)]


def check_heads(session: SessionRows, model: PublicModel) -> None:
    """Refuse pages that cannot come from `model`.

    Raises:
        InputError: heads or head size differ.
    """
    found = session.codes.shape[1:]
    wanted = (model.n_kv_heads, model.head_dim)
    if found != wanted:
        raise InputError(
            f"the dump has {found[0]} KV heads of {found[1]} elements, "
            f"the public model {wanted[0]} of {wanted[1]}"
        )


def finite_codes(session: SessionRows) -> FloatArray:
    """Stored elements as float32, what is not finite as 0: [T, n_kv_heads, head_dim]."""
    codes = session.codes.astype(np.float32)
    return np.nan_to_num(codes, nan=0.0, posinf=0.0, neginf=0.0)


def unit_rows(rows: FloatArray) -> FloatArray:
    """Each head's row divided by its Euclidean length; a zero row stays zero.

    Through float64: float32 ciphertext has elements whose squares overflow.
    """
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.asarray(wide / np.where(lengths > 0, lengths, 1.0), np.float32)


@dataclass(frozen=True, slots=True)
class HeadRange:
    """Least, median and greatest number of each head over the vocabulary: [n_kv_heads] each."""

    low: FloatArray
    middle: FloatArray
    high: FloatArray

    @classmethod
    def of(cls, numbers: FloatArray) -> "HeadRange":
        """The range of one number per row and head, [D, n_kv_heads]."""
        return cls(numbers.min(axis=0), np.median(numbers, axis=0), numbers.max(axis=0))


def plausible_values(session: SessionRows, lengths: HeadRange) -> FloatArray:
    """Decoded rows, code * scale, with implausible heads brought to a plausible length.

    A head's row that is not finite, or longer or shorter than any the vocabulary has (by more than
    `LENGTH_MARGIN`), keeps the direction of its codes and takes the vocabulary's median length.
    Plaintext rows are never touched. Ciphertext rows are: left alone, one scale of 1e30 would make
    the longest row of the dictionary the nearest neighbour of every position, and a low result
    would only show that the attacker had not noticed.

    Args:
        session: the stolen rows.
        lengths: Euclidean lengths of the vocabulary's rows.
    """
    low, high = lengths.low / LENGTH_MARGIN, lengths.high * LENGTH_MARGIN
    with np.errstate(over="ignore", invalid="ignore"):
        values = session.codes.astype(np.float64)
        if session.scales is not None:
            values = values * session.scales[:, :, None]
        found = np.linalg.norm(values, axis=2)
        plausible = (found >= low) & (found <= high)  # False for NaN
    stand_in = unit_rows(finite_codes(session)) * lengths.middle[:, None]
    return np.asarray(np.where(plausible[:, :, None], values, stand_in), np.float32)


def log_scales(scales: FloatArray) -> FloatArray:
    """Binary logarithm of positive scales; 0 counts as the smallest normal float32."""
    return np.asarray(np.log2(np.maximum(scales, np.finfo(np.float32).tiny)), np.float32)


def plausible_scales(session: SessionRows, known: HeadRange) -> FloatArray:
    """Log scales of stolen rows, [T, n_kv_heads], given those of the vocabulary.

    A scale outside the vocabulary's range is ciphertext: its fraction, log2|s| mod 1, picks a place
    inside the range, so that noise spreads over the dictionary instead of piling up at its edge.
    """
    scales = session.scales
    if scales is None:  # no scales stored: the rows' own peaks take their place
        scales = np.abs(finite_codes(session)).max(axis=2) / np.float32(INT8_MAX)
    elif session.code_max:  # the table's scales are those of INT8
        with np.errstate(invalid="ignore", over="ignore"):
            scales = scales * np.float32(session.code_max / INT8_MAX)
    low, high = known.low - 1.0, known.high + 1.0
    usable = np.isfinite(scales) & (scales != 0)
    found = np.log2(np.abs(np.where(usable, scales, 1.0)).astype(np.float64))
    spread = low + (found % 1.0) * (high - low)
    inside = usable & (scales > 0) & (found >= low) & (found <= high)
    return np.asarray(np.where(inside, found, spread), np.float32)


def dictionary_attacks() -> Sequence[Attack]:
    """The A0 attacks, in the order in which tables show them."""
    return (
        DictionaryAttack("layer0_dictionary"),
        DictionaryAttack("layer0_sorted", sort=True),
        DictionaryAttack("layer0_codes", View.CODES),
        DictionaryAttack("layer0_codes_sorted", View.CODES, sort=True),
        DictionaryAttack("layer0_scales", View.SCALES),
    )
