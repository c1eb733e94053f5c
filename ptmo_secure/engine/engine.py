"""A model on the device, with its KV cache behind a shield."""

import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from ptmo_secure import _native
from ptmo_secure.engine import native_setup, registry
from ptmo_secure.engine.adapter_store import AdapterInfo, AdapterSelection, AdapterStore
from ptmo_secure.engine.adapters import AdapterWeights, read_adapter
from ptmo_secure.engine.chat_template import ChatTemplate, Prompt
from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.dump import DeviceDump, DumpLayout
from ptmo_secure.engine.gguf_import import LlamaConfig, ModelSource
from ptmo_secure.engine.sampler import Sampler, SamplingParams
from ptmo_secure.engine.saved_session import SavedSession, SavedShape
from ptmo_secure.engine.session import NO_STORAGE_KEY, Session, SessionHost
from ptmo_secure.engine.stats import GenerationStats
from ptmo_secure.engine.streaming import TextStream
from ptmo_secure.engine.tee_link import TeeLink
from ptmo_secure.engine.tokenizer import Tokenizer
from ptmo_secure.engine.weights import Progress, load_weights
from ptmo_secure.errors import EngineError, InputError

Messages = str | Sequence[Mapping[str, object]]  # a str is one user message


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
        self.context_tokens = native_setup.context_tokens(config, source.config)
        self.last_run: GenerationStats | None = None
        self._source = source
        self._debug_root_key = tee_debug_root_key
        self._lock = threading.RLock()
        self._closed = False
        self._session: Session | None = None
        self._session_ids = itertools.count(1)
        self._runs = 0
        self._crossings_before = 0
        native_setup.check_kernel_level()
        layout = native_setup.page_layout(config, source.config)
        pages = -(-self.context_tokens // config.rows_per_page)
        try:
            self._pages = _native.PageArena(layout, pages)
            self._decoder = native_setup.decoder(config, source.config, layout, self.context_tokens)
            load_weights(self._decoder, source, progress)
        except ValueError as error:
            raise InputError(f"{source.path.name}: {error}") from None
        except RuntimeError as error:
            raise EngineError(str(error)) from None
        self._layout = layout
        self._adapters = AdapterStore(self._decoder, self.model, config)
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
        source = ModelSource(registry.resolve_verified(name))
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
        """Wipe the cache, end the TEE, let the model file go. Final and idempotent.

        Waits for a forward pass under way; whatever is called later raises `EngineError`.
        """
        with self._lock:
            self._closed = True
            self._runs += 1
            self._drop_session()
            if self._tee is not None:
                self._tee.close()
            self._source.close()

    def reset(self) -> None:
        """Forget the conversation: pages are zeroed and freed, its seal key is wiped."""
        with self._lock:
            self._runs += 1
            self._drop_session()

    # ------------------------------------------------------------------ adapters

    def load_adapter(
        self, name: str, path: str | os.PathLike[str], *, scale: float = 1.0
    ) -> AdapterInfo:
        """Load a LoRA adapter in PEFT's format under a name for `generate`.

        Args:
            name: 1 to 64 letters, digits, "_", "." or "-"; not one that is loaded already.
            path: a folder with adapter_config.json and adapter_model.safetensors.
            scale: multiplies the adapter's own scale.

        Raises:
            InputError: a bad name, scale or path, a damaged file, or one for another model. Nothing
                is loaded.
            EngineError: the TEE is gone, the engine is closed, or memory is short.
        """
        return self.add_adapter(name, read_adapter(path, self.model), scale=scale)

    def add_adapter(self, name: str, weights: AdapterWeights, *, scale: float = 1.0) -> AdapterInfo:
        """Load an adapter from arrays; see `load_adapter`."""
        with self._lock:
            self._connect_tee()
            return self._adapters.add(name, weights, scale, self._tee)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. A generation that is using it goes on with it.

        Raises:
            InputError: there is none of that name.
        """
        with self._lock:
            self._adapters.remove(name)

    @property
    def adapters(self) -> dict[str, AdapterInfo]:
        """What is loaded, by name."""
        with self._lock:
            return self._adapters.infos()

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
        keep_kv: bool = False,
    ) -> Iterator[str]:
        """Answer a conversation piece by piece; no piece splits a character.

        Rows shared with the last call (the turns so far) are reused. `last_run` holds the figures
        once the iterator ends.

        Args:
            messages: the user's text, or a list of {"role", "content"}.
            max_tokens: tokens to generate at most, >= 1.
            sampling: None decodes greedily.
            stop: strings that end the answer; none of them is part of it.
            adapters: loaded LoRA adapters, added up in this order.
            keep_kv: reuse rows that other adapters computed (`Session.use_adapters`).

        Raises:
            InputError: bad arguments, an unknown adapter, or a prompt longer than the context.
            EngineError: the TEE died (the cache is wiped), or another call took the engine over.
        """
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise InputError(f"max_tokens={max_tokens!r} is not a whole number >= 1")
        with self._lock:
            self._select(adapters)  # names are checked now, the set is chosen when it runs
        prompt = self.render(messages)
        if len(prompt.ids) >= self.context_tokens:
            raise InputError(
                f"the prompt has {len(prompt.ids)} tokens, the context holds "
                f"{self.context_tokens} with room for an answer"
            )
        session = functools.partial(
            self._session_for, list(prompt.ids), tuple(adapters), keep_kv=keep_kv
        )
        return self._run(list(prompt.ids), max_tokens, sampling or SamplingParams(), stop, session)

    def _run(
        self,
        ids: list[int],
        max_tokens: int,
        sampling: SamplingParams,
        stop: Sequence[str],
        open_session: Callable[[], Session],
    ) -> Iterator[str]:
        started = time.perf_counter()
        sampler = Sampler(sampling)
        stream = TextStream(stop)
        with self._lock:
            self._runs += 1
            run = self._runs
            crossings = self._crossings()
            session = open_session()
            fed = ids[len(session.tokens) :]
            logits = session.feed(fed)
            session.prompt_tokens = len(ids)
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
                logits = session.feed([token])
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

    def forward(
        self, token_ids: Sequence[int], adapters: Sequence[str] = ()
    ) -> npt.NDArray[np.float32]:
        """Run tokens through the model in a fresh session.

        Args:
            token_ids: ids in [0, vocab_size), at least one, at most `context_tokens`.
            adapters: as for `generate`.

        Returns:
            Logits, float32 [T, vocab_size].

        Raises:
            InputError: no tokens, too many, an id out of range, or an unknown adapter.
            EngineError: the TEE is gone.
        """
        with self._lock:
            return self.start_session(adapters).feed(token_ids, all_logits=True)

    def start_session(self, adapters: Sequence[str] = ()) -> Session:
        """Drop the current session and its forks; return a fresh, empty one (`Session.feed`)."""
        with self._lock:
            self._runs += 1
            return self._session_for([], adapters)

    @property
    def session(self) -> Session | None:
        """The current session, to fork or save; None when there is none or it is closed.

        It and its forks last until another conversation starts; `generate` picks among them.
        """
        with self._lock:
            current = self._session
            return None if current is None or current.closed else current

    def resume(self, path: str | os.PathLike[str], adapters: Sequence[str] = ()) -> Session:
        """Drop the current session and return the one saved at `path` (`Session.save`).

        Its rows are sealed anew, under a new key. `generate` continues the conversation. The
        adapters must be those it was saved with.

        Raises:
            InputError: no such file, not a saved session, cut short, another model, layout or set
                of adapters.
            SecurityError: the file was changed, or it was saved under another TEE. No session.
            EngineError: the TEE is gone, or the engine is closed.
        """
        with self._lock:
            if not self.config.needs_tee:
                raise InputError(NO_STORAGE_KEY)
            saved = SavedSession(Path(path), self._saved_shape(), self.context_tokens)
            session = self.start_session(adapters)
            session.load(saved)
            return session

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
        """Return sizes and counters: weights, KV bytes a token, crossings, kernel level.

        `weights_bytes_per_token` is what decoding a token reads of them.
        """
        return {
            "weights_bytes": self._decoder.weights_bytes(),
            "weights_bytes_per_token": self._decoder.weights_bytes_per_token(),
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
        if self._closed:
            raise EngineError("the engine is closed")
        if not self.config.needs_tee or (self._tee is not None and self._tee.alive()):
            return
        self._drop_session()
        if self._tee is not None:
            if self._debug_root_key is not None:
                # Its epochs would start again: the same keys and counters over other rows.
                raise EngineError("a TEE with a debug root key is not started twice")
            self._crossings_before += self._tee.client.crossings
            self._tee.close()
            self._tee = None
        link = TeeLink(self.config, self._source, self._decoder, self._debug_root_key, progress)
        link.on_death(lambda: self._wipe_after(link))
        self._tee = link

    def _wipe_after(self, link: TeeLink) -> None:
        """Drop the session of a TEE that is gone, also while nobody is generating."""
        with self._lock:
            if self._tee is link and not self._closed:
                self._drop_session()

    def _select(self, adapters: Sequence[str]) -> AdapterSelection:
        return self._adapters.select(adapters, self._tee)

    def _session_for(
        self, ids: list[int], adapters: Sequence[str], *, keep_kv: bool = False
    ) -> Session:
        """Return a session whose rows are a proper prefix of `ids`: the current one, or a new.

        The current one serves only a conversation that goes on, one that starts with the whole of
        its last prompt. Two unrelated queries share a template, never a session or a key.
        """
        self._connect_tee()
        selection = self._select(adapters)
        if self._session is not None:
            going_on = self._session.continued_by(ids[:-1], selection, keep_kv=keep_kv)
            if going_on is not None:
                self._session = going_on
                return going_on
        self._drop_session()
        self._session = Session(
            SessionHost(
                decoder=self._decoder,
                pages=self._pages,
                layout=self._layout,
                tee=self._tee,
                sealed=self.config.sealed,
                lock=self._lock,
                new_id=lambda: next(self._session_ids),
                shape=self._saved_shape,
                select_adapters=self._select,
            )
        )
        self._session.select(selection)
        return self._session

    def _drop_session(self) -> None:
        if self._session is not None:
            self._session.close_family()
            self._session = None

    def _saved_shape(self) -> SavedShape:
        """Describe what a saved session must match; the model file is hashed the first time."""
        if self._closed:
            raise EngineError("the engine is closed")
        return SavedShape.of(self._source, self.config)

    def _crossings(self) -> int:
        now = self._tee.client.crossings if self._tee is not None else 0
        return self._crossings_before + now
