"""Decoding with both models: the device's KV cache and private context, a cloud's advice."""

from collections.abc import Iterator, Sequence

from ptmo_secure.cloud.fusion.align import TokenMap
from ptmo_secure.cloud.fusion.config import FusionConfig, FusionStats
from ptmo_secure.cloud.fusion.fuser import Fuser
from ptmo_secure.cloud.fusion.view import PublicView
from ptmo_secure.cloud.fusion.workers import RealClock
from ptmo_secure.cloud.types import Cloud
from ptmo_secure.engine.adapter_store import AdapterSelection
from ptmo_secure.engine.engine import Engine, Messages
from ptmo_secure.engine.generation import Generation
from ptmo_secure.engine.sampler import SamplingParams


class FusedDecoder:
    """Answers with the device's model and a cloud's together.

    Args:
        engine: the device's; each answer has a session of its own in it.
        cloud: the model that is asked.
        config: how; None for the defaults.

    Attributes:
        last_run: figures of the last answer, None before the first ends.
    """

    def __init__(self, engine: Engine, cloud: Cloud, config: FusionConfig | None = None) -> None:
        self.last_run: FusionStats | None = None
        self._engine, self._cloud = engine, cloud
        self._config = config or FusionConfig()
        self._tokens = TokenMap(engine.tokenizer)
        self._clock = RealClock()

    def generate(
        self,
        prompt: Messages | Sequence[int],
        view: PublicView,
        max_tokens: int = 64,
        *,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        adapters: Sequence[str] = (),
    ) -> Iterator[str]:
        """Answer piece by piece; no piece splits a character.

        Args:
            prompt: for the device, private parts and all: messages, or token ids as they are.
            view: the same for the cloud, public parts alone.
            max_tokens: tokens to make at most, >= 1.
            sampling: of the fused distribution; None decodes greedily.
            stop: strings that end the answer; none of them is part of it.
            adapters: loaded LoRA adapters, as for `Engine.generate`.

        Raises:
            InputError: bad arguments, an unknown adapter, or a prompt longer than the context.
            CapacityError: the engine has no room for another session.
            EngineError: the TEE died; the session is wiped, and the cloud not asked any more.

        Security: what goes to the cloud is what `view` gives of its own context and of the answer.
        """
        generation = self._engine.prepare(prompt, max_tokens, sampling=sampling, stop=stop)
        selection = self._engine.sessions.select(adapters)
        return self._run(generation, selection, view)

    def _run(
        self, generation: Generation, adapters: AdapterSelection, view: PublicView
    ) -> Iterator[str]:
        answer = bytearray()
        tokenizer = self._engine.tokenizer
        fuser = Fuser(self._tokens, self._cloud, view, self._config, clock=self._clock)
        try:
            with self._engine.sessions.open(adapters) as session:
                fuser.begin()
                logits = session.feed(generation.history)[-1]
                while True:
                    piece = generation.push(fuser.next(logits, answer))
                    if piece:
                        yield piece
                    if generation.finish_reason is not None:
                        break
                    token = generation.history[-1]
                    answer += tokenizer.token_bytes(token)
                    logits = session.feed([token])[-1]
        finally:
            fuser.close()
            fuser.stats.finish_reason = generation.finish_reason
            self.last_run = fuser.stats
