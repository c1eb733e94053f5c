"""Both models answer together: what leaves, what comes back, what a cloud that fails changes."""

import math
import time

import pytest
from worlds import CARRIES, MIXED

from ptmo_secure.cloud.fusion import FixedWeight, FusionConfig
from ptmo_secure.config import GenerationConfig
from ptmo_secure.engine.engine import Engine
from ptmo_secure.errors import InputError
from ptmo_secure.hybrid.cascade import Cascade
from ptmo_secure.hybrid.settings import HybridSettings
from ptmo_secure.privacy.budget import BudgetLimits, PrivacyBudget
from ptmo_secure.types import Route
from tests.cloud import hostile_server as hostile
from tests.cloud.fusion_doubles import continuing
from tests.tiny_models import make_tiny_model

SAYS = "Dear [PERSON_1], the roof is dry. Best wishes to the two of you."
CONTINUES = {
    "features": frozenset({"logprobs", "continue"}),
    "continue_field": "continue_final_message",
}
FOLLOW = {"weight": FixedWeight(0.0), "ask_margin": math.inf, "deadline_s": 20.0, "timeout_s": 20.0}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = make_tiny_model(tmp_path_factory.mktemp("device"), seed=1).path
    with Engine.load(path, shield="none", threads=1) as opened:
        yield opened


def fusing(make, engine, behaviour, **settings):
    config = FusionConfig(**{**FOLLOW, **settings})
    more = {"fields": CONTINUES, "settings": HybridSettings(fusion=config)}
    return make(engine=engine, behaviour=behaviour, **more)


def steps(answer):
    return {step.name: step.facts for step in answer.trace}


def alone(engine, messages, tokens=40):
    engine.reset()
    return "".join(engine.generate(messages, tokens))


LONG = GenerationConfig(200)


def test_the_cloud_sees_the_masked_query_and_the_user_reads_the_values(make, engine):
    here = fusing(make, engine, continuing(SAYS))
    seen = []
    answer = here.answer(CARRIES, LONG, seen.append)
    assert answer.text == SAYS.replace("[PERSON_1]", "Dr. Andre Novak") == "".join(seen)
    assert (answer.route, answer.masked) == (Route.HYBRID, {"PERSON": 1, "EMAIL": 1})
    facts = steps(answer)["engine.fuse"]
    assert facts["fused"] == facts["tokens"] == len(SAYS) + 1
    assert facts["requests"] == len(here.bodies()) == -(-len(SAYS) // 16)
    assert b"Novak" not in here.server.received and b"novak" not in here.server.received
    for body in here.bodies():
        assert "[PERSON_1]" in body["messages"][1]["content"] and body["top_logprobs"] == 20
    assert {record.why for record in here.egress.log.records()} == {"fusion"}
    assert answer.tokens == len(SAYS)  # the end is no token of the text


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (hostile.status(500), "failed"),
        (hostile.hang_up(), "failed"),
        (hostile.stream(["from the cloud"]), "no_logprobs"),
    ],
)
def test_a_cloud_that_gives_nothing_changes_no_token(make, engine, behaviour, code):
    here = fusing(make, engine, behaviour)
    answer = here.answer(CARRIES, GenerationConfig(40))
    assert answer.text == alone(engine, [{"role": "user", "content": CARRIES}])
    assert (answer.route, answer.masked) == (Route.LOCAL, {"PERSON": 1, "EMAIL": 1})  # these left
    facts = steps(answer)["engine.fuse"]
    assert facts["fused"] == 0 and set(facts["failures"]) == {code}


def test_a_silent_cloud_is_waited_for_no_longer_than_the_deadline(make, engine):
    here = fusing(make, engine, hostile.silent(30), deadline_s=0.05, timeout_s=5.0)
    start = time.monotonic()
    answer = here.answer("What is Python?", GenerationConfig(40))
    assert answer.text == alone(engine, [{"role": "user", "content": "What is Python?"}])
    assert time.monotonic() - start < 20
    assert steps(answer)["engine.fuse"]["fused"] == 0


@pytest.mark.parametrize("query", ["My password is secret123.", MIXED])
def test_what_may_not_go_whole_is_not_fused(make, engine, query):
    here = fusing(make, engine, hostile.stream(["from the cloud"]))
    assert "engine.fuse" not in steps(here.answer(query, GenerationConfig(8)))
    assert b"secret123" not in here.server.received


def test_a_value_that_the_cloud_was_not_told_of_is_not_filled_in(make, engine):
    here = fusing(make, engine, continuing(SAYS.replace("PERSON", "SECRET")))
    here.answer("My password is secret123.", GenerationConfig(1), user="ann", session="s")
    answer = here.answer(CARRIES, GenerationConfig(16), user="ann", session="s")  # one draft
    assert here.bodies() and answer.text == "Dear [SECRET_1],"


def test_of_a_conversation_that_holds_something_withheld_no_word_of_an_answer_is_published(
    make, engine
):
    talk = [
        {"role": "user", "content": "My password is secret123."},
        {"role": "assistant", "content": "I see."},
        *({"role": "user", "content": f"What is the best {what}?"} for what in ("cake", "pie")),
        {"role": "user", "content": "What is the best bread?"},
    ]
    here = fusing(make, engine, continuing(SAYS.replace("[PERSON_1]", "all")))
    answer = here.answer(talk, GenerationConfig(60))
    (body,) = here.bodies()
    assert [message["role"] for message in body["messages"]] == ["user"] * 3
    assert steps(answer)["engine.fuse"]["failures"] == {"withheld": 1}
    assert b"secret123" not in here.server.received
    assert answer.text.startswith("Dear all, the ")  # the one draft, of 16 tokens


def test_published_words_are_counted_and_end_with_the_budget(make, engine):
    here = fusing(make, engine, continuing(SAYS))
    here.answer(CARRIES, LONG, user="ann")
    asked = make().answer(CARRIES, user="ann")
    spent = here.budget.status("ann").spent
    assert spent > next(s.facts["cost"] for s in asked.trace if s.name == "cloud.send")
    short = PrivacyBudget(BudgetLimits(spent - 1e-6, spent - 1e-6))
    config = HybridSettings(fusion=FusionConfig(**FOLLOW))
    again = make(
        engine=engine,
        behaviour=continuing(SAYS),
        fields=CONTINUES,
        settings=config,
        budget=short,
    )
    answer = again.answer(CARRIES, LONG, user="ann")
    assert steps(answer)["engine.fuse"]["failures"] == {"withheld": 1}
    assert short.status("ann").spent <= spent - 1e-6


def test_without_budget_nothing_is_asked(make, engine):
    here = fusing(make, engine, continuing(SAYS))
    for session, cost in (("x", 2.0), ("y", 2.0), ("z", 1.0 - 1e-4)):
        here.budget.spend("ann", session, cost)
    answer = here.answer(CARRIES, GenerationConfig(8), user="ann")
    assert answer.route is Route.LOCAL and here.server.received == b""


def test_the_trace_of_a_fused_answer_adds_up(make, engine):
    here = fusing(make, engine, hostile.slow(continuing(SAYS), 0.1))
    here.answer("Hi", GenerationConfig(4))
    start = time.perf_counter()
    answer = here.answer(CARRIES, LONG)
    wall_ms = 1e3 * (time.perf_counter() - start)
    assert sum(step.ms for step in answer.trace) == pytest.approx(wall_ms, rel=0.05)
    assert "Novak" not in repr(answer.trace) and "roof" not in repr(answer.trace)


def test_a_stand_in_without_logits_is_refused(make):
    here = make(settings=HybridSettings(fusion=FusionConfig()))
    with pytest.raises(InputError, match="needs an Engine"):
        here.answer("What is Python?")


@pytest.mark.parametrize("more", [{"delegate": True}, {"cascade": Cascade(-1.0)}, {"hedge_s": 1.0}])
def test_fusion_stands_alone(more):
    with pytest.raises(InputError, match="fusion goes with neither"):
        HybridSettings(fusion=FusionConfig(), **more)
