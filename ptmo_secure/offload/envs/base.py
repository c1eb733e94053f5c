"""What every offloading environment offers beside Gymnasium's own interface."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ptmo_secure.offload.actions import Action, Floats, Mask, View
from ptmo_secure.offload.gate import allowed, privacy_mask

Observation = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One answer that a model gave to a training question.

    Args:
        text: the question.
        arm: number of the model, as in `View.arm`.
        quality: what the answer scored.
        group: task or domain of the question, where the table names one.
    """

    text: str
    arm: int
    quality: float
    group: str = ""


class Truth(Protocol):
    """What only an oracle may ask: outcomes that no real policy can know."""

    def quality(self) -> Floats:
        """True quality of each action in the present turn, [actions]."""
        ...

    def rest(self) -> Floats:
        """True reward of each action without its quality term, [actions]."""
        ...

    def plan(self) -> tuple[int, ...]:
        """The best actions of the whole episode within the budgets; asked before its first turn."""
        ...


class OffloadEnv(gym.Env[Observation, np.int64], ABC):
    """An environment of conversations; an episode is one of them, a step one turn.

    `reset(options={"episode": n})` starts conversation n; without it a random one. `step` returns
    in `info`: "quality", "cost" ([4], see `RESOURCES`), "action" (the one that was done),
    "over_budget" (whether a finite budget is exceeded now).
    """

    actions: tuple[Action, ...]
    episodes: int
    limits: Floats
    """Budgets of an episode, [4]; infinity where there is none."""
    budgets: tuple[tuple[float, ...], ...]
    """Budgets that a policy learns to keep, see `set_budget`."""

    @abstractmethod
    def set_budget(self, budget: tuple[float, ...]) -> None:
        """Give the episodes from the next `reset` on another budget, as at construction."""

    @abstractmethod
    def view(self) -> View:
        """Return what a policy sees of the present turn."""

    @abstractmethod
    def truth(self) -> Truth:
        """Return what an oracle may ask."""

    def action_masks(self) -> Mask:
        """Return what the gate allows now, [actions]; MaskablePPO asks for it by this name."""
        return allowed(self.view())

    def private_mask(self) -> Mask:
        """Return what the privacy rules allow now, budgets aside, [actions]."""
        view = self.view()
        return privacy_mask(view.actions, view.pieces, view.sticky)

    def practice(self, seed: int) -> "OffloadEnv":
        """Return an environment of the same split to learn in: closed loop, and many episodes.

        Args:
            seed: of episodes that are made up of parts of the split's own.
        """
        return self

    @abstractmethod
    def training_rows(self) -> list[TrainingRow]:
        """Return logged answers of the training split, for policies that are fitted."""

    def _episode(self, options: dict[str, Any] | None) -> int:
        """Number of the conversation that `reset` starts."""
        if options is not None and "episode" in options:
            return int(options["episode"]) % self.episodes
        return int(self.np_random.integers(self.episodes))
