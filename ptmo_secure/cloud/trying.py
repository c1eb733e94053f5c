"""Attempts at one call: each passes the breaker, is reserved, made and settled by itself."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from ptmo_secure.cloud.answers import Usage
from ptmo_secure.cloud.asking import Call
from ptmo_secure.cloud.breaker import Attempt, CircuitBreaker
from ptmo_secure.cloud.caps import Reservation, SpendCaps
from ptmo_secure.cloud.failures import NOT_BILLED, PROVIDERS_OWN, ProviderFailure
from ptmo_secure.cloud.network import Flight
from ptmo_secure.cloud.pricing import Cost, call_cost, most_prompt_tokens
from ptmo_secure.cloud.providers import ModelPrice, Provider
from ptmo_secure.cloud.retries import RetryPolicy
from ptmo_secure.cloud.types import CloudDelta
from ptmo_secure.errors import CloudError

Answered = tuple[CloudDelta, Usage | None]
_FRAME_BYTES = 256  # of a body, beside what is asked: model, stream


@dataclass(frozen=True, slots=True)
class Most:
    """Bounds on the tokens of a call."""

    prompt_tokens: int
    completion_tokens: int


class Try:
    """One attempt that is under way: allowed by the breaker, reserved, not settled.

    Attributes:
        cost: that it was settled at; nothing before.
    """

    def __init__(
        self,
        attempts: "Attempts",
        attempt: Attempt,
        reserved: Reservation,
        flight: Flight,
        model: ModelPrice,
        most: Most,
    ) -> None:
        """Use `Attempts.begin`."""
        self._attempts, self._attempt, self._reserved = attempts, attempt, reserved
        self._flight, self._model, self._most = flight, model, most
        self._begun_s = flight.seconds
        flight.sent = False
        self._open = True
        self.cost = Cost()

    def answered(self, usage: Usage | None, received_bytes: int) -> tuple[Usage, Cost]:
        """Settle an answer that came whole.

        Args:
            usage: as the provider counts; it is taken within what is possible, and where it counts
                nothing the bounds are taken.
            received_bytes: of the answer; it has no more tokens than bytes.

        Returns:
            What is billed.
        """
        most = self._most
        if usage is None:
            usage = Usage(most.prompt_tokens, min(most.completion_tokens, received_bytes))
        usage = Usage(
            min(usage.prompt_tokens, most.prompt_tokens),
            min(usage.completion_tokens, most.completion_tokens),
        )
        self._attempt.succeeded()
        return usage, self._settle(usage.prompt_tokens, usage.completion_tokens)

    def failed(self, code: str) -> None:
        """Settle an attempt that failed: at its bounds where the provider may bill it."""
        if code in PROVIDERS_OWN:
            self._attempt.failed()
        free = code in NOT_BILLED or not self._flight.sent
        most = Most(0, 0) if free else self._most
        self._settle(most.prompt_tokens, most.completion_tokens)

    def dropped(self) -> None:
        """Settle an attempt that was ended from here: at its bounds if anything was sent.

        Idempotent, and nothing after `answered` or `failed`.
        """
        if self._open:
            self.failed("dropped")

    def _settle(self, prompt_tokens: int, completion_tokens: int) -> Cost:
        seconds = self._flight.seconds - self._begun_s
        cost = call_cost(
            self._attempts.provider, self._model, prompt_tokens, completion_tokens, seconds
        )
        self._attempt.drop()
        if self._open:
            self._open, self.cost = False, cost
            self._attempts.caps.settle(self._reserved, cost)
        return cost


class Attempts:
    """How the calls of a client are tried. Thread-safe.

    Args:
        provider: who is asked.
        breaker, caps, retry: as in `CloudClient`.
        sleep: waits between attempts.
        draw: of the jitter.
    """

    def __init__(
        self,
        provider: Provider,
        breaker: CircuitBreaker,
        caps: SpendCaps,
        retry: RetryPolicy,
        sleep: Callable[[float], None],
        draw: random.Random,
    ) -> None:
        self.provider, self.caps = provider, caps
        self._breaker, self._retry, self._sleep, self._draw = breaker, retry, sleep, draw

    def most(self, call: Call, max_tokens: int) -> Most:
        """Return bounds on the tokens of a call."""
        return Most(most_prompt_tokens(call.body_bytes + _FRAME_BYTES, call.messages), max_tokens)

    def begin(self, flight: Flight, model: ModelPrice, most: Most) -> Try:
        """Begin an attempt.

        Raises:
            CloudError: not now, or not within the caps; nothing was sent.
        """
        attempt = self._breaker.enter()
        try:
            bound = call_cost(
                self.provider, model, most.prompt_tokens, most.completion_tokens, flight.left_s
            )
            reserved = self.caps.reserve(bound)
        except BaseException:
            attempt.drop()
            raise
        return Try(self, attempt, reserved, flight, model, most)

    def run(
        self, flight: Flight, model: ModelPrice, most: Most, ask: Callable[[], Answered]
    ) -> tuple[CloudDelta, Usage, Cost]:
        """Try until there is an answer.

        Raises:
            CloudError: of the last attempt, when it is not to be repeated.
        """
        retry = 0
        while True:
            trying = self.begin(flight, model, most)
            try:
                delta, usage = ask()
            except ProviderFailure as failure:
                trying.failed(failure.error.code)
                self.wait(failure, retry, flight)
                retry += 1
                continue
            except BaseException:
                trying.dropped()
                raise
            billed, cost = trying.answered(usage, _size(delta))
            return delta, billed, cost

    def wait(self, failure: ProviderFailure, retry: int, flight: Flight) -> None:
        """Wait before a retry, or raise the failure when there is to be none.

        Raises:
            CloudError: the failure.
        """
        error: CloudError = failure.error
        wait_s = self._retry.wait_s(retry, failure.asked_s, self._draw)
        self._retry.check(error, retry, wait_s, flight.left_s)
        self._sleep(wait_s)


def _size(delta: CloudDelta) -> int:
    """Return how many bytes of an answer there are to be billed."""
    return len(delta.text.encode()) + sum(len(str(call)) for call in delta.tool_calls)
