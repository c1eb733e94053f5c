"""One question to a cloud, under way in a thread of its own while the device works."""

import contextvars
import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Protocol

from ptmo_secure.cloud.answers import joined_calls
from ptmo_secure.cloud.egress import Egress
from ptmo_secure.cloud.types import Cloud, CloudDelta, CloudReply, CloudRequest
from ptmo_secure.errors import CloudError, PtmoError
from tee_sim.client import Vault

_ROOM = 256  # deltas that may wait to be read
_POLL_S = 0.1


class ClearedCloud(Cloud, Protocol):
    """A cloud model behind an egress check; a `CloudClient` is one."""

    @property
    def egress(self) -> Egress:
        """What checks and logs all that it sends."""


class Exchange:
    """A question under way; a context manager that ends it. One thread reads it.

    Security: what is sent passes the cloud's egress under a clearance for this vault alone, which
    ends with the block.

    Args:
        cloud: is asked.
        request: its texts are masked.
        vault: whose values must not leave.
        why: code for the egress log.
        user, session: for the log.
        deadline_s: of the whole answer; None: the provider's own.
    """

    def __init__(
        self,
        cloud: ClearedCloud,
        request: CloudRequest,
        vault: Vault,
        why: str,
        user: str,
        session: str,
        deadline_s: float | None = None,
    ) -> None:
        self._cloud, self._request, self._deadline_s = cloud, request, deadline_s
        self._clearance = cloud.egress.clearance(vault, why, user, session)
        self._arrived: queue.Queue[CloudDelta | BaseException | None] = queue.Queue(_ROOM)
        self._ended = threading.Event()
        self._stream: Iterator[CloudDelta] | None = None
        self._thread: threading.Thread | None = None
        self._held = ExitStack()
        self.reply: CloudReply | None = None
        self.finish_reason = ""
        self.received: list[CloudDelta] = []

    def __enter__(self) -> "Exchange":
        self._held.enter_context(self._clearance)
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="ptmo-cloud", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        if self._thread is not None:
            self._thread.join()
        self._held.close()

    def __iter__(self) -> Iterator[CloudDelta]:
        """Yield what comes, as it comes.

        Raises:
            CloudError, EgressRefusedError, InputError: as the cloud client; whatever else it
                raised is a `CloudError`.
        """
        while True:
            arrived = self._arrived.get()
            if arrived is None:
                return
            if isinstance(arrived, PtmoError):
                raise arrived
            if isinstance(arrived, BaseException):
                raise CloudError(f"the cloud call failed ({type(arrived).__name__})") from None
            self.received.append(arrived)
            self.finish_reason = arrived.finish_reason or self.finish_reason
            yield arrived

    def pieces(self) -> Iterator[str]:
        """Yield the text as it comes; what came while nobody read, as one piece.

        Raises:
            CloudError, EgressRefusedError, InputError: as iterating.
        """
        text = ""
        for delta in self:
            text += delta.text
            if text and self._arrived.empty():
                yield text
                text = ""
        if text:
            yield text

    def cancel(self) -> None:
        """Cut the call: whoever reads gets a `CloudError`. Idempotent; any thread may."""
        self._ended.set()
        cancel = getattr(self._stream, "cancel", None)
        if cancel is not None and self._thread is not None and self._thread.is_alive():
            cancel()
        with suppress(queue.Full):
            self._arrived.put_nowait(CloudError("the call was cut off", "cancelled"))

    @property
    def tool_calls(self) -> tuple[dict[str, object], ...]:
        """The calls that were asked for, whole; masked as they came."""
        pieces = [call for delta in self.received for call in delta.tool_calls]
        return tuple(dict(call) for call in joined_calls(pieces)) if pieces else ()

    def _run(self) -> None:
        try:
            self._stream = self._cloud.stream(self._request, deadline_s=self._deadline_s)
            for delta in self._stream:
                if not self._put(delta):
                    break
            self.reply = getattr(self._stream, "reply", None) if not self._ended.is_set() else None
            self._put(None)
        except Exception as failure:  # told to whoever reads
            self._put(failure)
        except BaseException:
            self._put(CloudError("the call was interrupted"))
            raise
        finally:
            close = getattr(self._stream, "close", None)
            if close is not None:
                close()

    def _put(self, item: CloudDelta | BaseException | None) -> bool:
        while not self._ended.is_set():
            try:
                self._arrived.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False
