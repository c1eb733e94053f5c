"""TMO's environment: conversations with up to three images, answered locally or by a cloud.

`M4A1Env` is what TMO released (liangqiyuan/TMO, commit c596ec9), with its constants and its flaws;
`M4A1DeviceEnv` in `m4a1_device` corrects them. Both replay the same split and response model.
"""

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import LATENCY, USD, Floats, Piece
from ptmo_secure.offload.envs import response
from ptmo_secure.offload.envs.base import Observation
from ptmo_secure.offload.envs.conversations import MAX_TURNS, ConversationEnv
from ptmo_secure.offload.envs.exhaustive import Script
from ptmo_secure.offload.envs.response import ACTIONS, IMAGES
from ptmo_secure.offload.outcomes import Conversation
from ptmo_secure.offload.reward import RewardWeights, Scales
from ptmo_secure.types import Level

BUDGETS = ((30.0, 0.05), (20.0, 0.03), (12.0, 0.015), (6.0, 0.006))
"""Seconds and dollars of a conversation, as TMO was measured."""

CLOUD_SECONDS = {
    "Wired": (6.46030, 4.76134, 6.24569, 6.98211),
    "WiFi": (0.5, 1.898, 2.016, 2.238),
    "5G": (0.5, 6.037, 6.412, 7.118),
    "4G": (0.5, 16.603, 17.636, 19.573),
}
"""TMO's seconds of a cloud answer with 0 to 3 images."""
CLOUD_USD = (0.00049, 0.005, 0.00945, 0.01368)
_LOCAL_SECONDS = 2 * 3.8e9 / 1024 * 2048 / 1.33e12  # Jetson TX2; 1,024 times too small
_LOCAL_USD = 15 * _LOCAL_SECONDS * 0.1668 / 3.6e6
_DISTRIBUTIONS = ("normal", "uniform")
_PUBLIC = (Piece(Level.PUBLIC, 1),)


class M4A1Env(ConversationEnv):
    """TMO's environment as released: constant costs, training on logged states.

    Observation: 5 frames of 5 numbers (`response`), and with `constrained` the seconds and dollars
    that are left: 25 or 27 float32. While training, the state after an action is the logged one
    whatever the action was, the budgets are sampled, and with `constrained` a step that ends over a
    budget earns 0; a test runs in closed loop with the budget given.

    Args:
        conversations: the whole set, before the split.
        split: "train" or "test".
        split_seed: of TMO's split.
        budget: seconds and dollars of a conversation.
        constrained: TMO's "resource constrained" mode.
        network: one of `CLOUD_SECONDS`.
        distribution: of the budgets while training: normal or uniform.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form
    budgets = BUDGETS

    def __init__(
        self,
        conversations: Sequence[Conversation],
        split: str = "train",
        split_seed: int = 1,
        budget: tuple[float, float] = BUDGETS[0],
        *,
        constrained: bool = True,
        network: str = "Wired",
        distribution: str = "normal",
    ) -> None:
        if network not in CLOUD_SECONDS:
            raise InputError(f"unknown network {network!r}: one of {', '.join(CLOUD_SECONDS)}")
        if distribution not in _DISTRIBUTIONS:
            raise InputError(f"unknown distribution {distribution!r}: expected normal or uniform")
        self._costs = np.zeros((len(ACTIONS), 4))
        self._costs[0, :2] = _LOCAL_SECONDS, _LOCAL_USD
        self._costs[1:, LATENCY] = np.array(CLOUD_SECONDS[network])[IMAGES[1:]]
        self._costs[1:, USD] = np.array(CLOUD_USD)[IMAGES[1:]]
        self._constrained, self._distribution = constrained, distribution
        self._training = split == "train"
        limits = np.array([*budget, np.inf, np.inf])
        super().__init__(
            conversations, split, split_seed, "kd-tree", RewardWeights(beta4=0.0), limits
        )
        self._logged = [response.logged_states(s.turns, self.tasks) for s in self.scripts]
        frames = [-1.0] * response.STATE
        tops = [1.0, 1, 1, 1, max(1, len(self.tasks) - 1)] * response.FRAMES
        budgets = 2 * constrained
        self.observation_space = gym.spaces.Box(
            np.array(frames + [-np.inf] * budgets, dtype=np.float32),
            np.array(tops + [np.inf] * budgets, dtype=np.float32),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start a conversation; a random one of the training split with a sampled budget."""
        super().reset(seed=seed, options=options)
        if self._training and not (options and "episode" in options):
            self._remaining[:2] = self._sampled()
        return self.observation(), {}

    def set_budget(self, budget: tuple[float, ...]) -> None:
        """Seconds and dollars of the conversations from the next `reset` on."""
        self.limits = np.array([*budget, np.inf, np.inf])

    def released(self, *, constrained: bool) -> "M4A1Env":
        """Return this environment with or without the budgets in its observation."""
        other = copy.copy(self)
        other._constrained = constrained
        size = response.STATE + 2 * constrained
        box = self.observation_space
        if isinstance(box, gym.spaces.Box) and box.shape[0] >= size:
            other.observation_space = gym.spaces.Box(box.low[:size], box.high[:size])
        return other

    def practice(self, seed: int) -> "M4A1Env":
        """Return recombined conversations without TMO's replay: they run as a test does."""
        closed = super().practice(seed)
        closed._training = False
        return closed

    def observation(self) -> Observation:
        """The 25 numbers of the state, and what is left of the budget."""
        ended = self._turn >= len(self.script.turns)
        state = np.full(response.STATE, -1.0) if ended else self._state
        left = np.full(2, -1.0) if ended else self._remaining[:2]
        return np.append(state, left if self._constrained else []).astype(np.float32)

    def _sampled(self) -> Floats:
        """Between five of the cheapest and five of the dearest answers."""
        low = MAX_TURNS * self._costs[0, :2]
        high = MAX_TURNS * self._costs[-1, :2]
        if self._distribution == "uniform":
            return np.asarray(self.np_random.uniform(low, high))
        middle, spread = (low + high) / 2, np.maximum((high - low) / 6, 1e-8)
        return np.asarray(np.clip(self.np_random.normal(middle, spread), low, high))

    def _shaped(self, reward: float, over: bool) -> float:
        return 0.0 if self._training and self._constrained and over else reward

    def _next_state(self, action: int) -> Floats:
        if self._training:
            return np.asarray(self._logged[self._number][self._turn])
        return super()._next_state(action)

    def _script(self, number: int, turns: Conversation) -> Script:
        shape = (len(turns), *self._costs.shape)
        calm = (False,) * len(turns)
        costs = np.broadcast_to(self._costs, shape)
        return Script(turns, (_PUBLIC,) * len(turns), calm, costs, response.association(turns))

    def _scales(self) -> Scales:
        low, high = self._costs[:, :2].min(axis=0), self._costs[:, :2].max(axis=0)
        return Scales(high[0] - low[0], high[1] - low[1], offset=(float(low[0]), float(low[1])))
