"""An answer that comes chunk by chunk, and can be cut by another thread."""

import contextvars
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING

from ptmo_secure.cloud.answers import Usage, choice_of, delta_of, joined_calls, usage_of
from ptmo_secure.cloud.asking import Call
from ptmo_secure.cloud.failures import ProviderFailure, providers_failures
from ptmo_secure.cloud.length import Length
from ptmo_secure.cloud.network import Flight
from ptmo_secure.cloud.trying import Attempts, Try
from ptmo_secure.cloud.types import CloudDelta, CloudReply, Position
from ptmo_secure.errors import CloudError, InputError

if TYPE_CHECKING:
    from ptmo_secure.cloud.client import CloudClient


class CloudStream(Iterator[CloudDelta]):
    """The chunks of an answer; made by `CloudClient.stream`.

    One thread reads it; `cancel` and `close` may be called by any. Once it was read to its end,
    `reply` has the answer as a whole.
    """

    def __init__(
        self,
        client: "CloudClient",
        attempts: Attempts,
        flight: Flight,
        call: Call,
        max_tokens: int,
    ) -> None:
        """Use `CloudClient.stream`."""
        self._client, self._attempts, self._flight, self._call = client, attempts, flight, call
        self._most = attempts.most(call, max_tokens)
        self._length = Length(max_tokens)
        # The clearance that is in force now counts, whoever asks for the first chunk
        self._context = contextvars.copy_context()
        self._chunks: Generator[Mapping[str, object], None, None] | None = None
        self._try: Try | None = None
        self._tries: list[Try] = []
        self._over, self._wanted = False, True
        self._received: list[CloudDelta] = []
        self._usage: Usage | None = None
        self._reply: CloudReply | None = None

    def __iter__(self) -> "CloudStream":
        return self

    def __next__(self) -> CloudDelta:
        if self._over:
            raise StopIteration
        try:
            delta = self._context.run(self._step)
        except BaseException:
            self._end()
            raise
        if delta is None:
            raise StopIteration
        return delta

    @property
    def reply(self) -> CloudReply:
        """The whole answer.

        Raises:
            InputError: it was not read to its end.
        """
        if self._reply is None:
            raise InputError("the stream was not read to its end")
        return self._reply

    @property
    def usd(self) -> float:
        """What its attempts were settled at so far, those that failed or were cut off as well."""
        return sum(trying.cost.usd for trying in self._tries)

    def cancel(self) -> None:
        """Cut the call: whoever waits for a chunk gets an error at once. Idempotent."""
        self._flight.cancel()

    def withdraw(self) -> None:
        """Cut the call, which nobody wants any more: the provider has not failed. Idempotent."""
        if not self._flight.cancelled:
            self._wanted = False
        self.cancel()

    def close(self) -> None:
        """Let go of the call. Idempotent; nothing after the end."""
        if not self._over:
            self.cancel()
            self._end()

    def _end(self) -> None:
        self._over = True
        if self._try is not None:
            self._try.dropped()

    def _step(self) -> CloudDelta | None:
        """Return the next chunk that says something; None at the end."""
        with self._flight.current():
            retry = 0
            while True:
                try:
                    return self._next()
                except ProviderFailure as failure:
                    if self._try is not None:
                        self._try.failed(failure.error.code if self._wanted else "withdrawn")
                    self._chunks = None
                    if self._received:  # part of an answer was shown: another would not fit it
                        raise failure.error from None
                    self._attempts.wait(failure, retry, self._flight)
                    retry += 1

    def _next(self) -> CloudDelta | None:
        if self._chunks is None:
            model = self._client._known_model()
            price = self._client.provider.model(model)
            self._try = self._attempts.begin(self._flight, price, self._most)
            self._tries.append(self._try)
            self._chunks = self._client._chunks(self._call, model)
        with providers_failures(self._client._now):
            for chunk in self._chunks:
                self._usage = usage_of(chunk) or self._usage
                choice = choice_of(chunk)
                if choice is not None:
                    delta = delta_of(choice, "text" if self._call.legacy else "delta")
                    delta = self._length.take(delta)
                    if delta != CloudDelta(""):
                        self._received.append(delta)
                        if self._length.passed:
                            self._chunks.close()
                            self._finish()
                        return delta
            self._finish()
        return None

    def _finish(self) -> None:
        """Settle a whole answer."""
        reason = next((d.finish_reason for d in reversed(self._received) if d.finish_reason), None)
        if reason is None:
            raise CloudError("the answer broke off", "connection")
        text = "".join(delta.text for delta in self._received)
        pieces = [call for delta in self._received for call in delta.tool_calls]
        calls = joined_calls(pieces)
        positions: tuple[Position, ...] = sum((d.positions for d in self._received), ())
        size = len(text.encode()) + sum(len(str(call)) for call in calls)
        trying = self._try
        if trying is None:
            raise CloudError("the answer broke off", "connection")
        usage, cost = trying.answered(self._usage, size)
        self._over = True
        provider, model = self._client.provider.name, self._client._known_model()
        self._reply = CloudReply(
            text,
            reason,
            calls,
            positions,
            usage.prompt_tokens,
            usage.completion_tokens,
            cost.usd,
            self._flight.seconds,
            provider,
            model,
        )
