"""Runs a service on a socket until it is told to end."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from ptmo_secure.errors import InputError
from ptmo_secure.serve.app import build_app
from ptmo_secure.serve.service import Service

OnReady = Callable[[Callable[[], None]], None]
_BACKLOG = 1024
_HEADER_BYTES = 32 * 1024
_KEEP_ALIVE_S = 15
_CUT_S = 5  # after the grace time, for responses that end with an error


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that a wrong address is told before a model is loaded.

    Raises:
        InputError: the address is no address of this machine's, or in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"--host {host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InputError(f"--host {host} --port {port}: {error.strerror}") from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Return where clients find a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(service: Service, listener: socket.socket, on_ready: OnReady = lambda _: None) -> None:
    """Answer requests until SIGTERM or SIGINT; then let those under way end, and close the router.

    Answers that do not end within `grace_s` are cut off; a second signal cuts them off at once.

    Args:
        service: its router is closed at the end.
        listener: of `open_socket`; it is closed.
        on_ready: called once requests are taken, with a function that any thread may call to do
            what a signal does.
    """
    config = uvicorn.Config(
        build_app(service),
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(service.settings.grace_s + _CUT_S),
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    try:
        asyncio.run(_serve(service, config, listener, on_ready))
    finally:
        listener.close()


async def _serve(
    service: Service,
    config: uvicorn.Config,
    listener: socket.socket,
    on_ready: OnReady,
) -> None:
    try:
        await _Server(config, service, on_ready).serve([listener])
    finally:
        service.end_answers()
        service.embedder.close()
        await service.router.close()


class _Server(uvicorn.Server):
    """Ends quietly on a signal, and says when it is ready."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: OnReady) -> None:
        super().__init__(config)
        self._service, self._on_ready = service, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to take requests."""
        await super().startup(sockets)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.call_soon_threadsafe(self._stop)

        self._on_ready(stop)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests; cut answers off when their time is up."""
        loop, grace_s = asyncio.get_running_loop(), self._service.settings.grace_s
        timer = loop.call_later(grace_s, self._service.end_answers)
        await super().shutdown(sockets)
        timer.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the ending signals, and do not raise them again: ending was what they asked for."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        taken = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, self._end) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.should_exit:
            self._service.end_answers()
        self.should_exit = True
