"""Sessions of several turns over a table of real outcomes: query by model, score."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload import quality
from ptmo_secure.offload.actions import LATENCY, RISK, USD, Floats, View
from ptmo_secure.offload.envs import session_model
from ptmo_secure.offload.envs.base import Observation, OffloadEnv, TrainingRow
from ptmo_secure.offload.envs.session_data import CHECK, TURNS, SessionTurn, make_sessions
from ptmo_secure.offload.envs.session_model import (
    ACTIONS,
    CLOUD,
    LOW_BATTERY,
    Past,
    States,
    World,
)
from ptmo_secure.offload.envs.session_plan import SessionPlanner
from ptmo_secure.offload.outcomes import OutcomeTable
from ptmo_secure.offload.profiles import CLOUDS, DEVICES, NETWORKS, profile
from ptmo_secure.offload.reward import RewardWeights, Scales, known_terms, share_left
from ptmo_secure.types import Level

BUDGETS = ((0.25, 0.1), (0.5, 0.1), (0.75, 0.1))
"""Share of the dollars that an all-cloud session costs, and risk (eps), of a session."""

WEIGHTS = RewardWeights(alpha=1.0, beta1=0.0, beta2=0.1, beta3=0.0, beta4=0.1)
"""Dollars are bounded here, not priced: what is left at the end of a session is worth nothing."""

TRAIN_SHARE = 0.7
_ARMS = np.array([0, 1, 1, 1, 1])
_TOP = 10.0  # observations are clipped to [-1, 10]
PRACTICE = 2000
"""Sessions that are made up to learn from."""

_PRACTISED = 1_000_000  # seeds of made-up sessions
_PRICED = 200  # training sessions that say what an all-cloud session costs


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How sessions are made and what they run on.

    Args:
        sessions: of a split.
        device, network, cloud: names of profiles.
        weights: of the reward.
        battery: share of a full charge at the start of a session, lowest and highest.
    """

    sessions: int = 200
    device: str = "orin-nano-8b-int4"
    network: str = "wifi"
    cloud: str = "large"
    weights: RewardWeights = WEIGHTS
    battery: tuple[float, float] = (0.15, 1.0)

    def __post_init__(self) -> None:
        if self.sessions < 1:
            raise InputError(f"{self.sessions} sessions: at least one")
        if not 0 < self.battery[0] <= self.battery[1] <= 1:
            raise InputError(f"battery {self.battery}: two shares in (0, 1], the lower one first")

    def world(self) -> World:
        """The profiles by their names."""
        return World(
            profile(DEVICES, "device", self.device),
            profile(NETWORKS, "network", self.network),
            profile(CLOUDS, "cloud", self.cloud),
        )


class SessionsEnv(OffloadEnv):
    """Sessions whose turns hang together by budgets, battery, caches, placeholders and secrets.

    The questions of the two splits are disjoint (70 % train). What couples turns: dollars and risk
    come out of one budget; a device low on charge runs at half speed; a model that answered the
    last turn has the conversation in its cache, and another must read it first; a value that has a
    placeholder risks nothing when it is masked again; after a secret no raw text leaves for two
    turns, and what held it is told to no cloud.

    Observation, 27 float32 clipped to [-1, 10]: predicted scores of both models; one bit for each
    level, for a PRIVATE piece, for stickiness; turn / 8; prompt / 100; history / 1,000; shares of
    dollars, risk and battery left; low battery; shares of the history in the two caches; new
    values; expected latency and dollars of the five actions, over the scales of the reward.

    Args:
        table: outcomes.
        split: "train" or "test".
        split_seed: of the split, the sessions and all else that is drawn.
        budget: share of the dollars of an all-cloud session, and risk, of a session; infinity is
            none.
        config: how sessions are made.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form
    budgets = BUDGETS

    def __init__(
        self,
        table: OutcomeTable,
        split: str = "train",
        split_seed: int = 1,
        budget: tuple[float, float] = BUDGETS[1],
        config: SessionConfig | None = None,
    ) -> None:
        if split not in ("train", "test"):
            raise InputError(f"unknown split {split!r}: expected train or test")
        self.actions, self.config = ACTIONS, config or SessionConfig()
        self.action_space = gym.spaces.Discrete(len(ACTIONS))
        self.observation_space = gym.spaces.Box(-1.0, _TOP, (27,), np.float32)
        self.weights, self.world = self.config.weights, self.config.world()
        rng = np.random.default_rng([split_seed, 0])
        order = rng.permutation(len(table.questions))
        cut = round(TRAIN_SHARE * len(order))
        self._train = table.take(order[:cut])
        chosen = self._train if split == "train" else table.take(order[cut:])
        self._questions = chosen
        self._estimates = np.clip(self._predict(chosen, split, split_seed), 0.0, 1.0)
        rng = np.random.default_rng([split_seed, 1 + (split == "test")])
        self.sessions = make_sessions(chosen, self.config.sessions, rng)
        self._charges = rng.uniform(*self.config.battery, size=len(self.sessions))
        self.episodes = len(self.sessions)
        self.scales = self._scales()
        priced = make_sessions(self._train, _PRICED, np.random.default_rng([split_seed, 3]))
        self.all_cloud_usd = float(np.mean([self._cloud_usd(turns) for turns in priced]))
        self.set_budget(budget)
        self._number, self._turn = 0, 0
        self._states, self._past = self.start(), Past()
        self._worked_out: tuple[States | None, dict[bool, Floats]] = None, {}

    def set_budget(self, budget: tuple[float, ...]) -> None:
        """Give the sessions from the next `reset` on another budget, as in the class."""
        self.limits = np.array([np.inf, budget[0] * self.all_cloud_usd, np.inf, budget[1]])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a session; see `OffloadEnv`."""
        super().reset(seed=seed)
        self._number = self._episode(options)
        self._turn, self._past, self._states = 0, Past(), self.start()
        return self._observation(), {}

    def step(
        self, action: "np.int64 | int"
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Answer the present turn; see `OffloadEnv`. "sent" in `info` is what the cloud got.

        Raises:
            SecurityError: the action would send what may not leave; nothing happened.
        """
        number, turn = int(action), self.turn
        sent = session_model.egress(turn, self._past, number)
        cost = self._costs(doubted=turn.doubted)
        scored = float(self.true_quality()[number])
        reward = self.weights.alpha * scored + float(self.true_rest()[number])
        self._states = session_model.advance(
            turn, self._past, self._states, number, cost[None, number]
        )
        over = bool((self._states.remaining < -1e-9).any())
        self._past = self._past.after(turn)
        self._turn += 1
        done = self._turn >= len(self.sessions[self._number])
        info = {"quality": scored, "cost": cost[number], "action": number, "over_budget": over}
        return self._observation(), reward, done, False, {**info, "sent": sent}

    def view(self) -> View:
        """Return what a policy sees of the present turn."""
        turn = self.turn
        most = self._costs(doubted=True)
        predicted = self._estimates[turn.row]
        doubt = CHECK[0] * (1 - predicted[0]) + CHECK[1] * predicted[0]
        local = self._costs(doubted=False)
        view = View(
            text=turn.question,
            observation=self._observation(),
            actions=ACTIONS,
            pieces=turn.pieces,
            sticky=turn.sticky,
            cost=most,
            remaining=self._states.remaining[0],
            arm=_ARMS,
            retained=session_model.retained(turn, self._states)[0],
            rest=self.known(doubt * most + (1 - doubt) * local),
            alpha=self.weights.alpha,
            estimate=np.zeros(len(ACTIONS)),
            check=CHECK,
            features=self._features(predicted),
            history=tuple(earlier.question for earlier in self._before()),
        )
        view.estimate[:] = view.quality(predicted)
        return view

    def practice(self, seed: int) -> "SessionsEnv":
        """Return an environment of many more sessions over the questions of the split.

        Each turn's estimate is still that of a model which has not seen the question.
        """
        made = copy.copy(self)
        rng = np.random.default_rng([seed, _PRACTISED])
        made.sessions = make_sessions(self._questions, PRACTICE, rng)
        made._charges = rng.uniform(*self.config.battery, size=PRACTICE)
        made.episodes = PRACTICE
        return made

    def truth(self) -> "SessionTruth":
        """Return what an oracle may ask."""
        return SessionTruth(self)

    def training_rows(self) -> list[TrainingRow]:
        """Return both models' answers to the questions of the training split."""
        table = self._train
        return [
            TrainingRow(question, arm, float(table.scores[row, arm]), table.groups[row])
            for row, question in enumerate(table.questions)
            for arm in (0, 1)
        ]

    def _before(self) -> tuple[SessionTurn, ...]:
        """Turns that lie behind the present one."""
        turns = self.sessions[self._number]
        return turns[: min(self._turn, len(turns) - 1)]

    @property
    def turn(self) -> SessionTurn:
        """The present turn; after the end the last one."""
        turns = self.sessions[self._number]
        return turns[min(self._turn, len(turns) - 1)]

    def true_quality(self) -> Floats:
        """What each action would score now, [5]."""
        keeps = session_model.retained(self.turn, self._states)
        return np.asarray(session_model.true_quality(self.turn, keeps)[0])

    def true_rest(self) -> Floats:
        """Reward of each action now, without its quality, [5]."""
        return self.known(self._costs(doubted=self.turn.doubted))

    def plan(self) -> tuple[int, ...]:
        """The best actions of the session that is at its start."""
        turns = self.sessions[self._number]
        planner = SessionPlanner(turns, self.world, self.weights, self.scales)
        return planner.best(self.start(), self.limits).actions

    def known(self, cost: Floats) -> Floats:
        """Reward of each action without its quality, given what it costs, [5, 4] -> [5]."""
        left = share_left(self._states.remaining[0, USD] - cost[:, USD], self.limits[USD])
        return known_terms(self.weights, self.scales, cost, 0.0, left)

    def start(self) -> States:
        """The state before the first turn of the present session."""
        charge = self._charges[self._number] * self.world.device.battery_j
        nothing = np.zeros(1)
        none_known = np.zeros(1, dtype=np.int64)
        return States(self.limits[None, :], np.array([charge]), nothing, nothing, none_known)

    def _predict(self, chosen: OutcomeTable, split: str, seed: int) -> Floats:
        """Scores by words: of test questions from the training ones, of those from other folds."""
        questions, scores = self._train.questions, self._train.scores
        if split == "train":
            return quality.out_of_fold(questions, scores, np.random.default_rng([seed, 4]))
        return quality.TfidfRidge(questions, scores).predict(chosen.questions)

    def _cloud_usd(self, turns: tuple[SessionTurn, ...]) -> float:
        """Dollars of a session in which the cloud answers every turn, with a warm cache."""
        spent = 0.0
        for turn, past in zip(turns, session_model.pasts(turns), strict=True):
            warm = States(
                np.zeros((1, 4)),
                np.array([self.world.device.battery_j]),
                np.zeros(1),
                np.array([float(past.sendable)]),
                np.zeros(1, np.int64),
            )
            spent += float(self.world.costs(turn, past, warm, doubted=True)[0, CLOUD, USD])
        return spent

    def _scales(self) -> Scales:
        """The dearest action of a first turn, averaged over the sessions; 1 private value."""
        first = []
        for turns in self.sessions:
            fresh = States(
                np.zeros((1, 4)),
                np.array([self.world.device.battery_j]),
                np.zeros(1),
                np.zeros(1),
                np.zeros(1, np.int64),
            )
            first.append(self.world.costs(turns[0], Past(), fresh, doubted=False)[0].max(axis=0))
        mean = np.mean(first, axis=0)
        return Scales(float(mean[LATENCY]), float(mean[USD]))

    def _costs(self, *, doubted: bool) -> Floats:
        """What each action uses now, [5, 4], read-only: several ask, and it is one for a state."""
        states, found = self._worked_out
        if states is not self._states:
            found = {}
            self._worked_out = self._states, found  # not emptied: a copy of this may share it
        if doubted not in found:
            cost = self.world.costs(self.turn, self._past, self._states, doubted=doubted)[0]
            cost.flags.writeable = False
            found[doubted] = cost
        return found[doubted]

    def _shares_left(self) -> Floats:
        """Shares of the dollars and of the risk that are left, in [-1, 1], [2]."""
        shares = np.ones(2)
        for place, resource in enumerate((USD, RISK)):
            limit = float(self.limits[resource])
            if math.isfinite(limit):
                shares[place] = self._states.remaining[0, resource] / max(limit, 1e-12)
        return shares.clip(-1, 1)

    def _features(self, predicted: Floats) -> Floats:
        turn = self.turn
        semi = any(piece.level is Level.SEMI_SENSITIVE for piece in turn.pieces)
        length = (turn.prompt + self._past.tokens) / 1000
        return np.array([*predicted, float(semi), *self._shares_left(), length, 1.0])

    def _observation(self) -> Observation:
        """See the class."""
        turn, past, states = self.turn, self._past, self._states
        levels = {piece.level for piece in turn.pieces}
        cost = self._costs(doubted=True)
        charge = float(states.battery[0]) / self.world.device.battery_j
        numbers = [
            *self._estimates[turn.row],
            *(float(level in levels) for level in Level),
            float(turn.holds_secret),
            float(turn.sticky),
            self._turn / TURNS[1],
            turn.prompt / 100,
            past.tokens / 1000,
            *self._shares_left(),
            charge,
            float(charge < LOW_BATTERY),
            float(states.local_seen[0]) / max(1, past.tokens),
            float(states.cloud_seen[0]) / max(1, past.sendable),
            float((turn.values & ~int(states.known[0])).bit_count()),
            *(cost[:, LATENCY] / self.scales.latency_s),
            *(cost[:, USD] / self.scales.usd),
        ]
        return np.array(numbers).clip(-1.0, _TOP).astype(np.float32)


class SessionTruth:
    """The outcome table itself, asked by an oracle; see `Truth`."""

    def __init__(self, env: SessionsEnv) -> None:
        self._env = env

    def quality(self) -> Floats:
        """True quality of each action now."""
        return self._env.true_quality()

    def rest(self) -> Floats:
        """True reward of each action now, without its quality."""
        return self._env.true_rest()

    def plan(self) -> tuple[int, ...]:
        """The best actions of the whole session."""
        return self._env.plan()
