"""A server with a cloud: requests get both parts, users their own values and nobody else's."""

import asyncio
import contextlib
import threading
import time
from contextlib import ExitStack

import pytest
from worlds import CARRIES, MIXED, LentGuard, world

from ptmo_secure.cloud.caps import SpendCaps
from ptmo_secure.hybrid.guarding import SharedGuard
from ptmo_secure.hybrid.planning import Planner
from ptmo_secure.serve.answers import x_headers, x_ptmo
from ptmo_secure.serve.hybrid_router import HybridRouter
from ptmo_secure.serve.metrics import Metrics
from ptmo_secure.serve.routing import ChatRequest, Outcome, Piece, Preview, Routing, ToolCall
from ptmo_secure.types import Level, Route
from tests.cloud import hostile_server as hostile

HELD = "My name is Ada Lindqvist. Is Lindqvist a rare name for me? How do I bake bread?"


class HereRouter:
    """Answers with a text of its own, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked = []

    async def check(self, request):
        """Refuse nothing."""

    async def route(self, request):
        return Routing(Route.LOCAL, Level.PRIVATE, 1.0, "here")

    async def answer(self, request, routing):
        self.asked.append(request)
        for word in ("from ", "the ", "device"):
            await asyncio.sleep(0)
            yield Piece(word)
        yield Outcome("stop", 5, 3, crossings=2, facts={"shield": "seal"})

    async def preview(self, request):
        return Preview(await self.route(request), ())

    def gauges(self):
        return {"running": 0.0}

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def served(guard, tmp_path):
    """A router between a server on loopback and the device's."""
    with ExitStack() as held:
        here = held.enter_context(world(tmp_path, guard))
        pipeline = here.pipeline
        shared = SharedGuard(lambda: LentGuard(guard))
        planner = Planner(shared, pipeline._planner._reader._classifier, pipeline._manager)
        local = HereRouter()
        router = HybridRouter(local, planner, pipeline._responder._consultant)
        router.here, router.local = here, local
        yield router


def ask(router, query, **more):
    """Route and answer; return the routing, the text, the calls and the outcome."""
    messages = query if isinstance(query, tuple) else ({"role": "user", "content": query},)
    request = ChatRequest(messages, user=more.pop("user", "ann"), **more)

    async def run():
        routing = await router.route(request)
        before = router.here.server.received
        events = [event async for event in router.answer(request, routing)]
        return routing, before, events

    routing, before, events = asyncio.run(run())
    assert router.here.server.received[: len(before)] == before
    text = "".join(event.text for event in events if isinstance(event, Piece))
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert isinstance(events[-1], Outcome)
    return routing, text, calls, events[-1]


def test_nothing_leaves_while_a_request_is_routed(served):
    request = ChatRequest(({"role": "user", "content": CARRIES},))
    routing = asyncio.run(served.route(request))
    assert (routing.route, routing.masked) == (Route.HYBRID, {"PERSON": 1, "EMAIL": 1})
    assert served.here.server.received == b"" and "Novak" not in repr(routing.question)


@pytest.mark.parametrize(
    ("query", "route", "text", "sent"),
    [
        ("What is Python?", Route.CLOUD, "from the cloud", ["What is Python?"]),
        (MIXED, Route.HYBRID, "from the cloud", ["What is Python?"]),
        (HELD, Route.HYBRID, "from the device\n\nfrom the cloud", ["How do I bake bread?"]),
        ("My password is secret123.", Route.LOCAL, "from the device", []),
    ],
)
def test_each_part_is_answered_where_it_may_be(served, query, route, text, sent):
    routing, told, _, outcome = ask(served, query)
    assert (routing.route, told, served.here.sent()) == (route, text, sent)
    both = HELD in query
    assert outcome.prompt_tokens == (12 if both else 5 if route is Route.LOCAL else 7)


def test_the_device_answers_what_a_broken_cloud_did_not(served):
    served.here.says(hostile.status(500))
    _, told, _, outcome = ask(served, HELD)
    assert told == "from the device\n\nfrom the device"
    assert served.local.asked[-1].messages[-1]["content"] == "How do I bake bread?"
    assert outcome.facts["cloud_failed"] == "CloudError:server"
    assert served.gauges() == {"running": 0.0, "cloud_asked": 1.0, "cloud_failed": 1.0}


@pytest.mark.parametrize(
    "more",
    [
        {"local_only": True},
        {"top_logprobs": 0},
        {"json_answer": True},
        {"must_call": ("f",)},
        {"keep_local": frozenset({0})},
    ],
)
def test_what_a_cloud_may_not_or_cannot_do_is_done_here(served, more):
    _, told, _, _ = ask(served, "What is Python?", **more)
    assert told == "from the device" and served.here.server.received == b""


def test_a_part_that_its_user_keeps_stays(served):
    query = "What is Python? My password is secret123. Why is the sky blue?"
    ask(served, query)
    ask(served, query, keep_local=frozenset({0}))
    assert served.here.sent() == ["What is Python? Why is the sky blue?", "Why is the sky blue?"]


@pytest.mark.parametrize("query", ["What is Python?", MIXED, CARRIES])
def test_a_part_to_keep_that_there_is_not_keeps_all_now_and_later(served, query):
    _, told, _, _ = ask(served, query, keep_local=frozenset({99}))
    assert told == "from the device" and served.here.server.received == b""
    talk = [("user", query), ("assistant", told), ("user", "Why is the sky blue?")]
    ask(served, tuple({"role": role, "content": text} for role, text in talk))
    (body,) = served.here.bodies()
    assert [each["content"] for each in body["messages"]] == ["Why is the sky blue?"]


def test_a_preview_tells_what_would_leave_and_sends_nothing(served):
    request = ChatRequest(({"role": "user", "content": MIXED},), user="ann")
    told = asyncio.run(served.preview(request))
    assert [(one.sent, one.route, one.level) for one in told.segments] == [
        (None, Route.LOCAL, Level.PRIVATE),
        ("What is Python?", Route.HYBRID, Level.PUBLIC),
    ]
    masked = asyncio.run(served.preview(ChatRequest(({"role": "user", "content": CARRIES},))))
    joined = "".join((one.sent or "") + one.separator for one in masked.segments)
    assert joined == "Write an email to [PERSON_1] at [EMAIL_1] about the roof."
    kept = ChatRequest(({"role": "user", "content": MIXED},), keep_local=frozenset({1}))
    assert [one.sent for one in asyncio.run(served.preview(kept)).segments] == [None, None]
    assert served.here.server.received == b""


def test_tool_calls_come_with_their_values_and_results_go_masked(served):
    function = {"name": "send", "arguments": '{"to":"[EMAIL_1]"}'}
    piece = {"index": 0, "id": "call_1", "type": "function", "function": function}
    event = hostile.event({"tool_calls": [piece]})
    served.here.says(
        hostile.events([event, hostile.event({}, "tool_calls")]), hostile.stream(["k"])
    )
    tool = {"type": "function", "function": {"name": "send", "parameters": {"type": "object"}}}
    _, _, calls, _ = ask(served, CARRIES, tools=(tool,))
    assert calls == [ToolCall("send", '{"to": "andre@novak.org"}')]
    told = {"name": "send", "arguments": calls[0].arguments}
    history = (
        {"role": "user", "content": CARRIES},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c9", "type": "function", "function": told}],
        },
        {"role": "tool", "tool_call_id": "c9", "content": "Sent to andre@novak.org."},
        {"role": "user", "content": "Write a letter to Dr. Andre Novak about the weather."},
    )
    ask(served, history, tools=(tool,))
    sent = served.here.bodies()[1]["messages"]
    assert [message["role"] for message in sent[1:]] == ["user", "assistant", "tool", "user"]
    assert sent[2]["tool_calls"][0]["function"]["arguments"] == '{"to":"[EMAIL_1]"}'
    assert sent[3]["content"] == "Sent to [EMAIL_1]."
    assert b"novak.org" not in served.here.server.received


def test_a_call_of_the_devices_stays_where_its_question_is_left_out(served):
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}

    async def calling(_request, _routing):
        yield Piece("I look.")
        yield ToolCall("look_up", '{"what": "cardamom"}')
        yield Outcome("tool_calls", 5, 3, crossings=2, facts={})

    served.local.answer, usual = calling, served.local.answer
    asked = {"role": "user", "content": "My password is secret123."}
    _, text, (call,), _ = ask(served, (asked,), tools=(tool,))
    served.local.answer = usual
    told = {"name": call.name, "arguments": '{"what":"cardamom"}'}  # as a client may write it
    calls = [{"id": "c9", "type": "function", "function": told}]
    history = (
        {"role": "assistant", "content": text, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c9", "content": "Green pods."},
        {"role": "user", "content": "What is Python?"},
    )
    routing, *_ = ask(served, history, tools=(tool,))
    assert routing.route is Route.CLOUD
    assert served.here.bodies()[0]["messages"] == [history[-1]]


def test_what_the_device_adds_to_a_partial_answer_stays_with_it(served):
    begun = {"role": "assistant", "content": "The pods come "}
    asked = {"role": "user", "content": "Which pods are they?"}
    ask(served, (asked, begun), continue_final=True)
    whole = {"role": "assistant", "content": "The pods come from the device"}
    routing, *_ = ask(served, (whole, {"role": "user", "content": "What is Python?"}))
    assert routing.route is Route.CLOUD
    assert len(served.here.bodies()[0]["messages"]) == 1


def test_users_who_ask_at_once_get_their_own_values(served):
    served.here.says(hostile.slow(hostile.stream(["Ok, [PERSON_1]."]), 0.05))
    names = ("Andre Novak", "Mira Holmberg", "Yuki Tanabe", "Kwame Mensah", "Ada Lindqvist")
    wrong = []

    def work(name):
        for _ in range(3):
            query = f"Write an email to {name} about the roof."
            _, told, _, _ = ask(served, query, user=name)
            if told != f"Ok, {name}.":
                wrong.append((name, told))

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == [] and len(served.here.bodies()) == 15


def test_a_client_that_leaves_cuts_the_call(served):
    served.here.says(hostile.stream(["a "] * 500, pause_s=0.02))
    request = ChatRequest(({"role": "user", "content": "What is Python?"},))

    async def run():
        events = served.answer(request, await served.route(request))
        async with contextlib.aclosing(events):
            async for event in events:
                if event.text.strip():
                    return event
        return None

    assert asyncio.run(run()).text.startswith("a")
    asyncio.run(served.close())
    assert served.local.closed
    end = time.monotonic() + 30
    while any(thread.name == "ptmo-cloud" for thread in threading.enumerate()):
        assert time.monotonic() < end, "the call goes on"
        time.sleep(0.01)


@pytest.mark.parametrize("offers", [True, False])
def test_a_call_that_was_not_offered_is_text(served, offers):
    tool = {"type": "function", "function": {"name": "send", "parameters": {"type": "object"}}}
    given = [("rm_rf", '{"path":"/"}'), ("send", '["[EMAIL_1]"]'), ("send", '{"to":"[EMAIL_1]"}')]
    told = [
        {"index": i, "id": f"c{i}", "type": "function", "function": {"name": n, "arguments": a}}
        for i, (n, a) in enumerate(given)
    ]
    served.here.says(
        hostile.events([hostile.event({"tool_calls": told}), hostile.event({}, "tool_calls")])
    )
    _, text, calls, _ = ask(served, CARRIES, tools=(tool,) if offers else ())
    assert calls == ([ToolCall("send", '{"to": "andre@novak.org"}')] if offers else [])
    assert '{"name": "rm_rf", "arguments": "{\\"path\\":\\"/\\"}"}' in text
    assert text.count('"name": "send"') == (1 if offers else 2)
    answer = served.here.answer(CARRIES, tools=(tool,) if offers else ())
    assert len(answer.tool_calls) == (1 if offers else 0) and "rm_rf" in answer.text


def test_an_answer_in_a_clouds_place_says_local_and_what_left(served):
    served.here.says(hostile.status(500))
    routing, _, _, outcome = ask(served, CARRIES)
    assert routing.route is Route.HYBRID
    told = x_ptmo(routing, [outcome])
    assert (told["route"], told["masked"]) == ("local", {"PERSON": 1, "EMAIL": 1})
    assert told["cloud_failed"] == "CloudError:server"
    assert x_headers(routing, [outcome])["x-ptmo-route"] == "local"
    caps = SpendCaps()
    caps.set_limit("day", "seconds", 0.0)
    served._consultant._cloud._attempts.caps = caps
    routing, _, _, outcome = ask(served, CARRIES)
    told = x_ptmo(routing, [outcome])
    assert (told["route"], told["masked"]) == ("local", {})
    assert told["cloud_failed"] == "SpendCapError:cap"
    assert x_headers(routing, [outcome])["x-ptmo-masked"] == "none"
    metrics = Metrics(served)
    metrics.count(routing, outcome)
    assert b'ptmo_routes_total{level="SEMI_SENSITIVE",route="local"} 1.0' in metrics.text()
    planned = Outcome("stop", 1, 1)
    assert x_ptmo(routing, [outcome, planned])["route"] == "hybrid"  # one choice went as planned


def test_a_request_that_the_budget_keeps_here_says_so(served, monkeypatch):
    def fails(user):
        raise OSError("the TEE died")

    budget = served.here.budget
    with monkeypatch.context() as patched:
        patched.setattr(budget, "status", fails)
        routing, told, _, _ = ask(served, "What is Python?")
        assert (routing.route, routing.reason, told) == (
            Route.LOCAL,
            "budget_unusable",
            "from the device",
        )
    for number in range(5):
        budget.spend("ann", f"s{number}", 1.0)
    routing = ask(served, CARRIES)[0]
    assert (routing.route, routing.reason) == (Route.LOCAL, "budget_spent")
    assert ask(served, "My password is secret123.")[0].reason not in (
        "budget_spent",
        "budget_unusable",
    )
    assert served.here.server.received == b""
