"""RC-PPO: MaskablePPO with a critic for each cost and multipliers that hold averages to limits."""

from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import nn

from ptmo_secure.offload.actions import Floats
from ptmo_secure.offload.rl.advice import START_WEIGHT
from ptmo_secure.offload.rl.buffers import COSTS, CostRolloutBuffer
from ptmo_secure.offload.rl.features import Layout
from ptmo_secure.offload.rl.modules import Extractor, Table
from ptmo_secure.offload.rl.network import Network
from ptmo_secure.offload.rl.prices import Prices

ENTROPY_FLOOR = 0.1
_ENTROPY_STEP, _ENTROPY_LOW, _ENTROPY_HIGH = 1.3, 1e-3, 0.1


class CostActorCritic(MaskableActorCriticPolicy):
    """Actor and critics of `modules`; values have 1 + 4 columns, of the reward and of each cost.

    Args:
        args, kwargs: as in MaskableActorCriticPolicy.
        layout, shift, scale: of the features.
        start: as in `RcPpo`.
    """

    def __init__(
        self,
        *args: Any,
        layout: Layout,
        shift: Floats,
        scale: Floats,
        start: float,
        **kwargs: Any,
    ) -> None:
        self._layout, self._shift, self._scale, self._start = layout, shift, scale, start
        super().__init__(*args, **kwargs)

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = Extractor(self._layout, self._shift, self._scale, self._start)

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.mlp_extractor = Extractor(self._layout, self._shift, self._scale, self._start)
        self.value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, 1 + COSTS)
        self.action_net = nn.Identity()  # what the extractor gives are the logits
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )


class RcPpo(MaskablePPO):
    """PPO under masks, whose advantage is that of the Lagrangian.

    The loss is MaskablePPO's own: the buffer hands it the advantage at the prices in force, and
    returns of the reward and of each cost. After each rollout the mean cost of the episodes that
    ended moves the multipliers; the environment shows them from the next episode on.

    Args:
        env: with features by `Layout`, `action_masks`, and "cost" in its infos.
        layout, shift, scale: of the features.
        prices: the multipliers, and the environment they are shown to.
        start: logits begin at this times the advised rewards: near the advice, and still exploring.
        entropy_floor: where the mean entropy of a rollout falls below it, in nats, the weight of
            entropy in the loss grows until it does no longer.
        options: of MaskablePPO.
    """

    def __init__(
        self,
        env: Any,
        layout: Layout,
        shift: Floats,
        scale: Floats,
        prices: Prices,
        start: float = START_WEIGHT,
        entropy_floor: float = ENTROPY_FLOOR,
        **options: Any,
    ) -> None:
        self.prices, self._floor = prices, entropy_floor
        self.ent_coef: float
        shape = {"layout": layout, "shift": shift, "scale": scale, "start": start}
        shape |= options.pop("policy_kwargs", {})
        super().__init__(
            CostActorCritic,
            env,
            policy_kwargs=shape,
            rollout_buffer_class=CostRolloutBuffer,
            device="cpu",
            **{"ent_coef": _ENTROPY_LOW, "gamma": 1.0, **options},
        )
        self.rollout_buffer.units = prices.units

    def train(self) -> None:
        """Update the networks, then the multipliers and the weight of entropy."""
        super().train()
        entropy = -float(self.logger.name_to_value["train/entropy_loss"])
        factor = _ENTROPY_STEP if entropy < self._floor else 1 / _ENTROPY_STEP
        self.ent_coef = float(np.clip(self.ent_coef * factor, _ENTROPY_LOW, _ENTROPY_HIGH))
        self.prices.settle()
        for name, value in self.prices.named().items():
            self.logger.record(f"multiplier/{name}", value)

    def network(self) -> Network:
        """Return the actor as it is now."""
        actor: Table = self.policy.mlp_extractor.actor
        return actor.exported(
            "actor",
            prices=self.prices.held.value.copy(),
            units=self.prices.units,
            limits=self.prices.held.limits,
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "weights": self.policy.state_dict(),
            "optimizer": self.policy.optimizer.state_dict(),
            "entropy_weight": self.ent_coef,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.policy.load_state_dict(state["weights"])
        self.policy.optimizer.load_state_dict(state["optimizer"])
        self.ent_coef = state["entropy_weight"]

    def _update_info_buffer(self, infos: Any, dones: Any = None) -> None:
        self.rollout_buffer.take_costs(infos)
        self.prices.count(infos, dones)
        super()._update_info_buffer(infos, dones)
