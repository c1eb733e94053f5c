"""RC-DQN: a value of the reward and of each cost for every action; prices weigh them when asked."""

from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.dqn.policies import DQNPolicy
from torch import nn

from ptmo_secure.offload.actions import Floats
from ptmo_secure.offload.rl.buffers import CostReplayBuffer
from ptmo_secure.offload.rl.features import Layout
from ptmo_secure.offload.rl.modules import Table
from ptmo_secure.offload.rl.network import Network
from ptmo_secure.offload.rl.prices import Prices


class _Table(Table):
    """A `Table` with the two methods that SB3 asks of a Q network."""

    def _predict(self, observation: torch.Tensor, deterministic: bool = True) -> torch.Tensor:
        return self.allowed(observation).argmax(dim=1)

    def set_training_mode(self, mode: bool) -> None:
        """Switch between training and evaluation."""
        self.train(mode)


class CostQPolicy(DQNPolicy):
    """Q networks of `modules`.

    Args:
        args, kwargs: as in DQNPolicy.
        layout, shift, scale: of the features.
    """

    def __init__(
        self, *args: Any, layout: Layout, shift: Floats, scale: Floats, **kwargs: Any
    ) -> None:
        self._layout, self._shift, self._scale = layout, shift, scale
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> Any:
        """A network of its own, for the values or for their targets."""
        return _Table(self._layout, self._shift, self._scale, 1.0, costs=True)


class RcDqn(DQN):
    """Double DQN under masks with separate values of the costs.

        a* = argmax over allowed a of Q(s', a) - sum over k of price_k Q_k(s', a)
        Q <- r + gamma Q'(s', a*),  Q_k <- c_k + gamma Q'_k(s', a*)

    Costs stay apart in the replay buffer, and the prices stand in the features: a stored step never
    goes stale when the multipliers move. Mask and prices of the next state are read from its own
    features.

    Args:
        env, layout, shift, scale, prices: as in `RcPpo`.
        options: of DQN. `exploration_final_eps` is the floor of exploration.
    """

    def __init__(
        self,
        env: Any,
        layout: Layout,
        shift: Floats,
        scale: Floats,
        prices: Prices,
        **options: Any,
    ) -> None:
        self.prices, self._layout = prices, layout
        super().__init__(
            CostQPolicy,
            env,
            policy_kwargs={"layout": layout, "shift": shift, "scale": scale},
            replay_buffer_class=CostReplayBuffer,
            device="cpu",
            **{
                "gamma": 1.0,
                "learning_rate": 5e-4,
                "learning_starts": 500,
                "buffer_size": 50_000,
                "batch_size": 128,
                "target_update_interval": 500,
                "exploration_fraction": 0.5,
                "exploration_initial_eps": 0.3,
                "exploration_final_eps": 0.05,
                **options,
            },
        )
        self.replay_buffer.units = prices.units

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Move both kinds of values towards their targets."""
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            steps = self.replay_buffer.draw(batch_size)
            with torch.no_grad():
                best = self.q_net.allowed(steps.next_observations).argmax(dim=1)
                ahead = _of_action(self.q_net_target(steps.next_observations), best)
                target = steps.rewards + (1 - steps.dones) * self.gamma * ahead
            found = _of_action(self.q_net(steps.observations), steps.actions.long().flatten())
            loss = nn.functional.smooth_l1_loss(found, target)
            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            losses.append(float(loss.detach()))
        self._n_updates += gradient_steps
        self.logger.record("train/loss", np.mean(losses))
        self.prices.settle()

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """The best allowed action, or while exploring any allowed one."""
        if deterministic or np.random.rand() >= self.exploration_rate:
            return self.policy.predict(observation, state, episode_start, deterministic)  # type: ignore[no-any-return]
        masks = np.atleast_2d(observation)[:, self._layout.mask] > 0.5
        return np.array([np.random.choice(np.flatnonzero(mask)) for mask in masks]), state

    def network(self) -> Network:
        """Return the values as they are now."""
        table: Table = self.q_net
        return table.exported(
            "values",
            prices=self.prices.held.value.copy(),
            units=self.prices.units,
            limits=self.prices.held.limits,
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the replay buffer."""
        return {
            "weights": self.policy.state_dict(),
            "optimizer": self.policy.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.policy.load_state_dict(state["weights"])
        self.policy.optimizer.load_state_dict(state["optimizer"])

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[Any, Any]:
        """Explore under the mask before the learning starts, too."""
        action, _ = self.predict(self._last_obs)
        return action, action

    def _update_info_buffer(self, infos: Any, dones: Any = None) -> None:
        self.prices.count(infos, dones)
        super()._update_info_buffer(infos, dones)


def _of_action(table: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """[n, columns, actions] at one action each -> [n, columns]."""
    rows = torch.arange(len(table))
    return table[rows, :, action]
