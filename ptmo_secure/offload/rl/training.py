"""Trains one policy: school, learner, checkpoints, and the best network it met on the way."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import RESOURCES
from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.rl.advice import Advice
from ptmo_secure.offload.rl.lagrangian import PidMultipliers
from ptmo_secure.offload.rl.logs import silent_logger
from ptmo_secure.offload.rl.network import Network
from ptmo_secure.offload.rl.pilot import Pilot
from ptmo_secure.offload.rl.prices import Prices, Trace
from ptmo_secure.offload.rl.schooling import LOOKED_AT, School

ALGORITHMS = {"rc-ppo": "ppo:RcPpo", "rc-a2c": "a2c:RcA2c", "rc-dqn": "dqn:RcDqn"}
STEPS, QUICK_STEPS = 30_000, 2_000
_OPTIONS: dict[str, dict[str, Any]] = {
    "rc-ppo": {"n_steps": 512, "batch_size": 128, "n_epochs": 6},
    "rc-a2c": {"learning_rate": 7e-4},
    "rc-dqn": {},
}
_ACTORS = ("rc-ppo", "rc-a2c")
_TRIALS = 5  # times the network of the moment is tried on whole episodes
_TRIED_ON = 10, 200  # practice episodes for each budget: in a short training, in a long one
_SAVES = 10
_TOLD = 100  # steps between two reports


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained.

    Args:
        algo: one of `ALGORITHMS`.
        seed: of everything that is random.
        steps: turns in the environment.
        budgets: hard ones, that the policy learns to live with; empty takes the environment's.
        limits: of the mean cost of an episode, [4] in the units of `RESOURCES`; infinity is none.
        about: where it is trained: environment, data; plain JSON. A checkpoint of a training
            somewhere else is refused.
    """

    algo: str
    seed: int
    steps: int = STEPS
    budgets: tuple[tuple[float, ...], ...] = ()
    limits: tuple[float, ...] = field(default=(float("inf"),) * len(RESOURCES))
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.algo not in ALGORITHMS:
            expected = ", ".join(ALGORITHMS)
            raise InputError(f"unknown algorithm {self.algo!r}: expected one of {expected}")
        if self.steps < 1:
            raise InputError(f"{self.steps} steps: at least one")


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it.

    Args:
        network: the best one met, or with limits the last.
        trace: of its multipliers; they move, at 0, where there is no limit as well.
        trials: reward of a turn on practice episodes, after 0, 1/5 ... of the steps.
    """

    network: Network
    trace: Trace
    trials: list[float]


def train(
    env: OffloadEnv,
    advice: Advice,
    plan: Plan,
    report: Callable[[int, int], None] = lambda done, total: None,
    checkpoint: Path | None = None,
    tensorboard: Path | None = None,
) -> Trained:
    """Train a policy; one thread, on the CPU.

    Args:
        env: of the training split.
        advice: where it begins, fitted.
        plan: what is trained.
        report: told (steps done, steps).
        checkpoint: file that the state is written to, ten times; where it exists already, the
            training goes on from there; one that is done is not done again. Weights, optimiser,
            multipliers and the best network are restored; a replay buffer is filled again and
            random draws begin anew, so the result differs from that of a training that was never
            interrupted.
        tensorboard: folder of event files.

    Raises:
        InputError: the checkpoint is not one of this plan, or cannot be written.
    """
    torch.set_num_threads(1)
    school = School(env, plan.budgets or env.budgets, advice, plan.seed)
    shift, scale, usual = school.normal(min(LOOKED_AT, plan.steps))
    limits = np.array(plan.limits, dtype=np.float64)
    units = np.where(np.isfinite(limits), limits, np.maximum(usual, 1e-9))
    school.units = units
    prices = Prices(PidMultipliers(limits), school.show, units)
    module, _, name = ALGORITHMS[plan.algo].partition(":")
    kind = getattr(import_module(f"ptmo_secure.offload.rl.{module}"), name)
    options = dict(_OPTIONS[plan.algo])
    if plan.algo in _ACTORS:
        options["start"] = advice.start_weight
    model = kind(school, school.layout, shift, scale, prices, seed=plan.seed, **options)
    model.set_logger(
        silent_logger() if tensorboard is None else configure(str(tensorboard), ["tensorboard"])
    )
    watch = _Watch(model, school, plan, report, checkpoint)
    watch.resume()
    if model.num_timesteps < plan.steps:
        left = plan.steps - model.num_timesteps
        model.learn(left, callback=watch, reset_num_timesteps=model.num_timesteps == 0)
        watch.finish()
    network = model.network() if np.isfinite(limits).any() else watch.best or model.network()
    network.prices = prices.held.value.copy()
    network.card = {**_plain(plan), "limits": [None if np.isinf(x) else x for x in plan.limits]}
    return Trained(network, prices.trace, watch.trials)


class _Watch(BaseCallback):
    """Reports, writes checkpoints, and tries the network of the moment on whole episodes."""

    def __init__(
        self,
        model: Any,
        school: School,
        plan: Plan,
        report: Callable[[int, int], None],
        checkpoint: Path | None,
    ) -> None:
        super().__init__()
        self._learner, self._school, self._plan = model, school, plan
        self._report, self._checkpoint = report, checkpoint
        self.best: Network | None = None
        self.trials: list[float] = []
        self._saved = 0

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self._checkpoint is None or not self._checkpoint.exists():
            return
        try:
            state = torch.load(self._checkpoint, weights_only=True)
            now, then = _plain(self._plan), state["plan"]
            other = [name for name in {**now, **then} if now.get(name) != then.get(name)]
            if other:
                raise InputError(
                    f"{self._checkpoint}: a checkpoint of another training (not the same "
                    f"{', '.join(other)}): delete it, or name another folder"
                )
            self._learner.restore(state["learner"])
            self._learner.prices.held.restore(state["held"])
            self._learner.prices.trace[:] = state["trace"]
            self._learner.num_timesteps = self._saved = state["steps"]
            self.trials = list(state["trials"])
            self.best = _with_weights(self._learner.network(), state["best"])
        except InputError:
            raise
        except Exception as failure:
            text = f"{self._checkpoint}: not a checkpoint of this program"
            raise InputError(text) from failure
        self._school.show(self._learner.prices.held.value)

    def finish(self) -> None:
        """Try the last network, and keep the last state."""
        self._try()
        self._save()
        self._report(self._plan.steps, self._plan.steps)

    def _on_step(self) -> bool:
        done, steps = self.num_timesteps, self._plan.steps
        if done % _TOLD == 0:
            self._report(min(done, steps), steps)
        if done * _TRIALS // steps >= len(self.trials) and len(self.trials) < _TRIALS:
            self._try()
        if done - self._saved >= max(1, steps // _SAVES):
            self._save()
        return True

    def _try(self) -> None:
        network = self._learner.network()
        episodes = int(np.clip(self._plan.steps // 100, *_TRIED_ON))
        earned = self._school.trial(Pilot(network), episodes)
        if self.best is None or earned > max(self.trials):
            self.best = network
        self.trials.append(earned)

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        self._saved = self._learner.num_timesteps
        state = {
            "plan": _plain(self._plan),
            "steps": self._saved,
            "learner": self._learner.state(),
            "held": self._learner.prices.held.state(),
            "trace": self._learner.prices.trace,
            "trials": self.trials,
            "best": _weights(self.best),
        }
        try:
            self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
            part = self._checkpoint.with_suffix(".part")
            torch.save(state, part)
            os.replace(part, self._checkpoint)
        except (OSError, RuntimeError) as failure:
            raise InputError(f"{self._checkpoint}: cannot be written: {failure}") from None


def _weights(network: Network | None) -> list[torch.Tensor]:
    """Weights and biases, layer by layer; none of no network."""
    pairs = [] if network is None else [*network.layers, network.head]
    return [torch.tensor(array) for pair in pairs for array in pair]


def _with_weights(like: Network, weights: list[torch.Tensor]) -> Network | None:
    """The network that `_weights` was asked for, given one that differs in nothing else."""
    arrays = [tensor.numpy() for tensor in weights]
    pairs = list(zip(arrays[::2], arrays[1::2], strict=True))
    return replace(like, layers=pairs[:-1], head=pairs[-1]) if pairs else None


def _plain(plan: Plan) -> dict[str, Any]:
    """The plan in types that a checkpoint may hold, what it is about among its parts."""
    found = asdict(plan) | {"limits": list(plan.limits), **plan.about}
    del found["about"]
    return found | {"budgets": [list(budget) for budget in plan.budgets]}
