"""A pipeline between a real guard, a cloud on loopback and an engine that follows a script."""

import itertools
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from fakes import FakeEngine

from ptmo_secure.cloud.client import CloudClient
from ptmo_secure.cloud.egress import Egress
from ptmo_secure.cloud.egress_log import EgressLog
from ptmo_secure.cloud.providers import provider_at
from ptmo_secure.cloud.retries import RetryPolicy
from ptmo_secure.hybrid.restoring import Restorer
from ptmo_secure.pipeline import HybridInferenceEngine
from ptmo_secure.privacy.budget import PrivacyBudget
from tests.cloud import hostile_server as hostile

MIXED = "My password is secret123. What is Python?"
CARRIES = "Write an email to Dr. Andre Novak at andre@novak.org about the roof."


class ScriptedEngine(FakeEngine):
    """Answers each call with the next of its texts, the last one again and again.

    Args:
        texts: answers.
        mean_logprob: that `last_run` tells where a score was asked for.
    """

    def __init__(self, *texts: str, mean_logprob: float | None = None, reason="stop") -> None:
        super().__init__()
        self.texts = deque(texts or ("from the device",))
        self.mean_logprob, self.reason = mean_logprob, reason
        self.scores: list[bool] = []

    def generate(self, messages, max_tokens=64, *, score=False, **more):
        self.scores.append(score)
        self.pieces = self.texts[0].split("|")
        if len(self.texts) > 1:
            self.texts.popleft()
        yield from super().generate(messages, max_tokens, **more)
        sure = self.mean_logprob if score else None
        self.last_run = replace(self.last_run, mean_logprob=sure, finish_reason=self.reason)

    def asked(self) -> list[str]:
        """The last message of each prompt."""
        return [prompt[-1]["content"] for prompt in self.prompts]


class World:
    """What a test needs: the pipeline, the server it asks, and what lies between."""

    def __init__(self, pipeline, server, engine, guard, egress, budget) -> None:
        self.pipeline, self.server, self.engine = pipeline, server, engine
        self.guard, self.egress, self.budget = guard, egress, budget

    def answer(self, query, *args, **more):
        return self.pipeline.answer(query, *args, **more)

    def bodies(self) -> list[dict]:
        """The bodies that the server got."""
        return [request.json for request in self.server.requests if request.body]

    def sent(self) -> list[str]:
        """The last message of each."""
        return [body["messages"][-1]["content"] for body in self.bodies()]

    def says(self, *behaviours) -> None:
        """Have the server answer so from now on, the last one again and again."""
        self.server.script = list(behaviours[:-1])
        self.server.default = behaviours[-1]


class LentGuard:
    """A running guard that outlives whoever is given it."""

    def __init__(self, guard) -> None:
        self._guard = guard

    def __getattr__(self, name):
        return getattr(self._guard, name)

    def close(self) -> None:
        """Stay."""


@contextmanager
def world(
    folder, guard, *, engine=None, budget=None, behaviour=None, fields=None, caps=None, **more
):
    """Put a world together.

    Args:
        folder: for the egress log.
        guard: a running one; `launch_guard` takes another.
        fields: of the provider, beside its address.
        caps: on what calls may cost.
        more: arguments of the pipeline.
    """
    engine, budget = engine or ScriptedEngine(), budget or PrivacyBudget()
    with ExitStack() as held:
        behaviour = behaviour or hostile.stream(["from the cloud"])
        server = held.enter_context(hostile.HostileServer(behaviour))
        egress = Egress(LentGuard(guard), EgressLog(folder / "egress"))
        client = CloudClient(
            replace(provider_at(server.url, "here"), **(fields or {})),
            "m",
            egress=egress,
            caps=caps,
            environ={},
            retry=RetryPolicy(attempts=1),
        )
        held.enter_context(client)
        more.setdefault("launch_guard", lambda: LentGuard(guard))
        pipeline = HybridInferenceEngine(engine, client, budget=budget, **more)
        held.enter_context(pipeline)
        yield World(pipeline, server, engine, guard, egress, budget)


def streamed(vault, text, cuts):
    """Restore a text that comes in pieces, cut at these places."""
    restorer = Restorer(vault)
    ready = [restorer.feed(text[a:b]) for a, b in itertools.pairwise([0, *cuts, len(text)])]
    return "".join(ready) + restorer.finish()
