"""The table of floors and goals."""

import floors
import pytest
from floors import Target


def test_a_ratio_on_its_floor_keeps_it() -> None:
    assert Target(1.6, 2.5).holds(1.6)
    assert not Target(1.6, 2.5).holds(1.599)


def test_a_cost_must_stay_below_its_limit() -> None:
    cost = Target(1.18, 1.08, "at_most")
    assert cost.holds(1.18)
    assert not cost.holds(1.181)
    assert cost.reaches_goal(1.08)
    assert not cost.reaches_goal(1.1)


@pytest.mark.parametrize("metric", floors.METRICS, ids=lambda metric: metric.name)
def test_a_goal_asks_for_more_than_its_floor(metric: floors.Metric) -> None:
    for target in metric.targets.values():
        assert target.holds(target.goal)
        assert not target.reaches_goal(target.floor)


def test_the_floors_are_the_ones_agreed() -> None:
    table = {
        (metric.name, threads): (target.floor, target.goal)
        for metric in floors.METRICS
        for threads, target in metric.targets.items()
    }
    assert table["decode_q4_1", 1] == (1.6, 2.5)
    assert table["decode_q4_1", 2] == (2.0, 4.0)
    assert table["decode_q4_0", 1] == (1.2, 1.8)
    assert table["decode_q4_0", 2] == (1.6, 2.8)
    assert table["prefill_q4_1", 2] == (2.0, 3.0)
    assert table["prefill_q4_0", 2] == (0.75, 1.3)
    assert table["lora_1", 2] == (1.18, 1.08)
    assert table["lora_3", 2] == (1.45, 1.22)
    assert table["adapter_swap", 2] == (1000, 50)
    assert table["seal_1024", 2] == (0.88, 0.95)
    assert table["seal_4096", 2] == (0.80, 0.92)
    assert table["permute", 2] == (0.97, 1.00)
    assert table["kv_int8", 2] == (1.00, 1.15)
    assert table["batch_8", 2] == (1.0, 1.5)
    assert (table["bandwidth", 1], table["bandwidth", 2]) == ((0.60, 0.85), (0.45, 0.75))
    assert table["memory", 2] == (1.0, 0.9)
