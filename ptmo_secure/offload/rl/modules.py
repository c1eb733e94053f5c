"""The networks while they are trained: torch modules of the shape that `network` decides with."""

from typing import Any

import numpy as np
import torch
from torch import nn

from ptmo_secure.offload.actions import RESOURCES, Floats
from ptmo_secure.offload.rl.features import Layout
from ptmo_secure.offload.rl.network import Network

WIDTH = 64
COSTS = len(RESOURCES)
FORBIDDEN = -1e9


class Body(nn.Module):
    """Two tanh layers over normalised features, see `Network`.

    Args:
        layout: of the features.
        shift, scale: of the body, [body].
    """

    def __init__(self, layout: Layout, shift: Floats, scale: Floats) -> None:
        super().__init__()
        self.layout = layout
        self.shift: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("shift", torch.as_tensor(shift, dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))
        self.layers = nn.Sequential(
            nn.Linear(layout.size, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Hidden numbers, [n, size] -> [n, width]."""
        layout = self.layout
        prices = features[:, layout.prices]
        body = ((features[:, : layout.body] - self.shift) * self.scale).clamp(-10, 10)
        rest = features[:, layout.body : layout.mask.stop]
        hidden: torch.Tensor = self.layers(torch.cat([body, rest, prices / (1 + prices)], dim=1))
        return hidden


class Table(nn.Module):
    """Worth of every action by the reward, and by each cost: separate heads on one body.

    Args:
        layout, shift, scale: as in `Body`.
        start: worths begin at this times what is known of the actions.
        costs: whether worths by costs are learnt. An actor's stay what is known: at prices that
            hardly move its two kinds of worth cannot be told apart, and it has to answer to prices
            that do.
    """

    def __init__(
        self, layout: Layout, shift: Floats, scale: Floats, start: float, *, costs: bool
    ) -> None:
        super().__init__()
        self.layout = layout
        self.body = Body(layout, shift, scale)
        self.start = start
        self._unlearnt = 0 if costs else layout.actions * COSTS
        self.head = nn.Linear(WIDTH, layout.actions * (1 + COSTS) - self._unlearnt)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[n, size] -> [n, 1 + 4, actions]."""
        table: torch.Tensor = nn.functional.pad(self.head(self.body(features)), (0, self._unlearnt))
        table = table + self.start * features[:, self.layout.known]
        return table.view(-1, 1 + COSTS, self.layout.actions)

    def preferences(self, features: torch.Tensor) -> torch.Tensor:
        """Worth by the reward minus that by the costs at their prices, [n, actions]."""
        table = self(features)
        prices = features[:, self.layout.prices].unsqueeze(2)
        worth: torch.Tensor = table[:, 0] - (prices * table[:, 1:]).sum(dim=1)
        return worth

    def allowed(self, features: torch.Tensor) -> torch.Tensor:
        """Preferences, with those of forbidden actions out of reach."""
        forbidden = features[:, self.layout.mask] < 0.5
        return self.preferences(features).masked_fill(forbidden, FORBIDDEN)

    def exported(self, kind: str, **rest: Any) -> Network:
        """Return the NumPy form."""
        layers = [m for m in self.body.layers if isinstance(m, nn.Linear)]
        return Network(
            self.layout,
            kind,
            _array(self.body.shift),
            _array(self.body.scale),
            [(_array(layer.weight), _array(layer.bias)) for layer in layers],
            (
                np.pad(_array(self.head.weight), ((0, self._unlearnt), (0, 0))),
                np.pad(_array(self.head.bias), (0, self._unlearnt)),
            ),
            self.start,
            **rest,
        )


class Extractor(nn.Module):
    """The actor, whose preferences are the logits, and the body of the critics.

    Args:
        layout, shift, scale: as in `Body`.
        start: as in `Table`.
    """

    def __init__(self, layout: Layout, shift: Floats, scale: Floats, start: float) -> None:
        super().__init__()
        self.actor = Table(layout, shift, scale, start, costs=False)
        self.critic = Body(layout, shift, scale)
        self.latent_dim_pi, self.latent_dim_vf = layout.actions, WIDTH

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits, and what the critics see."""
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        """[n, size] -> [n, actions]."""
        return self.actor.preferences(features)

    def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
        """[n, size] -> [n, width]."""
        hidden: torch.Tensor = self.critic(features)
        return hidden


def _array(tensor: torch.Tensor) -> Floats:
    return np.array(tensor.detach().cpu().numpy(), dtype=np.float64)
