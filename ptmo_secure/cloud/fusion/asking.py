"""Asking a cloud without ever waiting for it longer than a deadline."""

import contextvars
import threading
from collections.abc import Callable

from ptmo_secure.cloud.fusion.draft import Draft, Found, Place
from ptmo_secure.cloud.fusion.workers import Clock, RealClock, Spawn, Workers
from ptmo_secure.cloud.types import Cloud, CloudRequest
from ptmo_secure.errors import EgressRefusedError, InputError

MAX_IN_FLIGHT = 2  # one that is read, and one that was given up and has not ended yet
MAX_PAUSE = 64
_LASTING = frozenset({"withheld", "refused", "unsupported", "no_logprobs"})  # so it would end again


MakeRequest = Callable[[], CloudRequest | None]


class Asker:
    """Keeps at most one path in use, and the waiting for it within bounds.

    A path that was late once is not waited for again until it has caught up. After a request that
    was late, broke off or was of no use, 1, 2, 4 .. 64 occasions to ask pass by: a dead cloud costs
    a deadline each time, and ever more rarely. An answer that may not be published, a request that
    egress refuses or the provider cannot take, or a cloud without log-probabilities ends it all.

    Args:
        cloud: which.
        timeout_s: seconds after which the client itself gives a request up.
        streaming: take the path token by token; otherwise whole.
        clock, spawn: time and threads; None for real ones.

    Attributes:
        requests: sent so far.
        failures: codes of requests that broke off, with their counts.

    Security: requests run in the caller's context, so the clearance that egress asks for is the
    caller's or none.
    """

    def __init__(
        self,
        cloud: Cloud,
        timeout_s: float,
        *,
        streaming: bool = True,
        clock: Clock | None = None,
        spawn: Spawn | None = None,
    ) -> None:
        self.clock = clock or RealClock()
        self.requests = 0
        self.failures: dict[str, int] = {}
        self.draft: Draft | None = None
        self._cloud, self._timeout_s, self._streaming = cloud, timeout_s, streaming
        self._workers: Workers | None = None
        if spawn is None:
            spawn = self._workers = Workers(MAX_IN_FLIGHT)
        self._spawn = spawn
        self._in_flight = 0
        self._slots = threading.Condition()  # notified when a request has ended
        self._late = False
        self._helped = False
        self._misses = 0
        self._pause = 0
        self._ended = False

    def may_ask(self, until_s: float) -> bool:
        """Say whether a request may be sent now; each call is an occasion.

        Waits for one that was given up to end, `until_s` at most, where too many are under way.
        """
        if self._ended:
            return False
        if self._pause > 0:
            self._pause -= 1
            return False
        until_s = self._before(until_s)
        with self._slots:
            while self._in_flight >= MAX_IN_FLIGHT:
                left_s = until_s - self.clock.now()
                if left_s <= 0:
                    self._miss()
                    return False
                self.clock.wait(self._slots, left_s)
        return True

    def ask(self, make: MakeRequest, anchor: int, chunk_tokens: int) -> None:
        """Give the present path up and ask for another one.

        Args:
            make: returns the request, None where there may be none; called beside the caller, since
                masking takes its time.
            anchor: bytes of the answer that the path goes on from.
            chunk_tokens: tokens asked for.
        """
        self.drop()
        self.draft = draft = Draft(anchor, chunk_tokens)
        self._late = self._helped = False
        with self._slots:
            self._in_flight += 1
        context = contextvars.copy_context()
        self._spawn(lambda: context.run(self._run, draft, make))

    def place(self, answer: bytes | bytearray, until_s: float) -> Found:
        """Say where the answer stands on the path, waiting for it until `until_s` at most."""
        draft = self.draft
        if draft is None:
            return Found(Place.LEFT)
        until_s = self._before(until_s)
        with draft.changed:
            found = draft.at(answer)
            while found.place is Place.PENDING and not self._late:
                left_s = until_s - self.clock.now()
                if left_s <= 0:
                    self._late = True
                    self._miss()
                    break
                self.clock.wait(draft.changed, left_s)
                found = draft.at(answer)
            if found.place in (Place.AT, Place.STOPPED):
                self._helped, self._late, self._misses = True, False, 0
            return found

    def drop(self) -> None:
        """Give the present path up; its request ends at once, or at the next piece that arrives."""
        draft, self.draft = self.draft, None
        if draft is None:
            return
        draft.cancel()
        code = draft.failure
        if code is not None:
            self.failures[code] = self.failures.get(code, 0) + 1
        if code in _LASTING:
            self._ended = True
        elif not self._late and (code is not None or not self._helped):
            self._miss()

    def close(self) -> None:
        """Give up what is under way; nothing can be asked any more. Idempotent."""
        self.drop()
        self._ended = True
        if self._workers is not None:
            self._workers.close()

    def _before(self, until_s: float) -> float:
        """Return when to stop waiting: early by the margin, by half of what is left at most."""
        left_s = until_s - self.clock.now()
        return until_s - min(self.clock.margin_s, left_s / 2)

    def _miss(self) -> None:
        self._pause = min(1 << self._misses, MAX_PAUSE)
        self._misses = min(self._misses + 1, 6)

    def _run(self, draft: Draft, make: MakeRequest) -> None:
        """Fill a path; whatever a provider or its client does wrong ends there."""
        try:
            request = make()
            if request is None:
                draft.fail("withheld")
                return
            with self._slots:
                self.requests += 1
            if self._streaming:
                self._stream(draft, request)
            else:
                reply = self._cloud.complete(request, deadline_s=self._timeout_s)
                draft.extend(reply.positions)
                draft.finish(reply.finish_reason, said=bool(reply.text))
        except EgressRefusedError:
            draft.fail("refused")
        except InputError:
            draft.fail("unsupported")
        except Exception:  # a hostile answer may provoke anything; the device goes on alone
            draft.fail("failed")
        finally:
            with self._slots:
                self._in_flight -= 1
                self._slots.notify_all()

    def _stream(self, draft: Draft, request: CloudRequest) -> None:
        chunks = self._cloud.stream(request, deadline_s=self._timeout_s)
        # An answer that leaves a draft is no failure of the provider's
        draft.on_cancel(getattr(chunks, "withdraw", None) or getattr(chunks, "cancel", None))
        said = False
        try:
            for chunk in chunks:
                said = said or bool(chunk.text)
                wanted = draft.extend(chunk.positions)
                if chunk.finish_reason is not None:
                    draft.finish(chunk.finish_reason, said=said)
                if not wanted:
                    return
            draft.fail("cut_off")  # of no effect where the path is complete
        finally:
            end = getattr(chunks, "close", None)
            if end is not None:  # a generator's end is the request's
                end()
