"""The policy inside the package: a network for sessions, and the words it reads questions by."""

from functools import lru_cache
from pathlib import Path

from ptmo_secure.offload.envs.base import OffloadEnv
from ptmo_secure.offload.policies.groups import GroupModel, load_words
from ptmo_secure.offload.policies.learned import Learned
from ptmo_secure.offload.rl.network import load_network
from ptmo_secure.offload.rl.worded import WordAdvice

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
        network = load_network(NETWORK)
        self.use(network)
        self._words = WordAdvice(shipped_words(), float(network.card["dollar_price"]))
        self._advice = self._words

    def hold(self, limits: dict[str, float]) -> None:
        """Nothing: it was trained without limits of averages."""

    def forget(self) -> None:
        """Let go of every text that it decided on."""
        self._words.forget()

    def fit(self, train: OffloadEnv) -> None:
        """It is trained already."""
