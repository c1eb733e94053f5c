"""What the endpoints share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ptmo_secure.errors import InputError
from ptmo_secure.serve.embedder import MODEL_ID, Embedder
from ptmo_secure.serve.limits import Concurrency, RateLimit
from ptmo_secure.serve.metrics import Metrics
from ptmo_secure.serve.routing import Router
from ptmo_secure.serve.users import LOCAL_KEY, ApiKey, KeyFile, Names

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How a server serves.

    Args:
        model: id that requests name.
        others: ids of further models, which have no adapters.
        host: address to listen on; one that is not loopback needs a key.
        port: 0 takes a free one.
        hosts: further names that clients may call the server by.
        max_tokens: longest answer that may be asked for, and the length where none is.
        context_tokens: of the model.
        max_body_bytes: largest body of a request.
        max_concurrent: requests answered at once; more are refused.
        requests_per_minute: of each key; None is no limit.
        burst: requests of a key that may come at once.
        grace_s: for answers under way when the server is told to end.

    Raises:
        InputError: a number is out of range.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8765
    hosts: tuple[str, ...] = ()
    max_tokens: int = 1024
    context_tokens: int = 8192
    max_body_bytes: int = 1 << 20
    max_concurrent: int = 128
    requests_per_minute: float | None = 600.0
    burst: int = 128
    grace_s: float = 10.0
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65535),
            ("max_tokens", 1, 1 << 20),
            ("max_body_bytes", 1024, 1 << 30),
            ("max_concurrent", 1, 65536),
            ("burst", 1, 65536),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name.replace('_', '-')} must be in {low}..{high}")
        if self.requests_per_minute is not None and not self.requests_per_minute > 0:
            raise InputError("requests-per-minute must be above 0")
        if not 0 <= self.grace_s <= 3600:
            raise InputError("grace must be in 0..3600 seconds")

    @property
    def needs_key(self) -> bool:
        """Whether every request must bring an API key, also while there is none."""
        return self.host not in LOOPBACK

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Names in the Host header that are taken; none checks none.

        A page elsewhere may have its own name lead to loopback (DNS rebinding); requests with a key
        need no such check.
        """
        if self.needs_key and not self.hosts:
            return frozenset()
        return frozenset((*LOOPBACK, self.host, *self.hosts))


@dataclass(frozen=True, slots=True)
class Service:
    """One running server.

    Args:
        adapters: names of the loaded LoRA adapters.
        embedder: makes the vectors of /v1/embeddings; closed with the server.
    """

    settings: ServeSettings
    router: Router
    keys: KeyFile
    names: Names
    rate: RateLimit
    concurrency: Concurrency
    metrics: Metrics
    adapters: Sequence[str] = ()
    embedder: Embedder = field(default_factory=Embedder)
    cuts: set[Callable[[], None]] = field(default_factory=set)  # one of each answer under way

    @classmethod
    def of(
        cls,
        settings: ServeSettings,
        router: Router,
        keys: KeyFile,
        names: Names,
        adapters: Sequence[str] = (),
        embedder: Embedder | None = None,
    ) -> "Service":
        """Put a service together."""
        return cls(
            settings,
            router,
            keys,
            names,
            RateLimit(settings.requests_per_minute, settings.burst),
            Concurrency(settings.max_concurrent),
            Metrics(router),
            tuple(adapters),
            embedder or Embedder(),
        )

    def end_answers(self) -> None:
        """Cut off every answer under way: it ends with an error."""
        for cut in list(self.cuts):
            cut()

    def models(self, key: ApiKey) -> list[Mapping[str, object]]:
        """The model objects of the OpenAI API.

        The model, it with each adapter of the key's, the other models, and the sentence encoder if
        it was pulled, which alone has the field `x_ptmo`.
        """
        names = [name for name in self.adapters if key is LOCAL_KEY or name in key.adapters]
        ids = [self.settings.model, *(f"{self.settings.model}+{name}" for name in names)]
        told = [_model_object(each) for each in (*ids, *self.settings.others)]
        if self.embedder.is_here():
            told.append({**_model_object(MODEL_ID), "x_ptmo": {"endpoint": "/v1/embeddings"}})
        return told


def _model_object(name: str) -> Mapping[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "ptmo"}
