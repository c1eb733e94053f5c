"""TMO's response model: what a turn scores, from the nearest logged turns (liangqiyuan/TMO).

A state is five frames of [who answered the turn before (-1 start, 0 local, 1 cloud), 3 bits of the
images it uploaded, task]; frames before the start are all -1. The score of an action there is the
mean of the 5 nearest logged (state, action) rows, weighted by 1 / (distance + 1e-6).
"""

import random
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any, TypeVar

import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import Action, Floats, Kind
from ptmo_secure.offload.outcomes import Conversation, Turn

T = TypeVar("T")

FRAMES, FRAME = 5, 5
STATE = FRAMES * FRAME
ACTIONS = (
    Action(Kind.LOCAL),
    *(Action(Kind.CLOUD, images) for n in range(4) for images in combinations(range(3), n)),
)
IMAGES = np.array([len(action.images) for action in ACTIONS])
CODES = np.array(
    [
        [float(action.kind is Kind.CLOUD), *(float(i in action.images) for i in range(3))]
        for action in ACTIONS
    ]
)
"""Each action as TMO writes it: cloud or not, and a bit for each image, [9, 4]."""

TIES = ("kd-tree", "averaged")
_NEIGHBOURS = 5
_LEAF = 30  # rows; as in NearestNeighbors, which TMO asks: it decides which tied rows come first
_CHUNK = 1024


def action_number(turn: Turn) -> int:
    """Return the number of a logged action."""
    return ACTIONS.index(Action(Kind.CLOUD, turn.images) if turn.cloud else ACTIONS[0])


def task_names(conversations: Sequence[Conversation]) -> tuple[str, ...]:
    """Return the tasks in alphabetical order; their places are their numbers."""
    return tuple(sorted({turn.task for turns in conversations for turn in turns}))


def tmo_split(conversations: Sequence[T], seed: int) -> tuple[list[T], list[T]]:
    """Split as TMO does: shuffle with the seed, the first fifth is the test set.

    Returns:
        (train, test).
    """
    shuffled = list(conversations)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - an experiment's split
    size = int(0.2 * len(shuffled))
    return shuffled[size:], shuffled[:size]


def first_state(task: int) -> Floats:
    """Return the state of a conversation's first turn, [25]."""
    state = np.full(STATE, -1.0)
    state[-FRAME:] = (-1, 0, 0, 0, task)
    return state


def next_states(states: Floats, task: int) -> Floats:
    """Return the states after each action, [n, 25] -> [n * 9, 25]; action varies fastest."""
    actions = len(ACTIONS)
    kept = np.repeat(states[:, FRAME:], actions, axis=0)
    frame = np.hstack([np.tile(CODES, (len(states), 1)), np.full((len(kept), 1), float(task))])
    return np.hstack([kept, frame])


def logged_states(turns: Conversation, tasks: tuple[str, ...]) -> Floats:
    """Return the states that the logged actions led to, [turns, 25]."""
    states = [first_state(tasks.index(turns[0].task))]
    for before, turn in pairwise(turns):
        after = next_states(states[-1][None], tasks.index(turn.task))
        states.append(after[action_number(before)])
    return np.array(states)


def association(turns: Conversation) -> Floats:
    """Return the association of each action's images, min-max over the actions, [turns, 9]."""
    raw = np.array([turn.association for turn in turns]) @ CODES[:, 1:].T
    low, high = raw.min(axis=1, keepdims=True), raw.max(axis=1, keepdims=True)
    return np.asarray((raw - low) / np.maximum(high - low, 1e-12))


class ResponseModel:
    """Scores actions by the nearest logged turns of the training split.

    Args:
        train: conversations it is fitted on.
        tasks: names of the tasks, in the order of their numbers.
        ties: "kd-tree" takes of several rows at the fifth distance those that scikit-learn's tree
            meets first, as TMO does: the rewards then depend on the order of the rows.
            "averaged" gives all of them an equal share.

    Raises:
        InputError: `ties` is neither, or there are fewer than 5 logged turns.
    """

    def __init__(
        self, train: Sequence[Conversation], tasks: tuple[str, ...], ties: str = "kd-tree"
    ) -> None:
        if ties not in TIES:
            raise InputError(f"unknown rule for ties {ties!r}: expected one of {', '.join(TIES)}")
        states = np.vstack([logged_states(turns, tasks) for turns in train])
        logged = np.array([action_number(turn) for turns in train for turn in turns])
        pairs = np.hstack([states, CODES[logged]])
        if len(pairs) < _NEIGHBOURS:
            raise InputError(f"{len(pairs)} logged turns: the model needs {_NEIGHBOURS}")
        order = np.lexsort(pairs.T)
        self._pairs = pairs[order]
        scores = np.array([turn.score for turns in train for turn in turns])
        self._scores = scores[order]
        self._tree: Any = _kd_tree(self._pairs) if ties == "kd-tree" else None
        self._known: dict[bytes, Floats] = {}
        self._trees: dict[tuple[int, ...], tuple[Floats, ...]] = {}

    def of(self, state: Floats) -> Floats:
        """Return the score of each action in one state, [9]; asked twice, computed once."""
        key = state.tobytes()
        if key not in self._known:
            self._known[key] = self.predict(state[None])[0]
        return self._known[key]

    def along(self, tasks: tuple[int, ...]) -> tuple[Floats, ...]:
        """Return the scores after every sequence of actions in a conversation with these tasks.

        Returns:
            For turn t an array [9^t, 9]: row = earlier actions as digits in base 9, first one
            most significant.
        """
        if tasks not in self._trees:
            states = first_state(tasks[0])[None]
            levels = [self.predict(states)]
            for task in tasks[1:]:
                states = next_states(states, task)
                levels.append(self.predict(states))
            self._trees[tasks] = tuple(levels)
        return self._trees[tasks]

    def predict(self, states: Floats) -> Floats:
        """Return the scores of every action in many states, [n, 25] -> [n, 9]."""
        if self._tree is not None:
            return self._by_tree(states)
        parts = [self._averaged(states[i : i + _CHUNK]) for i in range(0, len(states), _CHUNK)]
        return np.vstack(parts)

    def _by_tree(self, states: Floats) -> Floats:
        actions = len(ACTIONS)
        pairs = np.hstack([np.repeat(states, actions, axis=0), np.tile(CODES, (len(states), 1))])
        distances, rows = self._tree.query(pairs, k=_NEIGHBOURS)
        weights = 1 / (distances + 1e-6)
        scores = (self._scores[rows] * weights).sum(axis=1) / weights.sum(axis=1)
        return np.asarray(scores.reshape(len(states), actions))

    def _averaged(self, states: Floats) -> Floats:
        """Squared distances are whole numbers here, so ties are exact."""
        of_state = _squared(states, self._pairs[:, :STATE])
        of_action = _squared(CODES, self._pairs[:, STATE:])
        squared = of_state[:, None, :] + of_action[None, :, :]
        fifth = np.partition(squared, _NEIGHBOURS - 1, axis=2)[:, :, _NEIGHBOURS - 1, None]
        nearer, tied = squared < fifth, squared == fifth
        places = _NEIGHBOURS - nearer.sum(axis=2, keepdims=True)
        share = nearer + tied * (places / tied.sum(axis=2, keepdims=True))
        weights = share / (np.sqrt(squared) + 1e-6)
        return np.asarray((weights @ self._scores) / weights.sum(axis=2))


def _squared(left: Floats, right: Floats) -> Floats:
    """Squared distances of whole-numbered points, [n, d] x [m, d] -> [n, m]."""
    norms = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)
    return np.asarray(np.rint(norms - 2 * left @ right.T))


def _kd_tree(pairs: Floats) -> Any:
    from sklearn.neighbors import KDTree

    return KDTree(pairs, leaf_size=_LEAF)
