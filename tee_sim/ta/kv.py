"""The `kv` trusted application: permutations of loaded models, seal keys of sessions.

A permutation epoch belongs to a loaded model, a seal key to a session. Epoch numbers come from the
device and are never reused. No command returns a key or a permutation; what PERMUTE_WEIGHTS and
UNPERMUTE reveal by their very function is written down in docs/tee.md.
"""

from tee_sim import keys
from tee_sim.device import Device
from tee_sim.dispatch import Handler, Params
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.layout import KvLayout
from tee_sim.memory import Budget, wipe
from tee_sim.protocol import NO_VALUES, TA_KV, KvCommand, ParamType, Values, WeightRole, param_types
from tee_sim.ta.kv_model import LoadedModel

MAX_ROW_BYTES = 1 << 24
_SESSION_BYTES = 256  # what one session record costs in the budget
_VALUE = ParamType.VALUE_INPUT
_TWO_IN_ONE_OUT = param_types(_VALUE, _VALUE, ParamType.VALUE_OUTPUT)
_ROWS = param_types(ParamType.MEMREF_INOUT, _VALUE, _VALUE, _VALUE)


class KvApplication:
    """Holds the loaded models' permutations and the list of live sessions.

    Security: keys are derived when needed and not kept, except the permutations of loaded models.

    Args:
        budget: counts every byte held or copied.
        device: holds the root key and numbers the epochs.
    """

    def __init__(self, budget: Budget, device: Device) -> None:
        self._budget = budget
        self._device = device
        self._models: dict[int, LoadedModel] = {}
        self._sessions: dict[int, int] = {}  # the epoch of each one's key
        self._due = 0  # keys of epochs up to this one are to be replaced
        self._last_model = 0
        self._last_session = 0
        self.uuid = TA_KV
        self.commands: dict[int, tuple[int, Handler]] = {
            KvCommand.OPEN_MODEL: (_TWO_IN_ONE_OUT, self._open_model),
            KvCommand.CLOSE_MODEL: (param_types(_VALUE), self._close_model),
            KvCommand.PERMUTE_WEIGHTS: (_ROWS, self._permute_weights),
            KvCommand.UNPERMUTE: (
                param_types(ParamType.MEMREF_INOUT, _VALUE, _VALUE),
                self._unpermute,
            ),
            KvCommand.NEW_EPOCH: (_TWO_IN_ONE_OUT, self._new_epoch),
            KvCommand.DROP_EPOCH: (param_types(_VALUE), self._drop_epoch),
            KvCommand.STORAGE_KEY: (
                param_types(_VALUE, _VALUE, _VALUE, _VALUE),
                self._storage_key,
            ),
            KvCommand.UNPERMUTE_ROWS: (_ROWS, self._unpermute_rows),
            KvCommand.MOVE_ROWS: (_ROWS, self._move_rows),
        }

    @property
    def epoch(self) -> int:
        """The epoch number drawn last; 0 before the first."""
        return self._device.epoch

    def close(self) -> None:
        """Wipe every permutation and the root key, which the applications share."""
        for model in self._models.values():
            model.close()
        self._models.clear()
        self._device.close()

    def rotate(self, handle: int, stage: int) -> int:
        """Draw a model's next permutations (stage 0), later forget those before them (stage 1).

        With handle 0 it marks every seal key there is as due: the TEE has no hold of keys that
        stand in the engine's arena, but counts who still has one (`sealing`).

        Returns:
            The epoch drawn; with handle 0 the last one whose keys are due; else 0.
        """
        if not handle and not stage:
            self._due = self._device.epoch
            return self._due
        model = self._model(handle)
        if stage != (model.before is not None):
            raise TeeError(ResultCode.BAD_STATE, Origin.TRUSTED_APP, "rotation out of step")
        size = LoadedModel.budget_bytes(model.layout)
        if stage:
            model.forget_before()
            self._budget.refund(size)
            return 0
        epoch = self._device.next_epoch()
        self._load(handle, model.layout, epoch, model)
        return epoch

    def sealing(self) -> tuple[int, int]:
        """Return how many sessions have a seal key, and how many of these keys are due."""
        return len(self._sessions), sum(epoch <= self._due for epoch in self._sessions.values())

    def _model(self, handle: int) -> LoadedModel:
        model = self._models.get(handle)
        if model is None:
            raise TeeError(ResultCode.ITEM_NOT_FOUND, Origin.TRUSTED_APP, f"no model {handle}")
        return model

    def _open_model(self, params: Params) -> Values:
        """In (n_layers | n_heads << 32, n_kv_heads | head_dim << 32), (rotary_dim | v_block << 32).

        Out, in the third parameter: (model handle, epoch).
        """
        heads, dims, rotary, zero = params.values[:4]
        try:
            layout = KvLayout(*_split(heads), *_split(dims), *_split(rotary))
        except ValueError:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, "layout") from None
        if zero:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, "layout")
        epoch = self._device.next_epoch()
        self._last_model += 1
        self._load(self._last_model, layout, epoch)
        return (0, 0, 0, 0, self._last_model, epoch, 0, 0)

    def _load(
        self, handle: int, layout: KvLayout, epoch: int, before: LoadedModel | None = None
    ) -> None:
        """Put the permutations of an epoch under a handle, or nothing on any error."""
        key = self._device.secrets.keep(self._device.epoch_key(epoch))
        try:
            with self._budget.keeping(LoadedModel.budget_bytes(layout)):
                self._models[handle] = LoadedModel(layout, key, before)
        except BaseException:
            key.drop()
            raise

    def _close_model(self, params: Params) -> Values:
        """In (model handle, 0)."""
        model = self._model(params.values[0])
        held = LoadedModel.budget_bytes(model.layout) * (1 if model.before is None else 2)
        del self._models[params.values[0]]  # first: half closed it must not be used again
        model.close()
        self._budget.refund(held)
        return NO_VALUES

    def _permute_weights(self, params: Params) -> Values:
        """In/out rows; in (model, layer), (role, row_bytes), (first head, heads)."""
        return self._gather_rows(params)

    def _unpermute_rows(self, params: Params) -> Values:
        """Undo `_permute_weights`, parameter for parameter: for K and V rows that are saved."""
        return self._gather_rows(params, inverse=True)

    def _move_rows(self, params: Params) -> Values:
        """As `_permute_weights`, for K and V rows in the order that ROTATE replaced."""
        if self._model(params.values[2]).before is None:
            raise TeeError(ResultCode.BAD_STATE, Origin.TRUSTED_APP, "no rotation is under way")
        return self._gather_rows(params, move=True)

    def _gather_rows(self, params: Params, *, inverse: bool = False, move: bool = False) -> Values:
        rows = params.memory(0)
        handle, layer, role_code, row_bytes, first_head, n_heads = params.values[2:]
        model = self._model(handle)
        try:
            role = WeightRole(role_code)
        except ValueError:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, "role") from None
        model.check_layer(layer)
        total_heads, head_rows = model.role_shape(role)
        if (
            not 1 <= row_bytes <= MAX_ROW_BYTES
            or not 1 <= n_heads <= total_heads
            or first_head > total_heads - n_heads
            or len(rows) != n_heads * head_rows * row_bytes
        ):
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, "rows")
        size = len(rows)
        self._budget.charge(size)
        try:
            gathered = model.gather_rows(
                layer, role, first_head, n_heads, rows, row_bytes, inverse=inverse, move=move
            )
            rows[:] = gathered
            wipe(gathered)
        finally:
            self._budget.refund(size)
        return NO_VALUES

    def _unpermute(self, params: Params) -> Values:
        """In/out float32 [n_tokens, n_heads * head_dim]; in (model, layer), (n_tokens, 0).

        Security: every TEE-side copy of the vectors is overwritten before the reply.
        """
        vectors = params.memory(0)
        values = params.values
        model = self._model(values[2])
        layer, n_tokens = values[3], values[4]
        model.check_layer(layer)
        if n_tokens < 1 or len(vectors) != n_tokens * model.row_bytes or values[5]:
            raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, "vectors")
        size = len(vectors)
        self._budget.charge(size)
        try:
            restored = model.unpermute(layer, vectors)
            vectors[:] = restored
            wipe(restored)
        finally:
            self._budget.refund(size)
        return NO_VALUES

    def _new_epoch(self, params: Params) -> Values:
        """In (arena id, offset), (session handle or 0, 0); out, in the third: (session, epoch).

        0 opens a session. A session that is open keeps its handle, and gets the next key.

        Security: the 16-byte seal key goes into the arena and nowhere else; the number of the
        epoch is spent also when the arena turns out not to be writable. The key before it stands
        in the engine's arena alone, and is the engine's to wipe.
        """
        arena_id, offset, session, zero = params.values[:4]
        if zero or (session and session not in self._sessions):
            raise TeeError(ResultCode.ITEM_NOT_FOUND, Origin.TRUSTED_APP, f"no session {session}")
        with self._budget.keeping(0 if session else _SESSION_BYTES):
            epoch = self._device.next_epoch()
            if not session:
                self._last_session += 1
                session = self._last_session
            key = self._device.epoch_key(epoch)
            try:
                params.write_arena_secret(arena_id, offset, keys.seal_key(key, session))
            finally:
                wipe(key)
            self._sessions[session] = epoch
        return (0, 0, 0, 0, session, epoch, 0, 0)

    def _drop_epoch(self, params: Params) -> Values:
        """In (session handle, 0). The engine wipes its own arena."""
        if self._sessions.pop(params.values[0], None) is None:
            raise TeeError(ResultCode.ITEM_NOT_FOUND, Origin.TRUSTED_APP, "no such session")
        self._budget.refund(_SESSION_BYTES)
        return NO_VALUES

    def _storage_key(self, params: Params) -> Values:
        """In (arena id, offset), (digest), (digest), (file id): 16 bytes, little-endian, a pair.

        Security: the 32-byte key goes into the arena and nowhere else. The same digest and file id
        give the same key for as long as the root key lives.
        """
        arena_id, offset = params.values[:2]
        words = b"".join(value.to_bytes(8, "little") for value in params.values[2:])
        digest, file_id = words[: keys.MODEL_DIGEST_BYTES], words[keys.MODEL_DIGEST_BYTES :]
        secret = keys.saved_session_key(self._device.root_key, digest, file_id)
        params.write_arena_secret(arena_id, offset, secret)
        return NO_VALUES


def _split(packed: int) -> tuple[int, int]:
    return packed & 0xFFFFFFFF, packed >> 32
