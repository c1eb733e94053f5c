"""The router that first guesses what kind of question it is: task by its words, then the rest."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import Floats
from ptmo_secure.offload.envs.base import TrainingRow
from ptmo_secure.offload.gram import Gram
from ptmo_secure.offload.hashed import HashedWords
from ptmo_secure.offload.policies.router import Router, ScoreModel
from ptmo_secure.offload.quality import ridge

_SHRINK = 10.0  # questions that a group's mean is pulled to the overall mean by
_SHARPNESS = 12.0
_HALF = ("group_slopes", "group_level", "means", "slopes", "level", "shares", "stay")
_GROUP_RIDGE, _REST_RIDGE = 1.0, 60.0
_STAYS = tuple(round(0.1 * n, 1) for n in range(10))


class Reading(NamedTuple):
    """What a text says by itself.

    Args:
        groups: chances of its groups, [groups].
        rest: of the scores beyond the groups' means, [arms].
    """

    groups: Floats
    rest: Floats


class GroupModel(ScoreModel):
    """score(x, m) = sum over groups g of P(g | x) mean(g, m) + ridge of what is left, on x.

    The groups are the tasks or domains that the training table names; of a new question they are
    guessed, P(g | x) = softmax(12 ridge_g(x)). Means are shrunk towards the overall mean. Vectors
    are `HashedWords`, so that the fitted model is a table of numbers.

    A session tends to stay with its topic: with the questions before it, x_1 ... x_t,

        P(g | x_1 ... x_t) ~ P(g | x_t) / share(g) (stay topic(g) + (1 - stay) share(g))

    where topic(g), at first share(g), is multiplied by stay P(g | x) / share(g) + 1 - stay for
    each question x before it. `stay` is 0 until `learn_stay`.
    """

    def fit(self, rows: Sequence[TrainingRow], arms: int, rng: np.random.Generator) -> None:
        """Learn from logged answers; a model without any is predicted to score 0."""
        names = sorted({row.group for row in rows})
        by_text = {row.text: names.index(row.group) for row in rows}
        self.words = HashedWords.fitted(list(by_text))
        vectors = self.words.of(list(by_text))
        place = {text: number for number, text in enumerate(by_text)}
        group = np.array(list(by_text.values()))
        self.shares = np.bincount(group, minlength=len(names)) / len(group)
        self.stay = np.zeros(())
        gram = Gram(vectors)
        self.group_slopes, self.group_level = gram.ridge(np.eye(len(names))[group], _GROUP_RIDGE)
        self.means, self.slopes = (
            np.zeros((len(names), arms)),
            np.zeros((len(self.words.idf), arms)),
        )
        self.level = np.zeros(arms)
        whole: dict[int, Floats] = {}  # what is left of the scores, for arms with one a text
        for arm in range(arms):
            own = [row for row in rows if row.arm == arm]
            if own:
                at = np.array([place[row.text] for row in own])
                scores = np.array([row.quality for row in own])
                total = np.bincount(group[at], scores, len(names)) + _SHRINK * scores.mean()
                count = np.bincount(group[at], minlength=len(names)) + _SHRINK
                self.means[:, arm] = total / count
                rest = scores - self.means[group[at], arm]
                if np.array_equal(np.sort(at), np.arange(len(by_text))):
                    whole[arm] = rest[np.argsort(at)]
                else:
                    self.slopes[:, arm], self.level[arm] = ridge(vectors[at], rest, _REST_RIDGE)
        if whole:
            together = np.column_stack(list(whole.values()))
            self.slopes[:, list(whole)], self.level[list(whole)] = gram.ridge(together, _REST_RIDGE)

    def predict(self, texts: Sequence[str]) -> Floats:
        """Return predicted scores, [texts, arms]."""
        return np.array([self.ask(text) for text in texts]).reshape(len(texts), len(self.level))

    def ask(self, text: str, history: Sequence[str] = ()) -> Floats:
        """Return predicted scores of one text, [arms]; needs NumPy alone.

        Args:
            text: of the question.
            history: questions of the same session before it.
        """
        return self.judge(self.read(text), [self.read(before) for before in history])

    def read(self, text: str) -> "Reading":
        """Return what a text says by itself."""
        places, weights = self.words.vector(text)
        slopes = np.take(self.group_slopes, places, axis=0)  # half the time of [places]
        likeness = _SHARPNESS * (weights @ slopes + self.group_level)
        odds = np.exp(likeness - likeness.max())
        rest = weights @ np.take(self.slopes, places, axis=0)
        return Reading(odds / odds.sum(), rest + self.level)

    def judge(self, asked: "Reading", history: "Sequence[Reading]") -> Floats:
        """Return predicted scores of a text that was read, after others of its session, [arms]."""
        odds = asked.groups
        if history and self.stay > 0:
            odds = odds * self._expected(history) / self.shares
            odds = odds / odds.sum()
        return np.asarray(odds @ self.means + asked.rest)

    def learn_stay(self, sessions: "Sequence[Sequence[Reading]]") -> None:
        """Choose the `stay` under which the questions of these sessions are likeliest."""
        found = []
        for stay in _STAYS:
            self.stay = np.array(stay)
            found.append(sum(self._likelihood(session) for session in sessions))
        self.stay = np.array(_STAYS[int(np.argmax(found))])

    def _likelihood(self, session: "Sequence[Reading]") -> float:
        """Logarithm of what the questions' groups are worth, given those before them."""
        return sum(
            float(np.log(self._expected(session[:turn]) @ (session[turn].groups / self.shares)))
            for turn in range(1, len(session))
        )

    def _expected(self, history: "Sequence[Reading]") -> Floats:
        """Chances of the next question's groups, [groups]."""
        topic = self.shares.copy()
        for reading in history:
            topic *= self.stay * reading.groups / self.shares + 1 - self.stay
        return np.asarray(self.stay * topic / topic.sum() + (1 - self.stay) * self.shares)

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
