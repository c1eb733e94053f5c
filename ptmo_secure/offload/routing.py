"""How well a router orders questions: quality against the share of calls to the cloud.

Definitions as in RouteLLM (2406.18665): performance gap recovered at a share x of cloud calls,
PGR(x) = (quality(x) - local) / (cloud - local); APGR is its area over x in [0, 1], CPT(p) the
smallest x with PGR(x) >= p. A router without any skill has APGR 0.5; an oracle has more than 1
where the local model is right and the cloud model is not.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import Floats
from ptmo_secure.offload.envs.base import TrainingRow
from ptmo_secure.offload.outcomes import OutcomeTable
from ptmo_secure.offload.policies.groups import GroupModel
from ptmo_secure.offload.policies.knn import KnnModel
from ptmo_secure.offload.policies.matrix import MatrixModel
from ptmo_secure.offload.policies.router import ScoreModel
from ptmo_secure.offload.policies.shaped import ShapedModel
from ptmo_secure.offload.policies.tfidf import TfidfModel

ROUTERS: dict[str, type[ScoreModel]] = {
    "tfidf": TfidfModel,
    "knn": KnnModel,
    "matrix": MatrixModel,
    "groups": GroupModel,
    "shaped": ShapedModel,
}
REFERENCES = ("random", "oracle")
SPLITS = ("questions", "domains")
FOLDS = 5
_TIES = 1e-9  # breaks ties at random, far below any difference that means something


@dataclass(frozen=True, slots=True)
class RoutingRow:
    """One router on one table.

    Args:
        table, router, seed: what ran.
        split: "questions", or "domains" where no domain of a test question was seen.
        apgr: area under PGR.
        cpt50, cpt80: share of cloud calls for 50 and 80 % of the gap; 1 if never reached before.
        local, cloud: mean scores of the two models.
    """

    table: str
    router: str
    seed: int
    split: str
    apgr: float
    cpt50: float
    cpt80: float
    local: float
    cloud: float

    def as_json(self) -> dict[str, object]:
        """The row as a JSON object."""
        return asdict(self)


def recovered(scores: Floats, gain: Floats, rng: np.random.Generator) -> Floats:
    """Return PGR after 0, 1, ... n cloud calls, the highest predicted gain first, [n + 1].

    Args:
        scores: [n, 2], the local and the cloud model's.
        gain: predicted, [n]; equals are ordered at random.

    Raises:
        InputError: the cloud model is no better than the local one, so there is no gap.
    """
    gap = float(scores[:, 1].mean() - scores[:, 0].mean())
    if gap <= 0:
        raise InputError("the cloud model scores no better than the local one: nothing to recover")
    order = np.lexsort((rng.random(len(gain)), -gain))
    steps = (scores[order, 1] - scores[order, 0]) / (len(gain) * gap)
    return np.concatenate([[0.0], np.cumsum(steps)])


def area(pgr: Floats) -> float:
    """Return APGR: the trapezoids under PGR over the share of calls."""
    return float((pgr[1:] + pgr[:-1]).mean() / 2)


def call_share(pgr: Floats, wanted: float) -> float:
    """Return the smallest share of calls whose PGR is at least as wanted."""
    return float(np.argmax(pgr >= wanted - _TIES)) / (len(pgr) - 1)


def folds(table: OutcomeTable, split: str, rng: np.random.Generator) -> "NDArray[np.int64]":
    """Return the fold of each question: questions alone at random, or whole domains.

    Raises:
        InputError: the split is unknown, or there are fewer questions or domains than folds.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    names = sorted(set(table.groups)) if split == "domains" else list(table.questions)
    if len(names) < FOLDS:
        raise InputError(f"{table.name}: {len(names)} {split}, fewer than {FOLDS} folds")
    fold = rng.permutation(len(names)) % FOLDS
    if split == "questions":
        return np.asarray(fold)
    number = dict(zip(names, fold, strict=True))
    return np.array([number[group] for group in table.groups])


def predicted_gain(
    table: OutcomeTable,
    model: Callable[[], ScoreModel],
    fold: "NDArray[np.int64]",
    rng: np.random.Generator,
) -> Floats:
    """Return the gain that a router predicts for each question without having seen it, [n]."""
    scores = predicted_scores(table, model, fold, rng)
    return np.asarray(scores[:, 1] - scores[:, 0])


def predicted_scores(
    table: OutcomeTable,
    model: Callable[[], ScoreModel],
    fold: "NDArray[np.int64]",
    rng: np.random.Generator,
) -> Floats:
    """Return the scores that a router predicts for questions it has not seen, [n, 2]."""
    predicted = np.zeros((len(table.questions), 2))
    for number in range(FOLDS):
        seen, unseen = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        rows = [
            TrainingRow(table.questions[row], arm, float(table.scores[row, arm]), table.groups[row])
            for row in seen
            for arm in (0, 1)
        ]
        fitted = model()
        fitted.fit(rows, 2, rng)
        predicted[unseen] = fitted.predict([table.questions[row] for row in unseen])
    return predicted


def evaluate_routers(
    table: OutcomeTable, routers: Sequence[str], split: str, seed: int
) -> list[RoutingRow]:
    """Measure routers on one table by cross-validation over five folds.

    Args:
        routers: names in `ROUTERS` and `REFERENCES`.
        split: one of `SPLITS`.
        seed: of the folds, and of whatever is random in a router.

    Raises:
        InputError: a name is unknown, or the table cannot be split so.
    """
    rows = []
    for name in routers:
        rng = np.random.default_rng(seed)
        fold = folds(table, split, rng)
        if name == "random":
            gain = rng.random(len(table.questions))
        elif name == "oracle":
            gain = table.scores[:, 1] - table.scores[:, 0]
        elif name in ROUTERS:
            gain = predicted_gain(table, ROUTERS[name], fold, rng)
        else:
            expected = ", ".join([*ROUTERS, *REFERENCES])
            raise InputError(f"unknown router {name!r}: expected some of {expected}")
        pgr = recovered(table.scores, gain, rng)
        local, cloud = (float(value) for value in table.scores.mean(axis=0))
        figures = area(pgr), call_share(pgr, 0.5), call_share(pgr, 0.8)
        rows.append(RoutingRow(table.name, name, seed, split, *figures, local, cloud))
    return rows
