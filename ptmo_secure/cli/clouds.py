"""Options of commands that may ask a cloud, and the pipeline that they describe."""

from typing import TYPE_CHECKING, Annotated

import typer

from ptmo_secure.cli import options
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from ptmo_secure.engine.engine import Engine
    from ptmo_secure.hybrid.guarding import SharedGuard
    from ptmo_secure.pipeline import HybridInferenceEngine
    from ptmo_secure.privacy.budget import PrivacyBudget
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


def check(cloud: str | None, model: str | None, policy: str, cascade: float | None) -> None:
    """Refuse what makes no sense, before a model is loaded.

    Raises:
        InputError: an unknown provider or policy, a bad threshold, or options without --cloud.
    """
    from ptmo_secure.hybrid.cascade import Cascade as Threshold
    from ptmo_secure.hybrid.planning import POLICIES

    options.check_utf8("cloud", cloud, model)
    if policy not in POLICIES:
        raise InputError(f"unknown policy {policy!r}: choose from {', '.join(POLICIES)}")
    if cascade is not None:
        Threshold(cascade)
    if cloud is None:
        if model is not None or cascade is not None:
            raise InputError("--cloud-model and --cascade need --cloud")
        return
    try:
        from ptmo_secure.hybrid.opening import find_provider
    except ModuleNotFoundError as missing:
        if missing.name not in ("openai", "httpx2"):
            raise
        raise InputError("--cloud needs its package: pip install 'ptmo-secure[cloud]'") from None
    find_provider(cloud)[0].key()


def open_pipeline(
    engine: "Engine",
    cloud: str | None,
    model: str | None,
    policy: str,
    cascade: float | None,
    delegate: bool,
    state: str | None,
) -> "HybridInferenceEngine":
    """Return a pipeline on an engine; arguments as of the command line, checked by `check`."""
    from ptmo_secure.hybrid.cascade import Cascade as Threshold
    from ptmo_secure.hybrid.settings import HybridSettings
    from ptmo_secure.pipeline import HybridInferenceEngine

    if cloud is None:
        return HybridInferenceEngine(engine)
    settings = HybridSettings(delegate, None if cascade is None else Threshold(cascade))
    return HybridInferenceEngine(
        engine,
        cloud,
        policy,
        cloud_model=model,
        settings=settings,
        budget=_shared_budget(engine),
        state=options.state_path(state),
    )


def open_router(
    local: "Router",
    engine: "Engine",
    guard: "SharedGuard",
    cloud: str,
    model: str | None,
    policy: str,
    state: str | None,
    held: "ExitStack",
) -> "Router":
    """Return the router of a server with a cloud, around the one that answers here.

    Args:
        local: answers on this device.
        engine: that it uses.
        guard: reads for both.
        cloud, model, policy, state: as of the command line, checked by `check`.
        held: ends what is opened.
    """
    from ptmo_secure.hybrid.consulting import Consultant
    from ptmo_secure.hybrid.opening import open_cloud
    from ptmo_secure.hybrid.planning import Planner
    from ptmo_secure.privacy.manager import PrivacyManager
    from ptmo_secure.privacy.sensitivity import SensitivityClassifier
    from ptmo_secure.serve.hybrid_router import HybridRouter

    folder = options.state_path(state)
    client = held.enter_context(open_cloud(cloud, guard, model, state=folder))
    classifier = SensitivityClassifier(guard)
    manager = PrivacyManager(classifier, _shared_budget(engine), state=folder)
    held.callback(manager.close)
    planner = Planner(guard, classifier, manager, policy)
    return HybridRouter(local, planner, Consultant(client, manager))


def _shared_budget(engine: "Engine") -> "PrivacyBudget | None":
    """Return the budget of the device that the engine holds, which nobody else can open now."""
    from ptmo_secure.privacy.budget import PrivacyBudget
    from ptmo_secure.privacy.budget_state import SealedState

    tee = engine.sessions.tee
    if tee is None or tee.store is None:
        return None
    return PrivacyBudget(state=SealedState(tee.store))
