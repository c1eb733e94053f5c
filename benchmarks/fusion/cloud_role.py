"""A model in the cloud's role: an engine that answers as an API would, with top log-probabilities.

It continues text exactly behind the last token of what it is given, as `continue_final_message` of
vLLM and the legacy /completions do. Drafts are greedy.
"""

import threading
from collections.abc import Iterator, Mapping

import numpy as np

from fusion.slow_cloud import joined
from ptmo_secure.cloud.fusion.mix import DeviceView
from ptmo_secure.cloud.types import (
    CloudDelta,
    CloudReply,
    CloudRequest,
    Position,
    TokenLogprob,
)
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.session import Session
from ptmo_secure.engine.token_ids import shared_prefix
from ptmo_secure.errors import InputError


class EngineCloud:
    """Answers requests with an engine of its own. Thread-safe: one request at a time.

    Args:
        engine: the cloud's; nothing else may use it meanwhile.

    Attributes:
        seen: prompts received, as the text that the model read.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.seen: list[str] = []
        self._session: Session | None = None
        self._busy = threading.Lock()

    def complete(self, request: CloudRequest, *, deadline_s: float | None = None) -> CloudReply:
        """Return the whole answer."""
        return joined(list(self.stream(request, deadline_s=deadline_s)))

    def stream(
        self, request: CloudRequest, *, deadline_s: float | None = None
    ) -> Iterator[CloudDelta]:
        """Yield the answer token by token."""
        with self._busy:
            ids = self.prompt_ids(request)
            logits = self._feed(ids)
            for made in range(request.max_tokens):
                token = int(logits.argmax())
                if token in self.engine.tokenizer.stop_ids:
                    yield CloudDelta("", finish_reason="stop")
                    return
                top = self.top(logits, request.top_logprobs)
                text = self.engine.tokenizer.decode([token])
                last = made + 1 == request.max_tokens
                chosen = next(each for each in top if each.token == self._name(token))
                yield CloudDelta(
                    text,
                    finish_reason="length" if last else None,
                    positions=(Position(chosen, top),) if request.top_logprobs else (),
                )
                if not last:
                    logits = self._feed([*ids, token])
                    ids = [*ids, token]

    def close(self) -> None:
        """Wait for the request under way, then let the session go; the engine is the caller's."""
        with self._busy:
            if self._session is not None:
                self._session.close()

    def __enter__(self) -> "EngineCloud":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prompt_ids(self, request: CloudRequest) -> list[int]:
        """Return what the model reads."""
        tokenizer = self.engine.tokenizer
        if request.messages is None:
            self.seen.append(request.prompt or "")
            return tokenizer.encode(request.prompt or "", add_bos=True)
        messages: list[Mapping[str, object]] = list(request.messages)
        partial = str(messages.pop()["content"]) if request.continue_final else ""
        prompt = self.engine.render(messages)
        self.seen.append(prompt.text + partial)
        return [*prompt.ids, *tokenizer.encode(partial)]

    def top(self, logits: np.ndarray, count: int) -> tuple[TokenLogprob, ...]:
        """Return the likeliest tokens, likeliest first; at least one."""
        log_p = DeviceView.of(logits).log_p
        best = np.argpartition(-log_p, max(count, 1))[: max(count, 1)]
        best = best[np.argsort(-log_p[best], kind="stable")]
        return tuple(
            TokenLogprob(
                self._name(int(index)),
                self.engine.tokenizer.token_bytes(int(index)),
                float(log_p[index]),
            )
            for index in best
        )

    def _name(self, token: int) -> str:
        return self.engine.tokenizer.token_text(token)

    def _feed(self, ids: list[int]) -> np.ndarray:
        """Return the logits [vocab] behind `ids`, computing what is not in the cache."""
        if not ids:
            raise InputError("the prompt is empty")
        if self._session is None or self._session.closed:
            self._session = self.engine.open_session()
        kept = min(shared_prefix(self._session.tokens, ids), len(ids) - 1)
        self._session.truncate(kept)
        return np.asarray(self._session.feed(ids[kept:])[-1])
