"""What an action costs and scores in a session, and what it leaves behind for the next turn.

All functions take many states at once, so that the environment (one state) and the exact planner
(thousands) run the same code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptmo_secure.offload.actions import ENERGY, LATENCY, RISK, USD, Action, Floats, Kind, Piece
from ptmo_secure.offload.envs.session_data import SessionTurn
from ptmo_secure.offload.gate import sent
from ptmo_secure.offload.profiles import Cloud, Device, Network
from ptmo_secure.types import Level

ACTIONS = tuple(Action(kind) for kind in Kind)
LOCAL, CLOUD, MASKED, HYBRID, ESCALATE = range(len(ACTIONS))

PUBLIC_RISK = 0.01  # assumed: expected private values that the guard overlooked in raw PUBLIC text
MASKED_RISK = 0.002  # assumed: the same after masking
VALUE_RISK = 0.02  # assumed: chance that a value is missed when it is masked for the first time
MASK_KEEPS = 0.98  # assumed: quality kept by a masked turn ...
VALUE_KEEPS = (
    0.96  # ... times this for each value the cloud sees a placeholder of for the first time
)
SECRET_KEEPS = 0.9  # assumed: quality kept when a PRIVATE piece is left out
LOW_BATTERY, THROTTLE = 0.2, 0.5  # below that share of the charge the device runs at half speed
BYTES_PER_TOKEN = 4
_COUNT = np.array([float(bits.bit_count()) for bits in range(8)])  # name, city, firm


@dataclass(frozen=True, slots=True)
class States:
    """What turns do to those after them, for n courses of one session.

    Args:
        remaining: budgets, [n, 4].
        battery: joules, [n].
        local_seen: tokens of the conversation in the device's KV cache, [n].
        cloud_seen: tokens in the cloud's prompt cache, [n].
        known: values the cloud has a placeholder for, as bits, [n].
    """

    remaining: Floats
    battery: Floats
    local_seen: Floats
    cloud_seen: Floats
    known: NDArray[np.int64]

    def take(self, rows: "NDArray[np.int64]") -> "States":
        """Return some of the courses."""
        return States(
            self.remaining[rows],
            self.battery[rows],
            self.local_seen[rows],
            self.cloud_seen[rows],
            self.known[rows],
        )


@dataclass(frozen=True, slots=True)
class Past:
    """What lies behind a turn, the same whatever was done.

    Args:
        tokens: of the whole conversation so far.
        sendable: of those turns and answers that hold nothing PRIVATE.
        pieces: what of them may be sent.
    """

    tokens: int = 0
    sendable: int = 0
    pieces: tuple[Piece, ...] = ()

    def after(self, turn: SessionTurn) -> "Past":
        """Return the past of the next turn; a turn with a PRIVATE piece is told to no cloud."""
        tokens = self.tokens + turn.prompt + turn.answer
        if turn.holds_secret:
            return Past(tokens, self.sendable, self.pieces)
        return Past(tokens, self.sendable + turn.prompt + turn.answer, (*self.pieces, *turn.pieces))


@dataclass(frozen=True, slots=True)
class World:
    """The device, the way to the cloud, and the cloud."""

    device: Device
    network: Network
    cloud: Cloud

    def costs(self, turn: SessionTurn, past: Past, states: States, *, doubted: bool) -> Floats:
        """Return what each action uses, [n, 5, 4].

        Args:
            turn: the present one.
            past: what lies behind it.
            states: n courses.
            doubted: whether an escalation goes on to the cloud; true for the most it can use.
        """
        n = len(states.battery)
        cost = np.zeros((n, len(ACTIONS), 4))
        slow = np.where(states.battery < LOW_BATTERY * self.device.battery_j, THROTTLE, 1.0)
        unread = past.tokens + turn.prompt - states.local_seen
        local_s = (unread / self.device.prefill_tps + turn.answer / self.device.decode_tps) / slow
        half_s = (
            unread / self.device.prefill_tps + turn.answer / 2 / self.device.decode_tps
        ) / slow
        whole = self._cloud(past.sendable + turn.prompt, turn.answer, states.cloud_seen)
        partly = self._cloud(past.sendable + _sendable(turn), turn.answer, states.cloud_seen)
        fresh = _bits(turn.values & ~states.known)
        masked_risk = np.asarray(MASKED_RISK + VALUE_RISK * fresh)

        cost[:, LOCAL, LATENCY] = local_s
        cost[:, LOCAL, ENERGY] = local_s * self.device.watts * slow
        for action in (CLOUD, MASKED):
            cost[:, action] = whole
        cost[:, CLOUD, RISK] = PUBLIC_RISK + _bits(np.full(n, turn.values))
        cost[:, MASKED, RISK] = masked_risk
        cost[:, HYBRID] = partly
        cost[:, HYBRID, LATENCY] = np.maximum(half_s, partly[:, LATENCY])  # both at once
        cost[:, HYBRID, ENERGY] += half_s * self.device.watts * slow
        cost[:, HYBRID, RISK] = masked_risk
        cost[:, ESCALATE] = cost[:, LOCAL]
        if doubted:
            cost[:, ESCALATE] += whole
            cost[:, ESCALATE, RISK] = masked_risk
        return cost

    def _cloud(self, prompt: int, answer: int, cached: Floats) -> Floats:
        """Cost of one call, [n, 4], risk left at 0."""
        cloud, cost = self.cloud, np.zeros((len(cached), 4))
        hit = np.minimum(cached, prompt)
        cost[:, LATENCY] = (
            self.network.round_trip_s
            + BYTES_PER_TOKEN * prompt / self.network.upload_bps
            + cloud.first_token_s
            + answer / cloud.decode_tps
        )
        cost[:, ENERGY] = cost[:, LATENCY] * self.device.radio_watts
        billed = prompt - hit + hit * cloud.cached_discount
        cost[:, USD] = billed * cloud.usd_per_prompt_token + answer * cloud.usd_per_answer_token
        return cost


def retained(turn: SessionTurn, states: States) -> Floats:
    """Return the share of its model's quality that each action keeps, [n, 5]."""
    keeps = np.ones((len(states.battery), len(ACTIONS)))
    masked = MASK_KEEPS * VALUE_KEEPS ** _bits(turn.values & ~states.known)
    keeps[:, [MASKED, ESCALATE]] = masked[:, None]
    keeps[:, HYBRID] = masked * (SECRET_KEEPS if turn.holds_secret else 1.0)
    return keeps


def true_quality(turn: SessionTurn, keeps: Floats) -> Floats:
    """Return what each action scores, [n, 5], given what it keeps."""
    local, cloud = turn.scores
    quality: Floats = np.asarray(keeps * cloud)
    quality[:, LOCAL] = local
    if not turn.doubted:
        quality[:, ESCALATE] = local
    return quality


def advance(turn: SessionTurn, past: Past, states: States, action: int, cost: Floats) -> States:
    """Return the states after an action.

    Args:
        action: the same for all n courses.
        cost: what it used, [n, 4].
    """
    asked_cloud = action in (CLOUD, MASKED, HYBRID) or (action == ESCALATE and turn.doubted)
    whole = float(past.tokens + turn.prompt + turn.answer)
    ran_here = action in (LOCAL, HYBRID, ESCALATE)
    told = past.sendable + (0 if turn.holds_secret else turn.prompt + turn.answer)
    return States(
        states.remaining - cost,
        np.maximum(states.battery - cost[:, ENERGY], 0.0),
        np.full_like(states.local_seen, whole) if ran_here else states.local_seen,
        np.full_like(states.cloud_seen, float(told)) if asked_cloud else states.cloud_seen,
        states.known | (turn.values if asked_cloud else 0),
    )


def egress(turn: SessionTurn, past: Past, action: int) -> tuple[Piece, ...]:
    """Return every piece that the cloud gets: the present turn's, and the history along with it.

    Raises:
        SecurityError: the action may not send one of them.
    """
    present = sent(ACTIONS[action], turn.pieces)
    if not present or (action == ESCALATE and not turn.doubted):
        return ()
    return (*past.pieces, *present)


def _sendable(turn: SessionTurn) -> int:
    return sum(piece.tokens for piece in turn.pieces if piece.level is not Level.PRIVATE)


def _bits(values: "NDArray[np.int64]") -> Floats:
    return np.asarray(_COUNT[values])


def pasts(turns: Sequence[SessionTurn]) -> list[Past]:
    """Return what lies behind each turn."""
    found = [Past()]
    for turn in turns[:-1]:
        found.append(found[-1].after(turn))
    return found


def concatenated(parts: Sequence[States]) -> States:
    """Return the courses of all parts, in order."""
    return States(
        np.concatenate([part.remaining for part in parts]),
        np.concatenate([part.battery for part in parts]),
        np.concatenate([part.local_seen for part in parts]),
        np.concatenate([part.cloud_seen for part in parts]),
        np.concatenate([part.known for part in parts]),
    )
