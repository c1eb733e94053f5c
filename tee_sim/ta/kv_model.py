"""One loaded model inside the TEE: its permutations and the two gathers they are used for.

The gathers are built on ``bytearray.translate``: translating an *index* string through the *data*
as a 256-entry table is a gather in C. It takes about 0.2 us per 64 float32 values, and its results
are byte arrays, which unlike Python integers can be overwritten afterwards.
"""

from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.layout import KvLayout
from tee_sim.memory import wipe
from tee_sim.permutation import HeadPermutations, expand_pairs, invert, layer_permutations
from tee_sim.protocol import WeightRole

_TABLE = 256  # entries of a translation table
_FLOAT_BYTES = 4
_OBJECT_BYTES = 128  # allowance per small Python object in the budget


class LoadedModel:
    """Permutations of one model load, derived layer by layer when first needed.

    Security: holds the epoch key and the permutations; `close` overwrites what is in byte arrays.

    Args:
        layout: geometry.
        epoch_key: 32-byte key of the model's permutation epoch.
        before: the model as it was in its last epoch, while rows are still in that order.
    """

    def __init__(
        self, layout: KvLayout, epoch_key: bytes, before: "LoadedModel | None" = None
    ) -> None:
        self.layout = layout
        self.before = before
        self.row_bytes = layout.n_heads * layout.head_dim * _FLOAT_BYTES
        self._epoch_key = epoch_key
        self._heads: dict[int, tuple[HeadPermutations, ...]] = {}
        self._indices: dict[int, list[bytearray]] = {}
        # A block of `v_block` floats is gathered as bytes when it fits a table, otherwise as four
        # separate byte planes (byte 0 of every float, byte 1, ...).
        self._planes = 1 if layout.v_block * _FLOAT_BYTES <= _TABLE else _FLOAT_BYTES
        self._unit = _FLOAT_BYTES // self._planes
        block = layout.v_block * self._unit
        self._window = _TABLE // block * block

    @staticmethod
    def budget_bytes(layout: KvLayout) -> int:
        """What a model may come to hold with every layer derived."""
        per_kv_head = layout.n_pairs + layout.head_dim + 3 * _OBJECT_BYTES
        index = layout.n_heads * layout.head_dim * _FLOAT_BYTES
        return layout.n_layers * (layout.n_kv_heads * per_kv_head + 2 * index) + 4096

    def close(self) -> None:
        """Overwrite the index tables and drop every permutation."""
        self.forget_before()
        for windows in self._indices.values():
            wipe(*windows)
        self._indices.clear()
        self._heads.clear()
        self._epoch_key = b""

    def forget_before(self) -> None:
        """Drop what is left of the last epoch."""
        if self.before is not None:
            self.before.close()
            self.before = None

    def check_layer(self, layer: int) -> None:
        """Refuse a layer the model does not have."""
        if layer >= self.layout.n_layers:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, f"no layer {layer}")

    def role_shape(self, role: WeightRole) -> tuple[int, int]:
        """Return (heads, rows per head) of the matrix a role names."""
        layout = self.layout
        n_heads = layout.n_heads if role in (WeightRole.Q, WeightRole.O) else layout.n_kv_heads
        return n_heads, layout.n_pairs if role is WeightRole.FREQ else layout.head_dim

    def gather_rows(
        self,
        layer: int,
        role: WeightRole,
        first_head: int,
        n_heads: int,
        source: bytearray,
        row_bytes: int,
        *,
        inverse: bool = False,
        move: bool = False,
    ) -> bytearray:
        """Return the rows of `n_heads` heads, each gathered by its own permutation.

        Args:
            layer, role, first_head, n_heads: which heads `source` holds.
            source: row-major bytes, n_heads * rows per head * row_bytes.
            row_bytes: bytes of one row.
            inverse: gather by the inverse permutations: what went before is undone.
            move: `source` is in the last epoch's order; both steps are one gather.
        """
        _, head_rows = self.role_shape(role)
        heads = self._layer_heads(layer)
        head_bytes = head_rows * row_bytes
        gathered = bytearray(len(source))
        with memoryview(source) as view:
            for index in range(n_heads):
                order = self._row_order(heads, role, first_head + index)
                if inverse:
                    order = invert(order)
                if move and self.before is not None:
                    last = self.before._layer_heads(layer)
                    undo = invert(self._row_order(last, role, first_head + index))
                    order = [undo[row] for row in order]
                base = at = index * head_bytes
                for row in order:
                    start = base + row * row_bytes
                    gathered[at : at + row_bytes] = view[start : start + row_bytes]
                    at += row_bytes
        return gathered

    def unpermute(self, layer: int, source: bytearray) -> bytearray:
        """Return attention vectors in the original order: ``a[perm[i]] = a_permuted[i]`` per head.

        Security: intermediate copies are overwritten; the caller overwrites the result.

        Args:
            layer: layer index, checked by the caller.
            source: float32 [n_tokens, n_heads * head_dim] as bytes.
        """
        windows = self._indices.get(layer)
        if windows is None:
            windows = self._indices[layer] = self._build_indices(layer)
        if self._planes == 1:
            return self._translate(source, windows)
        restored = bytearray(len(source))
        for plane in range(self._planes):
            part = source[plane :: self._planes]
            moved = self._translate(part, windows)
            restored[plane :: self._planes] = moved
            wipe(part, moved)
        return restored

    def _translate(self, source: bytearray, windows: list[bytearray]) -> bytearray:
        size = len(source)
        restored = bytearray(size)
        padded = source + bytes(_TABLE)
        with memoryview(padded) as table:
            at = 0
            while at < size:
                for window in windows:
                    step = len(window)
                    piece = window.translate(table[at : at + _TABLE])
                    restored[at : at + step] = piece
                    wipe(piece)
                    at += step
        wipe(padded)
        return restored

    def _layer_heads(self, layer: int) -> tuple[HeadPermutations, ...]:
        heads = self._heads.get(layer)
        if heads is None:
            heads = self._heads[layer] = layer_permutations(self._epoch_key, self.layout, layer)
        return heads

    def _row_order(
        self, heads: tuple[HeadPermutations, ...], role: WeightRole, head: int
    ) -> bytes | list[int]:
        """Row permutation of one head; query heads use their kv head's."""
        if role is WeightRole.FREQ:
            return heads[head].pairs
        if role is WeightRole.V:
            return heads[head].values
        if role is WeightRole.O:
            return heads[head // self.layout.group].values
        kv_head = head if role is WeightRole.K else head // self.layout.group
        return expand_pairs(heads[kv_head].pairs)

    def _build_indices(self, layer: int) -> list[bytearray]:
        """Lay the inverse value permutations of all query heads out as translation strings."""
        dim = self.layout.head_dim
        flat: list[int] = []
        for head in range(self.layout.n_heads):
            heads = self._layer_heads(layer)
            inverse = invert(heads[head // self.layout.group].values)
            for source in inverse:
                start = (head * dim + source) * self._unit
                flat.extend(range(start, start + self._unit))
        windows = []
        for base in range(0, len(flat), self._window):
            windows.append(bytearray(i - base for i in flat[base : base + self._window]))
        return windows
