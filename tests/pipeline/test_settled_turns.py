"""A turn of which nothing left when it was answered is not told later, as history, either."""

from contextlib import ExitStack

import pytest
from served_worlds import ScriptedDevice, served_world
from worlds import ScriptedEngine

from ptmo_secure.hybrid.cascade import Cascade
from ptmo_secure.hybrid.memory import Memory
from ptmo_secure.hybrid.settings import HybridSettings
from ptmo_secure.types import Route
from tests.cloud import hostile_server as hostile

CARD = "Write a birthday card for my friend Maria Lopez who hates her job at the bakery."
PLAIN, SNOW = "What is Python?", "Why is snow white?"
GENERAL = "How does one write a birthday card?"
NAMED = "A card for Maria Lopez at the bakery?"
HERE = "Happy birthday!"


def user(text):
    return {"role": "user", "content": text}


def says(text):
    return {"role": "assistant", "content": text}


def result(text):
    return {"role": "tool", "tool_call_id": "c1", "content": text}


@pytest.fixture
def serve(guard, tmp_path):
    """Make servers that end with the test."""
    with ExitStack() as held:
        yield lambda *texts, sure=-0.5, **more: held.enter_context(
            served_world(tmp_path, guard, ScriptedDevice(*texts, sure=sure), **more)
        )


def contents(here):
    return [message["content"] for message in here.bodies()[-1]["messages"]]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("draft", "sent"), [(NAMED, 0), (GENERAL, 1)])
def test_a_turn_that_was_answered_from_a_draft_or_without_one_is_not_told_later(
    serve, stream, draft, sent
):
    here = serve(draft, HERE, delegate=True)
    text, _ = here.ask(CARD, stream=stream)
    assert text == HERE and len(here.bodies()) == sent
    here.ask([user(CARD), says(text), user(PLAIN)], stream=stream)
    assert contents(here) == [PLAIN] and b"bakery" not in here.cloud.received


@pytest.mark.parametrize(
    ("sure", "history"), [(-0.5, []), (-2.0, [SNOW, "from the cloud"])], ids=["sure", "doubted"]
)
def test_a_turn_of_a_cascade_is_told_later_only_if_the_cloud_was_asked_it(serve, sure, history):
    here = serve("from the device", sure=sure, cascade=Cascade(-1.0))
    text, _ = here.ask(SNOW)
    here.device.sure = -2.0
    told = here.ask([user(SNOW), says(text), user(PLAIN)])[1]
    assert told["route"] == "cloud" and contents(here) == [*history, PLAIN]


def test_what_the_device_answered_for_another_reason_is_not_told_later(serve):
    here = serve("{}")
    text, told = here.ask(CARD, response_format={"type": "json_object"})
    assert told["route"] == "local"
    here.ask([user(CARD), says(text), user(PLAIN)])
    assert contents(here) == [PLAIN]


def test_a_client_that_leaves_out_old_messages_does_not_undo_it(serve):
    here = serve(NAMED, HERE, delegate=True)
    talk = [user(PLAIN), says("A language."), user(CARD)]
    text, _ = here.ask(talk)
    here.ask([user(CARD), says(text), user(SNOW)])
    assert contents(here) == [SNOW]


@pytest.mark.parametrize(
    ("fields", "history"), [({"base_url": "http://127.0.0.1:1/v1"}, []), ({}, [SNOW])]
)
def test_a_failed_question_is_told_again_only_if_it_may_have_left(make, fields, history):
    lost = make(fields=fields, behaviour=hostile.status(500))
    first = lost.answer(SNOW)
    assert first.route is Route.LOCAL
    lost.says(hostile.stream(["a language"]))
    planner = lost.pipeline._planner
    turn = planner.read(
        [user(SNOW), says(first.text), user(PLAIN)], "default", "default", stays=False
    )
    told = [message["content"] for one in turn.history for message in one.messages]
    assert told[:1] == history


def test_the_pipeline_tells_no_delegated_turn_later(make):
    engine = ScriptedEngine(GENERAL, HERE)
    here = make(engine=engine, settings=HybridSettings(delegate=True))
    answer = here.answer(CARD)
    assert here.sent() == [GENERAL]
    here.answer([user(CARD), says(answer.text), user(PLAIN)])
    assert contents(here) == [PLAIN]


def test_what_left_once_has_left_and_what_stayed_takes_its_turn_along():
    memory, talk = Memory(), [user(SNOW), says("Look it up."), result("Ice scatters light.")]
    memory.settle("ann", talk, told=False)
    assert [memory.stayed("ann", talk, at) for at in range(3)] == [True, True, True]
    assert not memory.stayed("bob", talk, 0)
    memory.settle("ann", talk[:1], told=True)
    memory.settle("ann", talk, told=False)
    assert [memory.stayed("ann", talk, at) for at in range(3)] == [False, True, True]
