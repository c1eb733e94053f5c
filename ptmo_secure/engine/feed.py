"""The forward pass of sessions: one for all that are fed together."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ptmo_secure import _native
from ptmo_secure.engine.native_setup import NativeDecoder
from ptmo_secure.engine.rotation import count_rows
from ptmo_secure.engine.tee_link import tee_failure
from ptmo_secure.engine.token_ids import checked_ids
from ptmo_secure.errors import EngineError, InputError, TeeDiedError, native_error
from tee_sim.client import TeeError

if TYPE_CHECKING:
    from ptmo_secure.engine.session import Session


def feed_batch(
    feeds: "Sequence[tuple[Session, Sequence[int]]]",
    *,
    all_logits: bool = False,
    into: object = None,
) -> list[npt.NDArray[np.float32]]:
    """Append tokens to several sessions of one engine in one pass over the weights.

    With integer activations and an INT8 cache each gets the bits it would get alone. Either all of
    them take their tokens or none does, also where a signal's handler raises in between.

    Args:
        feeds: (session, token ids) pairs, no session twice; ids as in `Session.feed`.
        all_logits: logits of every token, not of each session's last alone.
        into: a tensor on the engine's device that takes the logits, as in `Session.feed_into`: rows
            of the sessions in order.

    Returns:
        One array a session, in order: float32 [1 or n, vocab_size]; none of them with `into`.

    Raises:
        InputError, EngineError: as `Session.feed`; when the TEE is gone or refuses, all of the
            sessions are closed and wiped.
    """
    sessions = [session for session, _ in feeds]
    if not sessions:
        raise InputError("no sessions to run")
    if any(session._lock is not sessions[0]._lock for session in sessions):
        raise InputError("the sessions of a batch belong to different engines")
    with sessions[0]._lock:
        before = [len(session.tokens) for session in sessions]
        try:
            return compute_rows(feeds, all_logits=all_logits, into=into)
        except BaseException:
            for session, rows in zip(sessions, before, strict=True):
                session.settle(rows)
            raise


def compute_rows(
    feeds: "Sequence[tuple[Session, Sequence[int]]]",
    *,
    all_logits: bool = False,
    into: object = None,
) -> list[npt.NDArray[np.float32]]:
    """Do what `feed_batch` does, but keep rows that are there when an interrupt raises.

    `tokens` is then what has rows. The ids are written down first, so that an interrupt after the
    pass, which has no logits to return, loses none of them.
    """
    sessions = [session for session, _ in feeds]
    ids = [checked_ids(token_ids) for _, token_ids in feeds]
    with sessions[0]._lock:
        require_open(sessions)
        count_rows([(session, len(part)) for session, part in zip(sessions, ids, strict=True)])
        try:
            for session, part in zip(sessions, ids, strict=True):
                session.tokens.extend(part)
                session.row_tags.extend([session.adapter_tag] * len(part))
            arrays = [np.asarray(part, np.int32) for part in ids]
            logits = _forward(sessions, arrays, all_logits, into)
        except BaseException:
            for session in sessions:
                session.settle()
            raise
    if logits is None:
        return []
    ends = np.cumsum([len(part) if all_logits else 1 for part in ids])
    return np.split(logits, ends[:-1])


def require_open(sessions: "Sequence[Session]") -> None:
    """Fail closed: no TEE, no further row. What an interrupt left unequal is settled.

    Raises:
        TeeDiedError: the TEE of one is gone; all of them are closed and wiped.
        EngineError: one is closed, or their engine, which ended its TEE itself.
    """
    if any(session._host.engine_closed() for session in sessions):
        raise EngineError("the engine is closed")
    if not all(session._tee_alive() for session in sessions):
        _close_all(sessions)
        raise TeeDiedError
    if any(session.closed for session in sessions):
        raise EngineError("the session is closed")
    for session in sessions:
        session.settle()


def _forward(
    sessions: "Sequence[Session]",
    ids: list[npt.NDArray[np.int32]],
    all_logits: bool,
    into: object,
) -> npt.NDArray[np.float32] | None:
    first = sessions[0]
    tee = first._tee
    attention = tee.attention if tee is not None else None
    decoder = first._host.decoder
    forward = decoder.forward_batch if into is None else _forward_into(decoder, into)
    try:
        return forward(
            [session._native for session in sessions],
            ids,
            all_logits,
            attention.buffer if attention is not None else None,
            tee.restore if tee is not None and attention is not None else None,
            [session._adapters.native for session in sessions],
        )
    except TeeError as error:
        _close_all(sessions)
        raise tee_failure(error) from None
    except ValueError as error:
        raise InputError(str(error)) from None
    except RuntimeError as error:
        raise native_error(error) from None
    finally:
        if attention is not None:
            attention.wipe()


def _forward_into(decoder: NativeDecoder, into: object) -> Callable[..., None]:
    if isinstance(decoder, _native.Decoder):
        raise InputError("logits stay in a tensor on a device with device='cuda' alone")
    return functools.partial(decoder.forward_batch_into, into)


def _close_all(sessions: "Sequence[Session]") -> None:
    for session in sessions:
        session.close_family()
