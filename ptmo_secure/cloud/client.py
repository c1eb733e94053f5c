"""A cloud model behind the OpenAI SDK: what is asked passes egress, caps and breaker on its way.

egress = Egress(guard, EgressLog(folder))
with CloudClient(load_providers()["openai"], egress=egress, caps=SpendCaps(path)) as cloud:
    with egress.clearance(vault, "chat", user="ann"):
        print(cloud.complete(CloudRequest(({"role": "user", "content": masked.text},))).text)
"""

import random
import time
from collections.abc import Callable, Generator, Mapping
from types import TracebackType
from typing import Any, cast

import httpx2
import openai

from ptmo_secure.cloud.answers import Usage, choice_of, delta_of, malformed, usage_of
from ptmo_secure.cloud.asking import Call, written
from ptmo_secure.cloud.breaker import CircuitBreaker
from ptmo_secure.cloud.caps import SpendCaps
from ptmo_secure.cloud.egress import Egress
from ptmo_secure.cloud.failures import ProviderFailure, providers_failures
from ptmo_secure.cloud.length import Length
from ptmo_secure.cloud.network import Flight, current_flight
from ptmo_secure.cloud.providers import Provider
from ptmo_secure.cloud.retries import RetryPolicy
from ptmo_secure.cloud.streaming import CloudStream
from ptmo_secure.cloud.transport import MAX_RESPONSE_BYTES, EgressTransport
from ptmo_secure.cloud.trying import Attempts
from ptmo_secure.cloud.types import CloudDelta, CloudReply, CloudRequest
from ptmo_secure.errors import InputError

_NO_KEY = "none"  # the SDK wants one; the transport leaves the header out
_MAX_NAME_CHARS = 200
_LEAST_S = 1.0  # a shorter call could only fail


class CloudClient:
    """One model of one provider; a `Cloud`. Thread-safe; a context manager.

    Args:
        provider: who is asked.
        model: its name there; None: the provider's default, else the first that it lists, which is
            asked for at the first request.
        egress: checks and logs what leaves.
        caps: counts costs; None: nothing is capped.
        breaker: of this provider; None makes one. Clients of one provider can share theirs.
        retry: how failed attempts are repeated. Each attempt is checked, logged, reserved and
            counted by itself.
        environ: where the key is; None: the environment of the process.
        max_response_bytes: of an answer.
        now: seconds since the epoch, for Retry-After.
        clock: monotonic seconds.
        sleep: waits between attempts.
        draw: of the jitter.

    Security: text leaves through `egress` alone, with headers of our own. Errors never quote a
    server. Answers are checked for shape, size, depth and time; what they say is not: an answer is
    text from a stranger.
    """

    def __init__(
        self,
        provider: Provider,
        model: str | None = None,
        *,
        egress: Egress,
        caps: SpendCaps | None = None,
        breaker: CircuitBreaker | None = None,
        retry: RetryPolicy | None = None,
        environ: Mapping[str, str] | None = None,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        draw: random.Random | None = None,
    ) -> None:
        key = provider.key(environ)
        self.provider, self.egress = provider, egress
        self._model = model or provider.default_model
        if self._model is not None:
            self._set_model(self._model)
        self.breaker = breaker or CircuitBreaker(clock=clock)
        self._clock, self._now = clock, now
        self._transport = EgressTransport(
            egress, provider, self._model or "", key, max_response_bytes
        )
        self._sdk = openai.OpenAI(
            api_key=key or _NO_KEY,
            base_url=provider.base_url,
            max_retries=0,
            timeout=httpx2.Timeout(provider.timeout_s, connect=provider.connect_timeout_s),
            http_client=httpx2.Client(
                transport=self._transport, trust_env=False, follow_redirects=False
            ),
        )
        self._attempts = Attempts(
            provider,
            self.breaker,
            caps or SpendCaps(),
            retry or RetryPolicy(),
            sleep,
            draw or random.SystemRandom(),
        )

    @property
    def name(self) -> str:
        """ "provider/model"."""
        return f"{self.provider.name}/{self._model or '?'}"

    def complete(self, request: CloudRequest, *, deadline_s: float | None = None) -> CloudReply:
        """Return the whole answer.

        Args:
            request: what is asked; its texts are masked already.
            deadline_s: seconds for all attempts and waits together; None: the provider's timeout_s.
                Less where the caps on seconds and joules leave less.

        Raises:
            CloudError: the provider failed, is left alone for now, or a cap could be passed.
            EgressRefusedError: it may not leave; nothing was sent.
            InputError: the provider cannot do what is asked.
        """
        call, flight = written(request, self.provider), self._flight(deadline_s)
        with flight.current():
            model = self._known_model()
            price = self.provider.model(model)
            most = self._attempts.most(call, request.max_tokens)
            delta, usage, bill = self._attempts.run(
                flight, price, most, lambda: self._ask(call, model)
            )
        delta = Length(request.max_tokens).take(delta)
        return CloudReply(
            delta.text,
            delta.finish_reason or ("tool_calls" if delta.tool_calls else "stop"),
            delta.tool_calls,
            delta.positions,
            usage.prompt_tokens,
            usage.completion_tokens,
            bill.usd,
            flight.seconds,
            self.provider.name,
            model,
        )

    def stream(self, request: CloudRequest, *, deadline_s: float | None = None) -> CloudStream:
        """Return the answer chunk by chunk.

        It is sent when its first chunk is asked for, which has to be inside the clearance. Failed
        attempts are repeated until the first chunk has come. `close` it unless it is read to the
        end; `cancel` may be called by another thread.

        Args, Raises: as `complete`; errors come from the iterator.
        """
        call, flight = written(request, self.provider), self._flight(deadline_s)
        return CloudStream(self, self._attempts, flight, call, request.max_tokens)

    def models(self) -> tuple[str, ...]:
        """Ask the provider for the names of its models.

        Raises:
            CloudError, EgressRefusedError: as `complete`.
        """
        flight = current_flight() or self._flight(None)
        try:
            with flight.current(), providers_failures(self._now):
                data = _as_json(self._sdk.models.list()).get("data")
                if not isinstance(data, list):
                    raise malformed("no models")
        except ProviderFailure as failure:
            raise failure.error from None
        names = [one.get("id") for one in data if isinstance(one, Mapping)]
        return tuple(n for n in names if isinstance(n, str) and 0 < len(n) <= _MAX_NAME_CHARS)

    def close(self) -> None:
        """End its connections. Idempotent."""
        self._sdk.close()

    def __enter__(self) -> "CloudClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # What follows serves the methods above and the stream.

    def _flight(self, deadline_s: float | None) -> Flight:
        seconds = self.provider.timeout_s if deadline_s is None else deadline_s
        if not seconds > 0:
            raise InputError(f"deadline_s is {seconds}; it must be above 0")
        room_s = self._attempts.caps.most_seconds(self.provider.waiting_watts)
        if room_s >= _LEAST_S:  # else the cap refuses the call
            seconds = min(seconds, room_s)
        return Flight(seconds, self._clock)

    def _known_model(self) -> str:
        if self._model is None:
            names = self.models()
            if not names:
                raise malformed("no model is listed")
            self._set_model(names[0])
            self._transport.model = names[0]
        return cast("str", self._model)

    def _set_model(self, name: str) -> None:
        if not 0 < len(name) <= _MAX_NAME_CHARS or not name.isprintable():
            raise InputError(f"provider {self.provider.name}: {name!a} is no name of a model")
        self._model = name

    def _create(self, call: Call, model: str, **more: object) -> Any:
        """Call the SDK; each of its calls is one HTTP request."""
        api: Any = self._sdk.completions if call.legacy else self._sdk.chat.completions
        extra = {"extra_body": dict(call.extra)} if call.extra else {}
        return api.create(model=model, **call.fields, **extra, **more)

    def _ask(self, call: Call, model: str) -> tuple[CloudDelta, Usage | None]:
        """Make one attempt at a whole answer."""
        with providers_failures(self._now):
            answer = _as_json(self._create(call, model))
            choice = choice_of(answer)
            if choice is None:
                raise malformed("no choices")
            return delta_of(choice, "text" if call.legacy else "message"), usage_of(answer)

    def _chunks(self, call: Call, model: str) -> Generator[Mapping[str, object], None, None]:
        """Make one attempt at a streamed answer; yield its chunks as JSON."""
        more: dict[str, object] = {"stream": True}
        if "stream_usage" in self.provider.features:
            more["stream_options"] = {"include_usage": True}
        with self._create(call, model, **more) as stream:
            for chunk in stream:
                yield _as_json(chunk)


def _as_json(value: object) -> Mapping[str, object]:
    """Return an object of the SDK as the JSON it was made of; it takes any and checks nothing."""
    made = value.to_dict(warnings=False) if isinstance(value, openai.BaseModel) else value
    if not isinstance(made, Mapping):
        raise malformed("no JSON object")
    return made
