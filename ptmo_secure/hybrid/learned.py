"""The policy inside the package, for live turns: what it was trained to see, filled with what is
known here.

It was trained on sessions with a modelled device, network and price list (`offload.profiles`). A
live turn is described in the same units: its lengths, levels and values are its own; the profiles,
the length of an answer and the dollars of a session are those of the training. Hard budgets are no
part of this: they are applied before and after it (`hybrid.deciding`).
"""

import threading

import numpy as np
from numpy.typing import NDArray

from ptmo_secure.errors import not_installed
from ptmo_secure.hybrid.deciding import Situation
from ptmo_secure.offload.actions import LATENCY, RISK, USD, Floats, Mask, View
from ptmo_secure.types import Level

try:
    from ptmo_secure.offload.envs import session_model
    from ptmo_secure.offload.envs.session_data import CHECK, TURNS, SessionTurn
    from ptmo_secure.offload.envs.sessions import WEIGHTS, SessionConfig
    from ptmo_secure.offload.reward import Scales, known_terms
    from ptmo_secure.offload.shipped import ShippedPolicy, shipped_words
except ModuleNotFoundError as missing:
    if missing.name and missing.name.startswith("ptmo_secure"):
        raise
    raise not_installed("policy 'rl'", "rl") from None

# Of the training sessions (llmrouter, split and sessions of seed 1): what the dearest action of a
# first turn takes on average, an all-cloud session's dollars, and the mean answer.
SCALES = Scales(latency_s=11.888090570719601, usd=0.0017129125)
SESSION_USD = 0.01146661875
ANSWER_TOKENS = 143
_USD_SHARE, _RISK = 0.5, 0.1  # the budget between its two others in training
_CHARS_PER_TOKEN = 4
_MAX_VALUES = 3  # distinct ones that a session of the training holds
_ARMS = np.array([0, 1, 1, 1, 1])
_TOP = 10.0


class LearnedPolicy:
    """`ShippedPolicy` for live turns. Thread-safe; keeps no text from one turn to the next.

    Args:
        user_epsilon: limit of a user's privacy budget; what is left of it is the share of the risk
            budget that the policy sees.
    """

    name = "rl"

    def __init__(self, user_epsilon: float) -> None:
        self._epsilon = user_epsilon
        self._policy = ShippedPolicy()
        self._world = SessionConfig().world()
        self._lock = threading.Lock()

    def view(self, situation: Situation, left: float | None) -> View:
        """Return a turn as the policy was trained to see it, with budgets as in its training."""
        turn, past, states = self._described(situation, left)
        most = self._world.costs(turn, past, states, doubted=True)[0]
        least = self._world.costs(turn, past, states, doubted=False)[0]
        before = _questions(situation)
        predicted = np.clip(shipped_words().ask(turn.question, before)[:2], 0.0, 1.0)
        doubt = CHECK[0] * (1 - predicted[0]) + CHECK[1] * predicted[0]
        view = View(
            text=turn.question,
            observation=_observation(turn, past, states, predicted, most, situation),
            actions=session_model.ACTIONS,
            pieces=situation.pieces,
            sticky=turn.sticky,
            cost=most,
            remaining=states.remaining[0],
            arm=_ARMS,
            retained=session_model.retained(turn, states)[0],
            rest=known_terms(WEIGHTS, SCALES, doubt * most + (1 - doubt) * least, 0.0),
            alpha=WEIGHTS.alpha,
            estimate=np.zeros(len(_ARMS)),
            check=CHECK,
            history=before,
        )
        view.estimate[:] = view.quality(predicted)
        return view

    def choose(self, view: View, mask: Mask) -> int:
        """Return the number of an action whose mask is true."""
        with self._lock:
            try:
                return int(self._policy.choose(view, mask))
            finally:
                self._policy.forget()

    def _described(
        self, situation: Situation, left: float | None
    ) -> tuple[SessionTurn, session_model.Past, session_model.States]:
        """Return the turn, what lies behind it, and the states that it begins in."""
        turn = situation.turn
        values = sum(p.values for p in situation.pieces if p.level is not Level.PRIVATE)
        told = sum(_tokens(str(m.get("content"))) for t in turn.history for m in t.messages)
        live = SessionTurn(
            row=0,
            text="",
            question=situation.divided.going or turn.query,
            pieces=situation.pieces,
            values=(1 << min(values, _MAX_VALUES)) - 1,
            sticky=turn.sticky,
            prompt=_tokens(turn.query),
            answer=min(situation.max_tokens, ANSWER_TOKENS),
            scores=np.zeros(2),
            doubted=False,
        )
        share = 0.0 if left is None else min(1.0, left / self._epsilon)
        states = session_model.States(
            np.array([[np.inf, _USD_SHARE * SESSION_USD, np.inf, _RISK * share]]),
            np.array([self._world.device.battery_j]),
            np.array([float(told)]),
            np.array([float(told)]),
            np.zeros(1, dtype=np.int64),
        )
        return live, session_model.Past(told, told), states


def _observation(
    turn: SessionTurn,
    past: session_model.Past,
    states: session_model.States,
    predicted: Floats,
    cost: Floats,
    situation: Situation,
) -> "NDArray[np.float32]":
    """Return the 27 numbers of `SessionsEnv`, in its order."""
    levels = {piece.level for piece in turn.pieces}
    told = float(past.tokens > 0)
    numbers = [
        *predicted,
        *(float(level in levels) for level in Level),
        float(turn.holds_secret),
        float(turn.sticky),
        min(1.0, len(situation.turn.history) / 2 / TURNS[1]),
        turn.prompt / 100,
        past.tokens / 1000,
        *(1.0, float(states.remaining[0, RISK]) / _RISK),  # shares of dollars and risk left
        *(1.0, 0.0),  # a full charge
        *(told, told),  # both have read what was told
        float(turn.values.bit_count()),
        *(cost[:, LATENCY] / SCALES.latency_s),
        *(cost[:, USD] / SCALES.usd),
    ]
    return np.asarray(np.clip(numbers, -1.0, _TOP), dtype=np.float32)


def _questions(situation: Situation) -> tuple[str, ...]:
    """Return the earlier questions, as a cloud may see them."""
    messages = [message for told in situation.turn.history for message in told.messages]
    return tuple(str(m.get("content")) for m in messages if m.get("role") == "user")


def _tokens(text: str) -> int:
    return max(1, len(text) // _CHARS_PER_TOKEN)
