"""Decoding with both models: the device's KV cache and private context, a cloud's advice."""

import time
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
from ptmo_secure.engine.stats import GenerationStats


class FusedDecoder:
    """Answers with the device's model and a cloud's together.

    Args:
        engine: the device's; each answer has a session of its own in it.
        cloud: the model that is asked.
        config: how; None for the defaults.

    Attributes:
        last_run: figures of the last answer, None before the first ends.
        last_generation: what it took of the engine, as `Engine.last_run`; None where it was left.
    """

    def __init__(self, engine: Engine, cloud: Cloud, config: FusionConfig | None = None) -> None:
        self.last_run: FusionStats | None = None
        self.last_generation: GenerationStats | None = None
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
        answer, first_s = bytearray(), 0.0
        tokenizer, sessions = self._engine.tokenizer, self._engine.sessions
        fuser = Fuser(self._tokens, self._cloud, view, self._config, clock=self._clock)
        self.last_generation = None
        started_s, prompt = time.perf_counter(), len(generation.history)
        crossings = sessions.tee_crossings
        try:
            with sessions.open(adapters) as session:
                fuser.begin()
                logits = session.feed(generation.history)[-1]
                fed_s = time.perf_counter()
                while True:
                    piece = generation.push(fuser.next(logits, answer))
                    first_s = first_s or time.perf_counter()
                    if piece:
                        yield piece
                    if generation.finish_reason is not None:
                        break
                    token = generation.history[-1]
                    answer += tokenizer.token_bytes(token)
                    logits = session.feed([token])[-1]
            self.last_generation = GenerationStats(
                prompt_tokens=prompt,
                prefilled_tokens=prompt,
                decode_tokens=generation.made_tokens,
                ttft_ms=1e3 * (first_s - started_s),
                prefill_seconds=fed_s - started_s,
                decode_seconds=time.perf_counter() - first_s,
                tee_crossings=sessions.tee_crossings - crossings,
                finish_reason=generation.finish_reason,
            )
        finally:
            fuser.close()
            fuser.stats.finish_reason = generation.finish_reason
            self.last_run = fuser.stats
