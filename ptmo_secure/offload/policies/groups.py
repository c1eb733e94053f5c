"""The router that first guesses what kind of question it is: task by its words, then the rest."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import Floats
from ptmo_secure.offload.envs.base import TrainingRow
from ptmo_secure.offload.hashed import HashedWords
from ptmo_secure.offload.policies.router import Router, ScoreModel
from ptmo_secure.offload.quality import ridge

_SHRINK = 10.0  # questions that a group's mean is pulled to the overall mean by
_SHARPNESS = 8.0
_HALF = ("group_slopes", "group_level", "means", "slopes", "level")
_GROUP_RIDGE, _REST_RIDGE = 1.0, 60.0


class GroupModel(ScoreModel):
    """score(x, m) = sum over groups g of P(g | x) mean(g, m) + ridge of what is left, on x.

    The groups are the tasks or domains that the training table names; of a new question they are
    guessed, P(g | x) = softmax(8 ridge_g(x)). Means are shrunk towards the overall mean. Vectors
    are `HashedWords`, so that the fitted model is a table of numbers.
    """

    def fit(self, rows: Sequence[TrainingRow], arms: int, rng: np.random.Generator) -> None:
        """Learn from logged answers; a model without any is predicted to score 0."""
        names = sorted({row.group for row in rows})
        by_text = {row.text: names.index(row.group) for row in rows}
        self.words = HashedWords.fitted(list(by_text))
        vectors = self.words.of(list(by_text))
        place = {text: number for number, text in enumerate(by_text)}
        group = np.array(list(by_text.values()))
        slopes, level = ridge(vectors, np.eye(len(names))[group], _GROUP_RIDGE)
        self.group_slopes, self.group_level = slopes.reshape(-1, len(names)), np.atleast_1d(level)
        self.means, self.slopes = (
            np.zeros((len(names), arms)),
            np.zeros((len(self.words.idf), arms)),
        )
        self.level = np.zeros(arms)
        for arm in range(arms):
            own = [row for row in rows if row.arm == arm]
            if own:
                at = np.array([place[row.text] for row in own])
                scores = np.array([row.quality for row in own])
                total = np.bincount(group[at], scores, len(names)) + _SHRINK * scores.mean()
                count = np.bincount(group[at], minlength=len(names)) + _SHRINK
                self.means[:, arm] = total / count
                rest = scores - self.means[group[at], arm]
                self.slopes[:, arm], self.level[arm] = ridge(vectors[at], rest, _REST_RIDGE)

    def predict(self, texts: Sequence[str]) -> Floats:
        """Return predicted scores, [texts, arms]."""
        return np.array([self.ask(text) for text in texts]).reshape(len(texts), len(self.level))

    def ask(self, text: str) -> Floats:
        """Return predicted scores of one text, [arms]; needs NumPy alone."""
        places, weights = self.words.vector(text)
        likeness = _SHARPNESS * (weights @ self.group_slopes[places] + self.group_level)
        odds = np.exp(likeness - likeness.max())
        kept = weights @ self.slopes[places] + self.level
        return np.asarray(odds / odds.sum() @ self.means + kept)

    def save(self, path: Path) -> None:
        """Write one .npz file in half precision."""
        np.savez_compressed(
            path,
            **{name: getattr(self, name).astype(np.float16) for name in _HALF},
            idf=self.words.idf.astype(np.float16),
        )


def load_words(path: Path) -> GroupModel:
    """Read what `GroupModel.save` wrote.

    Raises:
        InputError: the file is missing or no such model.

    Security: arrays alone; pickled objects are refused.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name].astype(np.float64) for name in stored.files}
        model = GroupModel()
        model.words = HashedWords(arrays["idf"])
        for name in _HALF:
            setattr(model, name, arrays[name])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise InputError(f"{path}: not a word model of this program") from None
    return model


class GroupRouter(Router):
    """Gain by group and words."""

    name = "groups"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, GroupModel())
