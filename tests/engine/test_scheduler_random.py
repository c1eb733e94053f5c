"""Random arrivals, lengths, limits and cancellations: every answer is bit for bit the one alone."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.sampler import SamplingParams
from tests.engine.stepped import SteppedScheduler
from tests.tiny_models import make_tiny_model

CONTEXT = 96
ENGINES = (  # shield and KV rows of all requests: one context is the tightest there is
    ({"shield": "none"}, 96),
    ({"shield": "none"}, 144),
    ({"shield": "seal"}, 128),
    ({"shield": "permute+seal", "restore": "tee", "prefill_chunk_tokens": 8}, 512),
)


@dataclass(frozen=True)
class Arrival:
    """A request, the steps before it comes, and those after which it is cancelled."""

    prompt: tuple[int, ...]
    max_tokens: int
    seed: int | None  # None decodes greedily
    gap: int
    cancel_after: int | None

    @property
    def sampling(self):
        if self.seed is None:
            return SamplingParams()
        return SamplingParams(temperature=1.2, top_p=0.9, seed=self.seed)


def prompt_of(length, seed):
    return tuple(int(i) for i in np.random.default_rng(seed).integers(3, 259, length))


ARRIVALS = st.builds(
    Arrival,
    prompt=st.builds(
        prompt_of, st.sampled_from([1, 2, 14, 17, 33, CONTEXT - 1]), st.integers(0, 99)
    ),
    max_tokens=st.sampled_from([1, 2, 17, 60, 90]),
    seed=st.none() | st.integers(0, 5),
    gap=st.sampled_from([0, 0, 1, 4]),
    cancel_after=st.sampled_from([None, None, None, None, 0, 3, 12, 40]),
)


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    path = make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path
    loaded = [
        Engine.load(
            path, threads=1, context_tokens=CONTEXT, cache_tokens=rows, rows_per_page=16, **fields
        )
        for fields, rows in ENGINES
    ]
    yield loaded
    for engine in loaded:
        engine.close()


def alone(engine, arrival):
    """The tokens of an answer, and a hash of the logits each was chosen from."""
    generation = engine.prepare(list(arrival.prompt), arrival.max_tokens, sampling=arrival.sampling)
    hashes = []
    with engine.open_session() as session:
        logits = session.feed(arrival.prompt)
        while True:
            hashes.append(hash(logits.tobytes()))
            generation.push(logits[-1])
            if generation.finish_reason is not None:
                return generation.history, hashes
            logits = session.feed(generation.history[-1:])


def record_logits(scheduler):
    """Hashes of the logits that each request's tokens are chosen from, as they come."""
    seen = {}
    push = scheduler._batch.push

    def recorded(job, logits):
        seen.setdefault(job.request, []).append(hash(logits.tobytes()))
        push(job, logits)

    scheduler._batch.push = recorded
    return seen


def check_step(scheduler, requests, max_batch, max_step_tokens):
    """What holds after each step: turns by age, nobody who decodes left out, bounded rows."""
    order = [requests.index(request) for request in scheduler.running]
    assert order == sorted(order)
    assert len(order) <= max_batch
    rows = dict(scheduler.plans[-1])
    assert sum(rows.values()) <= max_step_tokens
    for job in scheduler._batch.jobs:
        assert len(job.pending) > 1 or rows[job.request] >= 1
    waiting = [requests.index(job.request) for job in scheduler._waiting]
    assert waiting == sorted(waiting)
    if order and waiting:
        assert max(order) < min(waiting)


def play(engine, arrivals, max_batch, max_step_tokens):
    """Run a schedule; return requests, logits' hashes, and the steps each took to its end."""
    with SteppedScheduler(
        engine, max_batch=max_batch, max_step_tokens=max_step_tokens
    ) as scheduler:
        seen = record_logits(scheduler)
        requests, came, ended = [], [], {}
        now, coming, wait = 0, list(arrivals), arrivals[0].gap
        while coming or scheduler.busy:
            while coming and wait == 0:
                arrival = coming.pop(0)
                requests.append(
                    scheduler.submit(
                        list(arrival.prompt), arrival.max_tokens, sampling=arrival.sampling
                    )
                )
                came.append(now)
                wait = coming[0].gap if coming else 0
            wait = max(0, wait - 1)
            for request, arrival, start in zip(requests, arrivals, came, strict=False):
                if arrival.cancel_after is not None and now - start >= arrival.cancel_after:
                    request.cancel()
            scheduler.step()
            now += 1
            check_step(scheduler, requests, max_batch, max_step_tokens)
            for at, request in enumerate(requests):
                if request.ended and at not in ended:
                    ended[at] = now - came[at]
        return requests, seen, ended


def check_schedule(engines, number, arrivals, max_batch, spare_rows):
    engine = engines[number]
    max_step_tokens = max_batch + spare_rows
    requests, seen, ended = play(engine, arrivals, max_batch, max_step_tokens)
    assert engine.sessions.free_pages == -(-ENGINES[number][1] // 16)
    event(f"preemptions: {sum(request.stats.preemptions for request in requests) > 0}")
    bound = 0
    for at, (request, arrival) in enumerate(zip(requests, arrivals, strict=True)):
        history, hashes = alone(engine, arrival)
        got = request.generation.history
        assert got == history[: len(got)]
        assert seen.get(request, []) == hashes[: len(seen.get(request, []))]
        if request.stats.finish_reason != "cancelled":
            assert (got, seen[request]) == (history, hashes)
            assert request.stats.finish_reason in ("stop", "length")
        # Once the oldest, a request prefills spare_rows + 1 rows a step at least, then decodes.
        bound += math.ceil(CONTEXT / (spare_rows + 1)) + arrival.max_tokens + 1
        assert ended[at] <= bound


SCHEDULE = given(
    number=st.integers(0, len(ENGINES) - 1),
    arrivals=st.lists(ARRIVALS, min_size=2, max_size=8),
    max_batch=st.sampled_from([1, 2, 3, 5]),
    spare_rows=st.sampled_from([0, 1, 7, 40]),
)
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


@settings(max_examples=40, derandomize=True, **COMMON)
@SCHEDULE
def test_random_schedules_change_no_bit_and_starve_nobody(
    engines, number, arrivals, max_batch, spare_rows
):
    check_schedule(engines, number, arrivals, max_batch, spare_rows)


@pytest.mark.slow
@settings(max_examples=2000, **COMMON)
@SCHEDULE
def test_many_random_schedules_change_no_bit_and_starve_nobody(
    engines, number, arrivals, max_batch, spare_rows
):
    check_schedule(engines, number, arrivals, max_batch, spare_rows)
