"""Conversations of M4A1 as episodes: the split, the response model, the course of an episode."""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import USD, Floats, View
from ptmo_secure.offload.envs import response
from ptmo_secure.offload.envs.base import Observation, OffloadEnv, TrainingRow
from ptmo_secure.offload.envs.exhaustive import Script, best_actions
from ptmo_secure.offload.envs.response import ACTIONS, IMAGES
from ptmo_secure.offload.outcomes import Conversation, Turn
from ptmo_secure.offload.reward import RewardWeights, Scales, known_terms, share_left

Env = TypeVar("Env", bound="ConversationEnv")
MAX_TURNS = response.FRAMES
PRACTICE = 2000
"""Conversations that are made up to learn from."""

_CHAINED = 1_000_000  # numbers of made-up conversations begin here


class ConversationEnv(OffloadEnv):
    """What both environments share: the split, the response model, and the course of an episode.

    Args:
        conversations: the whole set, before the split.
        split: "train" or "test".
        split_seed: of TMO's split.
        ties: rule of the response model, see `ResponseModel`.
        weights, scales: of the reward.
        limits: budgets of an episode, [4].
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        split: str,
        split_seed: int,
        ties: str,
        weights: RewardWeights,
        limits: Floats,
    ) -> None:
        if split not in ("train", "test"):
            raise InputError(f"unknown split {split!r}: expected train or test")
        if any(len(turns) > MAX_TURNS for turns in conversations):
            raise InputError(f"a conversation has more than {MAX_TURNS} turns")
        self.actions = ACTIONS
        self.action_space = gym.spaces.Discrete(len(ACTIONS))
        self.tasks = response.task_names(conversations)
        train, test = response.tmo_split(list(enumerate(conversations)), split_seed)
        chosen = train if split == "train" else test
        self._train = [turns for _, turns in train]
        self.model = response.ResponseModel(self._train, self.tasks, ties)
        self.weights, self.limits = weights, limits
        self.scripts = [self._script(number, turns) for number, turns in chosen]
        self.episodes = len(self.scripts)
        self.scales = self._scales()
        self._association = np.vstack([response.association(t) for t in self._train]).mean(axis=0)
        self._number, self._turn = 0, 0
        self._state = response.first_state(0)
        self._remaining = limits.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a conversation; see `OffloadEnv`."""
        super().reset(seed=seed)
        self._number = self._episode(options)
        self._turn = 0
        self._state = response.first_state(self._task(0))
        self._remaining = self.limits.copy()
        return self.observation(), {}

    def step(
        self, action: "np.int64 | int"
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Answer the present turn; see `OffloadEnv`."""
        number = int(action)
        cost = self.script.cost[self._turn, number]
        quality = float(self.model.of(self._state)[number])
        reward = self.weights.alpha * quality + float(self.true_rest()[number])
        self._remaining = self._remaining - cost
        over = bool((self._remaining < -1e-9).any())
        self._turn += 1
        done = self._turn >= len(self.script.turns)
        if not done:
            self._state = self._next_state(number)
        info = {"quality": quality, "cost": cost, "action": number, "over_budget": over}
        return self.observation(), self._shaped(reward, over), done, False, info

    def view(self) -> View:
        """Return what a policy sees of the present turn."""
        script, turn = self.script, self._turn
        return View(
            text=script.turns[turn].question,
            observation=self.observation(),
            actions=self.actions,
            pieces=script.pieces[turn],
            sticky=script.sticky[turn],
            cost=script.cost[turn],
            remaining=self._remaining,
            arm=np.where(np.arange(len(ACTIONS)) > 0, IMAGES + 1, 0),
            retained=np.ones(len(ACTIONS)),
            rest=self._rest(self._association),
            alpha=self.weights.alpha,
            estimate=self.model.of(self._state),
            features=np.append(np.eye(len(self.tasks))[self._task(turn)], 1.0),
        )

    def practice(self: Env, seed: int) -> Env:
        """Return an environment of made-up conversations: turns of the split, chained by task.

        M4A1 has 80 training conversations, nearly every one with a sequence of tasks of its own; a
        learner soon knows them by heart. Here a conversation has the length of a real one, begins
        as a real one did, and each turn is one of those that followed a turn of the same task.
        """
        rng = np.random.default_rng([seed, _CHAINED])
        turns = [script.turns for script in self.scripts]
        after: dict[str, list[Turn]] = {}
        for conversation in turns:
            for before, turn in pairwise(conversation):
                after.setdefault(before.task, []).append(turn)
        every = [turn for conversation in turns for turn in conversation]
        made = copy.copy(self)
        made.scripts = []
        for number in range(PRACTICE):
            length = len(turns[int(rng.integers(len(turns)))])
            chain = [turns[int(rng.integers(len(turns)))][0]]
            while len(chain) < length:
                follow = after.get(chain[-1].task, every)
                chain.append(follow[int(rng.integers(len(follow)))])
            made.scripts.append(self._script(_CHAINED + number, tuple(chain)))
        made.episodes = len(made.scripts)
        return made

    def truth(self) -> "ConversationTruth":
        """Return what an oracle may ask."""
        return ConversationTruth(self)

    def training_rows(self) -> list[TrainingRow]:
        """Return the logged answers of the training split."""
        return [
            TrainingRow(
                turn.question, len(turn.images) + 1 if turn.cloud else 0, turn.score, turn.task
            )
            for turns in self._train
            for turn in turns
        ]

    def true_rest(self) -> Floats:
        """Reward of each action now, without its quality, [9]."""
        return self._rest(self.script.association[self._turn])

    @abstractmethod
    def observation(self) -> Observation:
        """What Gymnasium returns for the present state."""

    @abstractmethod
    def _script(self, number: int, turns: Conversation) -> Script:
        """Fix the levels and costs of a conversation, given its number in the whole set."""

    @abstractmethod
    def _scales(self) -> Scales:
        """What counts as 1 in the reward."""

    @property
    def script(self) -> Script:
        """The conversation that is going on."""
        return self.scripts[self._number]

    def _shaped(self, reward: float, over: bool) -> float:
        return reward

    def _next_state(self, action: int) -> Floats:
        return np.asarray(response.next_states(self._state[None], self._task(self._turn))[action])

    def _task(self, turn: int) -> int:
        return self.tasks.index(self.script.turns[turn].task)

    def _rest(self, association: Floats) -> Floats:
        cost = self.script.cost[self._turn]
        left = share_left(self._remaining[USD] - cost[:, USD], self.limits[USD])
        return known_terms(self.weights, self.scales, cost, association, left)


class ConversationTruth:
    """The simulator itself, asked by an oracle; see `Truth`."""

    def __init__(self, env: ConversationEnv) -> None:
        self._env = env

    def quality(self) -> Floats:
        """Score of each action in the present state."""
        return self._env.view().estimate  # the response model is this simulator's truth

    def rest(self) -> Floats:
        """Reward of each action now, without its quality."""
        return self._env.true_rest()

    def plan(self) -> tuple[int, ...]:
        """The best actions of the whole episode, by enumeration."""
        env = self._env
        script = env.script
        tasks = tuple(env.tasks.index(turn.task) for turn in script.turns)
        return best_actions(
            script, env.model.along(tasks), env.weights, env.scales, env.limits
        ).actions
