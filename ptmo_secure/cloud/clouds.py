"""Several models of several providers at once, behind one egress, one set of caps.

with Clouds(load_providers(), egress, caps) as clouds:
    replies = clouds.complete_each({"openai/gpt-4o-mini": request, "groq": request})
"""

import contextvars
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from ptmo_secure.cloud.breaker import CircuitBreaker
from ptmo_secure.cloud.caps import SpendCaps
from ptmo_secure.cloud.client import CloudClient
from ptmo_secure.cloud.egress import Egress
from ptmo_secure.cloud.providers import Provider
from ptmo_secure.cloud.types import CloudReply, CloudRequest
from ptmo_secure.errors import CloudError, InputError

MAX_AT_ONCE = 16


class Clouds:
    """Clients by the name "provider" or "provider/model", made when first asked for. Thread-safe.

    The models of one provider share its circuit breaker; all share egress and caps.

    Args:
        providers: by name.
        egress: checks and logs what leaves.
        caps: counts costs; None: nothing is capped.
        environ: where keys are; None: the environment of the process.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        egress: Egress,
        caps: SpendCaps | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._providers, self._egress = dict(providers), egress
        self._caps, self._environ = caps or SpendCaps(), environ
        self._breakers: dict[str, CircuitBreaker] = {}
        self._clients: dict[str, CloudClient] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> CloudClient:
        """Return the client of a model.

        Args:
            name: "provider/model", or "provider" for its default model. A model's name may hold
                slashes.

        Raises:
            InputError: there is no such provider, or its key is not set.
        """
        provider, _, model = name.partition("/")
        with self._lock:
            if name not in self._clients:
                if provider not in self._providers:
                    known = ", ".join(sorted(self._providers))
                    raise InputError(f"unknown provider {provider!a}: choose from {known}")
                self._clients[name] = CloudClient(
                    self._providers[provider],
                    model or None,
                    egress=self._egress,
                    caps=self._caps,
                    breaker=self._breakers.setdefault(provider, CircuitBreaker()),
                    environ=self._environ,
                )
            return self._clients[name]

    def complete_each(
        self, requests: Mapping[str, CloudRequest], *, deadline_s: float | None = None
    ) -> dict[str, CloudReply | CloudError]:
        """Ask several models at the same time, under the clearance in force.

        Args:
            requests: by the model's name; at most 16.
            deadline_s: as in `Cloud.complete`, for each.

        Returns:
            For each the reply, or why there is none.

        Raises:
            EgressRefusedError: one of them may not leave; others may have been sent.
            InputError: there is no such model, or it cannot do what is asked.
        """
        if not 0 < len(requests) <= MAX_AT_ONCE:
            raise InputError(f"{len(requests)} requests at once; 1 to {MAX_AT_ONCE} are taken")
        clients = {name: self.get(name) for name in requests}

        def ask(name: str) -> CloudReply | CloudError:
            try:
                return clients[name].complete(requests[name], deadline_s=deadline_s)
            except CloudError as failure:
                return failure

        with ThreadPoolExecutor(len(requests), thread_name_prefix="cloud") as pool:
            asked = {
                name: pool.submit(contextvars.copy_context().run, ask, name) for name in requests
            }
        return {name: answer.result() for name, answer in asked.items()}

    def complete_first(
        self, names: Sequence[str], request: CloudRequest, *, deadline_s: float | None = None
    ) -> CloudReply:
        """Ask models in turn until one answers.

        Args:
            names: in the order of preference.
            request: what is asked.
            deadline_s: as in `Cloud.complete`, for each.

        Raises:
            CloudError: none did; the last one's failure.
            EgressRefusedError: it may not leave.
            InputError: no name was given, or as `get`.
        """
        failure: CloudError | None = None
        for name in names:
            try:
                return self.get(name).complete(request, deadline_s=deadline_s)
            except CloudError as error:
                failure = error
        raise failure or InputError("no model was named")

    def close(self) -> None:
        """End every client. Idempotent."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def __enter__(self) -> "Clouds":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
