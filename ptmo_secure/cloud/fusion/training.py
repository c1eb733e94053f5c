"""Training a gate on the device: text that stays there, and what both models said of it.

The loss is the mean negative log-probability, under the fused distribution, of the tokens that the
text really has. With a listed tail it and its slope need the listed tokens alone, so thousands of
positions train in seconds:

    product   d loss / d w = log c(y) - log e(y) + sum_i p_i (log e_i - log c_i)
    linear    d loss / d w = (c(y) - e(y)) / p(y)

with c and e both models' atoms (`mix`), p the fused ones, y the true token's atom. A token in the
tail has the tail's atom: the device's shape within it does not depend on w.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ptmo_secure.cloud.fusion.gate import FEATURES, LearnedWeight, features
from ptmo_secure.cloud.fusion.mix import Atoms, Floats, Rule
from ptmo_secure.errors import InputError

_FLOOR = -60.0  # nats: what a log-probability counts for at least, so that slopes stay finite
MAX_HIDDEN = 64


@dataclass(frozen=True, slots=True)
class Example:
    """One position of the training text.

    Args:
        features: float64 [5].
        log_cloud, log_device: of the atoms, float64 [k+1].
        target: the true token's atom.
    """

    features: Floats
    log_cloud: Floats
    log_device: Floats
    target: int


def example(atoms: Atoms, token_id: int) -> Example:
    """Return what training needs of a position where `token_id` came next.

    Security: holds probabilities and no text, but they tell of it: keep it on the device.
    """
    at = np.flatnonzero(atoms.ids == token_id)
    target = int(at[0]) if len(at) else len(atoms.ids)
    return Example(features(atoms), atoms.log_cloud, atoms.log_device, target)


@dataclass(frozen=True, slots=True)
class _Table:
    """Examples as matrices; rows are padded with atoms of no mass."""

    x: Floats  # [n, 5]
    cloud: Floats  # [n, k+1]
    device: Floats  # [n, k+1]
    target: np.ndarray  # [n]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "_Table":
        width = max(len(each.log_cloud) for each in examples)
        cloud, device = (np.full((len(examples), width), -np.inf) for _ in range(2))
        for row, each in enumerate(examples):
            cloud[row, : len(each.log_cloud)] = each.log_cloud
            device[row, : len(each.log_device)] = each.log_device
        x = np.stack([each.features for each in examples])
        return cls(x, cloud, device, np.array([each.target for each in examples]))


def losses(examples: Sequence[Example], weights: Floats, rule: Rule) -> Floats:
    """Return the negative log-probability of each true atom under given shares, nats [n]."""
    return _loss_and_slope(_Table.of(examples), weights, rule)[0]


def _loss_and_slope(table: _Table, w: Floats, rule: Rule) -> tuple[Floats, Floats]:
    """Return loss and d loss / d w, [n] each, for shares w, [n]."""
    rows, w = np.arange(len(w)), w[:, None]
    cloud, device = np.maximum(table.cloud, _FLOOR), np.maximum(table.device, _FLOOR)
    if rule == "product":
        scores = (1.0 - w) * cloud + w * device
        scores = np.where(np.isneginf(table.cloud), -np.inf, scores)  # padding
        highest = scores.max(axis=1, keepdims=True)
        log_z = highest + np.log(np.exp(scores - highest).sum(axis=1, keepdims=True))
        p = np.exp(scores - log_z)
        loss = (log_z - scores)[rows, table.target]
        gap = device - cloud
        return loss, -gap[rows, table.target] + (p * gap).sum(axis=1)
    c, e = np.exp(cloud[rows, table.target]), np.exp(device[rows, table.target])
    p = (1.0 - w[:, 0]) * c + w[:, 0] * e
    return -np.log(p), (c - e) / p


def train_gate(
    examples: Sequence[Example],
    *,
    rule: Rule = "product",
    hidden: int = 8,
    steps: int = 600,
    learning_rate: float = 0.02,
    decay: float = 1e-3,
    seed: int = 0,
) -> LearnedWeight:
    """Fit a gate by Adam (arXiv 1412.6980) over all examples at once.

    Args:
        examples: at least 16.
        rule: the one that the gate will be used with.
        hidden: units of tanh, 0..64; 0 is a logistic gate.
        steps: of Adam, 1 or more.
        learning_rate: of Adam, above 0.
        decay: of the weights, added to the loss as decay |theta|^2 / 2.
        seed: of the first weights.

    Raises:
        InputError: too few examples, or a setting out of range.
    """
    if len(examples) < 16:
        raise InputError(f"{len(examples)} positions are too few to train a gate on")
    if not 0 <= hidden <= MAX_HIDDEN or steps < 1 or not learning_rate > 0 or decay < 0:
        raise InputError("train_gate: hidden, steps, learning_rate or decay is out of range")
    table = _Table.of(examples)
    shift, spread = table.x.mean(axis=0), table.x.std(axis=0)
    scale = 1.0 / np.where(spread > 1e-9, spread, 1.0)
    x = (table.x - shift) * scale
    n = len(FEATURES)
    draw = np.random.default_rng(seed)
    theta = np.zeros(hidden * (n + 2) + n + 1)
    theta[: hidden * n] = draw.normal(0.0, n**-0.5, hidden * n)
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for step in range(1, steps + 1):
        slope = _slope(theta, x, table, rule, hidden) + decay * theta
        first += 0.1 * (slope - first)
        second += 0.001 * (slope**2 - second)
        rate = learning_rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        theta -= rate * first / (np.sqrt(second) + 1e-8)
    weights, bias, output, direct, last = _parts(theta, hidden)
    return LearnedWeight(shift, scale, (weights, bias), output, direct, last)


def _parts(theta: Floats, hidden: int) -> tuple[Floats, Floats, Floats, Floats, float]:
    n = len(FEATURES)
    cuts = np.cumsum([hidden * n, hidden, hidden, n])
    weights, bias, output, direct, last = np.split(theta, cuts)
    return weights.reshape(hidden, n), bias, output, direct, float(last[0])


def _slope(theta: Floats, x: Floats, table: _Table, rule: Rule, hidden: int) -> Floats:
    """Return the mean loss's slope in every parameter, by hand."""
    weights, bias, output, direct, last = _parts(theta, hidden)
    h = np.tanh(x @ weights.T + bias)  # [n, h]
    w = 1.0 / (1.0 + np.exp(-np.clip(h @ output + x @ direct + last, -30.0, 30.0)))
    _, slope = _loss_and_slope(table, w, rule)
    score = slope * w * (1.0 - w) / len(w)  # [n]
    inner = score[:, None] * output * (1.0 - h**2)  # [n, h]
    return np.concatenate(
        [(inner.T @ x).ravel(), inner.sum(axis=0), h.T @ score, x.T @ score, [score.sum()]]
    )
