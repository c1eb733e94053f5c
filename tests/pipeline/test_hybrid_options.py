"""Cascade, delegation, rewriting, the cache, the policy inside the package, and the trace."""

import time

import pytest
from fakes import FakeClock
from worlds import CARRIES, MIXED, ScriptedEngine

from ptmo_secure.cloud.types import CloudRequest
from ptmo_secure.config import GenerationConfig
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.errors import InputError
from ptmo_secure.hybrid.cache import CachedReply, ResponseCache
from ptmo_secure.hybrid.cascade import Cascade, consistency
from ptmo_secure.hybrid.settings import HybridSettings
from ptmo_secure.types import Route
from tests.cloud import hostile_server as hostile


def steps(answer):
    return {step.name: step.facts for step in answer.trace}


def cascading(make, sure, *texts, **fields):
    engine = ScriptedEngine(*(texts or ("from the device",)), mean_logprob=sure)
    return make(engine=engine, settings=HybridSettings(cascade=Cascade(-1.0, **fields)))


@pytest.mark.parametrize(
    ("sure", "route"),
    [(-0.5, Route.LOCAL), (-1.0, Route.LOCAL), (-1.01, Route.CLOUD), (None, Route.CLOUD)],
)
def test_a_cloud_is_asked_only_where_the_devices_answer_is_doubted(make, sure, route):
    here = cascading(make, sure)
    answer = here.answer("What is Python?")
    assert answer.route is route
    assert answer.text == ("from the device" if route is Route.LOCAL else "from the cloud")
    assert len(here.bodies()) == (route is Route.CLOUD)
    assert here.engine.scores == [True]
    assert steps(answer)["cascade"]["asks"] is (route is Route.CLOUD)


@pytest.mark.parametrize("query", ["My password is secret123.", MIXED])
def test_a_doubted_answer_to_what_may_not_go_whole_is_asked_of_nobody(make, query):
    here = cascading(make, -9.0)
    answer = here.answer(query)
    assert "cascade" not in steps(answer) and b"secret123" not in here.server.received


def test_a_doubted_answer_stands_when_the_cloud_fails(make):
    here = cascading(make, -9.0)
    here.says(hostile.status(500))
    answer = here.answer("What is Python?")
    assert (answer.text, answer.route) == ("from the device", Route.LOCAL)
    assert len(here.engine.prompts) == 1


def test_answers_drawn_anew_that_disagree_cast_doubt(make):
    texts = ("Python is a snake.", "Java is coffee beans.", "Rust never sleeps today.")
    here = cascading(make, -0.1, *texts, samples=2, agreement=0.5)
    assert here.answer("What is Python?").route is Route.CLOUD
    here = cascading(make, -0.1, *(["Python is a language."] * 3), samples=2, agreement=0.5)
    answer = here.answer("What is Python?")
    assert (answer.route, answer.text) == (Route.LOCAL, "Python is a language.")


def test_consistency_is_the_mean_share_of_common_words():
    assert consistency("a b", ["a b", "b c"]) == pytest.approx((1 + 1 / 3) / 2)
    assert consistency("", [""]) == 0


@pytest.mark.parametrize(
    "bad",
    [{"threshold": 0.1}, {"threshold": float("nan")}, {"samples": 9}, {"agreement": 2.0}],
)
def test_a_cascade_of_impossible_numbers_is_refused(bad):
    with pytest.raises(InputError, match="cascade"):
        Cascade(**bad)


def delegating(make, *texts, **more):
    return make(engine=ScriptedEngine(*texts), settings=HybridSettings(delegate=True), **more)


def test_a_delegated_query_goes_as_the_question_that_the_device_wrote(make):
    here = delegating(make, "How does one write a friendly email about a roof?", "Dear Andre, hi.")
    answer = here.answer(CARRIES)
    assert (answer.text, answer.route) == ("Dear Andre, hi.", Route.HYBRID)
    assert here.sent() == ["How does one write a friendly email about a roof?"]
    drafting, merging = here.engine.prompts
    assert "Novak" not in repr(drafting) and "[PERSON_1]" in drafting[-1]["content"]
    assert "from the cloud" in merging[0]["content"] and merging[-1]["content"] == CARRIES


@pytest.mark.parametrize(
    "draft",
    [
        "How do I write to Dr. Andre Novak?",
        "What does andre@novak.org mean?",
        "How do I write to [PERSON_1]?",
        "My password is hunter22-Xy. What should I do?",
        "n o v a k and what it means",
        "",
        "What? " * 400,
    ],
)
def test_a_draft_with_anything_private_is_dropped(make, draft):
    here = delegating(make, draft, "from the device")
    answer = here.answer(CARRIES)
    assert (answer.text, answer.route) == ("from the device", Route.LOCAL)
    assert here.server.received == b"" and steps(answer)["guard.draft"] == {"goes": False}


def test_a_private_query_is_not_delegated(make):
    here = delegating(make, "What is a good password?")
    assert here.answer("My password is secret123.").route is Route.LOCAL
    assert here.server.received == b"" and len(here.engine.prompts) == 1


HELD = "My name is Ada Lindqvist. Is Lindqvist a rare name for me? How do I bake bread?"


@pytest.mark.parametrize(
    ("reason", "text"), [("stop", "Short."), ("length", "Here.\n\nfrom the cloud")]
)
def test_two_parts_are_rewritten_unless_that_is_cut_off(make, reason, text):
    engine = ScriptedEngine("Here.", "Short.", reason=reason)
    here = make(engine=engine, settings=HybridSettings(rewrite_tokens=7))
    seen = []
    answer = here.answer(HELD, None, seen.append)
    assert answer.text == text == "".join(seen)
    assert engine.calls[1][0] == 7 and "from the cloud" in engine.asked()[1]


def caching(make, **more):
    return make(settings=HybridSettings(cache=ResponseCache(**more)))


def test_a_public_question_is_asked_once_for_all_users(make):
    here = caching(make)
    first = here.answer("What is Python?", user="ann")
    second = here.answer("What is Python?", user="bob")
    assert first.text == second.text == "from the cloud" and len(here.bodies()) == 1
    assert steps(second)["cloud.answer"]["cached"] is True
    assert here.budget.status("bob").spent == 0
    here.answer("What is Python? ", GenerationConfig(7), user="bob")
    assert len(here.bodies()) == 2


def test_an_answer_with_placeholders_serves_the_session_that_masked_it_alone(make):
    here = caching(make)
    here.says(hostile.stream(["Ok, [PERSON_1]."]))
    other = CARRIES.replace("Andre Novak", "Mira Holm").replace("andre@novak", "mira@holm")
    for user, session, query, name in (
        ("ann", "s", CARRIES, "Dr. Andre Novak"),
        ("bob", "s", other, "Dr. Mira Holm"),
        ("ann", "t", other, "Dr. Mira Holm"),
        ("ann", "s", CARRIES, "Dr. Andre Novak"),
    ):
        assert here.answer(query, user=user, session=session).text == f"Ok, {name}."
    bodies = [body["messages"] for body in here.bodies()]
    assert len(bodies) == 3 and bodies[0] == bodies[1] == bodies[2]
    again = here.answer(CARRIES, user="ann", session="s")
    assert (again.route, again.masked) == (Route.HYBRID, {})  # nothing left for it


def test_the_cache_holds_neither_values_nor_questions(make):
    here = caching(make)
    here.says(hostile.stream(["Ok, [PERSON_1]."]))
    here.answer(CARRIES)
    cache = here.pipeline._responder._consultant._cache
    assert len(cache) == 1 and "Novak" not in repr(vars(cache)) and "roof" not in repr(vars(cache))


def request(text="a", **more):
    return CloudRequest(({"role": "user", "content": text},), **more)


def test_an_entry_ends_with_its_time_and_the_oldest_makes_room():
    clock = FakeClock()
    cache = ResponseCache(entries=2, ttl_s=10, clock=clock)
    keys = [cache.key(request(text), "m", 0, "") for text in "abc"]
    for key, text in zip(keys, "abc", strict=True):
        cache.put(key, CachedReply(text))
    assert [cache.get(key) for key in keys] == [None, CachedReply("b"), CachedReply("c")]
    clock.sleep(10)
    assert cache.get(keys[1]) is None


def test_a_cache_is_bounded_in_bytes_and_keeps_no_part_of_an_answer():
    cache = ResponseCache(max_bytes=100)
    for number in range(50):
        cache.put(cache.key(request(str(number)), "m", 0, ""), CachedReply("x" * 30))
    assert 1 <= len(cache) <= 3
    key = cache.key(request("new"), "m", 0, "")
    cache.put(key, CachedReply("x" * 101))
    cache.put(key, CachedReply("cut", finish_reason="length"))
    assert cache.get(key) is None


def test_what_is_drawn_at_random_is_not_kept():
    cache = ResponseCache()
    assert cache.key(request(temperature=0.5), "m", 0, "") is None
    assert cache.key(request(temperature=0.5, seed=1), "m", 0, "") is not None
    keys = {cache.key(request(), *rest) for rest in (("m", 0, ""), ("n", 0, ""), ("m", 7, "a"))}
    assert len(keys | {cache.key(request(), "m", 7, "b"), cache.key(request("b"), "m", 0, "")}) == 5
    assert cache.key(request(), "m", 0, "ann") == cache.key(request(), "m", 0, "bob")


def test_the_policy_inside_the_package_chooses_within_the_gate(make):
    pytest.importorskip("gymnasium")
    here = make(policy="rl", engine=ScriptedEngine("from the device"))
    questions = (
        *("What is Python?", "Is the sky blue? Answer yes or no.", "Who wrote Faust?"),
        "Compute the value of 17 * 23 - 4 / 2.",
        "A train leaves at 3 and arrives at 7; how fast is it over 320 km? Explain each step.",
        "What is the capital of France? A. Lyon B. Paris C. Lille D. Nice. Answer with a letter.",
    )
    answers = [here.answer(question) for question in questions]
    assert {answer.route for answer in answers} == {Route.LOCAL, Route.CLOUD}
    assert all(steps(answer)["route"]["policy"] == "rl" for answer in answers)
    assert not any("overruled" in steps(answer)["route"] for answer in answers)
    assert here.pipeline._planner.policy._policy._words._read == {}
    here.server.forget()
    for private in ("My password is secret123.", "I have diabetes. What should I eat?"):
        assert here.answer(private).route is Route.LOCAL
    assert here.server.received == b""


def test_the_trace_accounts_for_the_wall_time_of_every_route(make):
    engine = ScriptedEngine("No.", mean_logprob=-9.0)
    engine.before_piece = lambda: time.sleep(0.05)
    slow = hostile.slow(hostile.stream(["a", "b"], pause_s=0.02), 0.1)
    for query in ("What is Python?", MIXED, HELD, CARRIES, "My password is secret123."):
        here = make(engine=engine, behaviour=slow)
        here.answer("Hi")
        start = time.perf_counter()
        answer = here.answer(query)
        wall_ms = 1e3 * (time.perf_counter() - start)
        assert sum(step.ms for step in answer.trace) == pytest.approx(wall_ms, rel=0.05), query


def test_each_step_has_its_own_time_when_two_parts_run_at_once(make):
    clock = FakeClock()
    engine = ScriptedEngine("No.|Never.")
    engine.before_piece = lambda: clock.sleep(1.5)
    here = make(engine=engine, clock=clock)
    answer = here.answer(HELD)
    ms = {step.name: step.ms for step in answer.trace}
    assert {name: spent for name, spent in ms.items() if spent} == {"engine.generate": 3000.0}
    assert answer.wall_ms == 3000.0 and answer.route is Route.HYBRID


def test_a_trace_holds_codes_and_counts_and_no_text(make):
    here = make(behaviour=hostile.stream(["Dear [PERSON_1]."]))
    for query in (CARRIES, MIXED, HELD):
        told = repr(here.answer(query, GenerationConfig(sampling=SamplingParams())).trace)
        for word in ("Novak", "novak.org", "secret123", "Lindqvist", "roof", "bread", "Python"):
            assert word not in told


def test_an_answer_of_a_cloud_that_leaves_max_tokens_alone_is_cut_here(make):
    here = make(behaviour=hostile.endless({"content": "word "}))
    answer = here.answer("What is Python?", GenerationConfig(max_tokens=4))
    assert (answer.route, answer.text) == (Route.CLOUD, ("word " * 99)[: 128 + 16 * 4])
    assert steps(answer)["cloud.answer"]["finish_reason"] == "length"
