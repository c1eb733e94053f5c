"""The policy inside the package: a network for sessions, and the words it reads questions by."""

from functools import lru_cache
from pathlib import Path

from ptmo_secure.offload.actions import Floats, Mask, View
from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.policies.groups import GroupModel, load_words
from ptmo_secure.offload.policies.learned import Learned
from ptmo_secure.offload.rl.network import load_network

FOLDER = Path(__file__).parent / "trained"
NETWORK, WORDS = FOLDER / "sessions.npz", FOLDER / "words.npz"


@lru_cache(maxsize=1)
def shipped_words() -> GroupModel:
    """Return the word model of the package."""
    return load_words(WORDS)


class ShippedPolicy(Learned):
    """RC-PPO for sessions as it was trained once; `trained/README.md` is its card.

    Deciding needs NumPy alone. It can be used without any training environment.
    """

    name = "rl"
    algo = "rc-ppo"

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.use(load_network(NETWORK))
        self._advice = _Words(shipped_words())

    def fit(self, train: OffloadEnv) -> None:
        """It is trained already."""


class _Words:
    """Advice by the word model of the package."""

    def __init__(self, model: GroupModel) -> None:
        self._model = model
        self._known: dict[str, Floats] = {}

    def rewards(self, view: View, mask: Mask, *, learning: bool = False) -> Floats:
        """See `Advice`."""
        if view.text not in self._known:
            self._known = {view.text: self._model.ask(view.text).clip(0.0, 1.0)}
        return view.reward(view.quality(self._known[view.text]))
