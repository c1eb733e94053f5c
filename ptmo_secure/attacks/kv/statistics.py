"""How a guess is scored: rates, intervals and floors that a reader can check by hand.

Rules. Template tokens are never scored: anybody can recite them. `top1` is over distinct ids, not
positions, because at layer 0 every occurrence of a token yields the same row: "the" found forty
times is one success. An id is recovered when its FIRST scored occurrence (sessions in order, then
positions) is guessed right: one trial per id, fixed before any guess is seen, so the binomial
interval applies. Counting an id when any occurrence is right would give a common id many tries;
asking for all occurrences would let one miss hide thirty-nine hits. `ids_anywhere` reports the
former, as an upper bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptmo_secure.attacks.kv.pages import IdArray
from ptmo_secure.intervals import clopper_pearson


@dataclass(frozen=True, slots=True)
class ScoredSession:
    """Ground truth of one session. It never reaches an attack.

    Args:
        token_ids: [T] the ids the engine was fed.
        scored: [T] True where the token is the user's text, False for the chat template.
    """

    token_ids: IdArray
    scored: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Score:
    """Outcome of one attack. Rates are in [0, 1]."""

    tokens: int  # scored positions
    distinct_ids: int
    top1: float  # over distinct ids, first occurrence
    ci95: tuple[float, float]  # Clopper-Pearson for `top1`
    top1_positions: float
    ids_anywhere: float  # distinct ids guessed right at one position or more
    control_top1: float
    chance: float


def shuffled_ids(vocab_size: int, seed: int) -> IdArray:
    """A seeded uniform permutation of the ids, for the control."""
    return np.random.default_rng(seed).permutation(vocab_size).astype(np.int64)


def score(
    guesses: Sequence[IdArray], truth: Sequence[ScoredSession], vocab_size: int, seed: int
) -> Score:
    """Compare guesses with the truth.

    The control is the same attack with the ids of its dictionary shuffled: dictionary row i is
    reported as `shuffled_ids[i]`. It shows what rate the scoring grants to a method that finds rows
    but knows nothing of their tokens. Chance is the better of two blind strategies over positions:
    a uniform guess, and naming the commonest scored id every time.

    Args:
        guesses: one array of ids per session.
        truth: the same sessions, in the same order.
        vocab_size: V.
        seed: of the control's permutation.
    Raises:
        ValueError: sessions or lengths do not match, or nothing is scored.
    """
    if len(guesses) != len(truth):
        raise ValueError(f"{len(guesses)} sessions guessed, {len(truth)} to score")
    for index, (guess, session) in enumerate(zip(guesses, truth, strict=True)):
        if not len(guess) == len(session.token_ids) == len(session.scored):
            raise ValueError(
                f"session {index}: {len(guess)} guesses for {len(session.token_ids)} tokens"
            )
    pairs = list(zip(guesses, truth, strict=True))
    wanted = np.concatenate([s.token_ids[s.scored] for _, s in pairs] or [np.empty(0, np.int64)])
    found = np.concatenate([g[s.scored] for g, s in pairs] or [np.empty(0, np.int64)])
    if not len(wanted):
        raise ValueError("no token to score")
    hits = found == wanted
    ids, first, counts = np.unique(wanted, return_index=True, return_counts=True)
    recovered = int(hits[first].sum())
    control = shuffled_ids(vocab_size, seed)[found[first]] == ids
    return Score(
        tokens=len(wanted),
        distinct_ids=len(ids),
        top1=recovered / len(ids),
        ci95=clopper_pearson(recovered, len(ids)),
        top1_positions=float(hits.mean()),
        ids_anywhere=len(np.unique(wanted[hits])) / len(ids),
        control_top1=float(control.mean()),
        chance=max(1 / vocab_size, float(counts.max()) / len(wanted)),
    )
