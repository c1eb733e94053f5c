"""The engine's one connection to its TEE: permuted weights, seal keys, restored vectors.

A link lives as long as its TEE process. When the process is gone the link is closed and a new one
made: permutations and keys of the old one no longer exist, so weights are permuted anew and no
session survives.
"""

import contextlib
import functools
import os
import select
import threading
from collections.abc import Callable, Iterator, Mapping

from ptmo_secure import _native
from ptmo_secure.engine.adapters import split_name
from ptmo_secure.engine.config import MAX_SEALED_SESSIONS, EngineConfig
from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.engine.low_rank import LowRankTensors
from ptmo_secure.engine.native_setup import NativeDecoder
from ptmo_secure.engine.tee_host import TeeHost, TeeProcess
from ptmo_secure.engine.weights import Progress, kv_layout, permute_low_rank, permute_weights
from ptmo_secure.errors import (
    CapacityError,
    EngineError,
    InputError,
    TeeDiedError,
    native_error,
)
from tee_sim.client import RowsTo, SharedMemory, TeeDeadError, TeeError

_FLOAT_BYTES = 4
_ARENA_BYTES = MAX_SEALED_SESSIONS * 256  # a slot a session; saving one needs two more meanwhile
_ELEMENT_BYTES = {"int4": 1, "int8": 1, "fp16": 2, "fp32": 4}  # INT4: a byte each on their way

Reorder = Callable[[int, int], None]  # (layer, rows)


def tee_failure(error: TeeError, what: str = "") -> EngineError:
    """Return what a TEE's call raised as an error of ours: `TeeDiedError` where it is gone.

    Args:
        error: the refusal; that of a process that is gone is a `TeeDeadError`.
        what: what was refused, put before the refusal's text.
    """
    return TeeDiedError() if isinstance(error, TeeDeadError) else EngineError(f"{what}{error}")


class TeeLink:
    """An engine's part of a TEE process: the arena it writes keys into, the model opened in it.

    Attributes:
        client: calls on the process.
        store: the sealed objects of the device, None without one.
        newest: which of its sealed files are the newest, None without a device.

    Security: this object holds handles and descriptors. Keys stand in the native secret arena,
    permutations in the TEE.
    """

    def __init__(
        self,
        config: EngineConfig,
        source: ModelSource,
        decoder: NativeDecoder,
        host: TeeHost,
        progress: Progress | None = None,
    ) -> None:
        """Take the host's TEE and, under `permute`, load the weights it permutes.

        Raises:
            EngineError: the TEE does not start or refuses, or another one runs on the device.
            SecurityError: the device's counter was removed or changed.
        """
        shape = source.config
        self._config = config
        self._row_elements = shape.n_kv_heads * shape.head_dim
        self._host = host
        self._process: TeeProcess | None = host.take()
        self.client, self.store = self._process.client, self._process.store
        self.newest = self._process.newest
        self._model: int | None = None
        self.attention: SharedMemory | None = None
        try:
            self.arena = _native.SecretArena(_ARENA_BYTES)
            self._arena_id = self.client.register_fd(self.arena.fd, self.arena.size)
            self.arena.close_fd()
            self.permutation = object()  # stands for the one the weights are in
            if config.permuted:
                self._model = self.client.open_model(kv_layout(shape, config))
                permute_weights(decoder, source, self.client, self._model, config, progress)
            if config.restores_in_tee:
                width = shape.n_heads * shape.head_dim * _FLOAT_BYTES
                self.attention = self.client.register_memory(config.prefill_chunk_tokens * width)
        except TeeError as error:
            self.close()
            raise EngineError(f"the TEE refused to set up the model: {error}") from None
        except BaseException:
            self.close()
            raise

    def alive(self) -> bool:
        """Whether the TEE process is there (one poll, no crossing), and this was not closed."""
        return self._process is not None and self.client.alive()

    def restore(self, layer: int, n_tokens: int) -> None:
        """Have the TEE put a layer's attention vectors back in order, in place (one crossing)."""
        if self._model is None or self.attention is None:
            raise EngineError("no attention memory is registered with the TEE")
        self.client.unpermute(self._model, layer, self.attention, n_tokens)

    def mark_keys_due(self) -> None:
        """Tell the TEE that all seal keys are being replaced.

        Raises:
            EngineError: the TEE is gone or refuses.
        """
        try:
            self.client.rotate_keys()
        except TeeError as error:
            raise tee_failure(error) from None

    def next_key(self, native: _native.KvSession, handle: int) -> None:
        """Draw a session's next seal key and put all rows of its family under it.

        Whatever raises, the session goes on under the key it had, but on a CUDA device that fails.

        Security: as for the first key. The old one is wiped once no row is under it.

        Raises:
            CapacityError: every key slot is in use.
            EngineError: the TEE is gone or refuses, or the device failed.
        """
        with self._key_slot("seal") as slot:
            _, epoch = self.client.new_epoch(self._arena_id, slot, handle)
        try:
            native.rekey(epoch & 0xFFFFFFFF, slot)
        except RuntimeError as error:
            raise native_error(error) from None

    @contextlib.contextmanager
    def next_permutation(
        self, decoder: NativeDecoder, source: ModelSource
    ) -> Iterator[Callable[[_native.KvSession], None]]:
        """Draw the model's next permutations and permute the weights anew.

        The block moves the rows there are, with what it is given; the old permutations are dropped
        after it. Where anything raises once `permutation` is another, weights and rows are of two
        orders: close the link.

        Raises:
            EngineError: the TEE is gone or refuses to draw them.
            TeeError: it is gone or refuses later.
        """
        if self._model is None:
            raise EngineError("no model is open in the TEE")
        try:
            self.client.rotate_model(self._model)
        except TeeError as error:
            raise tee_failure(error, "the TEE drew no permutation: ") from None
        self.permutation = object()
        permute_weights(decoder, source, self.client, self._model, self._config)
        with self._exchange(self._model, "epoch") as (memory, reorder):
            yield lambda native: native.reorder(memory, reorder)
        self.client.end_rotation(self._model)

    def permute_adapter(self, tensors: Mapping[str, LowRankTensors]) -> dict[str, LowRankTensors]:
        """Return an adapter's updates for the weights that this TEE permuted.

        Raises:
            EngineError: the TEE is gone or refuses.
        """
        if self._model is None:
            raise EngineError("no model is open in the TEE")
        out = {}
        try:
            for name, update in tensors.items():
                layer, role = split_name(name)
                out[name] = permute_low_rank(
                    update, role, layer, self.client, self._model, self._config
                )
        except TeeError as error:
            raise tee_failure(error, "the TEE did not permute the adapter: ") from None
        return out

    def open_sealed_session(
        self, pages: _native.PageArena, session_id: int
    ) -> tuple[_native.KvSession, int]:
        """Draw a seal key in the TEE and open a session under it.

        Security: the TEE writes the key straight into the arena; it is never a Python object.

        Returns:
            The native session and the TEE's handle of the key, for `drop_epoch`.

        Raises:
            CapacityError: every key slot is in use.
            EngineError: the TEE refuses.
        """
        with self._key_slot("seal") as slot:
            handle, epoch = self.client.new_epoch(self._arena_id, slot)
        native = _native.KvSession(pages, session_id, epoch & 0xFFFFFFFF, self.arena, slot)
        return native, handle

    @contextlib.contextmanager
    def open_storage(self, model_digest: bytes, file_id: bytes) -> Iterator[_native.PageStorage]:
        """Have the TEE write a saved session's key into the arena; wipe it afterwards.

        Security: as for a seal key. The key is there for the length of the `with` block.

        Args:
            model_digest: SHA-256 of the model file.
            file_id: the saved file's own 16 random bytes.

        Raises:
            CapacityError: fewer than two key slots are free.
            EngineError: the TEE refuses.
        """
        with self._key_slot("storage") as slot:
            # PageStorage takes a second slot: a full arena is told here, before a key is derived.
            self.arena.free_slot(self._take_slot())
            self.client.storage_key(self._arena_id, slot, model_digest, file_id)
        storage = _native.PageStorage(self.arena, slot)
        try:
            yield storage
        finally:
            storage.close()

    @contextlib.contextmanager
    def row_exchange(self, *, to_model: bool) -> Iterator[tuple[memoryview | None, Reorder | None]]:
        """Give what a `PageStorage` needs to move rows into the model's order, or back.

        Under `permute` that is memory shared with the TEE for one layer of one page, and a call
        that makes two crossings; otherwise (None, None). The memory is wiped and given back.
        """
        if self._model is None:
            yield None, None
            return
        if self._config.kv_dtype == "int4":
            raise InputError(
                f"shield {self._config.shield!r}: rows of kv_dtype {self._config.kv_dtype!r} "
                "cannot be put in the model's order, so they are not saved"
            )
        with self._exchange(self._model, "model" if to_model else "pages") as exchange:
            yield exchange

    @contextlib.contextmanager
    def _exchange(self, model: int, to: RowsTo) -> Iterator[tuple[memoryview, Reorder]]:
        element = _ELEMENT_BYTES[self._config.kv_dtype]
        half = self._row_elements * element  # bytes of one token's K (or V) rows
        memory = self.client.register_memory(2 * half * self._config.rows_per_page)

        def reorder(layer: int, rows: int) -> None:
            row_bytes = rows * element
            call = functools.partial(self.client.reorder_rows, model, layer)
            call("k", memory, 0, row_bytes, to=to)
            call("v", memory, half * rows, row_bytes, to=to)

        try:
            yield memory.buffer, reorder
        finally:
            memory.close()

    @contextlib.contextmanager
    def _key_slot(self, kind: str) -> Iterator[int]:
        """Take a slot for a key the TEE writes in the block; free it when the block fails."""
        slot = self._take_slot()
        try:
            yield slot
        except BaseException as error:  # an interrupt, too, must not leave a key in a slot
            self.arena.free_slot(slot)
            if isinstance(error, TeeError):
                raise tee_failure(error, f"the TEE gave no {kind} key: ") from None
            raise

    def _take_slot(self) -> int:
        try:
            return self.arena.take_slot()
        except RuntimeError as error:
            raise CapacityError(f"{error}: close a session first") from None

    def drop_epoch(self, handle: int) -> None:
        """Tell the TEE that a session's key is no longer in use; a dead TEE has forgotten it."""
        try:
            self.client.drop_epoch(handle)
        except TeeError:
            if self.client.alive():
                raise

    def on_death(self, wipe: Callable[[], None]) -> None:
        """Call `wipe` from a thread of its own once the TEE process is gone, however it went."""
        pidfd = os.pidfd_open(self.client.pid)

        def watch() -> None:
            try:
                select.select([pidfd], [], [])
            finally:
                os.close(pidfd)
            wipe()

        threading.Thread(target=watch, name="ptmo-tee-watch", daemon=True).start()

    def close(self) -> None:
        """Let go of the TEE; its last user ends it. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.users > 1 and self.client.alive():  # else all of it ends with the process
            with contextlib.suppress(TeeError):
                if self._arena_id is not None:
                    self.client.release_fd(self._arena_id)
                if self.attention is not None:
                    self.attention.close()
                if self._model is not None:
                    self.client.close_model(self._model)
        self._host.give_back(process)
