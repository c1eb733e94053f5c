"""One token: the device's logits in, the fused ones out."""

import numpy as np
import numpy.typing as npt

from ptmo_secure.cloud.fusion.align import TokenMap
from ptmo_secure.cloud.fusion.asking import Asker
from ptmo_secure.cloud.fusion.config import FusionConfig, FusionStats
from ptmo_secure.cloud.fusion.draft import Found, Place
from ptmo_secure.cloud.fusion.mix import CloudTop, DeviceView, fuse, join
from ptmo_secure.cloud.fusion.view import PublicView
from ptmo_secure.cloud.fusion.workers import Clock, Spawn
from ptmo_secure.cloud.types import Cloud

Logits = npt.NDArray[np.floating]


class Fuser:
    """Fuses an answer's distributions, token after token.

    A draft that the answer still follows costs nothing and is used wherever it lines up. Where
    there is none, the cloud is asked if the device is unsure. Where the cloud gives nothing in
    time, the device's logits come back untouched, so that a dead cloud changes no bit of them.

    Args:
        tokens: the device's vocabulary.
        cloud: the model that is asked.
        view: what it is told.
        config: how.
        clock, spawn: time and threads, for tests.

    Attributes:
        stats: of the answer so far.

    Security: logits, KV rows and the private context stay here; to the cloud goes what `view`
    gives. A cloud's answer can change which token is chosen, and nothing else.
    """

    def __init__(
        self,
        tokens: TokenMap,
        cloud: Cloud,
        view: PublicView,
        config: FusionConfig,
        *,
        clock: Clock | None = None,
        spawn: Spawn | None = None,
    ) -> None:
        self.stats = FusionStats()
        self._tokens, self._view, self._config = tokens, view, config
        self._asker = Asker(
            cloud, config.timeout_s, streaming=config.streaming, clock=clock, spawn=spawn
        )

    def begin(self) -> None:
        """Ask for the first draft, before the device has read the prompt."""
        if self._config.ask_at_start and self._config.ask_margin > 0:
            self._ask(b"")

    def next(self, logits: Logits, answer: bytes | bytearray) -> Logits:
        """Return the scores to choose the next token by.

        Args:
            logits: the device's, [vocab].
            answer: bytes of the answer so far.

        Returns:
            Fused log-probabilities, float64 [vocab], or `logits` itself.
        """
        clock, stats = self._asker.clock, self.stats
        device = DeviceView.of(logits)
        start_s = clock.now()
        found, why = self._look(device, answer, start_s + self._config.deadline_s)
        wait_s = clock.now() - start_s
        stats.tokens += 1
        stats.waited_s += wait_s
        stats.longest_wait_s = max(stats.longest_wait_s, wait_s)
        top = self._top(found)
        if top is None:
            stats.alone[why] = stats.alone.get(why, 0) + 1
            return logits
        stats.fused += 1
        atoms = join(device, top)
        return fuse(atoms, self._config.weight.share(atoms), self._config.rule)

    def close(self) -> None:
        """Give up what is under way. Idempotent."""
        self._asker.close()
        self.stats.requests = self._asker.requests
        self.stats.failures = dict(self._asker.failures)

    def _look(
        self, device: DeviceView, answer: bytes | bytearray, until_s: float
    ) -> tuple[Found, str]:
        """Find the answer's place on a path, asking for one where it is worth it.

        Returns:
            The place, and why the device is alone if it is of no use.
        """
        asker = self._asker
        found = asker.place(answer, until_s)
        why = "unavailable"
        if found.place in (Place.LEFT, Place.OVER):
            asker.drop()
            if device.margin >= self._config.ask_margin:
                return found, "sure"
            if not asker.may_ask(until_s):
                return found, why
            self._ask(bytes(answer))
            found = asker.place(answer, until_s)
        if found.place is Place.INSIDE:
            why = "inside"
        elif found.place is Place.PENDING:
            why = "late"
        return found, why

    def _ask(self, answer: bytes) -> None:
        tokens, top = self._config.chunk_tokens, self._config.top_logprobs
        text = self._view.publishable(answer)
        self._asker.ask(lambda: self._view.request(text, tokens, top), len(text.encode()), tokens)

    def _top(self, found: Found) -> CloudTop | None:
        if found.place is Place.AT:
            return self._tokens.top(found.tokens)
        if found.place is Place.STOPPED and self._tokens.end_id is not None:
            likely = np.log([self._config.end_probability])
            return CloudTop(np.array([self._tokens.end_id], dtype=np.int64), likely)
        return None
