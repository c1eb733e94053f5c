"""What can be done with one turn, and what a policy sees of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from ptmo_secure.types import Level

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

RESOURCES = ("latency_s", "usd", "energy_j", "risk")
"""What an action uses up, in the order of every array of costs and limits."""
LATENCY, USD, ENERGY, RISK = range(len(RESOURCES))


class Kind(Enum):
    """Who answers, and what that one is told."""

    LOCAL = "local"
    """The device answers; nothing leaves it."""

    CLOUD = "cloud"
    """The cloud gets the turn as it was typed."""

    MASKED = "masked"
    """The cloud gets the turn with placeholders for its private values."""

    HYBRID = "hybrid"
    """The cloud gets the pieces that are not private, masked; the device answers the others."""

    ESCALATE = "escalate"
    """The device answers; where that looks poor, the cloud gets the masked turn as well."""


@dataclass(frozen=True, slots=True)
class Action:
    """One action of an environment.

    Args:
        kind: who answers, and what leaves the device.
        images: numbers of the images that are uploaded.
    """

    kind: Kind
    images: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Name in tables: the kind, and the images."""
        return self.kind.value + "".join(f"+{image}" for image in self.images)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a turn that has one level, as the decomposer cuts it.

    Args:
        level: what may happen to this part.
        tokens: its length.
        values: private values in it, each of which masking replaces by a placeholder.
    """

    level: Level
    tokens: int
    values: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """Everything a policy may know when it chooses; true outcomes are not in it.

    Args:
        text: the question, without what the decomposer set apart.
        observation: what a learner gets from the Gymnasium environment, float32.
        actions: the environment's actions, in the order of every array here.
        pieces: levels of the parts of the turn.
        sticky: whether a PRIVATE turn lies close enough behind that no raw text may leave.
        cost: what each action is expected to use, [actions, 4], see `RESOURCES`.
        remaining: what is left of each budget, [4]; infinity where there is none.
        arm: number of the model that answers each action, [actions]; 0 is the local one.
        retained: share of that model's quality which the action keeps, [actions], in [0, 1].
        rest: the reward of each action without its quality term, as far as it is known, [actions].
        alpha: weight of quality in the reward.
        estimate: quality of each action by a model of the training split alone, [actions].
        check: what the self-check of an escalation doubts: its shares of wrong and right answers.
        features: numbers that linear policies use, [n].
        history: questions of the earlier turns, oldest first, as `text` was.
    """

    text: str
    observation: NDArray[np.float32]
    actions: Sequence[Action]
    pieces: Sequence[Piece]
    sticky: bool
    cost: Floats
    remaining: Floats
    arm: NDArray[np.int64]
    retained: Floats
    rest: Floats
    alpha: float
    estimate: Floats
    check: tuple[float, float] | None = None
    features: Floats = field(default_factory=lambda: np.zeros(0))
    history: tuple[str, ...] = ()

    def reward(self, quality: Floats) -> Floats:
        """Reward of each action if its quality were as given: alpha * quality + rest.

        Args:
            quality: [actions].
        """
        return np.asarray(self.alpha * quality + self.rest)

    def quality(self, by_arm: Floats, both: float | None = None) -> Floats:
        """Quality of each action, from that of each model on this question.

        An escalation scores local (1 - r) + keep (w (cloud - both) + r both): right local answers
        that are not doubted, and the cloud's in place of those that are, which are right less
        often where the local one is wrong.

        Args:
            by_arm: [arms], in [0, 1] where there is an escalation.
            both: chance that both models are right; None takes them to be independent.
        """
        quality: Floats = np.asarray(self.retained * by_arm[self.arm])
        if self.check is not None:
            wrong, right = self.check
            for number, action in enumerate(self.actions):
                if action.kind is Kind.ESCALATE:
                    local, cloud = float(by_arm[0]), float(by_arm[self.arm[number]])
                    joint = local * cloud if both is None else both
                    joint = min(max(joint, local + cloud - 1, 0.0), local, cloud)
                    caught = wrong * (cloud - joint) + right * joint
                    quality[number] = local * (1 - right) + self.retained[number] * caught
        return quality

    def expected_cost(self, local: float) -> Floats:
        """Return `cost`, but of an escalation's what the cloud is asked with, not at most.

        Args:
            local: chance that the local answer is right, in [0, 1].
        """
        cost: Floats = self.cost.copy()
        if self.check is not None:
            doubted = self.check[0] * (1 - local) + self.check[1] * local
            for number, action in enumerate(self.actions):
                if action.kind is Kind.ESCALATE:
                    cost[number, [USD, RISK]] *= doubted  # the device's part pays and leaks nothing
        return cost

    @property
    def level(self) -> Level:
        """The turn as a whole: PRIVATE only when no part of it is less than that."""
        levels = {piece.level for piece in self.pieces}
        if levels == {Level.PUBLIC}:
            return Level.PUBLIC
        return Level.PRIVATE if levels <= {Level.PRIVATE} else Level.SEMI_SENSITIVE
