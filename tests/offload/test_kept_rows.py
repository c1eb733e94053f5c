"""A comparison that was stopped goes on behind what it had done."""

import json

import pytest

from ptmo_secure.errors import InputError
from ptmo_secure.offload import compare
from ptmo_secure.offload.compare import Comparison
from ptmo_secure.offload.kept import KeptRows

POLICIES = ("random", "local-only", "greedy")
WHAT = {"env": "m4a1"}


def comparison(policies=POLICIES):
    return Comparison("m4a1", policies, (1, 2), ((30.0, 0.05), (6.0, 0.006)))


def quiet(done, total, what):
    pass


def test_rows_that_are_done_are_not_measured_again(tmp_path, monkeypatch):
    path, made = tmp_path / "a" / "rows.jsonl", []
    make = compare.make_policy

    def counted(name, seed):
        made.append((name, seed))
        if made == [("random", 1), ("local-only", 1), ("greedy", 1)]:
            raise KeyboardInterrupt
        return make(name, seed)

    monkeypatch.setattr(compare, "make_policy", counted)
    with pytest.raises(KeyboardInterrupt):
        comparison().run(None, quiet, KeptRows(path, WHAT))
    made.clear()
    made.append("went on")
    rows = comparison().run(None, quiet, KeptRows(path, WHAT))
    assert made[1:] == [("greedy", 1), ("random", 2), ("local-only", 2), ("greedy", 2)]
    assert rows == comparison().run(None, quiet)
    made.clear()
    assert comparison().run(None, quiet, KeptRows(path, WHAT)) == rows and made == []


def test_another_measurement_begins_anew(tmp_path):
    path = tmp_path / "rows.jsonl"
    comparison(("random",)).run(None, quiet, KeptRows(path, WHAT))
    assert len(KeptRows(path, WHAT).of("random", 2)) == 2
    assert KeptRows(path, {"env": "sessions"}).of("random", 2) == []
    assert KeptRows(path, WHAT).of("random", 2) == []  # the file was another measurement's by then


@pytest.mark.parametrize("end", ["{", "[{}]\n", "3\n", "[]\n", '{"rows": []}\n'])
def test_a_line_that_was_cut_off_is_measured_again(tmp_path, end):
    path = tmp_path / "rows.jsonl"
    comparison(("random",)).run(None, quiet, KeptRows(path, WHAT))
    path.write_text(path.read_text() + end)
    kept = KeptRows(path, WHAT)
    assert len(kept.of("random", 1)) == 2 and kept.of("greedy", 1) == []
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and all(json.loads(line) for line in lines)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "rows").mkdir()
    with pytest.raises(InputError, match="rows"):
        KeptRows(tmp_path / "rows", WHAT)


@pytest.mark.parametrize("name", ["cs-ucb", "linucb", "thompson", "treacle", "tfidf"])
def test_what_a_policy_learns_does_not_hang_on_who_ran_before(name):
    def rows(*names):
        budgets = ((0.25, 0.1), (0.75, 0.1))
        return Comparison("sessions", names, (1,), budgets, "synthetic", 20).run(None, quiet)

    assert rows("greedy", name)[-2:] == rows(name)  # as when a stopped comparison goes on with it
