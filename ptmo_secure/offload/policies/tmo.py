"""TMO's learners as released: stable-baselines3 with its defaults, and a penalty without effect.

The repository has two generations (liangqiyuan/TMO). In the first one a "resource constrained"
learner subtracts lambda * penalty from its loss, where the penalty is a plain number made of stored
observations and actions: it has no gradient, so its weights are bit for bit those of the plain
learner (`PenalisedLoss`). In the second one the budgets left stand in the observation, and a step
that ends over a budget earns nothing; `tmo-rc-*` are these.
"""

import copy
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from ptmo_secure.errors import EngineError
from ptmo_secure.offload.actions import Floats, Kind, Mask, View
from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.envs.m4a1 import M4A1Env
from ptmo_secure.offload.policies.base import Policy, best
from ptmo_secure.offload.rl.logs import silent_logger

STEPS = 30_000
PENALTY_WEIGHT = 10.0
_BUDGET_NUMBERS = 2  # at the end of the constrained environment's observation


class PenalisedLoss:
    """A loss that a number is subtracted from before each backward pass, as TMO's RC learners do.

    Used as a context: `torch.Tensor.backward` is wrapped while it lasts.

    Args:
        penalty: computed for each pass; a number that does not depend on any weight.
    """

    def __init__(self, penalty: float) -> None:
        self._penalty = penalty
        self.passes = 0

    def __enter__(self) -> "PenalisedLoss":
        tensor: Any = torch.Tensor
        self._plain = tensor.backward

        def backward(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            self.passes += 1
            self._plain(loss - PENALTY_WEIGHT * self._penalty, *args, **kwargs)

        tensor.backward = backward
        return self

    def __exit__(self, *failure: object) -> None:
        tensor: Any = torch.Tensor
        tensor.backward = self._plain


class _Private(gym.Wrapper[Any, Any, Any, Any]):
    """Turns an action that the privacy rules forbid into the local one; budgets are nobody's.

    Args:
        env: of the training split. Each episode is under one of its budgets, drawn as TMO draws.
        rng: of the draws.
        constrained: whether a turn that ends over a budget earns nothing.
    """

    def __init__(self, env: OffloadEnv, rng: np.random.Generator, *, constrained: bool) -> None:
        self._inside = copy.copy(env)  # whose budget is not what others find afterwards
        super().__init__(self._inside)
        self._rng, self._constrained = rng, constrained

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        budgets = self._inside.budgets
        self._inside.set_budget(budgets[int(self._rng.integers(len(budgets)))])
        return self._inside.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        """Do the action, or stay local."""
        if not self._inside.private_mask()[int(action)]:
            local = [one.kind is Kind.LOCAL for one in self._inside.actions]
            action = np.int64(local.index(True))
        seen, reward, done, cut, info = self._inside.step(action)
        if self._constrained and info["over_budget"]:
            reward = 0.0
        return seen, reward, done, cut, info


class Tmo(Policy):
    """An SB3 learner with default settings; the gate keeps privacy, and nobody the budgets.

    Args:
        seed: of the training.
        steps: of the training.
    """

    keeps_budgets = False
    learner: ClassVar[type[BaseAlgorithm]]
    constrained: ClassVar[bool] = False

    def __init__(self, seed: int = 0, steps: int = STEPS) -> None:
        super().__init__(seed)
        self._seed, self._steps = seed, steps
        self._model: BaseAlgorithm | None = None

    def fit(self, train: OffloadEnv) -> None:
        """Train on the environment as it is: M4A1 with TMO's replay, and budgets that are drawn."""
        torch.set_num_threads(1)
        school: gym.Env[Any, Any]
        if isinstance(train, M4A1Env):
            school = train.released(constrained=self.constrained)
        else:
            school = _Private(train, self.rng, constrained=self.constrained)
        self._model = self.learner("MlpPolicy", school, seed=self._seed, device="cpu")
        self._model.set_logger(silent_logger())
        self._model.learn(self._steps)

    def choose(self, view: View, mask: Mask) -> int:
        """What it would do; where privacy forbids that, its next best."""
        if self._model is None:
            raise EngineError(f"the policy {self.name} is not trained")
        seen = view.observation
        wanted = int(np.prod(self._model.observation_space.shape))
        tensor = torch.as_tensor(np.nan_to_num(seen[None, :wanted]), dtype=torch.float32)
        return best(_liking(self._model, tensor), mask)


def _liking(model: BaseAlgorithm, observation: torch.Tensor) -> Floats:
    """Values or log-probabilities of the actions, [actions]."""
    with torch.no_grad():
        if isinstance(model, DQN):
            found = model.q_net(observation)
        else:
            found = model.policy.get_distribution(observation).distribution.logits
    return np.asarray(found[0].numpy(), dtype=np.float64)


class TmoPpo(Tmo):
    """PPO, unconstrained."""

    name, learner = "tmo-ppo", PPO


class TmoA2c(Tmo):
    """A2C, unconstrained."""

    name, learner = "tmo-a2c", A2C


class TmoDqn(Tmo):
    """DQN, unconstrained."""

    name, learner = "tmo-dqn", DQN


class TmoRcPpo(TmoPpo):
    """RC-PPO of the second generation."""

    name, constrained = "tmo-rc-ppo", True


class TmoRcA2c(TmoA2c):
    """RC-A2C of the second generation."""

    name, constrained = "tmo-rc-a2c", True


class TmoRcDqn(TmoDqn):
    """RC-DQN of the second generation."""

    name, constrained = "tmo-rc-dqn", True
