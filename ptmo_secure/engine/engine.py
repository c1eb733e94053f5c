"""A model on the device, with its KV cache behind a shield."""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt

from ptmo_secure import _native
from ptmo_secure.engine import registry
from ptmo_secure.engine.chat_template import ChatTemplate, Prompt
from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.dump import DeviceDump, DumpLayout
from ptmo_secure.engine.gguf_import import LlamaConfig, ModelSource
from ptmo_secure.engine.sampler import Sampler, SamplingParams
from ptmo_secure.engine.session import Session
from ptmo_secure.engine.stats import GenerationStats
from ptmo_secure.engine.streaming import TextStream
from ptmo_secure.engine.tee_link import TeeLink
from ptmo_secure.engine.tokenizer import Tokenizer
from ptmo_secure.engine.weights import Progress, load_weights
from ptmo_secure.errors import EngineError, InputError

Messages = str | Sequence[Mapping[str, object]]  # a str is one user message

_KV_TYPES = {
    "int8": _native.KvType.int8,
    "fp16": _native.KvType.fp16,
    "fp32": _native.KvType.fp32,
}


class Engine:
    """A decoder, its tokenizer and its KV cache; build it with `Engine.load`.

    One generation at a time: starting another makes the first raise. The rows of the last call
    stay in memory, as in any engine with a prefix cache, until the next call or `reset()`.

    Attributes:
        config: what was asked for.
        model: the model's dimensions.
        tokenizer, chat_template: built from the model file.
        last_run: figures of the last `generate`, None before it ends.

    Security: what the memory discloses depends on `config.shield` (docs/threat-model.md).
    """

    def __init__(
        self,
        source: ModelSource,
        config: EngineConfig,
        *,
        tee_debug_root_key: bytes | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Use `Engine.load`."""
        self.config = config
        self.model: LlamaConfig = source.config
        self.tokenizer = Tokenizer(source.metadata, source.path.name)
        self.chat_template = ChatTemplate(source.metadata, self.tokenizer, source.path.name)
        self.context_tokens = _context_tokens(config, source.config)
        self.last_run: GenerationStats | None = None
        self._source = source
        self._debug_root_key = tee_debug_root_key
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._session_count = 0
        self._runs = 0
        self._crossings_before = 0
        layout = _page_layout(config, source.config)
        pages = -(-self.context_tokens // config.rows_per_page) * config.max_sessions
        try:
            self._pages = _native.PageArena(layout, pages)
            self._decoder = _decoder(config, source.config, layout, self.context_tokens)
            load_weights(self._decoder, source, progress)
        except ValueError as error:
            raise InputError(f"{source.path.name}: {error}") from None
        except RuntimeError as error:
            raise EngineError(str(error)) from None
        self._layout = layout
        self._tee: TeeLink | None = None
        self._connect_tee(progress)

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str],
        *,
        tee_debug_root_key: bytes | None = None,
        progress: Progress | None = None,
        **fields: object,
    ) -> "Engine":
        """Load a model and start its TEE.

        Args:
            name: a registry name ("smollm2-135m") or the path of a GGUF file.
            tee_debug_root_key: 32 bytes; tests only, marks the TEE as debug.
            progress: called with (tensors or layers done, all).
            fields: fields of `EngineConfig`.

        Raises:
            InputError: unknown model, option or value; a damaged or unsupported file.
            EngineError: the TEE does not start.
        """
        config = EngineConfig.from_fields(**fields)
        source = ModelSource(registry.resolve(name))
        try:
            return cls(source, config, tee_debug_root_key=tee_debug_root_key, progress=progress)
        except BaseException:
            source.close()
            raise

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wipe the cache, end the TEE, let the model file go. Idempotent."""
        self.reset()
        if self._tee is not None:
            self._tee.close()
        self._source.close()

    def reset(self) -> None:
        """Forget the conversation: pages are zeroed and freed, its seal key is wiped."""
        with self._lock:
            self._runs += 1
            self._drop_session()

    # ------------------------------------------------------------------ text

    def render(self, messages: Messages) -> Prompt:
        """Turn messages into the prompt's ids by the model's own chat template.

        Raises:
            InputError: no message, an empty user message, or one of a wrong form.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        prompt = self.chat_template.render(messages)
        if not any(span.end > span.start for span in prompt.spans):
            raise InputError("the prompt is empty")
        return prompt

    def generate(
        self,
        messages: Messages,
        max_tokens: int = 64,
        *,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        adapters: Sequence[str] = (),
    ) -> Iterator[str]:
        """Answer a conversation piece by piece; no piece splits a character.

        Rows shared with the last call (the turns so far) are reused. `last_run` holds the figures
        once the iterator ends.

        Args:
            messages: the user's text, or a list of {"role", "content"}.
            max_tokens: tokens to generate at most, >= 1.
            sampling: None decodes greedily.
            stop: strings that end the answer; none of them is part of it.
            adapters: names of LoRA adapters; this version has none to offer.

        Raises:
            InputError: bad arguments, or a prompt longer than the context.
            EngineError: the TEE died (the cache is wiped), or another call took the engine over.
        """
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise InputError(f"max_tokens={max_tokens!r} is not a whole number >= 1")
        if adapters:
            raise InputError(f"unknown adapter {adapters[0]!r}: no adapter is installed")
        prompt = self.render(messages)
        if len(prompt.ids) >= self.context_tokens:
            raise InputError(
                f"the prompt has {len(prompt.ids)} tokens, the context holds "
                f"{self.context_tokens} with room for an answer"
            )
        return self._run(list(prompt.ids), max_tokens, sampling or SamplingParams(), stop)

    def _run(
        self, ids: list[int], max_tokens: int, sampling: SamplingParams, stop: Sequence[str]
    ) -> Iterator[str]:
        started = time.perf_counter()
        sampler = Sampler(sampling)
        stream = TextStream(stop)
        with self._lock:
            self._runs += 1
            run = self._runs
            crossings = self._crossings()
            session = self._session_for(ids)
            fed = ids[len(session.tokens) :]
            logits = self._feed(session, fed)
        prefilled = time.perf_counter()
        first_token = prefilled
        made: list[int] = []
        history = list(ids)
        reason = "length"
        while len(made) < max_tokens:
            token = sampler.next(logits[-1], history)
            if not made:
                first_token = time.perf_counter()
            if token in self.tokenizer.stop_ids:
                reason = "stop"
                break
            made.append(token)
            history.append(token)
            piece = stream.push(self.tokenizer.token_bytes(token))
            if piece:
                yield piece
            if stream.stopped:
                reason = "stop"
                break
            if len(made) == max_tokens or len(ids) + len(made) >= self.context_tokens:
                break
            with self._lock:
                if run != self._runs:
                    raise EngineError("another call took this engine over")
                logits = self._feed(session, [token])
        rest = stream.finish()
        if rest:
            yield rest
        self.last_run = GenerationStats(
            prompt_tokens=len(ids),
            prefilled_tokens=len(fed),
            decode_tokens=len(made),
            ttft_ms=(first_token - started) * 1e3,
            prefill_seconds=prefilled - started,
            decode_seconds=time.perf_counter() - first_token,
            tee_crossings=self._crossings() - crossings,
            finish_reason=reason,
        )

    # ------------------------------------------------------------------ tokens

    def forward(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Run tokens through the model in a fresh session.

        Args:
            token_ids: ids in [0, vocab_size), at least one, at most `context_tokens`.

        Returns:
            Logits, float32 [T, vocab_size].

        Raises:
            InputError: no tokens, too many, or an id out of range.
            EngineError: the TEE is gone.
        """
        session = self.start_session()
        with self._lock:
            return self._feed(session, list(token_ids), all_logits=True)

    def start_session(self) -> Session:
        """Drop the current session and return a fresh, empty one (for `Session.feed`)."""
        with self._lock:
            self._runs += 1
            return self._session_for([])

    # ------------------------------------------------------------------ memory

    def dump_device_memory(self) -> DeviceDump:
        """Return exactly the bytes a reader of the KV pages gets at their addresses."""
        shape, lay = self.model, self._layout
        with self._lock:
            return DeviceDump(
                pages=self._pages.dump(),
                layout=DumpLayout(
                    n_layers=shape.n_layers,
                    n_kv_heads=shape.n_kv_heads,
                    head_dim=shape.head_dim,
                    rows_per_page=self.config.rows_per_page,
                    kv_dtype=self.config.kv_dtype,
                    page_bytes=lay.page_bytes,
                    addresses=tuple(self._pages.addresses()),
                ),
            )

    def stats(self) -> dict[str, object]:
        """Return sizes and counters: weights, KV bytes a token, crossings, kernel level."""
        return {
            "weights_bytes": self._decoder.weights_bytes(),
            "kv_bytes_per_token": self._layout.bytes_per_token,
            "context_tokens": self.context_tokens,
            "tee_crossings": self._crossings(),
            "tee_pid": self._tee.client.pid if self._tee is not None else None,
            "secret_arena": self._tee.arena.kind if self._tee is not None else None,
            "kernel_level": _native.kernel_level(),
        }

    # ------------------------------------------------------------------ private

    def _connect_tee(self, progress: Progress | None = None) -> None:
        """Make sure a living TEE stands behind a shield that needs one."""
        if not self.config.needs_tee or (self._tee is not None and self._tee.alive()):
            return
        self._drop_session()
        if self._tee is not None:
            self._crossings_before += self._tee.client.crossings
            self._tee.close()
            self._tee = None
        self._tee = TeeLink(
            self.config, self._source, self._decoder, self._debug_root_key, progress
        )

    def _session_for(self, ids: list[int]) -> Session:
        """Return a session whose rows are a proper prefix of `ids`: the current one, or a new."""
        self._connect_tee()
        current = self._session
        if current is not None and not current.closed:
            shared = _shared_prefix(current.tokens, ids[:-1])
            if shared > 0:
                current.truncate(shared)
                return current
        self._drop_session()
        self._session_count += 1
        self._session = Session(
            self._decoder, self._pages, self._session_count, self._tee, self.config.sealed
        )
        return self._session

    def _feed(
        self, session: Session, ids: list[int], all_logits: bool = False
    ) -> npt.NDArray[np.float32]:
        if not ids:
            raise InputError("no tokens to run")
        return session.feed(ids, all_logits=all_logits)

    def _drop_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _crossings(self) -> int:
        now = self._tee.client.crossings if self._tee is not None else 0
        return self._crossings_before + now


def _shared_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    shared = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        shared += 1
    return shared


def _context_tokens(config: EngineConfig, model: LlamaConfig) -> int:
    wanted = config.context_tokens or model.context_length
    if wanted > model.context_length:
        raise InputError(
            f"context_tokens={wanted} exceeds the model's context of {model.context_length}"
        )
    return wanted


def _page_layout(config: EngineConfig, model: LlamaConfig) -> _native.PageLayout:
    try:
        return _native.PageLayout(
            model.n_layers,
            model.n_kv_heads,
            model.head_dim,
            config.rows_per_page,
            _KV_TYPES[config.kv_dtype],
        )
    except ValueError as error:
        raise InputError(str(error)) from None


def _decoder(
    config: EngineConfig, model: LlamaConfig, layout: _native.PageLayout, context_tokens: int
) -> _native.Decoder:
    shape = _native.ModelConfig(
        n_layers=model.n_layers,
        d_model=model.d_model,
        n_heads=model.n_heads,
        n_kv_heads=model.n_kv_heads,
        head_dim=model.head_dim,
        d_ff=model.d_ff,
        vocab_size=model.vocab_size,
        context_length=context_tokens,
        rms_eps=model.rms_eps,
    )
    return _native.Decoder(
        shape, layout, config.threads, config.activations == "int8", config.prefill_chunk_tokens
    )
