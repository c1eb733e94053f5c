"""The benchmark of what the pipeline adds: its queries are what they say, its figures add up."""

import json
import random

import pipeline_overhead as overhead
import pytest

from ptmo_secure.errors import InputError


@pytest.mark.parametrize("kind", overhead.PREFIX)
def test_a_query_has_a_hundred_words_and_differs_from_the_last(kind):
    draw = random.Random(1)
    first, second = overhead.query(kind, draw), overhead.query(kind, draw)
    assert len(first.split()) == overhead.WORDS and first != second


def test_it_measures_each_kind_and_says_whether_the_bounds_hold(capsys):
    code = overhead.main(["--rounds", "2", "--json"])
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [row["kind"] for row in rows] == list(overhead.PREFIX)
    late = [
        row["guard_gate_unmask_p99_ms"] > overhead.BOUND_MS
        or row["gate_unmask_p99_ms"] > overhead.REST_MS
        for row in rows
    ]
    assert code == any(late)
    for row in rows:
        assert row["rounds"] == 2 and 0 < row["guard_share_cpu_ms"] < 1
        assert 0 < row["gate_unmask_p50_ms"] < row["guard_gate_unmask_p50_ms"] < row["all_p99_ms"]


def test_too_few_rounds_are_refused():
    with pytest.raises(InputError, match="rounds"):
        overhead.main(["--rounds", "1"])
