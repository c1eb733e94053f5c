"""The host's handle on a TEE process. Host code imports this module and no other of `tee_sim`.

with TeeClient.launch() as tee:
    model = tee.open_model(KvLayout(30, 9, 3, 64, 64, 32))
    w_q = tee.permute_weights(model, 0, "q", rows, row_bytes)
"""

import os
import struct
from pathlib import Path
from typing import Literal

from tee_sim.admin_calls import AdminCalls, TeeStats, audit_names
from tee_sim.attest_calls import AttestCalls
from tee_sim.audit_chain import AuditRecord, AuditTail
from tee_sim.channel import Channel
from tee_sim.check_calls import Checked
from tee_sim.errors import Origin, ResultCode, TeeDeadError, TeeError
from tee_sim.filler import Filler
from tee_sim.layout import KvLayout
from tee_sim.ledger import CostLedger, LedgerRow, Usage
from tee_sim.mask_calls import MaskCalls, Masked, Unmasker, Vault
from tee_sim.placeholders import kinds_in, names_in
from tee_sim.protocol import (
    HARDENING_BITS,
    NO_VALUES,
    STATUS_DEBUG_BIT,
    TA_STORE,
    Algorithm,
    Kind,
    KvCommand,
    ParamType,
    memref,
    param_types,
    role_code,
)
from tee_sim.scan_result import ScanResult, Span, Style
from tee_sim.sealed_format import MAX_OBJECT_BYTES, CounterState
from tee_sim.shared_memory import SharedMemory
from tee_sim.spawn import connect, connect_both
from tee_sim.store_calls import StoreCalls
from tee_sim.vault_format import VaultHeader, vault_header

__all__ = [
    "MAX_OBJECT_BYTES",
    "Algorithm",
    "AuditRecord",
    "AuditTail",
    "Checked",
    "CostLedger",
    "CounterState",
    "Filler",
    "KvLayout",
    "LedgerRow",
    "Masked",
    "ResultCode",
    "RowsTo",
    "ScanResult",
    "SharedMemory",
    "Span",
    "StoreCalls",
    "Style",
    "TeeClient",
    "TeeDeadError",
    "TeeError",
    "TeeStats",
    "Unmasker",
    "Usage",
    "Vault",
    "VaultHeader",
    "WeightRoleName",
    "audit_names",
    "kinds_in",
    "names_in",
    "vault_header",
]

WeightRoleName = Literal["q", "k", "v", "o", "freq"]
RowsTo = Literal["model", "pages", "epoch"]

_WINDOW_BYTES = 1 << 20
_MAX_POLL_US = 1000
_POLL_US = 50
_IN, _OUT = ParamType.VALUE_INPUT, ParamType.VALUE_OUTPUT
_ONE_VALUE = param_types(_IN)
_OPEN_MODEL = param_types(_IN, _IN, _OUT)
_NEW_EPOCH = param_types(_IN, _IN, _OUT)
_STORAGE_KEY = param_types(_IN, _IN, _IN, _IN)
_PERMUTE = param_types(ParamType.MEMREF_INOUT, _IN, _IN, _IN)
_UNPERMUTE = param_types(ParamType.MEMREF_INOUT, _IN, _IN)
_ROWS_TO: dict[RowsTo, KvCommand] = {
    "model": KvCommand.UNPERMUTE_ROWS,
    "pages": KvCommand.PERMUTE_WEIGHTS,
    "epoch": KvCommand.MOVE_ROWS,
}


class TeeClient(MaskCalls, AdminCalls, AttestCalls):
    """One spawned TEE process behind one socket. Thread-safe: one call at a time.

    Every method that reaches the TEE raises `TeeError` when the TEE refuses and `TeeDeadError`
    when its process is gone; a dead client stays dead, launch a new one.

    Security: this object is never given a key or a permutation, but what `permute_weights` returns
    tells the permutation to whoever reads it; see docs/tee.md.
    """

    def __init__(self, channel: Channel, role: str, session: int) -> None:
        """Use `launch`."""
        super().__init__(channel, session)
        self._role = role
        self._layouts: dict[int, tuple[KvLayout, int]] = {}

    @classmethod
    def launch(
        cls,
        role: Literal["core", "guard"] = "core",
        *,
        debug_root_key: bytes | None = None,
        fuses: str | os.PathLike[str] | None = None,
        ledger: CostLedger | None = None,
        poll_us: int = _POLL_US,
    ) -> "TeeClient":
        """Start a TEE process and wait until it answers.

        Security: without `debug_root_key` the root key is drawn inside the TEE, or read by it from
        `fuses`, and never leaves it. With it the host chose the key: tests only, and
        `status()["debug"]` says so for good.

        Args:
            role: "core" (keys, permutations, sealed objects) or "guard" (PII rules).
            debug_root_key: 32 bytes, or None.
            fuses: file that keeps the root key from start to start, made the first time in a
                folder that only its owner may change; None: the key is drawn at every start. Such
                a device draws epochs only after `open_store().start`.
            ledger: counts on where an earlier TEE's calls stand; None: a new one.
            poll_us: microseconds, 0..1000, for which the TEE awaits the next call without sleeping,
                after each call. It answers sooner, and keeps a core busy that must be to spare. The
                default is meant for calls that follow each other at once.

        Raises:
            TeeError: if the process does not start; the text holds its last line.
            ValueError: on an unknown role, a wrong debug key or an empty path.
        """
        if role not in ("core", "guard"):
            raise ValueError(f"unknown TEE role {role!r}: expected 'core' or 'guard'")
        fuse_file = _checked(fuses, poll_us)
        channel, session = connect(role, debug_root_key, fuse_file, ledger, poll_us)
        return cls(channel, role, session)

    @classmethod
    def launch_both(
        cls,
        *,
        debug_root_key: bytes | None = None,
        fuses: str | os.PathLike[str] | None = None,
        ledger: CostLedger | None = None,
        poll_us: int = _POLL_US,
    ) -> "tuple[TeeClient, TeeClient]":
        """Start a core and the guard of the same device: (core, guard).

        Security: the core gives the guard its storage key, and no other, through a pipe of theirs.
        With `fuses` it is the same at every start, so that saved vaults open again.

        Args, raises: as `launch`; the ledger is the core's.
        """
        fuse_file = _checked(fuses, poll_us)
        core, guard = connect_both(debug_root_key, fuse_file, ledger, poll_us)
        return cls(core[0], "core", core[1]), cls(guard[0], "guard", guard[1])

    def __enter__(self) -> "TeeClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> dict[str, object]:
        """Report role, pid, debug flag, budget, epoch drawn last, crossings and hardening."""
        values = self._channel.call(Kind.STATUS, "status")
        return {
            "role": self._role,
            "pid": values[1],
            "debug": bool(values[0] & STATUS_DEBUG_BIT),
            "budget_bytes": values[2],
            "used_bytes": values[3],
            "epoch": values[4],
            "crossings": values[5],
            "hardening": {
                name: bool(values[6] >> bit & 1) for bit, name in enumerate(HARDENING_BITS)
            },
            "regions": values[7],
        }

    def open_store(self) -> StoreCalls:
        """Open a session with the `store` application of a core, in the same process."""
        return StoreCalls(self._channel, self._channel.open_session(TA_STORE))

    def open_model(self, layout: KvLayout) -> int:
        """Draw a permutation epoch for one load of a model.

        Returns:
            Model handle.
        """
        values = self._invoke(
            KvCommand.OPEN_MODEL,
            _OPEN_MODEL,
            (
                layout.n_layers | layout.n_heads << 32,
                layout.n_kv_heads | layout.head_dim << 32,
                layout.rotary_dim | layout.v_block << 32,
                *NO_VALUES[3:],
            ),
            undo=lambda opened: self._close_model(opened[4]),
        )
        self._layouts[values[4]] = (layout, values[5])
        return values[4]

    def model_epoch(self, model: int) -> int:
        """Return the permutation epoch number of a loaded model (a number, not a secret)."""
        return self._layout(model)[1]

    def close_model(self, model: int) -> None:
        """Drop a model's permutations in the TEE."""
        self._close_model(model)
        self._layouts.pop(model, None)

    def rotate_model(self, model: int) -> None:
        """Draw a loaded model's next permutations; its handle stays.

        Weights are to be permuted anew, and rows moved (`move_rows`), before `end_rotation`.
        """
        epoch = self._rotate(model, 0)
        self._layouts[model] = (self._layout(model)[0], epoch)

    def end_rotation(self, model: int) -> None:
        """Drop the permutations that `rotate_model` replaced."""
        self._rotate(model, 1)

    def _close_model(self, model: int) -> None:
        self._invoke(KvCommand.CLOSE_MODEL, _ONE_VALUE, (model, *NO_VALUES[1:]))

    def permute_weights(
        self,
        model: int,
        layer: int,
        role: WeightRoleName,
        rows: bytes | memoryview,
        row_bytes: int,
    ) -> bytes:
        """Gather the rows of one weight matrix by the TEE's permutations (``out[i] = in[p[i]]``).

        Security: a permuted matrix, or the permuted frequencies, beside the public original
        disclose the permutation; see docs/tee.md. The shared window is wiped before this returns.

        Args:
            model: handle from `open_model`.
            layer: 0 <= layer < n_layers.
            role: "q", "k", "v", "o" (W_o transposed: one row per input feature) or "freq".
            rows: row-major bytes of all rows of that role.
            row_bytes: bytes per row.

        Returns:
            The rows in permuted order, same length.
        """
        layout, _ = self._layout(model)
        code = role_code(role)
        n_heads = layout.n_heads if role in ("q", "o") else layout.n_kv_heads
        head_rows = layout.n_pairs if role == "freq" else layout.head_dim
        source = memoryview(rows).cast("B")
        if row_bytes < 1 or len(source) != n_heads * head_rows * row_bytes:
            raise TeeError(
                ResultCode.BAD_PARAMETERS,
                Origin.API,
                f"role {role!r} needs {n_heads * head_rows} rows of {row_bytes} bytes, "
                f"got {len(source)} bytes",
            )
        head_bytes = head_rows * row_bytes
        step = max(1, _WINDOW_BYTES // head_bytes)
        permuted = bytearray(len(source))
        with self._channel.lock:
            window = self._shared_window(step * head_bytes)
            try:
                for first in range(0, n_heads, step):
                    count = min(step, n_heads - first)
                    size, at = count * head_bytes, first * head_bytes
                    window.buffer[:size] = source[at : at + size]
                    self._invoke(
                        KvCommand.PERMUTE_WEIGHTS,
                        _PERMUTE,
                        (*memref(window.id, 0, size), model, layer, code, row_bytes, first, count),
                    )
                    permuted[at : at + size] = window.buffer[:size]
            finally:
                window.wipe(min(step, n_heads) * head_bytes)
        return bytes(permuted)

    def unpermute(self, model: int, layer: int, memory: SharedMemory, n_tokens: int) -> None:
        """Put attention vectors back into the original order, in place.

        ``a[perm[i]] = a_permuted[i]`` per query head, with its kv head's value permutation.

        Security: the result stays in `memory` for the host to read; TEE-side copies are wiped.

        Args:
            model: handle from `open_model`.
            layer: 0 <= layer < n_layers.
            memory: starts with float32 [n_tokens, n_heads * head_dim].
            n_tokens: rows, at least 1.
        """
        layout, _ = self._layout(model)
        size = n_tokens * layout.n_heads * layout.head_dim * 4
        values = (memory.id << 32 | size, 0, model, layer, n_tokens, 0, 0, 0)
        self._invoke(KvCommand.UNPERMUTE, _UNPERMUTE, values)

    def new_epoch(self, arena_id: int, offset: int, session: int = 0) -> tuple[int, int]:
        """Open a sealing session: the TEE writes its 16-byte AES key into the arena at `offset`.

        Security: the key never crosses the socket and never becomes a Python object here.

        Args:
            arena_id, offset: where to.
            session: draw the next key of this one; 0: open a new one.

        Returns:
            (session handle, epoch number).
        """
        request = (arena_id, offset, session, *NO_VALUES[3:])
        undo = None if session else lambda opened: self.drop_epoch(opened[4])
        values = self._invoke(KvCommand.NEW_EPOCH, _NEW_EPOCH, request, undo=undo)
        return values[4], values[5]

    def drop_epoch(self, session: int) -> None:
        """End a sealing session in the TEE; the engine wipes the key in its own arena."""
        self._invoke(KvCommand.DROP_EPOCH, _ONE_VALUE, (session, *NO_VALUES[1:]))

    def storage_key(self, arena_id: int, offset: int, model_digest: bytes, file_id: bytes) -> None:
        """Have the TEE write the 32-byte key of a saved session into the arena at `offset`.

        Security: the key never crosses the socket and never becomes a Python object here. The TEE
        derives the same key again for the same arguments, as long as its root key lives.

        Args:
            arena_id, offset: where to.
            model_digest: SHA-256 of the model file, 32 bytes.
            file_id: 16 bytes, drawn anew for every file.
        """
        words = struct.unpack("<6Q", model_digest + file_id)
        self._invoke(KvCommand.STORAGE_KEY, _STORAGE_KEY, (arena_id, offset, *words))

    def reorder_rows(
        self,
        model: int,
        layer: int,
        role: Literal["k", "v"],
        memory: SharedMemory,
        offset: int,
        row_bytes: int,
        *,
        to: RowsTo,
    ) -> None:
        """Move the elements of cached K or V rows from one order to another.

        One "row" of the exchange is one element of the head for every token: [n_kv_heads *
        head_dim, row_bytes], in place, as `permute_weights` sees the rows of W_k and W_v.

        Security: the result stays in `memory` for the host to read and wipe.

        Args:
            model: handle from `open_model`.
            layer: 0 <= layer < n_layers.
            role: "k" or "v".
            memory, offset: where they stand.
            row_bytes: tokens * bytes of an element.
            to: "model" from the pages' order to the model's, "pages" back, "epoch" from the order
                that `rotate_model` replaced to the pages'.
        """
        layout, _ = self._layout(model)
        rows = memref(memory.id, offset, layout.n_kv_heads * layout.head_dim * row_bytes)
        given = (model, layer, role_code(role), row_bytes, 0, layout.n_kv_heads)
        self._invoke(_ROWS_TO[to], _PERMUTE, (*rows, *given))

    def _layout(self, model: int) -> tuple[KvLayout, int]:
        known = self._layouts.get(model)
        if known is None:
            raise TeeError(ResultCode.ITEM_NOT_FOUND, Origin.API, f"no model {model}")
        return known


def _checked(fuses: str | os.PathLike[str] | None, poll_us: int) -> Path | None:
    if type(poll_us) is not int or not 0 <= poll_us <= _MAX_POLL_US:
        raise ValueError(f"poll_us={poll_us} is outside 0..{_MAX_POLL_US}")
    if fuses is not None and not os.fspath(fuses):
        raise ValueError("fuses='' names no file")
    return None if fuses is None else Path(fuses)
