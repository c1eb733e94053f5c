"""One loaded model inside the TEE: its permutations and the two gathers they are used for."""

from array import array

from tee_sim._gather import gather
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.layout import KvLayout
from tee_sim.memory import wipe
from tee_sim.permutation import HeadPermutations, expand_pairs, invert, layer_permutations
from tee_sim.protocol import WeightRole
from tee_sim.secret_memory import KeptKey

_FLOAT_BYTES = 4
_INDEX = "I"  # uint32
_OBJECT_BYTES = 128  # allowance per small Python object in the budget


class LoadedModel:
    """Permutations of one model load, derived layer by layer when first needed.

    Security: holds the epoch key and the permutations; `close` overwrites what is in byte arrays.

    Args:
        layout: geometry.
        epoch_key: of the model's permutation epoch; `close` drops it.
        before: the model as it was in its last epoch, while rows are still in that order.
    """

    def __init__(
        self, layout: KvLayout, epoch_key: KeptKey, before: "LoadedModel | None" = None
    ) -> None:
        self.layout = layout
        self.before = before
        self.row_bytes = layout.n_heads * layout.head_dim * _FLOAT_BYTES
        self._epoch_key = epoch_key
        self._heads: dict[int, tuple[HeadPermutations, ...]] = {}
        self._indices: dict[int, array[int]] = {}

    @staticmethod
    def budget_bytes(layout: KvLayout) -> int:
        """What a model may come to hold with every layer derived."""
        per_kv_head = layout.n_pairs + layout.head_dim + 3 * _OBJECT_BYTES
        index = layout.n_heads * layout.head_dim * array(_INDEX).itemsize
        return layout.n_layers * (layout.n_kv_heads * per_kv_head + index) + 4096

    def close(self) -> None:
        """Overwrite the index tables and drop every permutation."""
        self.forget_before()
        for index in self._indices.values():
            _wipe_index(index)
        self._indices.clear()
        self._heads.clear()
        self._epoch_key.drop()

    def forget_before(self) -> None:
        """Drop what is left of the last epoch."""
        before, self.before = self.before, None
        if before is not None:
            before.close()

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
        source: memoryview,
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
        index = array(_INDEX)
        for head in range(n_heads):
            order = self._row_order(heads, role, first_head + head)
            if inverse:
                order = invert(order)
            if move and self.before is not None:
                last = self.before._layer_heads(layer)
                undo = invert(self._row_order(last, role, first_head + head))
                order = [undo[row] for row in order]
            index.extend(head * head_rows + row for row in order)
        gathered = bytearray(len(source))
        gather(gathered, source, index, row_bytes)
        _wipe_index(index)
        return gathered

    def unpermute(self, layer: int, source: memoryview) -> bytearray:
        """Return attention vectors in the original order: ``a[perm[i]] = a_permuted[i]`` per head.

        Security: the caller overwrites the result; there is no other copy.

        Args:
            layer: layer index, checked by the caller.
            source: float32 [n_tokens, n_heads * head_dim] as bytes.
        """
        index = self._indices.get(layer)
        if index is None:
            index = self._indices[layer] = self._restoring_index(layer)
        restored = bytearray(len(source))
        gather(restored, source, index, _FLOAT_BYTES)
        return restored

    def _layer_heads(self, layer: int) -> tuple[HeadPermutations, ...]:
        heads = self._heads.get(layer)
        if heads is None:
            heads = self._heads[layer] = layer_permutations(
                self._epoch_key.view, self.layout, layer
            )
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

    def _restoring_index(self, layer: int) -> "array[int]":
        """Lay the inverse value permutations of all query heads out in a row."""
        heads = self._layer_heads(layer)
        dim = self.layout.head_dim
        index = array(_INDEX)
        for head in range(self.layout.n_heads):
            inverse = invert(heads[head // self.layout.group].values)
            index.extend(head * dim + source for source in inverse)
        return index


def _wipe_index(index: "array[int]") -> None:
    with memoryview(index) as view:
        wipe(view.cast("B"))
