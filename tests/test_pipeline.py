"""The main job: guard, gate, route, engine, and the trace of it."""

import os
import signal
import time

import pytest
from fakes import FakeClock, FakeEngine, FakeGuard

from ptmo_secure.config import GenerationConfig
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.pipeline import ALLOWED, HybridInferenceEngine
from ptmo_secure.types import Level, Route
from tee_sim.client import TeeClient, TeeDeadError, TeeError


def pipeline(engine: FakeEngine, guard: FakeGuard | None = None, **extra: object):
    return HybridInferenceEngine(engine, launch_guard=lambda: guard or FakeGuard(), **extra)


def trace_of(answer):
    return {step.name: step for step in answer.trace}


def test_an_answer_is_the_engines_text_with_the_guards_verdict() -> None:
    answer = pipeline(FakeEngine(), FakeGuard("SEMI_SENSITIVE", 0.75)).answer("What is Python?")
    assert answer.text == "Hello world"
    assert (answer.route, answer.level, answer.score) == (
        Route.LOCAL,
        Level.SEMI_SENSITIVE,
        0.75,
    )
    assert (answer.tokens, answer.ttft_ms, answer.shield) == (2, 12.5, "seal")
    assert answer.decode_tps == pytest.approx(10.0)


def test_the_steps_come_in_the_order_of_the_flow() -> None:
    answer = pipeline(FakeEngine()).answer("What is Python?")
    names = [step.name for step in answer.trace]
    assert names == [
        *("prepare", "guard.scan", "decompose", "gate", "budget", "route", "guard.mask"),
        "engine.generate",
    ]
    assert trace_of(answer)["engine.generate"].facts == {
        "prompt_tokens": 7,
        "decode_tokens": 2,
        "tee_crossings": 3,
        "finish_reason": "stop",
    }


def test_the_trace_gives_each_step_its_own_time() -> None:
    clock = FakeClock()
    guard = FakeGuard(on_scan=lambda: clock.sleep(0.25))
    engine = FakeEngine(before_piece=lambda: clock.sleep(1.5))
    answer = pipeline(engine, guard, clock=clock).answer("What is Python?")
    ms = {name: step.ms for name, step in trace_of(answer).items()}
    assert {name: spent for name, spent in ms.items() if spent} == pytest.approx(
        {"guard.scan": 250, "engine.generate": 3000}
    )
    assert answer.wall_ms == pytest.approx(3250)


def test_the_trace_accounts_for_the_wall_time_within_five_percent() -> None:
    engine = FakeEngine(before_piece=lambda: time.sleep(0.03))
    subject = pipeline(engine, FakeGuard(on_scan=lambda: time.sleep(0.02)))
    start = time.perf_counter()
    answer = subject.answer("What is Python?")
    wall_ms = 1e3 * (time.perf_counter() - start)
    assert sum(step.ms for step in answer.trace) == pytest.approx(wall_ms, rel=0.05)


@pytest.mark.parametrize(
    "failure",
    [
        TeeError(0xFFFF0006),
        TeeDeadError(),
        OSError("gone"),
        ValueError("bad"),
        KeyError("level"),
        RuntimeError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_guard_that_fails_makes_the_query_private_and_local(failure: Exception) -> None:
    guard = FakeGuard(fails=failure)
    answer = pipeline(FakeEngine(), guard).answer("What is Python?")
    assert (answer.level, answer.score, answer.route) == (Level.PRIVATE, 1.0, Route.LOCAL)
    steps = trace_of(answer)
    assert steps["guard.scan"].facts["error"] == type(failure).__name__
    assert steps["gate"].facts["allowed"] == ["local"]
    assert guard.closed


def test_a_guard_that_does_not_start_makes_the_query_private() -> None:
    def refuse() -> FakeGuard:
        raise TeeError(0xFFFF000E, message="did not start")

    answer = HybridInferenceEngine(FakeEngine(), launch_guard=refuse).answer("What is Python?")
    assert (answer.level, answer.score, answer.text) == (Level.PRIVATE, 1.0, "Hello world")


def test_a_verdict_of_no_known_level_counts_as_private() -> None:
    answer = pipeline(FakeEngine(), FakeGuard("HARMLESS", 0.0)).answer("What is Python?")
    assert (answer.level, answer.score) == (Level.PRIVATE, 1.0)


def test_the_query_after_a_guard_failure_gets_a_new_guard() -> None:
    guards = [FakeGuard(fails=TeeDeadError()), FakeGuard("PUBLIC", 0.0)]
    subject = HybridInferenceEngine(FakeEngine(), launch_guard=lambda: guards.pop(0))
    assert subject.answer("one").level is Level.PRIVATE
    assert subject.answer("two").level is Level.PUBLIC
    assert guards == []


def test_the_error_of_a_guard_never_brings_its_text_into_the_trace() -> None:
    guard = FakeGuard(fails=ValueError("my password is secret123"))
    answer = pipeline(FakeEngine(), guard).answer("my password is secret123")
    assert "secret123" not in repr(answer.trace)


def test_every_level_allows_the_local_route_and_private_nothing_else() -> None:
    assert set(ALLOWED) == set(Level)
    assert all(Route.LOCAL in routes for routes in ALLOWED.values())
    assert ALLOWED[Level.PRIVATE] == (Route.LOCAL,)
    assert Route.CLOUD not in ALLOWED[Level.SEMI_SENSITIVE]


def test_the_guard_scans_every_message_of_a_conversation() -> None:
    guard = FakeGuard()
    messages = [
        {"role": "user", "content": "My password is secret123."},
        {"role": "assistant", "content": "Noted."},
        {"role": "user", "content": "What was it?"},
    ]
    pipeline(FakeEngine(), guard).answer(messages, GenerationConfig(system="Be brief."))
    (text,) = guard.texts
    for part in ("Be brief.", "My password is secret123.", "Noted.", "What was it?"):
        assert part in text


def test_options_reach_the_engine() -> None:
    engine = FakeEngine()
    sampling = SamplingParams(temperature=0.5, seed=3)
    pipeline(engine).answer("Hi", GenerationConfig(9, sampling, ("END",), "Be brief."))
    assert engine.calls == [(9, sampling, ("END",))]
    assert engine.used_adapters == [()]
    assert engine.prompts[0][0] == {"role": "system", "content": "Be brief."}


def test_adapters_reach_the_engine_and_the_trace() -> None:
    engine = FakeEngine()
    answer = pipeline(engine).answer("Hi", GenerationConfig(adapters=("mine", "ours")))
    assert engine.used_adapters == [("mine", "ours")]
    assert answer.trace[-1].facts["adapters"] == ["mine", "ours"]


def test_pieces_stream_as_they_come() -> None:
    seen: list[str] = []
    answer = pipeline(FakeEngine(["a", "b", "c"])).answer("Hi", on_text=seen.append)
    assert seen == ["a", "b", "c"]
    assert answer.text == "abc"


@pytest.mark.parametrize("query", ["", "   \n\t", [], [{"role": "user", "content": " "}]])
def test_an_empty_prompt_is_refused_before_anything_runs(query: object) -> None:
    engine, guard = FakeEngine(), FakeGuard()
    with pytest.raises(InputError, match="the prompt is empty"):
        pipeline(engine, guard).answer(query)
    assert (engine.prompts, guard.texts) == ([], [])


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InputError, match="not valid UTF-8"):
        pipeline(FakeEngine()).answer("bad \ud800 text")


def test_a_failed_run_raises_and_leaves_no_answer() -> None:
    engine = FakeEngine(fails=EngineError("the TEE process is gone"))
    with pytest.raises(EngineError, match="the TEE process is gone"):
        pipeline(engine).answer("Hi")


def test_closing_ends_the_guard_and_leaves_a_borrowed_engine_open() -> None:
    engine, guard = FakeEngine(), FakeGuard()
    with pipeline(engine, guard) as subject:
        subject.answer("Hi")
    assert guard.closed
    assert not engine.closed


def test_an_unknown_cloud_or_policy_is_refused() -> None:
    with pytest.raises(InputError, match="unknown cloud 'nowhere'"):
        HybridInferenceEngine(FakeEngine(), cloud="nowhere")
    with pytest.raises(InputError, match="unknown policy 'greedy'"):
        HybridInferenceEngine(FakeEngine(), policy="greedy")


def test_the_json_of_an_answer_has_the_documented_keys() -> None:
    answer = pipeline(FakeEngine()).answer("Hi")
    value = answer.as_json()
    assert list(value) == [
        *("answer", "route", "level", "score", "trace"),
        *("tokens", "ttft_ms", "decode_tps", "shield", "masked", "usd"),
    ]
    assert value["trace"][0] == {"step": "prepare", "ms": value["trace"][0]["ms"]}


def test_a_real_guard_process_that_is_killed_fails_closed_and_comes_back() -> None:
    launched: list[TeeClient] = []

    def launch() -> TeeClient:
        launched.append(TeeClient.launch("guard"))
        return launched[-1]

    with HybridInferenceEngine(FakeEngine(), launch_guard=launch) as subject:
        assert subject.answer("What is Python?").level is Level.PUBLIC
        os.kill(launched[0].pid, signal.SIGKILL)
        killed = subject.answer("What is Python?")
        assert (killed.level, killed.score, killed.route) == (Level.PRIVATE, 1.0, Route.LOCAL)
        assert subject.answer("What is Python?").level is Level.PUBLIC
    assert len(launched) == 2
