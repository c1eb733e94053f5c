"""A cloud that is late is overtaken by the device: what is shown, sent, charged and traced."""

import threading
import time
from datetime import date

import pytest
from worlds import CARRIES, ScriptedEngine

from ptmo_secure.cloud.caps import SpendCaps
from ptmo_secure.cloud.providers import ModelPrice
from ptmo_secure.errors import InputError
from ptmo_secure.hybrid.settings import HybridSettings
from ptmo_secure.privacy.manager import DEFAULT_USER
from ptmo_secure.types import Route
from tests.cloud import hostile_server as hostile

HELD = "My name is Ada Lindqvist. Is Lindqvist a rare name for me? How do I bake bread?"
LATE_S = 30.0


def steps(answer):
    return {step.name: step.facts for step in answer.trace}


def hedging(make, hedge_s=0.05, **more):
    more.setdefault("behaviour", hostile.silent(LATE_S))
    return make(settings=HybridSettings(hedge_s=hedge_s), **more)


def writes_once_asked(here):
    """Have the device write nothing before the cloud was asked, however busy the machine is."""

    def wait():
        while not here.bodies():
            time.sleep(0.01)

    here.engine.before_piece = wait
    return here


def test_a_silent_cloud_is_overtaken(make):
    here = hedging(make)
    seen = []
    start = time.monotonic()
    answer = here.answer(CARRIES, None, seen.append)
    assert time.monotonic() - start < LATE_S / 2
    assert (answer.text, answer.route) == ("from the device", Route.LOCAL)
    assert "".join(seen) == "from the device"
    assert steps(answer)["hedge"] == {"winner": "local", "begun": True}
    assert steps(answer)["engine.generate"]["decode_tokens"] == 1
    assert "cloud.answer" not in steps(answer)
    assert here.engine.asked() == [CARRIES]


def test_nothing_more_leaves_and_no_more_is_charged_than_without(make):
    alone, here = make(), writes_once_asked(hedging(make))
    alone.answer(CARRIES)
    here.answer(CARRIES)
    assert here.bodies() == alone.bodies() and len(here.bodies()) == 1
    spent = [world.budget.status(DEFAULT_USER).spent for world in (alone, here)]
    assert spent[0] == spent[1] > 0
    assert b"Novak" not in here.server.received
    assert [record.decision for record in here.egress.log.records()] == ["sent"] * 2  # one folder


def test_a_quick_cloud_answers_and_the_device_is_not_begun(make):
    here = hedging(make, hedge_s=LATE_S, behaviour=hostile.stream(["from the cloud"]))
    answer = here.answer("What is Python?")
    assert (answer.text, answer.route) == ("from the cloud", Route.CLOUD)
    assert steps(answer)["hedge"] == {"winner": "cloud", "begun": False}
    assert here.engine.prompts == []


def test_a_late_cloud_that_is_whole_before_the_device_answers(make):
    engine, told = ScriptedEngine("from the device", "next"), threading.Event()
    engine.before_piece = lambda: told.wait(LATE_S)
    here = hedging(make, engine=engine, behaviour=hostile.slow(hostile.stream(["late"]), 0.3))
    seen = []
    answer = here.answer("What is Python?", None, seen.append)
    assert (answer.text, answer.route, seen) == ("late", Route.CLOUD, ["late"])
    assert steps(answer)["hedge"] == {"winner": "cloud", "begun": True}
    told.set()
    assert here.answer("My password is secret123.").text == "next"  # waits for what was left


def test_a_cloud_that_fails_late_leaves_the_turn_to_the_device(make):
    here = hedging(make, behaviour=hostile.slow(hostile.status(500), 0.3))
    told = threading.Event()
    here.engine.before_piece = lambda: told.wait(1)
    answer = here.answer("What is Python?")
    assert (answer.text, answer.route) == ("from the device", Route.LOCAL)
    assert steps(answer)["hedge"] == {"winner": "local", "begun": True, "failed": True}


def test_a_cloud_that_fails_at_once_is_replaced_as_without(make):
    here = hedging(make, hedge_s=LATE_S, behaviour=hostile.status(500))
    answer = here.answer("What is Python?")
    assert answer.text == "from the device" and len(here.engine.prompts) == 1
    assert steps(answer)["cloud.answer"] == {"failed": "CloudError:server"}


@pytest.mark.parametrize("query", [HELD, "My password is secret123."])
def test_a_turn_that_the_device_answers_anyway_is_not_hedged(make, query):
    here = hedging(make, behaviour=hostile.stream(["from the cloud"]))
    assert "hedge" not in steps(here.answer(query))


def test_what_was_sent_is_paid_for_though_the_device_answered(make):
    price = ModelPrice("m", 2.0, 8.0, date(2026, 4, 1))
    caps = SpendCaps()
    here = writes_once_asked(hedging(make, fields={"models": {"m": price}}, caps=caps))
    answer = here.answer("What is Python?")
    assert answer.route is Route.LOCAL and len(here.bodies()) == 1
    assert answer.usd == pytest.approx(caps.status()["day"]["usd"]) and answer.usd > 0


def test_the_trace_of_an_overtaken_answer_adds_up(make):
    engine = ScriptedEngine("a|b|c")
    engine.before_piece = lambda: time.sleep(0.05)
    here = hedging(make, hedge_s=0.2, engine=engine)
    here.answer("Hi")
    start = time.perf_counter()
    answer = here.answer("What is Python?")
    wall_ms = 1e3 * (time.perf_counter() - start)
    assert answer.text == "abc"
    assert sum(step.ms for step in answer.trace) == pytest.approx(wall_ms, rel=0.05)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_an_impossible_time_is_refused(bad):
    with pytest.raises(InputError, match="hedge_s"):
        HybridSettings(hedge_s=bad)
