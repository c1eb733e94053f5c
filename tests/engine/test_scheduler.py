"""Continuous batching: answers as alone, turns, refusals, ends."""

import asyncio
import threading

import pytest

from ptmo_secure.engine import registry
from ptmo_secure.engine.batch import share_rows
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.engine.scheduler import Scheduler
from ptmo_secure.errors import CapacityError, InputError
from tests.engine.stepped import SteppedScheduler, answer_alone
from tests.tiny_models import make_tiny_model

PROMPTS = ["hello there " * n for n in (1, 20, 3, 9, 15, 2, 7, 5)]
MODEL = "smollm2-135m"
REAL_PROMPTS = [
    "What is Python?",
    "Write a haiku about rain, and then explain it line by line to somebody who never saw one.",
    "1, 1, 2, 3, 5, 8,",
    "안녕하세요. 오늘 날씨가 어때요?",
    "Summarise: the meeting moved from Monday to Thursday at noon.",
    "SELECT name FROM users WHERE",
    "hi",
]
SHIELDS = [
    {"shield": "none"},
    {"shield": "seal"},
    {"shield": "permute+seal", "restore": "folded"},
    {"shield": "permute+seal", "restore": "tee"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.fixture(scope="module")
def engine(model):
    with Engine.load(model, threads=1, shield="none", cache_tokens=4096) as engine:
        yield engine


@pytest.mark.parametrize("fields", SHIELDS)
def test_answers_in_a_batch_are_those_of_generate_alone(model, fields):
    with Engine.load(model, threads=2, cache_tokens=2048, **fields) as engine:
        expected = [answer_alone(engine, prompt) for prompt in PROMPTS]
        with Scheduler(engine, max_batch=4, max_step_tokens=20) as scheduler:
            requests = [scheduler.submit(prompt, 24) for prompt in PROMPTS]
            assert [request.result(60) for request in requests] == expected
        assert engine.dump_device_memory().pages == b""


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_answers_of_other_architectures_are_the_same_in_a_batch(family, tmp_path):
    path = make_tiny_model(tmp_path, family=family).path
    with Engine.load(path, threads=2, shield="permute+seal", cache_tokens=2048) as engine:
        expected = [answer_alone(engine, prompt) for prompt in PROMPTS]
        with Scheduler(engine, max_batch=4, max_step_tokens=20) as scheduler:
            requests = [scheduler.submit(prompt, 24) for prompt in PROMPTS]
            assert [request.result(60) for request in requests] == expected


def test_answers_of_a_real_model_are_the_same_in_a_batch():
    try:
        registry.resolve(MODEL)
    except InputError:
        pytest.skip(f"{MODEL} is not pulled (ptmo model pull {MODEL})")
    with Engine.load(MODEL, shield="seal", threads=2, cache_tokens=8192) as engine:
        expected = [answer_alone(engine, prompt, 12) for prompt in REAL_PROMPTS]
        with Scheduler(engine, max_batch=5) as scheduler:
            requests = [scheduler.submit(prompt, 12) for prompt in REAL_PROMPTS]
            assert [request.result(120) for request in requests] == expected


def test_sampled_answers_keep_their_own_seed_and_stop_string(engine):
    hot = [SamplingParams(temperature=1.5, top_k=40, seed=seed) for seed in range(4)]
    expected = [answer_alone(engine, "tell me more", sampling=params) for params in hot]
    stop = expected[2][5:8]
    cut = answer_alone(engine, "tell me more", sampling=hot[2], stop=[stop])
    assert len(set(expected)) == 4
    with Scheduler(engine) as scheduler:
        requests = [scheduler.submit("tell me more", 24, sampling=params) for params in hot]
        stopped = scheduler.submit("tell me more", 24, sampling=hot[2], stop=[stop])
        assert [request.result(60) for request in requests] == expected
        assert stopped.result(60) == cut
        assert stopped.stats.finish_reason == "stop"


def test_token_ids_are_a_prompt_too(engine):
    ids = list(engine.render("hello there").ids)
    with Scheduler(engine) as scheduler:
        assert scheduler.submit(ids, 12).result(60) == answer_alone(engine, "hello there", 12)


def test_pieces_are_streamed_to_every_reader(engine):
    expected = answer_alone(engine, PROMPTS[3])
    with SteppedScheduler(engine) as scheduler:
        request = scheduler.submit(PROMPTS[3], 24)
        pieces = []
        reader = threading.Thread(target=lambda: pieces.extend(request))
        reader.start()
        scheduler.step()
        scheduler.step()
        assert not request.ended
        scheduler.run()
        reader.join(60)
        assert "".join(pieces) == "".join(request) == request.result() == expected
        assert len(pieces) > 5


def test_event_loops_read_without_being_blocked(engine):
    expected = [answer_alone(engine, prompt) for prompt in PROMPTS[:3]]

    async def read(request):
        return "".join([piece async for piece in request])

    async def main(scheduler):
        requests = [scheduler.submit(prompt, 24) for prompt in PROMPTS[:3]]
        return await asyncio.gather(*map(read, requests), *map(read, requests))

    with Scheduler(engine) as scheduler:
        assert asyncio.run(main(scheduler)) == expected * 2


def test_a_reader_whose_event_loop_is_gone_holds_nobody_up(engine):
    with SteppedScheduler(engine) as scheduler:
        request = scheduler.submit("hello", 24)
        scheduler.step()

        async def read_one():
            stream = aiter(request)
            await anext(stream)
            return stream

        stream = asyncio.run(read_one())
        scheduler.run()
        assert request.result() == answer_alone(engine, "hello")
        del stream


@pytest.mark.parametrize(
    ("pending", "max_rows", "rows"),
    [
        ([1, 1, 1], 8, [1, 1, 1]),
        ([1, 40, 1], 8, [1, 6, 1]),
        ([40, 1, 40], 8, [7, 1, 0]),
        ([3, 1, 40], 8, [3, 1, 4]),
        ([5, 5, 5], 3, [3, 0, 0]),
    ],
)
def test_decoding_comes_first_then_the_oldest_prompt(pending, max_rows, rows):
    assert share_rows(pending, max_rows) == rows


def test_a_long_prompt_never_stalls_those_that_decode(engine):
    with SteppedScheduler(engine, max_batch=4, max_step_tokens=16) as scheduler:
        decoding = [scheduler.submit("hi", 60) for _ in range(2)]
        while any(request.generation.made_tokens == 0 for request in decoding):
            scheduler.step()
        late = scheduler.submit("word " * 80, 5)
        del scheduler.plans[:]
        while late.generation.made_tokens == 0:
            scheduler.step()
        assert len(scheduler.plans) >= len(late.generation.history) // 16
        for plan in scheduler.plans:
            rows = dict(plan)
            assert sum(rows.values()) <= 16
            assert all(rows[request] == 1 for request in decoding if not request.ended)


def test_turns_come_in_the_order_of_arrival(engine):
    with SteppedScheduler(engine, max_batch=3, max_waiting=20) as scheduler:
        requests = [scheduler.submit(prompt, 6) for prompt in PROMPTS * 2]
        order = []
        while scheduler.busy:
            scheduler.step()
            assert len(scheduler.running) <= 3
            order += [request for request, _ in scheduler.plans[-1] if request not in order]
        assert order == requests


def test_too_many_are_refused_and_later_ones_taken(engine):
    with SteppedScheduler(engine, max_batch=1, max_waiting=1) as scheduler:
        first, second = scheduler.submit("one", 4), scheduler.submit("two", 4)
        scheduler.step()
        with pytest.raises(CapacityError, match="1 requests are waiting, at most 1 may"):
            scheduler.submit("three", 4)
        scheduler.run()
        third = scheduler.submit("three", 4)
        scheduler.run()
        assert all(request.ended for request in (first, second, third))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": []}, "no tokens"),
        ({"prompt": [1, 10**6]}, "token id 1000000"),
        ({"prompt": "word " * 600}, "the context holds 512"),
        ({"prompt": "hi", "max_tokens": 0}, "max_tokens=0"),
        ({"prompt": "hi", "stop": [""]}, "stop string"),
    ],
)
def test_wrong_requests_are_refused_by_submit(engine, arguments, message):
    with Scheduler(engine) as scheduler, pytest.raises(InputError, match=message):
        scheduler.submit(**arguments)


@pytest.mark.parametrize(
    "fields", [{"max_batch": 0}, {"max_waiting": -1}, {"max_step_tokens": 7}, {"max_batch": True}]
)
def test_wrong_limits_name_themselves(engine, fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        Scheduler(engine, **fields)


def test_the_youngest_gives_way_when_pages_run_out(model):
    """Three prompts of two pages grow to four each; the cache has eight."""
    with Engine.load(
        model, threads=1, shield="seal", context_tokens=64, cache_tokens=128, rows_per_page=16
    ) as engine:
        prompts = [f"{name} " + "a" * 9 for name in ("one", "two", "six")]
        expected = [answer_alone(engine, prompt, 100) for prompt in prompts]
        with SteppedScheduler(engine, max_batch=3) as scheduler:
            requests = [scheduler.submit(prompt, 100) for prompt in prompts]
            while scheduler.busy:
                scheduler.step()
                if not requests[0].ended:
                    assert scheduler.plans[-1][0][0] is requests[0]  # the oldest always runs
            assert [request.result() for request in requests] == expected
            assert requests[0].stats.preemptions == 0
            assert scheduler.stats()["preemptions"] > 0


def test_pages_held_outside_end_a_request_clearly_and_no_other(model):
    with Engine.load(model, threads=1, context_tokens=64, rows_per_page=16) as engine:
        expected = answer_alone(engine, "hi", 5)
        other = engine.open_session()
        other.feed([1] * 17)
        with SteppedScheduler(engine) as scheduler:
            small, big = scheduler.submit("hi", 5), scheduler.submit("a" * 40, 50)
            scheduler.run()
            assert small.result() == expected
            with pytest.raises(CapacityError, match="sessions outside the scheduler"):
                big.result()
        assert other.tokens == [1] * 17


def test_key_slots_held_outside_end_a_request_clearly(model):
    with Engine.load(model, threads=1, shield="seal") as engine:
        others = [engine.open_session() for _ in range(64)]
        with SteppedScheduler(engine) as scheduler:
            request = scheduler.submit("hi", 5)
            scheduler.step()
            with pytest.raises(CapacityError, match="key slots"):
                request.result()
            others[0].close()
            first, second = scheduler.submit("hi", 5), scheduler.submit("hi", 5)
            scheduler.run()  # one after the other, through the one slot
            assert first.result() == second.result()


def test_generate_takes_its_turn_beside_a_busy_scheduler(engine):
    expected = answer_alone(engine, "tell me more", 40)
    hot = SamplingParams(temperature=2.0, seed=1)
    with Scheduler(engine, max_batch=4) as scheduler:
        requests = [scheduler.submit("hello there", 300, sampling=hot) for _ in range(4)]
        assert "".join(engine.generate("tell me more", 40)) == expected
        assert len({request.result(60) for request in requests}) == 1


def test_many_threads_submit_at_once(engine):
    expected = {prompt: answer_alone(engine, prompt, 10) for prompt in PROMPTS}
    wrong = []
    with Scheduler(engine, max_batch=4, max_step_tokens=16) as scheduler:

        def client(number):
            for turn in range(4):
                prompt = PROMPTS[(number + turn) % len(PROMPTS)]
                if scheduler.submit(prompt, 10).result(60) != expected[prompt]:
                    wrong.append((number, turn))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        assert scheduler.stats()["running"] == scheduler.stats()["waiting"] == 0
    assert wrong == []


def test_figures_of_a_request_add_up(model):
    with (
        Engine.load(model, threads=1, shield="permute+seal", restore="tee") as engine,
        SteppedScheduler(engine, max_batch=2, max_step_tokens=16) as scheduler,
    ):
        first, _ = scheduler.submit("hello there", 9), scheduler.submit("hello there", 9)
        scheduler.run()
        stats = first.stats
        prompt = len(engine.render("hello there").ids)
        assert stats.prompt_tokens == stats.prefilled_tokens == prompt
        assert stats.decode_tokens == first.generation.made_tokens == 9
        assert stats.finish_reason == "length"
        steps = sum(request is first for plan in scheduler.plans for request, _ in plan)
        assert stats.tee_crossings == 1 + steps * engine.model.n_layers
        total = stats.queued_seconds + stats.prefill_seconds
        assert 0 < total <= stats.ttft_ms / 1e3
        assert scheduler.stats() == {
            "running": 0,
            "waiting": 0,
            "steps": len(scheduler.plans),
            "rows": 2 * (prompt + 8),
            "preemptions": 0,
        }
