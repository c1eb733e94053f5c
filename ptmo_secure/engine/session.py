"""One conversation's rows in the KV cache."""

import operator
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptmo_secure import _native
from ptmo_secure.engine.tee_link import TeeLink
from ptmo_secure.errors import EngineError, InputError
from tee_sim.client import TeeError

TEE_DIED = "the TEE process is gone: the KV cache and its keys were wiped; run again to start anew"


class Session:
    """Token rows in KV pages, with the ids they stand for.

    Rows are fed in order and may be cut back (`truncate`), so that a conversation's next turn
    reuses the rows it shares with the last. Closing frees and zeroes the pages and wipes the key.

    Thread-safe: calls wait for each other, and a close waits for the forward pass under way.

    Security: with a TEE behind it, a session stops and wipes itself as soon as the TEE is gone.
    """

    def __init__(
        self,
        decoder: _native.Decoder,
        pages: _native.PageArena,
        session_id: int,
        tee: TeeLink | None,
        sealed: bool,
        lock: threading.RLock,
    ) -> None:
        """Open a session; `lock` is the engine's, which serialises everything native."""
        self._lock = lock
        self._decoder = decoder
        self._tee = tee
        self._tee_handle: int | None = None
        self.tokens: list[int] = []
        self.prompt_tokens = 0  # rows of the last prompt: what a continuation must share
        if sealed:
            if tee is None:
                raise EngineError("a sealed session needs a TEE")
            self._native, self._tee_handle = tee.open_sealed_session(pages, session_id)
        else:
            self._native = _native.KvSession(pages, session_id)

    def feed(
        self, token_ids: Sequence[int], *, all_logits: bool = False
    ) -> npt.NDArray[np.float32]:
        """Append tokens and return logits.

        Args:
            token_ids: ids in [0, vocab_size), at least one, at most what the context still holds.
            all_logits: logits of every token, not of the last alone.

        Returns:
            float32 [1 or n, vocab_size].

        Raises:
            InputError: an id out of range or too many tokens; the session is unchanged.
            EngineError: the TEE is gone or the cache is full. The session is closed and wiped when
                the TEE is gone.
        """
        ids = _checked_ids(token_ids)
        with self._lock:
            self._require_tee()
            if self.closed:
                raise EngineError("the session is closed")
            logits = self._forward(ids, all_logits)
            self.tokens.extend(ids)
        return logits

    def _forward(self, ids: list[int], all_logits: bool) -> npt.NDArray[np.float32]:
        attention = self._tee.attention if self._tee is not None else None
        try:
            return self._decoder.forward(
                self._native,
                np.asarray(ids, np.int32),
                all_logits,
                attention.buffer if attention is not None else None,
                self._tee.restore if self._tee is not None and attention is not None else None,
            )
        except TeeError as error:
            self.close()
            raise EngineError(TEE_DIED if not self._tee_alive() else str(error)) from None
        except ValueError as error:
            raise InputError(str(error)) from None
        except RuntimeError as error:
            raise EngineError(str(error)) from None
        finally:
            if attention is not None:
                attention.wipe()

    def truncate(self, n_tokens: int) -> None:
        """Forget every row from `n_tokens` on.

        Raises:
            InputError: it is negative or more than there are.
        """
        with self._lock:
            try:
                self._native.truncate(n_tokens)
            except ValueError as error:
                raise InputError(str(error)) from None
            del self.tokens[n_tokens:]

    def close(self) -> None:
        """Zero and free the pages, wipe the key. Idempotent."""
        with self._lock:
            self._native.close()
            self.tokens.clear()
            if self._tee is not None and self._tee_handle is not None:
                handle, self._tee_handle = self._tee_handle, None
                self._tee.drop_epoch(handle)

    @property
    def closed(self) -> bool:
        """Whether the rows are gone."""
        return self._native.closed

    def _tee_alive(self) -> bool:
        return self._tee is None or self._tee.alive()

    def _require_tee(self) -> None:
        """Fail closed: no TEE, no further row."""
        if not self._tee_alive():
            self.close()
            raise EngineError(TEE_DIED)


def _checked_ids(token_ids: Sequence[int]) -> list[int]:
    """Return the ids as plain ints; the decoder checks them against the vocabulary."""
    try:
        ids = [operator.index(t) for t in token_ids if not isinstance(t, bool)]
        if len(ids) != len(token_ids):
            raise TypeError("a bool")
    except TypeError:
        raise InputError("token_ids is not a list of whole numbers") from None
    if not ids:
        raise InputError("no tokens to run")
    for token in ids:
        if not 0 <= token < 1 << 31:
            raise InputError(f"token id {token} is out of range")
    return ids
