"""A model on the device, with its KV cache behind a shield."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from ptmo_secure import _native
from ptmo_secure.engine import native_setup
from ptmo_secure.engine.adapter_methods import AdapterMethods
from ptmo_secure.engine.adapter_store import AdapterSelection
from ptmo_secure.engine.chat_template import ChatTemplate, Prompt
from ptmo_secure.engine.config import EngineConfig
from ptmo_secure.engine.dump import DeviceDump
from ptmo_secure.engine.generation import Generation
from ptmo_secure.engine.gguf_import import LlamaConfig, ModelSource
from ptmo_secure.engine.rotation_methods import RotationMethods
from ptmo_secure.engine.sampler import SamplingParams
from ptmo_secure.engine.sealed_source import opened_source
from ptmo_secure.engine.session import Session
from ptmo_secure.engine.session_pool import SessionPool
from ptmo_secure.engine.stats import GenerationStats
from ptmo_secure.engine.tee_host import TeeHost
from ptmo_secure.engine.tee_link import TeeLink
from ptmo_secure.engine.token_ids import checked_ids, require_prompt
from ptmo_secure.engine.tokenizer import Tokenizer
from ptmo_secure.engine.weights import Progress, load_weights
from ptmo_secure.errors import EngineError, InputError

Messages = str | Sequence[Mapping[str, object]]  # a str is one user message


class Engine(AdapterMethods, RotationMethods):
    """A decoder, its tokenizer and its KV cache; build it with `Engine.load`.

    `generate` keeps one conversation: starting another answer makes the first raise, and the rows
    of the last call stay in memory, as in any engine with a prefix cache, until the next call or
    `reset()`. `open_session` opens sessions beside it; a `Scheduler` answers many requests at once.

    Attributes:
        config, model: what was asked for, and the model's dimensions.
        tokenizer, chat_template: built from the model file.
        sessions: what is open; hold `sessions.lock` for steps that belong together.
        last_run: figures of the last `generate`, None before it ends.

    Security: what the memory discloses depends on `config.shield` (docs/threat-model.md).
    """

    def __init__(
        self, source: ModelSource, config: EngineConfig, tee: TeeHost, progress: Progress | None
    ) -> None:
        """Use `Engine.load`."""
        self.config = config
        self.model: LlamaConfig = source.config
        self.tokenizer = Tokenizer(source.metadata, source.path.name)
        self.chat_template = ChatTemplate(source.metadata, self.tokenizer, source.path.name)
        self.context_tokens = native_setup.context_tokens(config, source.config)
        self.last_run: GenerationStats | None = None
        self._source = source
        self._session: Session | None = None  # the conversation's
        self._runs = 0
        native_setup.check_machine(config)
        layout = native_setup.page_layout(config, source.config)
        try:
            self._pages = native_setup.page_arena(config, layout, self.context_tokens)
            self._decoder = native_setup.decoder(
                config, source.config, layout, self._pages, self.context_tokens
            )
            load_weights(self._decoder, source, progress)
        except ValueError as error:
            raise InputError(f"{source.path.name}: {error}") from None
        except RuntimeError as error:
            raise EngineError(str(error)) from None
        self._layout = layout
        self.sessions = SessionPool(
            config, source, self._decoder, self._pages, layout, tee, progress
        )

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str],
        *,
        tee: TeeHost | None = None,
        tee_debug_root_key: bytes | None = None,
        progress: Progress | None = None,
        **fields: object,
    ) -> "Engine":
        """Load a model and start its TEE.

        Args:
            name: a registry name ("smollm2-135m"), or the path of a GGUF file or of a sealed one.
            tee: `sessions.host` of an engine whose TEE it shares; None starts one.
            tee_debug_root_key: 32 bytes; tests only, marks the TEE as debug.
            progress: called with (bytes, tensors or layers done, all).
            fields: fields of `EngineConfig`.

        Raises:
            InputError: unknown model, option or value; a damaged or unsupported file.
            SecurityError: a sealed file, or the device's state, was tampered with.
            EngineError: the TEE does not start.
        """
        config = EngineConfig.from_fields(**fields)
        host = tee or TeeHost(config, tee_debug_root_key)
        with opened_source(name, config, host, progress) as source:
            return cls(source, config, host, progress)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wipe the cache, end the TEE, let the model file go. Final and idempotent.

        Waits for a forward pass under way; whatever is called later raises `EngineError`. A forked
        child only lets go of its copies.
        """
        if self.sessions.owner.inherited:
            self.sessions.close()
            return
        with self.sessions.lock:
            self._runs += 1
            self._session = None
            self.sessions.close()
            self._source.close()

    def reset(self) -> None:
        """Forget the conversation: pages are zeroed and freed, its seal key is wiped."""
        with self.sessions.lock:
            self._runs += 1
            self._drop_session()

    def reset_all(self) -> None:
        """Close every open session, the conversation's and others': no row or key is left."""
        with self.sessions.lock:
            self._runs += 1
            self._session = None
            self.sessions.close_sessions()

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
        score: bool = False,
    ) -> Iterator[str]:
        """Answer a conversation piece by piece; no piece splits a character.

        Rows shared with the last call (the turns so far) are reused; the very same prompt is
        computed anew. `last_run` holds the figures once the iterator ends.

        Args:
            messages: the user's text, or a list of {"role", "content"}.
            max_tokens: tokens to generate at most, >= 1.
            sampling: None decodes greedily.
            stop: strings that end the answer; none of them is part of it.
            adapters: loaded LoRA adapters, added up in this order; looked up now, kept to the end.
            keep_kv: reuse rows that other adapters computed (`Session.use_adapters`).
            score: have `last_run.mean_logprob` say how sure the model was of its answer.

        Raises:
            InputError: bad arguments, an unknown adapter, or a prompt longer than the context.
            EngineError: the TEE died (the cache is wiped), or another call took the engine over.
        """
        selection = self.sessions.select(adapters)
        generation = self.prepare(messages, max_tokens, sampling=sampling, stop=stop)
        if score:
            generation.score(0)
        return self._run(generation, selection, keep_kv)

    def prepare(
        self,
        prompt: Messages | Sequence[int],
        max_tokens: int = 64,
        *,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        """Check a request and return its answer, empty as yet; arguments as `generate`'s.

        Args:
            prompt: messages, or the prompt's token ids as they are.

        Raises:
            InputError: bad arguments, or a prompt longer than the context.
        """
        ids = self._prompt_ids(prompt)
        if len(ids) >= self.context_tokens:
            raise InputError(
                f"the prompt has {len(ids)} tokens, the context holds "
                f"{self.context_tokens} with room for an answer"
            )
        return Generation(self.tokenizer, ids, max_tokens, self.context_tokens, sampling, stop)

    def _prompt_ids(self, prompt: Messages | Sequence[int]) -> list[int]:
        require_prompt(prompt)
        if isinstance(prompt, str) or any(isinstance(part, Mapping) for part in prompt):
            return list(self.render(cast(Messages, prompt)).ids)
        return self._token_ids(cast(Sequence[int], prompt))

    def _token_ids(self, token_ids: Sequence[int]) -> list[int]:
        ids = checked_ids(token_ids)
        if max(ids) >= self.model.vocab_size:
            raise InputError(f"token id {max(ids)} is not in 0..{self.model.vocab_size - 1}")
        return ids

    def _run(
        self, generation: Generation, adapters: AdapterSelection, keep_kv: bool
    ) -> Iterator[str]:
        started = time.perf_counter()
        ids = list(generation.history)
        with self.sessions.lock:
            self._runs += 1
            run = self._runs
            crossings = self.sessions.tee_crossings
            session = self._session_for(ids, adapters, keep_kv=keep_kv)
            fed = ids[len(session.tokens) :]
            logits = session.feed(fed)
            session.prompt_tokens = len(ids)
        prefilled = time.perf_counter()
        first_token = 0.0
        while True:
            piece = generation.push(logits[-1])
            first_token = first_token or time.perf_counter()
            if piece:
                yield piece
            if generation.finish_reason is not None:
                break
            with self.sessions.lock:
                if run != self._runs:
                    raise EngineError("another call took this engine over")
                logits = session.feed(generation.history[-1:])
        self.last_run = GenerationStats(
            prompt_tokens=len(ids),
            prefilled_tokens=len(fed),
            decode_tokens=generation.made_tokens,
            ttft_ms=(first_token - started) * 1e3,
            prefill_seconds=prefilled - started,
            decode_seconds=time.perf_counter() - first_token,
            tee_crossings=self.sessions.tee_crossings - crossings,
            finish_reason=generation.finish_reason,
            mean_logprob=generation.mean_logprob,
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
        ids = self._token_ids(token_ids)  # wrong ones must not cost the conversation
        if len(ids) > self.context_tokens:
            raise InputError(f"{len(ids)} tokens exceed the context of {self.context_tokens}")
        with self.sessions.lock:
            return self.start_session(adapters).feed(ids, all_logits=True)

    def start_session(self, adapters: Sequence[str] = ()) -> Session:
        """Drop the current session and its forks; return a fresh, empty one (`Session.feed`)."""
        with self.sessions.lock:
            selection = self.sessions.select(adapters)  # a wrong name costs no conversation
            self._runs += 1
            return self._session_for([], selection)

    @property
    def session(self) -> Session | None:
        """The current session, to fork or save; None when there is none or it is closed.

        It and its forks last until another conversation starts; `generate` picks among them.
        """
        with self.sessions.lock:
            current = self._session
            return None if current is None or current.closed else current

    def resume(self, path: str | os.PathLike[str], adapters: Sequence[str] = ()) -> Session:
        """Put the session saved at `path` (`Session.save`) in the current one's place; return it.

        Its rows are sealed anew, under a new key. `generate` continues the conversation. The
        adapters must be those it was saved with.

        A file is believed only when the last of its rows has been authenticated, so the cache
        holds both conversations for a moment. Whatever raises, the current one goes on; only a TEE
        that is gone ends it.

        Raises:
            InputError: no such file, not a saved session, another model, layout or set of adapters.
            SecurityError: the file was changed, cut short or saved under another TEE; with
                `tee_state` also an older version, or the file of another session.
            CapacityError: no pages, or fewer than three key slots, are free beside the current
                conversation's: `reset()` gives those back first.
            EngineError: the TEE is gone, or the engine is closed.
        """
        with self.sessions.lock:
            saved = self.sessions.saved_session(path, self.context_tokens)
            session = self.sessions.open(adapters)
            session.load(saved)
            self._runs += 1
            self._drop_session()
            self._session = session
            return session

    def open_session(self, adapters: Sequence[str] = ()) -> Session:
        """Return a fresh, empty session beside those that are open; close it when done with it.

        Args:
            adapters: as for `generate`.

        Raises:
            InputError: an unknown adapter.
            CapacityError: every key slot is in use.
            EngineError: the TEE is gone and does not start, or the engine is closed.
        """
        return self.sessions.open(adapters)

    # ------------------------------------------------------------------ memory

    def dump_device_memory(self) -> DeviceDump:
        """Return exactly the bytes a reader of the KV pages gets at their addresses."""
        with self.sessions.lock:
            return DeviceDump.of(self._pages, self._layout, self.model, self.config)

    def stats(self) -> dict[str, object]:
        """Return sizes and counters: weights, KV bytes a token, crossings, kernel level."""
        return {
            "weights_bytes": self._decoder.weights_bytes(),
            "weights_bytes_per_token": self._decoder.weights_bytes_per_token(),
            "kv_bytes_per_token": self._layout.bytes_per_token,
            "context_tokens": self.context_tokens,
            "tee_crossings": self.sessions.tee_crossings,
            "tee_pid": self._tee.client.pid if self._tee is not None else None,
            "secret_arena": self._tee.arena.kind if self._tee is not None else None,
            "kernel_level": _native.kernel_level(),
            **self.sessions.rotation.counts(),
        }

    # ------------------------------------------------------------------ private

    @property
    def _tee(self) -> TeeLink | None:
        return self.sessions.tee

    def _session_for(
        self, ids: list[int], adapters: AdapterSelection, *, keep_kv: bool = False
    ) -> Session:
        """Return a session whose rows are a proper prefix of `ids`: the current one, or a new.

        The current one serves only a conversation that goes on, one that starts with the whole of
        its last prompt. Two unrelated queries share a template, never a session or a key.
        """
        self.sessions.connect()
        selection = self.sessions.select(adapters)
        if self._session is not None:
            going_on = self._session.continued_by(ids[:-1], selection, keep_kv=keep_kv)
            if going_on is not None:
                self._session = going_on
                return going_on
        self._drop_session()
        self._session = self.sessions.open(selection)
        return self._session

    def _drop_session(self) -> None:
        if self._session is not None:
            self._session.close_family()
            self._session = None
