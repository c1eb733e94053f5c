"""Vectors of sentences, made on this device beside the event loop."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ptmo_secure.engine.sentence_encoder import MAX_TOKENS, SentenceEncoder
from ptmo_secure.errors import InputError
from ptmo_secure.serve.errors import ApiError

MODEL_ID = "minilm-l6-v2"
_FRAME_TOKENS = 2


class Encoder(Protocol):
    """Makes vectors of sentences; `SentenceEncoder` is one."""

    @property
    def width(self) -> int:
        """Numbers in a vector."""

    def tokens(self, text: str) -> int:
        """Return how many tokens a text has, the two that frame it included."""

    def encode(self, text: str) -> npt.NDArray[np.float32]:
        """Return a vector of length 1, [width]."""


class Embedder:
    """Makes vectors, one text at a time in one thread: requests take turns at it text by text.

    The encoder is loaded at the first request, so that a server which is asked for no vectors has
    no memory taken by it.

    Args:
        is_here: whether the encoder's files are on this device.
        load: returns it; `InputError` where its files are no encoder.

    Security: texts reach the encoder and nothing else. They are not rated by the guard, since no
    route leads out of here.
    """

    def __init__(
        self,
        is_here: Callable[[], bool] = SentenceEncoder.is_here,
        load: Callable[[], Encoder] = SentenceEncoder.load,
    ) -> None:
        self._found, self._load = is_here, load
        self._encoder: Encoder | None = None
        self._thread = ThreadPoolExecutor(1, "ptmo-embed")

    def is_here(self) -> bool:
        """Whether there is an encoder to ask; one that was pulled meanwhile counts."""
        return self._encoder is not None or self._found()

    async def vectors(
        self, texts: Sequence[str], width: int | None
    ) -> tuple[list[npt.NDArray[np.float32]], int]:
        """Return the vector of each text, [width] of length 1, and how many tokens all have.

        Every text is measured before the first is encoded. Cancelling it leaves out the texts that
        are not begun.

        Args:
            texts: 1 or more.
            width: that is asked for; None: the encoder's own.

        Raises:
            ApiError: there is no encoder, another width, or a text that is empty or too long.
        """
        loop = asyncio.get_running_loop()
        encoder = await loop.run_in_executor(self._thread, self._loaded)
        if width not in (None, encoder.width):
            raise ApiError(
                400, f"dimensions: the vectors have {encoder.width} numbers", param="dimensions"
            )
        total = 0
        for number, text in enumerate(texts):
            tokens = await loop.run_in_executor(self._thread, encoder.tokens, text)
            _check(number, tokens)
            total += tokens
        return [
            await loop.run_in_executor(self._thread, encoder.encode, text) for text in texts
        ], total

    def close(self) -> None:
        """End its thread after the text that it is at. Idempotent."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            if not self._found():
                raise ApiError(
                    404,
                    f"model: {MODEL_ID} is not on this device: run `ptmo model pull minilm` and "
                    "`ptmo model pull minilm-tokenizer`",
                    param="model",
                    code="model_not_found",
                )
            try:
                self._encoder = self._load()
            except InputError:  # its text has the files' path
                raise ApiError(
                    503,
                    f"model: the files of {MODEL_ID} are damaged: run `ptmo model pull minilm` and "
                    "`ptmo model pull minilm-tokenizer`",
                    param="model",
                    code="model_unusable",
                ) from None
        return self._encoder


def _check(number: int, tokens: int) -> None:
    """Refuse a text that has no vector of its own: cut short it would have another's."""
    if tokens <= _FRAME_TOKENS:
        raise ApiError(400, f"input[{number}]: there is nothing in it", param="input")
    if tokens > MAX_TOKENS:
        raise ApiError(
            400,
            f"input[{number}]: it has {tokens} tokens, the encoder takes {MAX_TOKENS}: divide it",
            param="input",
            code="context_length_exceeded",
        )
