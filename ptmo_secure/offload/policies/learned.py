"""The policies with real constraints: RC-PPO, RC-A2C, RC-DQN; and the advice that they begin at."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.offload.actions import RESOURCES, Floats, Mask, View
from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.policies.base import Policy, best
from ptmo_secure.offload.rl.advice import Advice, advice_for
from ptmo_secure.offload.rl.features import describe
from ptmo_secure.offload.rl.lagrangian import limits_of
from ptmo_secure.offload.rl.network import Network, load_network
from ptmo_secure.offload.rl.pilot import Pilot
from ptmo_secure.offload.rl.prices import Trace
from ptmo_secure.offload.rollout import mean_reward

_SETTLED_ON = 200  # training episodes, or as many as there are


class AdviceOnly(Policy):
    """The advice that the learners begin at, by itself: planning or prediction, and no reward."""

    name = "advice"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._seed = seed
        self._advice: Advice | None = None

    def fit(self, train: OffloadEnv) -> None:
        """Fit the advice on the training split."""
        self._advice = advice_for(train, self._seed)

    def choose(self, view: View, mask: Mask) -> int:
        """The highest expected reward."""
        return best(self._expected(view, mask), mask)

    def observe(self, view: View, action: int, quality: float) -> None:
        """Use the time that the answer takes to prepare the next turn."""
        if self._advice is not None:
            self._advice.foresee(view, action)

    def _expected(self, view: View, mask: Mask) -> Floats:
        if self._advice is None:
            raise EngineError(f"the policy {self.name} is not fitted")
        return self._advice.rewards(view, mask)


class Learned(AdviceOnly):
    """A small network on top of the advice, trained under masks; one policy for all budgets.

    Args:
        seed: of the training.
        steps: of the training; None takes the usual number.
        limits: of the mean cost of an episode, by the names of `RESOURCES`; their multipliers go on
            moving while the policy is used.
    """

    algo: ClassVar[str]

    def __init__(
        self, seed: int = 0, steps: int | None = None, limits: dict[str, float] | None = None
    ) -> None:
        super().__init__(seed)
        self._steps, self._limits = steps, limits or {}
        self._pilot: Pilot | None = None
        self.trace: Trace = []
        """Multipliers over time, of a training under limits that `fit` did."""

    def hold(self, limits: dict[str, float]) -> None:
        """Hold these limits, by the names of `RESOURCES`, from the training on."""
        self._limits = dict(limits)

    def recall(self, path: Path) -> None:
        """Take a trained network; `fit` then fits the advice alone.

        Raises:
            InputError: the file is no policy, or one of another algorithm or seed; or a limit is to
                be held that it was trained without, so that it does not know what a price is.
        """
        network = load_network(path)
        if (network.card.get("algo"), network.card.get("seed")) != (self.algo, self._seed):
            raise InputError(f"{path}: not a policy of {self.algo} with seed {self._seed}")
        unknown = [n for n in self._limits if np.isinf(network.limits[RESOURCES.index(n)])]
        if unknown:
            wanted = " ".join(f"--limit {name}={self._limits[name]:g}" for name in self._limits)
            raise InputError(
                f"{path}: trained without a limit of {unknown[0]}: train with {wanted}"
            )
        self.use(network)

    @property
    def trained(self) -> bool:
        """Whether it has a network, so that `fit` fits the advice alone."""
        return self._pilot is not None

    def use(self, network: Network) -> None:
        """Decide by this network from now on."""
        limits = np.array(limits_of(self._limits)) if self._limits else None
        self._pilot = Pilot(network, limits, seed=self._seed)

    def tune(self, train: OffloadEnv) -> None:
        """Let the prices settle on training episodes, under the budgets that these have now."""
        if self._pilot is not None and self._pilot.held.bounded.any():
            mean_reward(train, self, _SETTLED_ON)

    def fit(self, train: OffloadEnv) -> None:
        """Fit the advice, then train the network, unless there is one."""
        super().fit(train)
        if self._pilot is None and self._advice is not None:
            from ptmo_secure.offload.rl.training import STEPS, Plan
            from ptmo_secure.offload.rl.training import train as learn

            steps = STEPS if self._steps is None else self._steps
            plan = Plan(self.algo, self._seed, steps, limits=limits_of(self._limits))
            found = learn(train, self._advice, plan)
            self.use(found.network)
            self.trace = found.trace if self._limits else []

    def choose(self, view: View, mask: Mask) -> int:
        """What the network prefers at the prices in force."""
        if self._pilot is None:
            raise EngineError(f"the policy {self.name} is not trained")
        advised = np.nan_to_num(self._expected(view, mask))
        units = self._pilot.network.units
        features = describe(view, advised, mask, self._pilot.prices, units)
        return self._pilot.act(features.astype(np.float64), mask)

    def settle(self, used: Floats) -> None:
        """Move the prices of what has a limit."""
        if self._pilot is not None:
            self._pilot.ended(used)


class RcPpoPolicy(Learned):
    """Resource-constrained PPO."""

    name = algo = "rc-ppo"


class RcA2cPolicy(Learned):
    """Resource-constrained A2C."""

    name = algo = "rc-a2c"


class RcDqnPolicy(Learned):
    """Resource-constrained DQN."""

    name = algo = "rc-dqn"
