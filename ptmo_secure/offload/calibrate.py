"""What quality costs: the curve of a router over the share of turns that go to the cloud."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import Floats
from ptmo_secure.offload.envs.session_data import ANSWER_MEDIAN
from ptmo_secure.offload.outcomes import OutcomeTable, count_tokens
from ptmo_secure.offload.policies.router import ScoreModel
from ptmo_secure.offload.profiles import CLOUDS
from ptmo_secure.offload.routing import folds, predicted_scores

SHARES = tuple(round(0.1 * n, 1) for n in range(11))


@dataclass(frozen=True, slots=True)
class Point:
    """One threshold.

    Args:
        share: of the questions that go to the cloud.
        threshold: the least predicted gain that does.
        predicted, measured: mean score, by the router and by the table; both of questions that the
            router has not seen.
        usd_per_1000: price list times tokens, answers of the usual length.
    """

    share: float
    threshold: float
    predicted: float
    measured: float
    usd_per_1000: float

    def as_json(self) -> dict[str, object]:
        """The point as a JSON object."""
        return asdict(self)


def curve(table: OutcomeTable, model: type[ScoreModel], seed: int) -> list[Point]:
    """Return the curve of a router on a table, from all local to all cloud.

    Args:
        table: outcomes; the same five folds predict and measure.
        model: the router's.
        seed: of the folds.

    Raises:
        InputError: the table has too few questions.
    """
    if len(table.questions) < 2 * len(SHARES):
        raise InputError(f"{table.name}: {len(table.questions)} questions are too few for a curve")
    rng = np.random.default_rng(seed)
    scores = predicted_scores(table, model, folds(table, "questions", rng), rng)
    gain = scores[:, 1] - scores[:, 0]
    order = np.argsort(-gain, kind="stable")
    usd = np.array([_usd(question) for question in table.questions])
    return [_point(share, order, gain, scores, table.scores, usd) for share in SHARES]


def _point(
    share: float,
    order: "NDArray[np.int64]",
    gain: Floats,
    predicted: Floats,
    true: Floats,
    usd: Floats,
) -> Point:
    away = np.zeros(len(gain), dtype=np.int64)
    sent = order[: round(share * len(gain))]
    away[sent] = 1
    rows = np.arange(len(gain))
    threshold = float(gain[sent].min()) if len(sent) else float(gain.max()) + 1e-9
    return Point(
        share,
        threshold,
        float(np.clip(predicted[rows, away], 0, 1).mean()),
        float(true[rows, away].mean()),
        1000 * float((usd * away).mean()),
    )


def _usd(question: str) -> float:
    cloud = CLOUDS["large"]
    prompt = count_tokens(question) * cloud.usd_per_prompt_token
    return prompt + ANSWER_MEDIAN * cloud.usd_per_answer_token
