"""Several models on this device behind one router: a request is answered by the one it names."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from ptmo_secure.serve.routing import ChatRequest, Event, Preview, Router, Routing


class ModelsRouter:
    """Passes each request on to the router of its model.

    Args:
        first: of requests that name no other model.
        others: of the others, by name.

    Security: a request reaches one router alone, and with it one model's engine, cache and kept
        sessions. An unknown name is the caller's to refuse: here it is an error.
    """

    def __init__(self, first: Router, others: Mapping[str, Router]) -> None:
        self._routers = {"": first, **others}

    async def check(self, request: ChatRequest) -> None:
        """Refuse a prompt that is longer than the model's context."""
        await self._routers[request.model].check(request)

    async def route(self, request: ChatRequest) -> Routing:
        """Rate a request."""
        return await self._routers[request.model].route(request)

    async def answer(self, request: ChatRequest, routing: Routing) -> AsyncGenerator[Event, None]:
        """Yield what the model's router yields."""
        answered = self._routers[request.model].answer(request, routing)
        async with aclosing(answered) as events:
            async for event in events:
                yield event

    async def preview(self, request: ChatRequest) -> Preview:
        """Tell what would become of the last message."""
        return await self._routers[request.model].preview(request)

    def gauges(self) -> Mapping[str, float]:
        """Return the sums of all models' figures."""
        sums: dict[str, float] = {}
        for router in self._routers.values():
            for name, value in router.gauges().items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    async def close(self) -> None:
        """Put away what has to survive a restart, of every model."""
        for router in self._routers.values():
            await router.close()
