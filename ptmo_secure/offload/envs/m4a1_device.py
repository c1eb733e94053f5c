"""TMO's environment corrected: what answers cost on a real device, and what uploads give away."""

from collections.abc import Sequence

import gymnasium as gym
import numpy as np

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import ENERGY, LATENCY, RISK, USD, Floats, Piece
from ptmo_secure.offload.envs import response
from ptmo_secure.offload.envs.base import Observation
from ptmo_secure.offload.envs.conversations import MAX_TURNS, ConversationEnv
from ptmo_secure.offload.envs.exhaustive import Script
from ptmo_secure.offload.envs.response import ACTIONS, IMAGES
from ptmo_secure.offload.outcomes import Conversation, count_tokens
from ptmo_secure.offload.profiles import CLOUDS, DEVICES, NETWORKS, Device, Network, profile
from ptmo_secure.offload.reward import RewardWeights, Scales
from ptmo_secure.types import Level

BUDGET = (60.0, 0.05, 2.0)
"""Seconds, dollars and risk of a conversation."""

ANSWER_TOKENS = 205  # M4A1's local answers, at 4 letters a token
IMAGE_TOKENS = 1_800  # what an image adds to M4A1's logged dollars, at $2.50 a million tokens
IMAGE_BYTES = 200_000
IMAGE_RISK = 0.3  # assumed: private things seen in a picture of the user's home, per picture
TEXT_RISK = 0.02  # assumed: for a question that the guard let through
STICKY_TURNS = 2
_DRAWS = 7_041  # seeds which turns are PRIVATE, for all splits and seeds alike


class M4A1DeviceEnv(ConversationEnv):
    """M4A1 with local time and energy of a device profile, levels, risk and closed-loop states.

    What differs from `M4A1Env`: an answer takes tokens / rates instead of a constant; the history
    is a part of every prompt; energy and risk are counted; a seeded share of the turns is PRIVATE
    and stays on the device, and no raw text leaves for two turns after; an action changes the next
    state in training as well; ties of the response model do not depend on the order of rows.

    Observation, 32 float32: the 25 of TMO's state, the shares left of seconds, dollars and risk
    (1 without a budget, down to -1), whether the turn is PRIVATE, whether a PRIVATE one lies close
    behind, the turn's number / 5, and the expected seconds and dollars of a cloud answer with text
    alone over the scales of the reward.

    Args:
        conversations: the whole set, before the split.
        split: "train" or "test".
        split_seed: of TMO's split.
        budget: seconds, dollars and risk of a conversation; infinity is none.
        device: a name of `DEVICES`, or a profile.
        network: a name of `NETWORKS`, or a profile.
        private_share: of turns that are PRIVATE, in [0, 1].
        weights: of the reward.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form
    budgets = (BUDGET, (30.0, 0.02, 0.6))

    def __init__(
        self,
        conversations: Sequence[Conversation],
        split: str = "train",
        split_seed: int = 1,
        budget: tuple[float, float, float] = BUDGET,
        *,
        device: str | Device = "m4a1-logged",
        network: str | Network = "wired",
        private_share: float = 0.1,
        weights: RewardWeights | None = None,
    ) -> None:
        if not 0 <= private_share <= 1:
            raise InputError(f"private_share is {private_share}: it is in [0, 1]")
        named = profile(DEVICES, "device", device) if isinstance(device, str) else device
        self._device: Device = named
        way = profile(NETWORKS, "network", network) if isinstance(network, str) else network
        self._network: Network = way
        self._cloud = CLOUDS["large"]
        self._private_share = private_share
        limits = np.array([budget[0], budget[1], np.inf, budget[2]])
        super().__init__(
            conversations, split, split_seed, "averaged", weights or RewardWeights(), limits
        )
        frame_top = [1.0, 1, 1, 1, max(1, len(self.tasks) - 1)]
        low = [-1.0] * response.STATE + [-1.0] * 3 + [0.0] * 5
        high = frame_top * response.FRAMES + [1.0] * 3 + [1.0, 1.0, 1.0, np.inf, np.inf]
        self.observation_space = gym.spaces.Box(
            np.array(low, dtype=np.float32), np.array(high, dtype=np.float32)
        )

    def set_budget(self, budget: tuple[float, ...]) -> None:
        """Seconds, dollars and risk of the conversations from the next `reset` on."""
        self.limits = np.array([budget[0], budget[1], np.inf, budget[2]])

    def observation(self) -> Observation:
        """See the class."""
        script = self.script
        turn = min(self._turn, len(script.turns) - 1)
        finite = np.isfinite(self.limits)
        left = np.ones(len(self.limits))
        left[finite] = self._remaining[finite] / self.limits[finite]
        private = script.pieces[turn][0].level is Level.PRIVATE
        cost = script.cost[turn, 1]
        more = [private, script.sticky[turn], self._turn / MAX_TURNS]
        more += [cost[LATENCY] / self.scales.latency_s, cost[USD] / self.scales.usd]
        shares = np.clip(left[[LATENCY, USD, RISK]], -1.0, 1.0)
        return np.concatenate([self._state, shares, more]).astype(np.float32)

    def _script(self, number: int, turns: Conversation) -> Script:
        rng = np.random.default_rng([_DRAWS, number])
        private = rng.random(len(turns)) < self._private_share
        pieces = tuple(
            (Piece(Level.PRIVATE if secret else Level.PUBLIC, count_tokens(turn.question)),)
            for secret, turn in zip(private, turns, strict=True)
        )
        sticky = tuple(bool(private[max(0, t - STICKY_TURNS) : t].any()) for t in range(len(turns)))
        history, costs = 0, []
        for turn in turns:
            prompt = history + count_tokens(turn.question)
            costs.append(self._cost(prompt))
            history = prompt + ANSWER_TOKENS
        return Script(turns, pieces, sticky, np.array(costs), response.association(turns))

    def _cost(self, prompt: int) -> Floats:
        """Cost of every action for a prompt of so many tokens, [9, 4]."""
        cloud = self._cloud
        cost = np.zeros((len(ACTIONS), 4))
        sent = 4 * prompt + IMAGE_BYTES * IMAGES  # 4 bytes a token
        cost[:, LATENCY] = (
            self._network.round_trip_s
            + sent / self._network.upload_bps
            + cloud.first_token_s
            + ANSWER_TOKENS / cloud.decode_tps
        )
        cost[:, ENERGY] = cost[:, LATENCY] * self._device.radio_watts
        cost[:, USD] = (prompt + IMAGE_TOKENS * IMAGES) * cloud.usd_per_prompt_token
        cost[:, USD] += ANSWER_TOKENS * cloud.usd_per_answer_token
        cost[:, RISK] = TEXT_RISK + IMAGE_RISK * IMAGES
        local_s = self._device.seconds(prompt, ANSWER_TOKENS)
        cost[0] = local_s, 0.0, local_s * self._device.watts, 0.0
        return cost

    def _scales(self) -> Scales:
        """The dearest action of a conversation's first turn with a question of 20 tokens."""
        cost = self._cost(20)
        top = cost.max(axis=0)
        return Scales(float(top[LATENCY]), float(top[USD]), float(top[RISK]))
