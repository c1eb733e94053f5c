"""The main job, top to bottom: guard, gate, route, engine and cloud. Read this file first."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ptmo_secure.config import DEFAULT_MODEL, GenerationConfig
from ptmo_secure.errors import InputError
from ptmo_secure.hybrid.answering import Responder
from ptmo_secure.hybrid.consulting import Consultant
from ptmo_secure.hybrid.deciding import affordable, decide, names_of, permitted
from ptmo_secure.hybrid.device import Device, LocalEngine, Writer
from ptmo_secure.hybrid.exchange import ClearedCloud
from ptmo_secure.hybrid.guarding import SharedGuard
from ptmo_secure.hybrid.jobs import Job, Outcome
from ptmo_secure.hybrid.planning import Planner
from ptmo_secure.hybrid.settings import HybridSettings
from ptmo_secure.hybrid.telling import text_of
from ptmo_secure.hybrid.trace import Trace
from ptmo_secure.privacy.budget import PrivacyBudget
from ptmo_secure.privacy.gate import ALLOWED as ALLOWED
from ptmo_secure.privacy.manager import DEFAULT_SESSION, DEFAULT_USER, PrivacyManager
from ptmo_secure.privacy.sensitivity import SensitivityClassifier
from ptmo_secure.types import Answer

if TYPE_CHECKING:
    from ptmo_secure.cloud.client import CloudClient
    from tee_sim.client import TeeClient

Message = Mapping[str, object]  # "role" and "content", as in the OpenAI chat API


class HybridInferenceEngine:
    """Answers queries through the whole pipeline; a context manager.

    Args:
        engine: an open `Engine`; None opens the default model when it is first needed.
        cloud: a `CloudClient`; or an address or a provider's name, which opens one; None: every
            query is answered on this device.
        policy: "rule" tells a cloud whatever may be told; "rl" is the policy inside the package.
        cloud_model: name of a model, for a cloud that is opened here; None: the provider's default.
        providers: a TOML file of providers of one's own, for the same.
        settings: cascade, delegation, cache, rewriting; None: none of them.
        budget: counts what is disclosed, and stays the caller's; None: the one in `state`.
        state: folder of the device's sealed state; None: $PTMO_STATE or ~/.local/state/ptmo.
        launch_guard: starts a guard process.
        clock: monotonic seconds.

    Security: text reaches the guard process and the local engine; a cloud gets what the gate lets
    go, masked, through egress. Whatever goes wrong in guard, TEE, budget or egress keeps the query
    on the device.
    """

    def __init__(
        self,
        engine: LocalEngine | None = None,
        cloud: ClearedCloud | str | None = None,
        policy: str = "rule",
        *,
        cloud_model: str | None = None,
        providers: Path | None = None,
        settings: HybridSettings | None = None,
        budget: PrivacyBudget | None = None,
        state: Path | None = None,
        launch_guard: "Callable[[], TeeClient] | None" = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine, self._owns_engine, self._clock = engine, engine is None, clock
        self._guard = SharedGuard(launch_guard)
        self._own_cloud: CloudClient | None = None
        if isinstance(cloud, str):
            from ptmo_secure.hybrid.opening import open_cloud

            cloud = self._own_cloud = open_cloud(
                cloud, self._guard, cloud_model, state=state, providers=providers
            )
        options = settings or HybridSettings()
        classifier = SensitivityClassifier(self._guard)
        self._manager = PrivacyManager(classifier, budget, state=state)
        self._planner = Planner(
            self._guard, classifier, self._manager, policy, cascade=options.cascade is not None
        )
        consultant = None
        if cloud is not None:
            consultant = Consultant(cloud, self._manager, options.cache, options.deadline_s)
        self._stays = cloud is None
        self._responder = Responder(Device(self._open_engine), consultant, classifier, options)

    def answer(
        self,
        query: str | Sequence[Message],
        options: GenerationConfig | None = None,
        on_text: Callable[[str], None] | None = None,
        *,
        user: str = DEFAULT_USER,
        session: str = DEFAULT_SESSION,
        tools: Sequence[Mapping[str, object]] = (),
        keep_local: Collection[int] = (),
        local_only: bool = False,
    ) -> Answer:
        """Answer a query, or the last message of a conversation.

        Args:
            query: the user's text, or chat messages with "role" and "content".
            options: length, sampling, stop strings, system prompt, adapters; greedy by default.
            on_text: called with each piece of the answer as it comes.
            user, session: whose vault, budget and cache serve it.
            tools: that a cloud may ask for, as in the OpenAI API; the device's model gets none.
            keep_local: numbers of the query's segments that stay here, in later turns as well.
            local_only: all of it stays.
        Raises:
            InputError: the query is empty, longer than the model's context, or names an adapter
                that is not loaded.
            EngineError: the run failed; nothing unshielded is left behind.
        """
        options = options or GenerationConfig()
        trace, writer = Trace(self._clock), Writer(on_text)

        with trace.step("prepare"):
            messages = as_messages(query, options.system)
        with trace.step("guard.scan") as facts:
            self._planner.note(messages, user, keep_local, local=local_only)
            turn = self._planner.read(messages, user, session, stays=self._stays or local_only)
            facts |= turn.facts()
        with trace.step("decompose") as facts:  # which parts may go, by their levels
            case = self._planner.divide(turn, options.max_tokens, frozenset(keep_local))
            facts |= case.facts()
        with trace.step("gate") as facts:  # what the privacy rules allow
            allowed = permitted(case)
            facts |= {"allowed": names_of(allowed)}
        with trace.step("budget") as facts:  # what may still be told
            left = self._planner.left(turn, allowed)
            allowed = affordable(allowed, case.proposed.cost, left)
            facts |= {"allowed": names_of(allowed), "left": left}
        with trace.step("route") as facts:  # a policy chooses inside that, and is held to it
            policy = self._planner.policy
            choice = decide(case, allowed, policy.view(case, left), policy.choose)
            facts |= {"policy": policy.name, "action": choice.kind.value}
            facts |= {"overruled": True} if choice.overruled else {}
        with trace.step("guard.mask") as facts:  # what a cloud is asked, with placeholders
            question = self._responder.question(case, choice, options, tools, facts)
        job = Job(case, choice, messages, options, writer, trace)
        try:
            outcome = self._responder.respond(job, question)  # engine and cloud, merged, unmasked
        finally:
            self._planner.settle(messages, user, told=job.told)
            if not job.told:
                self._planner.hold_back(user, writer.text)
        return self._finished(job, outcome)

    # What follows serves the steps above.

    def _finished(self, job: Job, outcome: Outcome) -> Answer:
        turn, run, trace = job.case.turn, outcome.run, job.trace
        self._planner.hear(turn, job.writer.text, outcome.tool_calls, outcome.said)
        return Answer(
            text=job.writer.text,
            route=outcome.route,
            level=turn.found.level,
            score=turn.found.score,
            trace=tuple(trace.steps),
            tokens=0 if run is None else run.decode_tokens,
            ttft_ms=0.0 if run is None else run.ttft_ms,
            decode_tps=0.0 if run is None else run.decode_tps,
            shield="" if self._engine is None else self._engine.config.shield,
            wall_ms=trace.wall_ms(),
            masked=outcome.masked or {},
            usd=outcome.usd,
            tool_calls=outcome.tool_calls,
        )

    def _open_engine(self) -> LocalEngine:
        if self._engine is None:
            from ptmo_secure.engine.engine import Engine

            self._engine = Engine.load(DEFAULT_MODEL)
        return self._engine

    def forget(self, user: str = DEFAULT_USER, session: str = DEFAULT_SESSION) -> None:
        """Let go of what a session masked; its placeholders begin anew."""
        self._guard.forget(user, session)

    def close(self) -> None:
        """End the guard, and what else this object opened. Idempotent."""
        if self._own_cloud is not None:
            self._own_cloud.close()
        self._manager.close()
        self._guard.close()
        if self._owns_engine and self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> "HybridInferenceEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def as_messages(query: str | Sequence[Message], system: str | None) -> list[Message]:
    """Return a query as the messages of a conversation.

    Raises:
        InputError: it is empty, or not valid Unicode.
    """
    messages: list[Message] = (
        [{"role": "user", "content": query}] if isinstance(query, str) else list(query)
    )
    if not messages or not text_of(messages[-1]).strip():
        raise InputError("the prompt is empty")
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    try:
        "".join(map(text_of, messages)).encode()
    except UnicodeEncodeError:
        raise InputError("the prompt is not valid UTF-8") from None
    return messages
