"""One question to a cloud, under way in a thread of its own while the device works."""

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Protocol

from ptmo_secure.cloud.answers import joined_calls
from ptmo_secure.cloud.egress import Clearance, Egress
from ptmo_secure.cloud.types import Cloud, CloudDelta, CloudReply, CloudRequest
from ptmo_secure.errors import CloudError, PtmoError
from tee_sim.client import Vault


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
        unsent: called at the end of the block if certainly nothing left the device.
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
        unsent: Callable[[], None] | None = None,
    ) -> None:
        self._cloud, self._request, self._deadline_s = cloud, request, deadline_s
        self._clearance = cloud.egress.clearance(vault, why, user, session)
        # Not bounded here: the client takes no answer longer than its own limit
        self._arrived: queue.SimpleQueue[CloudDelta | BaseException | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._begun = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._stream: Iterator[CloudDelta] | None = None
        self._thread: threading.Thread | None = None
        self._held = ExitStack()
        self._given: Clearance | None = None
        self._unsent = unsent
        self.reply: CloudReply | None = None
        self.finish_reason = ""
        self.failed = False
        self.received: list[CloudDelta] = []

    def __enter__(self) -> "Exchange":
        self._given = self._held.enter_context(self._clearance)
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="ptmo-cloud", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.withdraw()
        if self._thread is not None:
            self._thread.join()
        self._held.close()
        if not self.left and self._unsent is not None:
            self._unsent()

    @property
    def left(self) -> bool:
        """Whether anything of the question may have left the device, as far as it has come."""
        return self._given is None or self._given.left > 0

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
        try:
            for delta in self:
                text += delta.text
                if text and self._arrived.empty():
                    yield text
                    text = ""
        except PtmoError:
            if text:  # it came before the failure
                yield text
            raise
        if text:
            yield text

    def cancel(self) -> None:
        """Cut a late call: whoever reads gets a `CloudError`. Idempotent; any thread may."""
        self._cut("cancel")

    def withdraw(self) -> None:
        """Cut a call as `cancel` that nobody waits for: it is not the provider's failure."""
        self._cut("withdraw")

    def _cut(self, how: str) -> None:
        self._ended.set()
        cut = getattr(self._stream, how, None) or getattr(self._stream, "cancel", None)
        if cut is not None and self._thread is not None and self._thread.is_alive():
            cut()
        self._arrived.put(CloudError("the call was cut off", "cancelled"))

    def wait_begun(self, timeout_s: float) -> bool:
        """Wait for the first piece or the end, so long at most; return whether either came."""
        return self._begun.wait(timeout_s)

    def when_over(self, call: Callable[[], None]) -> None:
        """Have this called once, from any thread, when the call has ended; at once if it has."""
        with self._lock:
            if not self._over.is_set():
                self._listeners.append(call)
                return
        call()

    @property
    def usd(self) -> float:
        """What its attempts were settled at so far, those that failed or were cut off as well."""
        spent = getattr(self._stream, "usd", 0.0)
        return float(spent)

    @property
    def tool_calls(self) -> tuple[dict[str, object], ...]:
        """The calls that were asked for, whole; masked as they came."""
        pieces = [call for delta in self.received for call in delta.tool_calls]
        return tuple(dict(call) for call in joined_calls(pieces)) if pieces else ()

    def _run(self) -> None:
        try:
            self._stream = self._cloud.stream(self._request, deadline_s=self._deadline_s)
            if self._ended.is_set():  # before there was anything to be cut
                raise CloudError("the call was cut off", "cancelled")
            for delta in self._stream:
                if self._ended.is_set():
                    break
                self._arrived.put(delta)
                self._begun.set()
            self.reply = getattr(self._stream, "reply", None) if not self._ended.is_set() else None
            self._end(None)
        except Exception as failure:  # told to whoever reads
            self._end(failure)
        except BaseException:
            self._end(CloudError("the call was interrupted"))
            raise
        finally:
            close = getattr(self._stream, "close", None)
            if close is not None:
                close()

    def _end(self, failure: BaseException | None) -> None:
        self.failed = failure is not None
        self._arrived.put(failure)
        self._begun.set()
        with self._lock:
            self._over.set()
            listeners, self._listeners = self._listeners, []
        for call in listeners:
            call()
