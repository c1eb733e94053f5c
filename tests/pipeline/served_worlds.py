"""A server in this process between a real guard, a cloud on loopback and a device with a script."""

import asyncio
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager

from worlds import LentGuard, world

from ptmo_secure.cloud.types import Position, TokenLogprob
from ptmo_secure.hybrid.consulting import Consultant
from ptmo_secure.hybrid.guarding import SharedGuard
from ptmo_secure.hybrid.planning import Planner
from ptmo_secure.hybrid.settings import HybridSettings
from ptmo_secure.serve.hybrid_router import HybridRouter
from ptmo_secure.serve.routing import Outcome, Piece, Preview, Routing, ToolCall
from ptmo_secure.serve.users import LOCAL_KEY
from ptmo_secure.types import Level, Route
from tests.serve.serving import MODEL, serving, text_of

WORKERS = ("ptmo-cloud", "ptmo-hedge")


class ScriptedDevice:
    """A router that answers with the next of its texts, the last one again and again.

    Args:
        texts: pieces with "|" between them; a `ToolCall` calls.
        sure: ln p of each piece, where that is asked for.
    """

    def __init__(self, *texts, sure=-0.5) -> None:
        self.texts, self.sure = deque(texts or ("from the |device",)), sure
        self.asked, self.running = [], 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    async def check(self, request) -> None:
        """Refuse nothing."""

    async def route(self, request):
        return Routing(Route.LOCAL, Level.PRIVATE, 1.0, "here")

    async def answer(self, request, routing):
        self.asked.append(request)
        told = self.texts[0] if len(self.texts) == 1 else self.texts.popleft()
        token = TokenLogprob("t", b"t", self.sure)
        scored = () if request.top_logprobs is None else (Position(token, ()),)
        self.running += 1
        try:
            while not self.may_answer.is_set():
                await asyncio.sleep(0.01)
            if isinstance(told, ToolCall):
                yield told
                yield Piece("", scored)
            else:
                for piece in told.split("|"):
                    await asyncio.sleep(0)
                    yield Piece(piece, scored)
            yield Outcome("stop", 5, 3, crossings=2, facts={"shield": "seal"})
        finally:
            self.running -= 1

    async def preview(self, request):
        return Preview(await self.route(request), ())

    def gauges(self):
        return {"running": float(self.running)}

    async def close(self) -> None:
        """Nothing is kept."""


class ServedWorld:
    """What a test needs of a server that asks a cloud."""

    def __init__(self, served, router, device, here) -> None:
        self.served, self.router, self.device = served, router, device
        self.cloud, self.bodies, self.sent, self.says = (
            here.server,
            here.bodies,
            here.sent,
            here.says,
        )
        self.budget, self.client = here.budget, served.client()

    def ask(self, query, *, stream=False, user="ann", **more):
        """Return the text, and `x_ptmo`, as the unmodified client gets them."""
        messages = query if isinstance(query, list) else [{"role": "user", "content": query}]
        given = {"model": MODEL, "messages": messages, "user": user, "temperature": 0, **more}
        answer = self.client.chat.completions.create(stream=stream, **given)
        if not stream:
            return answer.choices[0].message.content, answer.x_ptmo
        chunks = list(answer)
        told = next(chunk.x_ptmo for chunk in chunks if getattr(chunk, "x_ptmo", None))
        return text_of(chunks), told

    def spent(self, user="ann") -> float:
        """The epsilon that was counted for a user."""
        return self.budget.status(self.served.service.names.user(LOCAL_KEY, user)).spent

    def preview(self, query, **wishes):
        body = {"messages": [{"role": "user", "content": query}], "user": "ann"}
        body |= {"x_ptmo": wishes} if wishes else {}
        status, told, _ = self.served.post("/x-ptmo/preview", body)
        assert status == 200
        return told

    def wait_idle(self, before=()) -> None:
        """Wait until nothing works for anybody any more."""
        end = time.monotonic() + 30
        while self.device.running or working() - set(before):
            assert time.monotonic() < end, "something goes on"
            time.sleep(0.01)


def working():
    """The threads that work for an answer."""
    return {thread for thread in threading.enumerate() if thread.name in WORKERS}


@contextmanager
def served_world(folder, guard, device, *, deadline_s=None, behaviour=None, others=(), **settings):
    """Put a server together; `settings` as of `HybridSettings`."""
    settings = HybridSettings(**settings)
    with ExitStack() as held:
        here = held.enter_context(world(folder, guard, behaviour=behaviour))
        pipeline = here.pipeline
        planner = Planner(
            SharedGuard(lambda: LentGuard(guard)),
            pipeline._planner.classifier,
            pipeline._manager,
            cascade=settings.cascade is not None,
        )
        cloud = pipeline._responder._consultant.cloud
        consultant = Consultant(cloud, pipeline._manager, deadline_s=deadline_s)
        router = HybridRouter(device, planner, consultant, settings=settings)
        served = held.enter_context(serving(router, others=others))
        yield ServedWorld(served, router, device, here)
