"""Options of commands that may ask a cloud, and the pipeline that they describe."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptmo_secure.cli import options
from ptmo_secure.errors import EngineError, InputError, not_installed

if TYPE_CHECKING:
    from contextlib import ExitStack

    from ptmo_secure.engine.engine import Engine
    from ptmo_secure.hybrid.cache import ResponseCache
    from ptmo_secure.hybrid.guarding import SharedGuard
    from ptmo_secure.hybrid.settings import HybridSettings
    from ptmo_secure.pipeline import HybridInferenceEngine
    from ptmo_secure.privacy.budget import PrivacyBudget
    from ptmo_secure.sealed.store import SealedStore
    from ptmo_secure.serve.guard_queue import GuardQueue
    from ptmo_secure.serve.routing import Router

Cloud = Annotated[
    str | None,
    typer.Option(
        "--cloud",
        metavar="URL|PROVIDER",
        help="What may leave is asked there: an address, or openai, groq, ollama, vllm ...",
    ),
]
CloudModel = Annotated[
    str | None,
    typer.Option("--cloud-model", metavar="M", help="Its model [default: the provider's]."),
]
Providers = Annotated[
    str | None,
    typer.Option(
        "--providers", metavar="FILE", help="Providers of one's own, with prices (docs/cloud.md)."
    ),
]
CloudTimeout = Annotated[
    float | None,
    typer.Option(
        "--cloud-timeout",
        metavar="S",
        help="Seconds for a cloud's whole answer; then the device's [default: the provider's, 60].",
    ),
]
Policy = Annotated[
    str,
    typer.Option("--policy", metavar="P", help="rule (whatever may go, goes) or rl (it chooses)."),
]
Cascade = Annotated[
    float | None,
    typer.Option(
        "--cascade",
        metavar="T",
        help="Answer here first; ask the cloud where the answer's mean ln p is below T, e.g. -1.",
    ),
]
Delegate = Annotated[
    bool,
    typer.Option("--delegate", help="Mixed queries go as a question that the device rewrites."),
]

Hedge = Annotated[
    float | None,
    typer.Option(
        "--hedge",
        metavar="S",
        help="The device begins as well where the cloud has not in S seconds; the first done wins.",
    ),
]

Fuse = Annotated[
    bool,
    typer.Option("--fuse", help="Queries that go whole: both models choose each token together."),
]

Cache = Annotated[
    str,
    typer.Option(
        "--cache",
        metavar="C",
        help="Keep the cloud's answers: off, exact, or similar (needs ptmo model pull minilm).",
    ),
]
_CACHES = ("off", "exact", "similar")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says of a cloud; fields as the options above.

    Args:
        state: --state.
    """

    cloud: str | None
    model: str | None = None
    policy: str = "rule"
    cascade: float | None = None
    delegate: bool = False
    hedge: float | None = None
    fuse: bool = False
    cache: str = "off"
    state: str | None = None
    providers: str | None = None
    timeout: float | None = None

    def check(self) -> None:
        """Refuse what makes no sense, before a model is loaded.

        Raises:
            InputError: an unknown provider or policy, no key or price, a bad number, or options
                without --cloud.
        """
        from ptmo_secure.hybrid.planning import POLICIES

        options.check_utf8("cloud", self.cloud, self.model)
        if self.policy not in POLICIES:
            raise InputError(f"unknown policy {self.policy!r}: choose from {', '.join(POLICIES)}")
        self.settings()
        if self.cloud is None:
            self._check_alone()
            return
        try:
            from ptmo_secure.hybrid.opening import find_provider
        except ModuleNotFoundError as missing:
            if missing.name not in ("openai", "httpx2"):
                raise
            raise not_installed("--cloud", "cloud") from None
        provider, named = find_provider(self.cloud, self.providers_file)
        model = self.model or named or provider.default_model
        if model is None and not provider.on_loopback:
            raise InputError(f"provider {provider.name}: name its model with --cloud-model")
        if model is not None:
            provider.model(model)
        provider.key()
        if self.fuse and "logprobs" not in provider.features:
            raise InputError(f"--fuse: {provider.name} returns no log-probabilities")

    @property
    def providers_file(self) -> Path | None:
        """The file of --providers."""
        return None if self.providers is None else Path(self.providers)

    def settings(self) -> "HybridSettings":
        """Return how the pipeline uses its cloud.

        Raises:
            InputError: a bad number.
        """
        from ptmo_secure.hybrid.cascade import Cascade as Threshold
        from ptmo_secure.hybrid.settings import HybridSettings

        fusion = None
        if self.fuse:
            from ptmo_secure.cloud.fusion.config import FusionConfig

            fusion = FusionConfig()
        if self.cache not in _CACHES:
            raise InputError(f"unknown cache {self.cache!r}: choose from {', '.join(_CACHES)}")
        return HybridSettings(
            delegate=self.delegate,
            cascade=None if self.cascade is None else Threshold(self.cascade),
            hedge_s=self.hedge,
            fusion=fusion,
            deadline_s=self.timeout,
        )

    def kept(self) -> "ResponseCache | None":
        """Return what keeps a cloud's answers, empty.

        Raises:
            InputError: the encoder is not here.
        """
        from ptmo_secure.hybrid.cache import ResponseCache

        if self.cache == "off":
            return None
        if self.cache == "exact":
            return ResponseCache()
        from ptmo_secure.engine.sentence_encoder import SentenceEncoder

        return ResponseCache(encoder=SentenceEncoder.load())

    def _check_alone(self) -> None:
        given = {
            "--cloud-model": self.model is not None,
            "--cascade": self.cascade is not None,
            "--delegate": self.delegate,
            "--cache": self.cache != "off",
            "--fuse": self.fuse,
            "--hedge": self.hedge is not None,
            "--providers": self.providers is not None,
            "--cloud-timeout": self.timeout is not None,
        }
        for name, is_given in given.items():
            if is_given:
                raise InputError(f"{name} needs --cloud")


def open_pipeline(engine: "Engine", asked: Asked) -> "HybridInferenceEngine":
    """Return a pipeline on an engine, of options that were checked."""
    from ptmo_secure.pipeline import HybridInferenceEngine

    if asked.cloud is None:
        return HybridInferenceEngine(engine)
    return HybridInferenceEngine(
        engine,
        asked.cloud,
        asked.policy,
        cloud_model=asked.model,
        providers=asked.providers_file,
        settings=replace(asked.settings(), cache=asked.kept()),
        budget=_shared_budget(engine),
        state=options.state_path(asked.state),
    )


def open_router(
    local: "Router",
    engine: "Engine",
    guard: "SharedGuard",
    queue: "GuardQueue",
    asked: Asked,
    held: "ExitStack",
) -> "Router":
    """Return the router of a server with a cloud, around the one that answers here.

    Args:
        local: answers on this device.
        engine: that it uses.
        guard: reads for both.
        queue: turns at it, of both.
        asked: with a cloud; checked.
        held: ends what is opened.
    """
    from ptmo_secure.hybrid.consulting import Consultant
    from ptmo_secure.hybrid.opening import open_cloud
    from ptmo_secure.hybrid.planning import Planner
    from ptmo_secure.privacy.manager import PrivacyManager
    from ptmo_secure.privacy.sensitivity import SensitivityClassifier
    from ptmo_secure.serve.hybrid_router import HybridRouter

    folder = options.state_path(asked.state)
    cloud = asked.cloud or ""
    client = held.enter_context(
        open_cloud(cloud, guard, asked.model, state=folder, providers=asked.providers_file)
    )
    classifier = SensitivityClassifier(guard)
    manager = PrivacyManager(classifier, _shared_budget(engine), state=folder)
    held.callback(manager.close)
    settings = asked.settings()
    cascades = settings.cascade is not None
    planner = Planner(guard, classifier, manager, asked.policy, cascade=cascades)
    consultant = Consultant(client, manager, asked.kept(), asked.timeout)
    return HybridRouter(local, planner, consultant, queue, settings)


def _shared_budget(engine: "Engine") -> "PrivacyBudget | None":
    """Return the budget of the device that the engine holds, which nobody else can open now."""
    from ptmo_secure.privacy.budget import PrivacyBudget
    from ptmo_secure.privacy.budget_state import SealedState

    def store() -> "SealedStore":
        tee = engine.sessions.tee  # another one after it died and was started anew
        if tee is None or tee.store is None:
            raise EngineError("the TEE of the device is not there")
        return tee.store

    tee = engine.sessions.tee
    if tee is None or tee.store is None:
        return None
    return PrivacyBudget(state=SealedState(store))
