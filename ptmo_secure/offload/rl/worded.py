"""Advice for sessions: scores by the words of the questions, and a price for each dollar."""

from collections.abc import Sequence

import numpy as np

from ptmo_secure.offload.actions import USD, Floats, Mask, View
from ptmo_secure.offload.envs.base import OffloadEnv, TrainingRow
from ptmo_secure.offload.gate import allowed
from ptmo_secure.offload.policies.base import best
from ptmo_secure.offload.policies.groups import GroupModel, Reading

_PARTS = 4
_PRICES = (0.0, 0.015, 0.03, 0.045, 0.06)  # reward for the dollars of a cloud turn
# Practice episodes for each budget and price, and to see how sessions stay with their topic; but no
# more than the split itself has.
_TRIED_ON, _READ = 80, 200
_REMEMBERED = 20_000  # readings; more are made anew


class WordAdvice:
    """Reward by the words of the question and of those before it, and dollars at a price.

        A(s, a) = alpha Q(x, a) + rest(s, a) - price dollars(a)

    with the dollars that an escalation is expected to pay.

    Where the local model is wrong the cloud's is right less often than elsewhere (LLMRouter: 0.32
    against 0.62), and an escalation asks it just there: so the product of the two scores is
    predicted along with them.

    Args:
        model: its arms are the local model, the cloud's, and the product of the two.
        price: reward for a dollar; the multiplier of the dollar budget.
    """

    start_weight = 60.0  # actions differ by some hundredths here

    def __init__(self, model: GroupModel, price: float = 0.0) -> None:
        self.model, self.price = model, price
        self._read: dict[str, Reading] = {}

    def rewards(self, view: View, mask: Mask, *, learning: bool = False) -> Floats:
        """See `Advice`."""
        scores = self.scores(view, learning=learning)
        dollars = view.expected_cost(float(scores[0]))[:, USD]
        return np.asarray(_reward(view, scores) - self.price * dollars)

    def expected(self, view: View) -> Floats | None:
        """See `Advice`."""
        return _reward(view, self.scores(view, learning=True))

    def foresee(self, view: View, action: int) -> None:
        """See `Advice`: the next question is not known yet, and the last ones are remembered."""

    def scores(self, view: View, *, learning: bool = False) -> Floats:
        """Chances that the local model, the cloud's, and both are right, [3]."""
        past = [self._reading(text, learning) for text in view.history]
        found = self._model_for(view.text, learning).judge(self._reading(view.text, learning), past)
        return np.clip(found, 0.0, 1.0)

    def forget(self) -> None:
        """Let go of every text that was read."""
        self._read.clear()

    def _model_for(self, text: str, learning: bool) -> GroupModel:
        return self.model

    def _reading(self, text: str, learning: bool) -> Reading:
        if text not in self._read:
            if len(self._read) >= _REMEMBERED:
                self._read.clear()
            self._read[text] = self.model.read(text)
        return self._read[text]


class Worded(WordAdvice):
    """`WordAdvice` fitted on a training split, its training questions by models that miss them.

    The price is one for all budgets: that of a few with which practice episodes are expected to
    earn most. There the expected reward is what counts, by models that have not seen the
    question, since in what a table of right and wrong answers says nearly all is luck.

    Args:
        env: of the training split, of two models.
        seed: of the parts.
    """

    def __init__(self, env: OffloadEnv, seed: int) -> None:
        rows = joint_rows(env.training_rows())
        rng = np.random.default_rng([seed, 5])
        texts = sorted({row.text for row in rows})
        self._part = dict(zip(texts, rng.permutation(len(texts)) % _PARTS, strict=True))
        self._parts: list[GroupModel] = []
        self._unseen: dict[str, Reading] = {}
        for number in range(_PARTS):
            model = GroupModel()
            model.fit([row for row in rows if self._part[row.text] != number], 3, rng)
            self._parts.append(model)
        super().__init__(GroupModel())
        self.model.fit(rows, 3, rng)
        practice = env.practice(seed)
        unit = self._learn_stay(practice, min(_READ, env.episodes))
        self._learn_price(practice, min(_TRIED_ON, env.episodes), unit)

    def _model_for(self, text: str, learning: bool) -> GroupModel:
        return self._parts[self._part[text]] if learning and text in self._part else self.model

    def _reading(self, text: str, learning: bool) -> Reading:
        if not learning or text not in self._part:
            return super()._reading(text, learning)
        if text not in self._unseen:
            self._unseen[text] = self._model_for(text, learning).read(text)
        return self._unseen[text]

    def _learn_stay(self, practice: OffloadEnv, episodes: int) -> float:
        """Fit `GroupModel.stay`, and return the mean dollars of the dearest action of a turn."""
        sessions, dearest = [], []
        for episode in range(episodes):
            practice.reset(options={"episode": episode})
            done, texts = False, []
            while not done:
                view = practice.view()
                texts.append(view.text)
                dearest.append(float(view.cost[:, USD].max()))
                local = int(np.flatnonzero(allowed(view))[0])
                _, _, done, _, _ = practice.step(np.int64(local))
            sessions.append([self._reading(text, learning=True) for text in texts])
        self.model.learn_stay(sessions)
        for model in self._parts:
            model.stay = self.model.stay
        return float(np.mean(dearest))

    def _learn_price(self, practice: OffloadEnv, episodes: int, unit: float) -> None:
        prices = [price / unit for price in _PRICES] if unit > 0 else [0.0]
        earned = []
        for price in prices:
            self.price = price
            tried = [self._tried(practice, budget, episodes) for budget in practice.budgets]
            earned.append(sum(tried))
        self.price = prices[int(np.argmax(earned))]

    def _tried(self, practice: OffloadEnv, budget: tuple[float, ...], episodes: int) -> float:
        """Expected reward of a turn under a budget."""
        practice.set_budget(budget)
        earned = []
        for episode in range(episodes):
            practice.reset(options={"episode": episode})
            rewards, done = [], False
            while not done:
                view = practice.view()
                mask = allowed(view)
                action = best(self.rewards(view, mask, learning=True), mask)
                scores = self.scores(view, learning=True)
                rewards.append(_reward(view, scores)[action])
                _, _, done, _, _ = practice.step(np.int64(action))
            earned.append(np.mean(rewards))
        return float(np.mean(earned))


def joint_rows(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Return the rows, and for each question that both models answered the product as arm 2."""
    local = {row.text: row.quality for row in rows if row.arm == 0}
    both = [
        TrainingRow(row.text, 2, row.quality * local[row.text], row.group)
        for row in rows
        if row.arm == 1 and row.text in local
    ]
    return [*rows, *both]


def _reward(view: View, scores: Floats) -> Floats:
    return view.reward(view.quality(scores[:2], float(scores[2])))
