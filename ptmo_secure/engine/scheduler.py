"""Continuous batching: many requests, one pass over the weights a step.

After Orca (Yu et al., OSDI 2022): requests join and leave between steps, not between batches.
Prompts are prefilled in chunks beside the decoding ones (Sarathi-Serve, Agrawal et al., OSDI 2024),
so that no decoding request waits for more than `max_step_tokens` rows. When KV pages run out the
youngest request gives its rows up and computes them again later (vLLM's recomputation, Kwon et
al., SOSP 2023); the oldest is never touched, so every request ends after boundedly many steps.

With integer activations and an INT8 cache an answer is the same, bit for bit, as
`Engine.generate`'s.
"""

import atexit
import threading
from collections import deque
from collections.abc import Sequence

from ptmo_secure.engine.batch import Batch, Job
from ptmo_secure.engine.constraint import Constraint
from ptmo_secure.engine.engine import Engine, Messages
from ptmo_secure.engine.request import Request
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.engine.shelf import SessionShelf
from ptmo_secure.errors import CapacityError, EngineError, InputError, PtmoError


class Scheduler:
    """Answers many requests on one engine, first come, first served.

    Thread-safe: any number of threads may submit; one worker thread runs the model. The engine can
    be used beside it: other calls take their turn between two steps.

    Security: each request has a session and, under `seal`, a key of its own, wiped when the request
    ends. When the TEE dies every request fails with `TeeDiedError`, and nothing is left of them.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch: int = 8,
        max_waiting: int = 256,
        max_step_tokens: int = 32,
        shelf: SessionShelf | None = None,
    ) -> None:
        """Start the worker.

        Args:
            engine: it must outlive the scheduler; `cache_tokens` in its config says how many rows
                all requests may hold.
            max_batch: requests that run together, >= 1.
            max_waiting: requests that may wait for their turn, >= 0; more are refused.
            max_step_tokens: rows a step computes at most, >= max_batch.
            shelf: keeps the sessions of requests that name one.

        Raises:
            InputError: a number is out of range.
        """
        for name, value, low in (
            ("max_batch", max_batch, 1),
            ("max_waiting", max_waiting, 0),
            ("max_step_tokens", max_step_tokens, max_batch),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"{name}={value!r} is not a whole number >= {low}")
        self._engine = engine
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._batch = Batch(engine, max_step_tokens, shelf)
        self._waiting: deque[Job] = deque()  # oldest first
        self._changed = threading.Condition()  # guards _waiting and _closing
        self._closing = False
        self._steps = self._rows = self._preemptions = 0
        self._worker = threading.Thread(target=self._work, name="ptmo-scheduler", daemon=True)
        self._worker.start()
        atexit.register(self.close)  # a thread cut off in native code would take the process down

    def submit(
        self,
        prompt: Messages | Sequence[int],
        max_tokens: int = 64,
        *,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        adapters: Sequence[str] = (),
        top_logprobs: int | None = None,
        constraint: Constraint | None = None,
        session: str | None = None,
    ) -> Request:
        """Queue a request; returns at once.

        Args:
            prompt: messages as `Engine.generate`'s, or token ids.
            max_tokens, sampling, stop: as `Engine.generate`'s; each request draws by its own seed.
            adapters: as `Engine.generate`'s; each request has its own. Names are looked up now: the
                request is answered with these adapters, also if they are unloaded or replaced while
                it waits.
            top_logprobs: None, or how many likely tokens `generation.scored` tells for each token.
            constraint: a grammar that the answer is held to.
            session: name under which the shelf keeps the session: rows of the last request of this
                name that the prompt goes on from are reused. Of two at once the later has none.

        Raises:
            InputError: a bad argument, an unknown adapter, or a prompt longer than the context.
            CapacityError: too many are waiting.
            EngineError: the scheduler is closed, or this is a forked child of its process.
        """
        self._engine.sessions.owner.require()
        selection = self._engine.sessions.select(adapters)
        generation = self._engine.prepare(prompt, max_tokens, sampling=sampling, stop=stop)
        if top_logprobs is not None:
            generation.score(top_logprobs)
        if constraint is not None:
            generation.constrain(constraint)
        request = Request(generation)
        name = None if session is None else SessionShelf.check_name(session)
        with self._changed:
            if self._closing or not self._worker.is_alive():
                raise EngineError("the scheduler is closed")
            if len(self._waiting) + len(self._batch.jobs) >= self._max_batch + self._max_waiting:
                raise CapacityError(
                    f"{len(self._waiting)} requests are waiting, at most {self._max_waiting} may"
                )
            self._waiting.append(Job(request, selection, name=name))
            self._changed.notify()
        return request

    def stats(self) -> dict[str, int]:
        """Return counts: requests running and waiting, steps and rows so far, preemptions.

        Raises:
            EngineError: in a forked child.
        """
        self._engine.sessions.owner.require()
        return {
            "running": len(self._batch.jobs),
            "waiting": len(self._waiting),
            "steps": self._steps,
            "rows": self._rows,
            "preemptions": self._preemptions,
        }

    def close(self) -> None:
        """Fail what is not done, wipe it, and end the worker. Idempotent; waits for the step.

        In a forked child nothing happens: the worker is its parent's.
        """
        if self._engine.sessions.owner.inherited:
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._worker.join()
        atexit.unregister(self.close)

    def __enter__(self) -> "Scheduler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ the worker's side

    def _work(self) -> None:
        while self._wait_for_work():
            self._step_or_fail()
        self._fail_all(EngineError, "the scheduler is closed")

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting or self._batch.jobs)
            return not self._closing

    def _step_or_fail(self) -> None:
        try:
            self._step()
        except EngineError as error:
            self._fail_all(type(error), str(error))
        except Exception as error:  # whatever it is, nobody may wait for ever
            self._fail_all(EngineError, f"the scheduler failed: {type(error).__name__}")

    def _step(self) -> None:
        self._drop_cancelled()
        with self._engine.sessions.lock:  # no other call takes pages between plan and pass
            self._admit()
            plan, preempted = self._batch.plan()
            with self._changed:
                self._waiting.extendleft(reversed(preempted))
            self._preemptions += len(preempted)
            ready = self._batch.forward(plan) if plan else []
        self._steps += 1
        self._rows += sum(len(ids) for _, ids in plan)
        for job, logits in ready:
            self._batch.push(job, logits)

    def _admit(self) -> None:
        """Give waiting jobs their turn, oldest first, while there is room for the next."""
        batch = self._batch
        while self._waiting and len(batch.jobs) < self._max_batch:
            job = self._waiting[0]
            if batch.jobs and not batch.fits(job):
                return
            try:
                batch.open_session(job)
            except CapacityError as error:
                if batch.jobs:
                    return
                self._refuse(error)
                continue
            with self._changed:
                batch.jobs.append(self._waiting.popleft())

    def _refuse(self, error: PtmoError) -> None:
        """End the request whose turn it is."""
        with self._changed:
            job = self._waiting.popleft()
        job.request.end(error=error)

    def _drop_cancelled(self) -> None:
        cancelled = [job for job in self._batch.jobs if job.request.cancelled]
        for job in cancelled:
            self._batch.drop(job, keep=True)
        with self._changed:
            waiting = [job for job in self._waiting if job.request.cancelled]
            for job in waiting:
                self._waiting.remove(job)
        for job in cancelled + waiting:
            job.finish("cancelled")

    def _fail_all(self, kind: type[PtmoError], text: str) -> None:
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
        for job in self._batch.jobs[:]:
            self._batch.drop(job)
            job.request.end(error=kind(text))
        for job in waiting:
            job.request.end(error=kind(text))
