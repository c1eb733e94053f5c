"""Shadow mode: what a router would have done on a user's own log, and what that would have earned.

A log is JSON lines: {"text": ..., "action": "local" or "cloud", "propensity": p, "reward": r}, with
p the probability with which the logged action was drawn. Nothing is sent anywhere, and no text is
printed or kept.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import Floats
from ptmo_secure.offload.hashed import HashedWords
from ptmo_secure.offload.offpolicy import Estimate, Logged, estimates
from ptmo_secure.offload.policies.groups import GroupModel
from ptmo_secure.offload.quality import ridge

ACTIONS = ("local", "cloud")
_MAX_BYTES = 256 << 20
_FOLDS = 5
_PENALTY = 20.0


@dataclass(frozen=True, slots=True)
class Shadowed:
    """A router's part in a log.

    Args:
        share: of the turns that it sends to the cloud.
        agreement: share of the turns in which it does what was logged.
        logged: mean reward of the log.
        estimates: of its own.
    """

    share: float
    agreement: float
    logged: float
    estimates: list[Estimate]

    def as_json(self) -> dict[str, object]:
        """The result as a JSON object."""
        return {
            "cloud_share": self.share,
            "agreement": self.agreement,
            "logged_reward": self.logged,
            "estimates": [estimate.as_json() for estimate in self.estimates],
        }


def read_log(path: Path) -> tuple[list[str], Logged]:
    """Read a log.

    Raises:
        InputError: it cannot be read, or a line is not as the format says; the text of the line is
            not repeated.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: larger than {_MAX_BYTES >> 20} MiB")
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8") from None
    except OSError as failure:
        raise InputError(f"{path}: {failure.strerror}") from None
    texts: list[str] = []
    numbers: list[tuple[int, float, float]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                entry: dict[str, Any] = json.loads(line)
                texts.append(_text(entry["text"]))
                action = ACTIONS.index(entry["action"])
                numbers.append((action, float(entry["propensity"]), float(entry["reward"])))
            except (KeyError, TypeError, ValueError, RecursionError):
                wanted = "text, action (local or cloud), propensity and reward"
                raise InputError(f"{path}: line {number} is not an object with {wanted}") from None
    if len(texts) < _FOLDS:
        raise InputError(f"{path}: {len(texts)} turns, at least {_FOLDS} are needed")
    columns = np.array(numbers)
    return texts, Logged(columns[:, 0].astype(np.int64), columns[:, 1], columns[:, 2])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("the text is none")
    return value


def reward_model(texts: Sequence[str], log: Logged, seed: int) -> Floats:
    """Predict the reward of both actions in each turn by the other folds, [n, 2]."""
    vectors = HashedWords.fitted(texts).of(texts)
    fold = np.random.default_rng(seed).permutation(len(texts)) % _FOLDS
    predicted = np.full((len(texts), len(ACTIONS)), float(log.reward.mean()))
    for number in range(_FOLDS):
        unseen = np.flatnonzero(fold == number)
        for action in range(len(ACTIONS)):
            seen = np.flatnonzero((fold != number) & (log.action == action))
            if len(seen) > 1:
                slope, level = ridge(vectors[seen], log.reward[seen], _PENALTY)
                predicted[unseen, action] = vectors[unseen] @ slope + level
    return predicted


def shadow(
    texts: Sequence[str], log: Logged, model: GroupModel, share: float, seed: int = 0
) -> Shadowed:
    """Let a router that sends the most promising share to the cloud run beside a log.

    Args:
        texts: of the turns.
        log: what was done with them.
        model: predicts the scores of the local and the cloud model.
        share: of the turns, in [0, 1].
        seed: of the folds of the reward model.

    Raises:
        InputError: the share is none, or the log says nothing about this router.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share {share}: it is in [0, 1]")
    scores = model.predict(texts)
    gain = scores[:, 1] - scores[:, 0]
    sent = np.zeros(len(gain), dtype=np.int64)
    sent[np.argsort(-gain, kind="stable")[: round(share * len(gain))]] = 1
    target = np.eye(len(ACTIONS))[sent]
    found = estimates(log, target, reward_model(texts, log, seed))
    agreement = float((sent == log.action).mean())
    return Shadowed(float(sent.mean()), agreement, float(log.reward.mean()), found)
