"""Rollouts and replays that carry the cost vector beside the reward."""

from typing import Any, NamedTuple

import numpy as np
import torch
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer, MaskableRolloutBufferSamples
from stable_baselines3.common.buffers import ReplayBuffer

from ptmo_secure.offload.actions import RESOURCES, Floats

COSTS = len(RESOURCES)


class CostRolloutBuffer(MaskableRolloutBuffer):
    """A rollout whose values and returns have 1 + 4 columns: of the reward, and of each cost.

    The advantage it hands to the learner is that of the Lagrangian, at the prices of each row:

        A = (A_r - sum over k of price_k A_k) / (1 + sum over k of price_k)

    with a generalised advantage estimate of its own for the reward and for each cost / unit. Its
    returns come flat, row by row, as the learner flattens the values it predicts.
    """

    units: Floats = np.ones(COSTS)
    """What counts as 1 for each cost, [4]."""

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        shape = (self.buffer_size, self.n_envs, 1 + COSTS)
        self._both_values = np.zeros(shape, np.float32)
        self._both_rewards = np.zeros(shape, np.float32)
        self._costs = np.zeros((self.n_envs, COSTS))

    def take_costs(self, infos: list[dict[str, Any]]) -> None:
        """Keep the costs of the step that `add` is told of next."""
        self._costs = np.array([info["cost"] for info in infos]) / self.units

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add a step; the values have 1 + 4 columns."""
        observation, action, reward, start, values, log_prob = args
        self._both_rewards[self.pos, :, 0] = reward
        self._both_rewards[self.pos, :, 1:] = self._costs
        self._both_values[self.pos] = values.detach().cpu().numpy()
        super().add(observation, action, reward, start, values[:, 0], log_prob, **kwargs)

    def compute_returns_and_advantage(
        self, last_values: torch.Tensor, dones: "np.ndarray[Any, Any]"
    ) -> None:
        """See the class."""
        ahead = last_values.detach().cpu().numpy()
        going_on = 1.0 - dones.astype(np.float32)[:, None]
        advantages = np.zeros_like(self._both_values)
        last = np.zeros_like(ahead)
        for step in reversed(range(self.buffer_size)):
            delta = self._both_rewards[step] + self.gamma * going_on * ahead
            delta -= self._both_values[step]
            last = delta + self.gamma * self.gae_lambda * going_on * last
            advantages[step] = last
            ahead = self._both_values[step]
            going_on = 1.0 - self.episode_starts[step][:, None]
        prices = self.observations[..., -COSTS:]
        priced = advantages[..., 0] - (prices * advantages[..., 1:]).sum(axis=2)
        self.advantages = (priced / (1 + prices.sum(axis=2))).astype(np.float32)
        self.values = self._both_values  # as wide as the returns they are compared with
        self.returns = advantages + self._both_values

    def _get_samples(
        self, batch_inds: "np.ndarray[Any, Any]", env: Any = None
    ) -> MaskableRolloutBufferSamples:
        return MaskableRolloutBufferSamples(
            *map(
                self.to_torch,
                (
                    self.observations[batch_inds],
                    self.actions[batch_inds],
                    self.values[batch_inds].flatten(),
                    self.log_probs[batch_inds].flatten(),
                    self.advantages[batch_inds].flatten(),
                    self.returns[batch_inds].flatten(),
                    self.action_masks[batch_inds].reshape(-1, self.mask_dims),
                ),
            )
        )


class CostReplay(NamedTuple):
    """Transitions: the columns of `rewards` are the reward and the four costs / unit."""

    observations: torch.Tensor
    actions: torch.Tensor
    next_observations: torch.Tensor
    dones: torch.Tensor
    rewards: torch.Tensor


class CostReplayBuffer(ReplayBuffer):
    """A replay buffer that keeps the cost vector of each step."""

    units: Floats = np.ones(COSTS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._costs = np.zeros((self.buffer_size, self.n_envs, COSTS), np.float32)

    def add(self, *args: Any) -> None:
        """Add a step, with its costs out of the infos."""
        infos = args[-1]
        self._costs[self.pos] = np.array([info["cost"] for info in infos]) / self.units
        super().add(*args)

    def draw(self, count: int) -> CostReplay:
        """Draw steps with replacement."""
        rows = np.random.randint(0, self.size(), size=count)
        rewards = np.concatenate([self.rewards[rows, 0, None], self._costs[rows, 0]], axis=1)
        return CostReplay(
            *map(
                self.to_torch,
                (
                    self.observations[rows, 0],
                    self.actions[rows, 0],
                    self.next_observations[rows, 0],
                    self.dones[rows, 0, None],
                    rewards,
                ),
            )
        )
