"""The requests that run together: which rows a step computes, and on whose pages."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ptmo_secure.engine.adapter_store import NO_ADAPTERS, AdapterSelection
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.feed import feed_batch
from ptmo_secure.engine.request import Request
from ptmo_secure.engine.session import Session
from ptmo_secure.engine.shelf import SessionShelf
from ptmo_secure.engine.stats import GenerationStats
from ptmo_secure.errors import CapacityError, EngineError, PtmoError, TeeDiedError
from tee_sim.client import TeeError


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way through the scheduler; it has a session while it runs."""

    request: Request
    adapters: AdapterSelection = NO_ADAPTERS  # as submitted, whatever is unloaded since
    session: Session | None = None
    admitted: float = 0.0
    prefilled: float = 0.0
    first_token: float = 0.0
    crossings: int = 0
    preemptions: int = 0
    name: str | None = None  # under which its session is kept
    holds_name: bool = False
    reused: int = 0  # prompt rows that were kept from an earlier request
    submitted: float = field(default_factory=time.perf_counter)

    @property
    def length(self) -> int:
        """Rows in the cache."""
        return len(self.session.tokens) if self.session is not None else 0

    @property
    def pending(self) -> list[int]:
        """Ids that are not in the cache yet: one while it decodes."""
        return self.request.generation.history[self.length :]

    def finish(self, reason: str) -> None:
        """End the request with its figures."""
        generation, now = self.request.generation, time.perf_counter()
        first = self.first_token or now
        prefilled = generation.prompt_tokens if self.prefilled else self.length
        self.request.end(
            stats=GenerationStats(
                prompt_tokens=generation.prompt_tokens,
                prefilled_tokens=max(0, prefilled - self.reused),
                decode_tokens=generation.made_tokens,
                ttft_ms=(first - self.submitted) * 1e3,
                prefill_seconds=(self.prefilled or now) - (self.admitted or now),
                decode_seconds=now - first,
                tee_crossings=self.crossings,
                finish_reason=reason,
                queued_seconds=(self.admitted or now) - self.submitted,
                preemptions=self.preemptions,
            )
        )


def share_rows(pending: Sequence[int], max_rows: int) -> list[int]:
    """Share a step's rows: one for each that decodes, the rest to prompts, the oldest's first.

    Args:
        pending: tokens each job has yet to feed, >= 1, oldest job first.
        max_rows: at least the number of jobs, so that the oldest always gets one.

    Returns:
        Rows for each job, 0 for a prompt that has to wait; their sum is at most `max_rows`.
    """
    rows = [int(n == 1) for n in pending]
    left = max_rows - sum(rows)
    for i, n in enumerate(pending):
        if n > 1:
            rows[i] = min(n, left)
            left -= rows[i]
    return rows


class Batch:
    """The running jobs, oldest first. One thread uses it."""

    def __init__(
        self, engine: Engine, max_step_tokens: int, shelf: SessionShelf | None = None
    ) -> None:
        self.jobs: list[Job] = []
        self._shelf = shelf
        self._engine = engine
        self._pool = engine.sessions
        self._max_step_tokens = max_step_tokens

    def fits(self, job: Job) -> bool:
        """Whether the pages do for a job's tokens and a next one beside the running jobs' own."""
        wanted = sum(self._new_pages(each, len(each.pending) + 1) for each in (*self.jobs, job))
        while wanted > self._pool.free_pages:
            if not self._reclaim():
                return False
        return True

    def open_session(self, job: Job) -> None:
        """Give a job its session: the one kept under its name where its rows go on, or a new one.

        Raises:
            CapacityError: every key slot is in use.
            EngineError: the TEE does not start, or the engine is closed.
        """
        before = self._pool.tee_crossings
        try:
            job.session = self._kept_session(job) or self._new_session(job)
        except PtmoError:
            self._release(job)
            raise
        job.crossings += self._pool.tee_crossings - before
        job.admitted = job.admitted or time.perf_counter()

    def _kept_session(self, job: Job) -> Session | None:
        if self._shelf is None or job.name is None or job.holds_name:
            return None
        history = job.request.generation.history
        job.holds_name, session = self._shelf.take(job.name, history, job.adapters)
        job.reused = len(session.tokens) if session is not None else 0
        return session

    def _keep(self, job: Job) -> None:
        if self._shelf is None or job.name is None or not job.holds_name or job.session is None:
            return
        job.session.prompt_tokens = job.request.generation.prompt_tokens
        self._shelf.give_back(job.name, job.session)
        job.session, job.holds_name = None, False

    def _release(self, job: Job) -> None:
        """Let another request have the job's name."""
        if self._shelf is not None and job.name is not None and job.holds_name:
            self._shelf.release(job.name)
            job.holds_name = False

    def _new_session(self, job: Job) -> Session:
        while True:
            try:
                return self._pool.open(job.adapters)
            except CapacityError:
                if not self._reclaim():
                    raise

    def _reclaim(self) -> bool:
        """Have a kept session that nobody uses make room."""
        return self._shelf is not None and self._shelf.reclaim()

    def plan(self) -> tuple[list[tuple[Job, list[int]]], list[Job]]:
        """Choose the next step's rows and make room for them.

        A job that finds no page takes those of the youngest; the youngest itself gives way. One
        that runs alone and finds none ends with `CapacityError`: others hold the pages.

        Returns:
            (job, ids to feed) pairs, and the jobs that gave up their rows, oldest first.
        """
        pending = [job.pending for job in self.jobs]
        rows = share_rows([len(ids) for ids in pending], self._max_step_tokens)
        chosen: list[tuple[Job, list[int]]] = []
        preempted: list[Job] = []
        claimed = 0
        for job, ids, count in zip(list(self.jobs), pending, rows, strict=True):
            if job.session is None:
                continue
            pages = self._new_pages(job, count)
            while pages > self._pool.free_pages - claimed and job.session is not None:
                if self._reclaim():
                    continue
                victim = self.jobs[-1]
                if len(self.jobs) == 1:
                    self.drop(job)
                    job.request.end(error=CapacityError(_FULL))
                else:
                    self._preempt(victim)
                    preempted.insert(0, victim)
            if job.session is not None and count:
                claimed += pages
                chosen.append((job, ids[:count]))
        return chosen, preempted

    def forward(
        self, plan: Sequence[tuple[Job, list[int]]]
    ) -> list[tuple[Job, npt.NDArray[np.float32]]]:
        """Run the rows of a plan in one pass; where that fails, each job's alone.

        Returns:
            (job, logits [vocab]) of each that has nothing left to feed.

        Raises:
            TeeDiedError: the TEE is gone; no job has rows any more.
        """
        before = self._pool.tee_crossings
        rows: list[npt.NDArray[np.float32] | None]
        try:
            rows = list(feed_batch([(_session(job), ids) for job, ids in plan]))
        except TeeDiedError:
            raise
        except PtmoError as error:
            rows = [self._forward_alone(job, ids, error) for job, ids in plan]
        crossings = self._pool.tee_crossings - before
        for job, _ in plan:
            job.crossings += crossings
        return [
            (job, row[-1])
            for (job, _), row in zip(plan, rows, strict=True)
            if row is not None and not job.pending
        ]

    def push(self, job: Job, logits: npt.NDArray[np.float32]) -> None:
        """Choose a job's next token, hand its text over, and drop the job where that was all."""
        generation = job.request.generation
        job.prefilled = job.prefilled or time.perf_counter()
        try:
            piece = generation.push(logits)
        except EngineError as error:
            self.drop(job)
            job.request.end(error=error)
            return
        job.first_token = job.first_token or time.perf_counter()
        if piece:
            job.request.add_piece(piece)
        if generation.finish_reason is not None:
            self.drop(job, keep=True)
            job.finish(generation.finish_reason)

    def drop(self, job: Job, *, keep: bool = False) -> None:
        """Take a job out: its pages are zeroed, its key is wiped.

        Args:
            job: one of `jobs`.
            keep: hand its session to the shelf instead, if the job has a name there.
        """
        self.jobs.remove(job)
        if keep and job.prefilled:
            self._keep(job)
        self._release(job)
        if job.session is not None:
            # Rows and key go first; what the TEE then refuses to forget is a number.
            with contextlib.suppress(TeeError):
                job.session.close()
            job.session = None

    def _preempt(self, job: Job) -> None:
        self.drop(job)
        job.preemptions += 1
        job.reused = 0

    def _forward_alone(
        self, job: Job, ids: list[int], error: PtmoError
    ) -> npt.NDArray[np.float32] | None:
        session = _session(job)
        if not session.closed:
            try:
                return feed_batch([(session, ids)])[0]
            except TeeDiedError:
                raise
            except PtmoError as own:
                error = own
        self.drop(job)
        job.request.end(error=error)
        return None

    def _new_pages(self, job: Job, rows: int) -> int:
        """Pages a job needs beyond its own for `rows` more rows."""
        per_page = self._engine.config.rows_per_page
        return -(-(job.length + rows) // per_page) - -(-job.length // per_page)


_FULL = "the KV cache is full: sessions outside the scheduler hold the pages this request needs"


def _session(job: Job) -> Session:
    if job.session is None:
        raise EngineError("a job without a session is in the plan")
    return job.session
