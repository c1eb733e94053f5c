"""A scheduler that runs when it is told to, and writes down what each step ran."""

import threading

from ptmo_secure.engine.scheduler import Scheduler


class SteppedScheduler(Scheduler):
    """Its worker only waits for the end; `step` does the work in the caller's thread.

    Attributes:
        plans: of each step, (request, rows) of every job in it, oldest first.
    """

    def __init__(self, engine, **fields):
        super().__init__(engine, **fields)
        self.plans = []
        plan = self._batch.plan

        def recorded():
            chosen, preempted = plan()
            self.plans.append([(job.request, len(ids)) for job, ids in chosen])
            return chosen, preempted

        self._batch.plan = recorded

    def _work(self):
        with self._changed:
            self._changed.wait_for(lambda: self._closing)
        self._fail_all(RuntimeError, "closed")

    @property
    def running(self):
        """Requests in the batch, oldest first."""
        return [job.request for job in self._batch.jobs]

    @property
    def busy(self):
        """Whether there is anything to do."""
        return bool(self._batch.jobs or self._waiting)

    def step(self):
        """Run one step, as the worker would; errors end requests."""
        assert threading.current_thread() is not self._worker
        self._step_or_fail()

    def run(self, limit=10_000):
        """Step until nothing is left to do."""
        for _ in range(limit):
            if not self.busy:
                return
            self.step()
        raise AssertionError(f"still busy after {limit} steps")


def answer_alone(engine, prompt, max_tokens=24, **fields):
    """What `generate` answers in a fresh conversation."""
    engine.reset()
    text = "".join(engine.generate(prompt, max_tokens, **fields))
    engine.reset()
    return text
