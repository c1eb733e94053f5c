"""What each action is expected to bring, before anything is learnt by reward: where learners begin.

A network then learns what the advice leaves out: budgets, and the turns that are still to come.
"""

from itertools import pairwise
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from ptmo_secure.offload.actions import Floats, Mask, View
from ptmo_secure.offload.envs import response
from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.envs.conversations import ConversationEnv
from ptmo_secure.offload.envs.response import ACTIONS, STATE
from ptmo_secure.offload.gate import budget_mask
from ptmo_secure.offload.rl.worded import Worded

_KNOWN_STATES = 200_000  # remembered; more are computed anew


START_WEIGHT = 6.0
"""Of advised rewards in an actor's logits, where actions differ by some tenths."""


_FITTED: "WeakKeyDictionary[OffloadEnv, dict[int, Worded]]" = WeakKeyDictionary()


class Advice(Protocol):
    """Expected reward of each action."""

    start_weight: float
    """Of these rewards in the logits that an actor begins at, see `RcPpo`."""

    def rewards(self, view: View, mask: Mask, *, learning: bool = False) -> Floats:
        """Return the expected reward of each action, [actions].

        Args:
            view: of the turn.
            mask: what the gate allows.
            learning: the question is one that the advice was fitted on; then only what was learnt
                from other questions counts.
        """
        ...

    def expected(self, view: View) -> Floats | None:
        """Return the expected reward of this turn for each action, while learning, [actions].

        It stands in for the reward that came, of which nearly all is luck where an outcome table
        says right or wrong. None where rewards hold no luck, or nothing better is known of them.
        """
        ...

    def foresee(self, view: View, action: int) -> None:
        """Prepare the next turn once an action is chosen, while its answer is being made.

        It changes how long the next `rewards` takes, and nothing in what that returns.
        """
        ...


class Myopic:
    """The reward of the present turn by the view's own estimate: masked greedy's."""

    start_weight = START_WEIGHT

    def rewards(self, view: View, mask: Mask, *, learning: bool = False) -> Floats:
        """See `Advice`."""
        return view.reward(view.estimate)

    def expected(self, view: View) -> None:
        """See `Advice`."""

    def foresee(self, view: View, action: int) -> None:
        """See `Advice`: a view brings its own estimate."""


class Lookahead:
    """M4A1: this turn's reward, and the best one of the next turn, over the tasks it may have.

        A(s, a) = R(s, a) + P(another | t) sum over tasks k of P(k | task) max_a' R(s'(a, k), a')

    with R by the response model of the training split, a' within what is left after a, and both
    probabilities counted in the training conversations. Costs and association of the next turn are
    taken to be those of this one.

    Nine actions, each followed by one of M4A1's 4 tasks and nine actions more, are 324 questions to
    the response model, each of which compares 29 numbers with up to 279 logged rows: some 2 million
    operations, and nearly all of a decision's time. `foresee` has them answered before they are
    asked, for every task that may come: four times the work, done while an answer is made.

    Args:
        env: of the training split.
    """

    start_weight = START_WEIGHT

    def __init__(self, env: ConversationEnv) -> None:
        self._model = env.model
        tasks = len(env.tasks)
        self._next = np.full((tasks, tasks), 0.5)  # half a count for what was never seen
        ends, turns = np.zeros(response.FRAMES), np.zeros(response.FRAMES)
        for script in env.scripts:
            numbers = [env.tasks.index(turn.task) for turn in script.turns]
            for before, after in pairwise(numbers):
                self._next[before, after] += 1
            turns[: len(numbers)] += 1
            ends[len(numbers) - 1] += 1
        self._next /= self._next.sum(axis=1, keepdims=True)
        self._goes_on = 1 - ends / np.maximum(turns, 1)
        self._goes_on[-1] = 0.0
        self._known: dict[bytes, Floats] = {}
        for task in range(tasks):
            self._scores(self._after(response.first_state(task)))

    def rewards(self, view: View, mask: Mask, *, learning: bool = False) -> Floats:
        """See `Advice`."""
        state = view.observation[:STATE].astype(np.float64)
        now = view.reward(view.estimate)
        goes_on = float(self._goes_on[_turn(state)])
        if goes_on == 0.0:
            return now
        ways = np.flatnonzero(mask)
        open_next = budget_mask(view.cost, (view.remaining - view.cost)[ways])
        open_next[~open_next.any(axis=1), 0] = True  # the way out is local
        chances = self._next[int(state[-1])]
        states = self._after(state)[:, ways]
        scores = self._scores(states).reshape(len(chances), len(ways), len(ACTIONS))
        reward = view.alpha * scores + view.rest
        ahead = np.zeros(len(ACTIONS))
        ahead[ways] = chances @ np.where(open_next, reward, -np.inf).max(axis=2)
        return np.asarray(now + goes_on * ahead)

    def expected(self, view: View) -> None:
        """See `Advice`: the response model is the simulator itself."""

    def foresee(self, view: View, action: int) -> None:
        """See `Advice`: looks at what could follow the next turn, whichever task that has."""
        state = view.observation[:STATE].astype(np.float64)
        turn = _turn(state)
        if turn + 1 < response.FRAMES and self._goes_on[turn] * self._goes_on[turn + 1] > 0:
            nexts = self._after(state)[:, action]
            self._scores(np.concatenate([self._after(after) for after in nexts]))

    def _after(self, state: Floats) -> Floats:
        """States that may follow one, [25] -> [tasks, 9, 25]."""
        return np.stack([response.next_states(state[None], k) for k in range(len(self._next))])

    def _scores(self, states: Floats) -> Floats:
        """Scores by the response model, remembered, [..., 25] -> [n, 9]."""
        states = states.reshape(-1, STATE)
        keys = [state.tobytes() for state in states]
        missing = [place for place, key in enumerate(keys) if key not in self._known]
        if missing:
            if len(self._known) > _KNOWN_STATES:
                self._known.clear()
                missing = list(range(len(keys)))
            for place, found in zip(missing, self._model.predict(states[missing]), strict=True):
                self._known[keys[place]] = found
        return np.array([self._known[key] for key in keys])


def _turn(state: Floats) -> int:
    """Return the number of the turn that a state belongs to; 0 is a conversation's first."""
    return int((state.reshape(response.FRAMES, -1) != -1).any(axis=1).sum()) - 1


def advice_for(env: OffloadEnv, seed: int) -> Advice:
    """Return the advice that suits an environment, fitted on its training split.

    Asked again for the same environment and seed, it is fitted once: several learners begin at it.
    """
    if isinstance(env, ConversationEnv):
        return Lookahead(env)
    if not env.training_rows():
        return Myopic()
    fitted = _FITTED.setdefault(env, {})
    if seed not in fitted:
        fitted[seed] = Worded(env, seed)
    return fitted[seed]
