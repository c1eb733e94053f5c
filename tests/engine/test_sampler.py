"""Sampling follows its parameters and its seed."""

import math
from typing import Any

import numpy as np
import pytest

from ptmo_secure.engine.sampler import Sampler, SamplingParams
from ptmo_secure.errors import EngineError, InputError

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], dtype=np.float32))


def _draws(count: int = 4000, **params: Any) -> np.ndarray:
    sampler = Sampler(SamplingParams(**{"temperature": 1.0, "seed": 1, **params}))
    drawn = [sampler.next(LOGITS, []) for _ in range(count)]
    return np.bincount(drawn, minlength=4) / count


def test_greedy_takes_the_largest_and_the_first_of_equals() -> None:
    greedy = Sampler(SamplingParams())
    assert greedy.next(LOGITS, []) == 0
    assert greedy.next(np.array([1.0, 3.0, 3.0]), []) == 1


def test_draws_follow_the_probabilities() -> None:
    # 4000 draws: the standard error of a share is below 0.008.
    np.testing.assert_allclose(_draws(), np.exp(LOGITS), atol=0.03)


def test_temperature_sharpens_and_flattens() -> None:
    sharp = np.exp(LOGITS * 2) / np.exp(LOGITS * 2).sum()
    np.testing.assert_allclose(_draws(temperature=0.5), sharp, atol=0.03)
    np.testing.assert_allclose(_draws(temperature=100.0), [0.25] * 4, atol=0.03)


def test_top_k_and_top_p_cut_the_tail() -> None:
    np.testing.assert_allclose(_draws(top_k=2), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    np.testing.assert_allclose(_draws(top_p=0.7), [2 / 3, 1 / 3, 0, 0], atol=0.03)
    assert _draws(top_k=1)[0] == 1.0
    assert _draws(top_p=1e-9)[0] == 1.0


def _full_sort_draw(scores: np.ndarray, params: SamplingParams) -> int:
    """What a draw means: everything sorted, cut by top-k, then by top-p."""
    order = np.argsort(-scores, kind="stable")[: params.top_k or None]
    cumulative = np.cumsum(np.exp(scores[order] - scores[order[0]]))
    if params.top_p < 1:
        cumulative = cumulative[
            : int(np.searchsorted(cumulative, params.top_p * cumulative[-1])) + 1
        ]
    draw = np.random.Generator(np.random.PCG64(params.seed)).random() * cumulative[-1]
    return int(order[min(np.searchsorted(cumulative, draw, side="right"), len(cumulative) - 1)])


@pytest.mark.parametrize("top_k", [0, 1, 40, 1000])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 30.0])
def test_a_draw_is_the_one_a_full_sort_gives(top_k: int, top_p: float, spread: float) -> None:
    generator = np.random.default_rng(5)
    for seed in range(40):
        logits = (generator.standard_normal(3000) * spread).astype(np.float32)
        logits = np.round(logits) if seed % 2 else logits  # with ties
        logits[generator.integers(0, 3000, 500)] = -np.inf
        params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p, seed=seed)
        expected = _full_sort_draw(logits.astype(np.float64), params)
        assert Sampler(params).next(logits, []) == expected


def test_top_p_keeps_the_token_that_reaches_it() -> None:
    assert _draws(top_p=0.76)[2] > 0
    assert _draws(top_p=0.74)[2] == 0


def test_repetition_penalty_lowers_seen_tokens_of_either_sign() -> None:
    sampler = Sampler(SamplingParams(repetition_penalty=2.0))
    logits = np.array([3.0, 2.0, -1.0, -1.5])
    assert sampler.next(logits, []) == 0
    assert sampler.next(logits, [0, 0, 0]) == 1
    assert sampler.next(np.array([-1.0, -1.5]), [0]) == 1
    assert logits.tolist() == [3.0, 2.0, -1.0, -1.5]


def test_equal_seeds_draw_equal_tokens_and_others_do_not() -> None:
    logits = np.zeros(1000)

    def run(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed))
        return [sampler.next(logits, []) for _ in range(20)]

    assert run(7) == run(7)
    assert run(7) != run(8)
    assert run(None) != run(None)


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = np.array([-math.inf, 0.0, -math.inf, 0.0])
    sampler = Sampler(SamplingParams(temperature=5.0, seed=3, repetition_penalty=1.3))
    assert {sampler.next(logits, [0, 1]) for _ in range(200)} == {1, 3}


@pytest.mark.parametrize(
    "logits",
    [[0.0, math.nan], [0.0, math.inf], [-math.inf, -math.inf], [], [[1.0, 2.0]]],
)
def test_logits_that_are_not_finite_are_an_engine_error(logits: list[Any]) -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(EngineError, match="logits"):
            Sampler(SamplingParams(temperature=temperature)).next(np.array(logits), [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "1"),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 0),
        ("top_p", 1.01),
        ("repetition_penalty", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", True),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{name} must be"):
        SamplingParams(**{name: value})
