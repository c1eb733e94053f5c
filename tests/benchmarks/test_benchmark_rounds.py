"""Interleaved rounds: order, medians, ratios."""

import pytest
import rounds
from hypothesis import given
from hypothesis import strategies as st


def recorder(order: list[str], name: str, values: list[float]):
    left = iter(values)

    def measure() -> float:
        order.append(name)
        return next(left)

    return measure


def test_sides_take_turns_within_a_round_and_from_round_to_round() -> None:
    order: list[str] = []
    sides = {name: recorder(order, name, [1.0] * 6) for name in ("a", "b")}
    rounds.interleave(sides, rounds=3, runs=2)
    assert "".join(order) == "ab" * 6


def test_a_round_gives_the_median_of_its_runs() -> None:
    sides = {"a": recorder([], "a", [3.0, 1.0, 2.0, 9.0, 7.0, 8.0])}
    assert rounds.interleave(sides, rounds=2, runs=3) == {"a": (2.0, 8.0)}


def test_the_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    found = rounds.compare(
        recorder([], "a", [10.0, 20.0, 90.0]), recorder([], "b", [10.0, 10.0, 30.0]), rounds=3
    )
    assert found.ratios == (1.0, 2.0, 3.0)
    assert found.ratio == 2.0


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=9), st.floats(0.01, 100))
def test_a_machine_that_slows_both_sides_alike_does_not_change_the_ratio(
    speeds: list[float], factor: float
) -> None:
    found = rounds.compare(
        recorder([], "a", [factor * s for s in speeds]),
        recorder([], "b", speeds),
        rounds=1,
        runs=len(speeds),
    )
    assert found.ratio == pytest.approx(factor)
