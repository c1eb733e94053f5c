"""Caps on dollars, seconds and joules hold: by request, day, month; over threads and restarts."""

import json
import math
import multiprocessing
import threading

import pytest

from ptmo_secure.cloud.caps import SpendCaps
from ptmo_secure.cloud.pricing import Cost, most_prompt_tokens, price
from ptmo_secure.cloud.providers import ModelPrice
from ptmo_secure.errors import EngineError, InputError, SecurityError, SpendCapError

DAY = 86_400
NOON = 1_775_044_800.0  # 2026-04-01 12:00 UTC


@pytest.fixture
def now():
    return [NOON]


@pytest.fixture
def caps(tmp_path, now):
    return SpendCaps(tmp_path / "state" / "caps.json", clock=lambda: now[0])


def test_a_call_within_the_cap_passes_and_the_next_one_does_not(caps):
    caps.set_limit("day", "usd", 1.0)
    caps.settle(caps.reserve(Cost(usd=0.6)), Cost(usd=0.6))
    caps.reserve(Cost(usd=0.4))
    with pytest.raises(SpendCapError, match="1 usd a day"):
        caps.reserve(Cost(usd=0.001))
    assert caps.status()["day"] == {
        "date": "2026-04-01",
        "usd": 1.0,
        "seconds": 0.0,
        "joules": 0.0,
        "calls": 2.0,
    }


@pytest.mark.parametrize("scope", ["request", "day", "month"])
@pytest.mark.parametrize("dimension", ["usd", "seconds", "joules"])
def test_every_cap_holds_by_itself(caps, scope, dimension):
    caps.set_limit(scope, dimension, 5)
    rich = {name: 1000.0 for name in ("usd", "seconds", "joules")}
    with pytest.raises(SpendCapError, match=f"5 {dimension} a {scope}"):
        caps.reserve(Cost(**rich | {dimension: 5.01}))
    caps.reserve(Cost(**rich | {dimension: 5.0}))
    if scope == "request":
        caps.reserve(Cost(**rich | {dimension: 5.0}))
    else:
        with pytest.raises(SpendCapError):
            caps.reserve(Cost(**{dimension: 0.01}))


def test_what_is_reserved_counts_until_it_is_settled(caps):
    caps.set_limit("day", "usd", 1.0)
    first = caps.reserve(Cost(usd=0.9))
    with pytest.raises(SpendCapError):
        caps.reserve(Cost(usd=0.2))
    caps.settle(first, Cost(usd=0.1))
    caps.reserve(Cost(usd=0.9))


def test_days_and_months_begin_anew(caps, now):
    caps.set_limit("day", "usd", 1.0)
    caps.set_limit("month", "usd", 1.5)
    caps.reserve(Cost(usd=1.0))
    now[0] += DAY
    with pytest.raises(SpendCapError, match="month"):
        caps.reserve(Cost(usd=1.0))
    caps.reserve(Cost(usd=0.5))
    now[0] += 29 * DAY
    caps.reserve(Cost(usd=1.0))
    assert caps.status()["month"]["date"] == "2026-05"


def test_a_call_over_midnight_counts_in_the_day_it_began(caps, now):
    late = caps.reserve(Cost(usd=1.0))
    now[0] += DAY
    caps.reserve(Cost(usd=0.25))
    caps.settle(late, Cost(usd=0.5))
    assert caps.status()["day"]["usd"] == 0.25
    assert caps.status()["month"]["usd"] == 0.75


def test_a_clock_that_is_put_back_gives_no_second_day(caps, now):
    caps.set_limit("day", "usd", 1.0)
    now[0] += DAY
    caps.reserve(Cost(usd=1.0))
    now[0] -= DAY
    with pytest.raises(SpendCapError):
        caps.reserve(Cost(usd=0.5))


def test_caps_change_at_run_time_and_are_kept(caps, now, tmp_path):
    caps.set_limit("day", "usd", 1.0)
    caps.reserve(Cost(usd=0.9))
    caps.set_limit("day", "usd", 0.5)
    with pytest.raises(SpendCapError):
        caps.reserve(Cost(usd=0.0001))
    again = SpendCaps(tmp_path / "state" / "caps.json", clock=lambda: now[0])
    assert again.limits() == {"day": {"usd": 0.5}}
    with pytest.raises(SpendCapError):
        again.reserve(Cost(usd=0.0001))
    again.set_limit("day", "usd", None)
    caps.reserve(Cost(usd=50))  # the other object sees it at once
    assert caps.status()["day"]["usd"] == 50.9


def test_a_program_that_died_has_spent_what_it_reserved(caps, tmp_path, now):
    caps.reserve(Cost(usd=0.7))
    again = SpendCaps(tmp_path / "state" / "caps.json", clock=lambda: now[0])
    assert again.status()["day"]["usd"] == 0.7


def take(path, count, taken):
    caps = SpendCaps(path, clock=lambda: NOON)
    for _ in range(count):
        try:
            held = caps.reserve(Cost(usd=1.0))
        except SpendCapError:
            continue
        caps.settle(held, Cost(usd=1.0))
        with taken.get_lock():
            taken.value += 1


def test_many_threads_and_programs_never_pass_a_cap_together(tmp_path):
    path = tmp_path / "caps.json"
    SpendCaps(path).set_limit("day", "usd", 30)
    context = multiprocessing.get_context("spawn")
    taken = context.Value("i", 0)
    workers = [context.Process(target=take, args=(path, 15, taken)) for _ in range(2)]
    workers += [threading.Thread(target=take, args=(path, 15, taken)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert taken.value == 30
    assert SpendCaps(path, clock=lambda: NOON).status()["day"]["usd"] == 30


@pytest.mark.parametrize(
    "text",
    [
        *("", "nothing", "[]", "{}", '{"version": 2}'),
        '{"version": 1, "latest": 0, "limits": {"day": {"usd": -1}}, "days": {}, "months": {}}',
        '{"version": 1, "latest": 0, "limits": {"hour": {}}, "days": {}, "months": {}}',
        '{"version": 1, "latest": 0, "limits": {}, "days": {"d": [1]}, "months": {}}',
        '{"version": 1, "latest": "x", "limits": {}, "days": {}, "months": {}}',
        '{"version": 1, "latest": 0, "limits": {}, "days": {"d": [1e999, 0, 0, 0]}, "months": {}}',
    ],
)
def test_a_file_that_cannot_be_read_is_no_empty_one(caps, tmp_path, text):
    caps.set_limit("day", "usd", 1)
    (tmp_path / "state" / "caps.json").write_text(text)
    with pytest.raises(SecurityError, match="holds no caps"):
        caps.reserve(Cost())
    with pytest.raises(SecurityError):
        caps.set_limit("day", "usd", 2)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError):
        SpendCaps(tmp_path / "file" / "caps.json").reserve(Cost())


@pytest.mark.parametrize(
    ("scope", "dimension", "most"),
    [("hour", "usd", 1), ("day", "euro", 1), ("day", "usd", -1), ("day", "usd", float("nan"))],
)
def test_caps_that_make_no_sense_are_refused(caps, scope, dimension, most):
    with pytest.raises(InputError):
        caps.set_limit(scope, dimension, most)


def test_the_file_holds_numbers_and_dates_alone(caps, tmp_path):
    caps.set_limit("day", "usd", 1.0)
    caps.reserve(Cost(0.5, 2.0, 3.0))
    assert json.loads((tmp_path / "state" / "caps.json").read_text()) == {
        "version": 1,
        "latest": NOON,
        "limits": {"day": {"usd": 1.0}},
        "days": {"2026-04-01": [0.5, 2.0, 3.0, 1.0]},
        "months": {"2026-04": [0.5, 2.0, 3.0, 1.0]},
    }


def test_prices_are_per_million_tokens():
    from datetime import date

    model = ModelPrice("m", 0.15, 0.60, date(2026, 4, 1))
    assert price(model, 1_000_000, 0) == 0.15
    assert price(model, 2_000, 500) == pytest.approx(0.0006)
    assert most_prompt_tokens(100, 2) == 148


@pytest.mark.parametrize("most", [True, False, "1", [1], -1, float("nan"), float("inf")])
def test_a_cap_that_is_no_number_of_0_or_more_is_refused(caps, most):
    with pytest.raises(InputError, match="makes no sense"):
        caps.set_limit("day", "usd", most)
    assert caps.limits() == {}


def test_the_longest_call_is_what_the_tightest_cap_on_time_leaves(caps, now):
    assert caps.most_seconds(2.0) == math.inf
    caps.set_limit("request", "seconds", 20)
    caps.set_limit("day", "joules", 100)
    caps.set_limit("day", "usd", 0)
    assert (caps.most_seconds(2.0), caps.most_seconds(0.0)) == (20, 20)
    caps.settle(caps.reserve(Cost(joules=70)), Cost(joules=70))
    assert caps.most_seconds(2.0) == 15
    now[0] += DAY
    assert caps.most_seconds(2.0) == 20
