"""`ptmo caps` shows caps and what was spent, changes them for programs, refuses nonsense."""

import json

import pytest

from ptmo_secure import cli
from ptmo_secure.cloud.caps import SpendCaps
from ptmo_secure.cloud.paths import caps_path
from ptmo_secure.cloud.pricing import Cost
from ptmo_secure.errors import SpendCapError


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def run(capsys, state):
    def command(*arguments):
        code = cli.main(["caps", *arguments, "--state", str(state)])
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return command


def test_a_cap_that_is_set_holds_at_once_for_a_program_that_runs_already(run, state):
    running = SpendCaps(caps_path(state))
    running.settle(running.reserve(Cost(0.5, 2.0, 3.0)), Cost(0.5, 2.0, 3.0))
    code, out, _ = run("--set", "day.usd=0.75", "--set", "request.seconds=20", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["limits"] == {"day": {"usd": 0.75}, "request": {"seconds": 20.0}}
    assert (told["day"]["usd"], told["month"]["joules"]) == (0.5, 3.0)
    with pytest.raises(SpendCapError):
        running.reserve(Cost(0.5))
    assert run("--set", "day.usd=none")[0] == 0
    running.reserve(Cost(0.5))


def test_caps_and_what_was_spent_are_shown(run, state):
    SpendCaps(caps_path(state)).set_limit("month", "joules", 12.5)
    code, out, err = run()
    assert (code, err) == (0, "")
    (row,) = (line for line in out.splitlines() if "cap a month" in line)
    assert "12.5" in row and row.count("none") == 2 and "this day" in out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("usd=1", "SCOPE.WHAT=N"),
        ("day.usd", "SCOPE.WHAT=N"),
        ("day.usd=much", "neither a number"),
        ("year.usd=1", "choose from request, day, month"),
        ("day.euros=1", "usd, seconds, joules"),
        ("day.usd=-1", "makes no sense"),
        ("day.usd=nan", "makes no sense"),
    ],
)
def test_nonsense_is_refused_in_one_line_and_changes_nothing(run, state, given, said):
    code, out, err = run("--set", "month.usd=5", "--set", given)
    assert (code, out) == (2, "") and said in err.replace(" and ", ", ") and err.count("\n") == 1
    assert SpendCaps(caps_path(state)).limits() == {}
