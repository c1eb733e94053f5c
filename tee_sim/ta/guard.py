"""The `guard` trusted application: SCAN a text for private spans, MASK them and UNMASK answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tee_sim.dispatch import Handler, Params
from tee_sim.errors import Origin, ResultCode, TeeError
from tee_sim.guard.at_rest import seal, sealed_bytes, unseal
from tee_sim.guard.leaks import find_held, find_private
from tee_sim.guard.masking import mask
from tee_sim.guard.reading import Classifier
from tee_sim.guard.restoring import unmask
from tee_sim.guard.scoring import scan_text
from tee_sim.guard.vault import Session, Vault
from tee_sim.memory import Budget, wipe
from tee_sim.placeholders import KINDS
from tee_sim.protocol import NO_VALUES, TA_GUARD, GuardCommand, ParamType, Values, param_types
from tee_sim.scan_result import LEVELS, STYLES, ScanResult, pack_score, pack_spans, pack_verdict
from tee_sim.sealed_format import MAX_OBJECT_BYTES
from tee_sim.secret_memory import KeptKey

MAX_TEXT_BYTES = 1 << 18  # seconds of reading; a call has a minute, also on a busy machine
# Budget charge per byte of text: two views with their maps, the masked copy, the matches
_WORK_FACTOR = 24
# The same for an answer: the folded copy, the shapes found, the restored text
_UNMASK_FACTOR = 8
_WORDS_BIT, _SCAN_BIT = 1, 2  # of CHECK
_FINAL_BIT, _CONTEXT_SHIFT = 1, 32  # of UNMASK: no more text follows; bytes given back before


class GuardApplication:
    """Runs rules and classifier on text in shared memory, and keeps what was masked.

    Args:
        budget: counts the working memory of a call, and the vault.
        classifier: as for `scan_text`.
        storage: the key that vaults at rest are sealed under; None: none leaves, none comes back.
    """

    def __init__(
        self, budget: Budget, classifier: Classifier | None = None, storage: KeptKey | None = None
    ) -> None:
        self._budget = budget
        self._kept_key = storage
        self._vault = Vault(budget)
        self._classifier = classifier
        self.uuid = TA_GUARD
        self.epoch = 0
        text, result = ParamType.MEMREF_INPUT, ParamType.MEMREF_OUTPUT
        value, out, both = ParamType.VALUE_INPUT, ParamType.VALUE_OUTPUT, ParamType.VALUE_INOUT
        self.commands: dict[int, tuple[int, Handler]] = {
            GuardCommand.SCAN: (param_types(text, result, out, out), self._scan),
            GuardCommand.OPEN_VAULT: (param_types(value, value, out), self._open_vault),
            GuardCommand.MASK: (param_types(text, result, both, both), self._mask),
            GuardCommand.UNMASK: (param_types(text, result, both, both), self._unmask),
            GuardCommand.FORGET: (param_types(value, value, out), self._forget),
            GuardCommand.SAVE_VAULT: (param_types(result, out, value, value), self._save_vault),
            GuardCommand.LOAD_VAULT: (param_types(text, out, value, value), self._load_vault),
            GuardCommand.CLOSE_VAULT: (param_types(value, value), self._close_vault),
            GuardCommand.CHECK: (param_types(text, out, value, value), self._check),
        }

    def close(self) -> None:
        """Overwrite every vault, and the storage key."""
        self._vault.close()
        if self._kept_key is not None:
            self._kept_key.drop()

    def _scan(self, params: Params) -> Values:
        """In UTF-8 text; out span records, (level, score as float64 bits), (bytes of spans, the
        rest of the verdict).

        When the spans do not fit, none is written and the third output says what they need.

        Security: the byte copy is overwritten; the decoded string is freed but Python offers no
        way to overwrite it.
        """
        shared_spans = params.memory(1)
        with self._text(params, _WORK_FACTOR) as text:
            result = self._rated(text)
        packed = pack_spans(result.spans)
        if len(packed) <= len(shared_spans):
            shared_spans[: len(packed)] = packed
        level = LEVELS.index(result.level)
        return (0, 0, 0, 0, level, pack_score(result.score), len(packed), pack_verdict(result))

    def _rated(self, text: str) -> ScanResult:
        """Return what SCAN and MASK say of a text."""
        return scan_text(text, classifier=self._classifier)

    def _open_vault(self, params: Params) -> Values:
        """In user, 16 bytes; in (seconds to live, 0); out (vault, 0)."""
        ttl_s, zero = params.values[2:4]
        _refuse_if(zero, "open")
        session = self._vault.open(_user(params, 0), ttl_s)
        return (0, 0, 0, 0, session.number, 0, 0, 0)

    def _mask(self, params: Params) -> Values:
        """In UTF-8 text; out masked text, then the spans, then their places in the masked text.

        In (vault, style), user; out (level and above its byte the verdict, score as float64 bits),
        (bytes of masked text, bytes of both records). When they do not fit, none is written.

        Security: as SCAN. Values go into the vault when all went well, and not otherwise.
        """
        shared = params.memory(1)
        session, style = self._session(params), params.values[5]
        _refuse_if(style >= len(STYLES), "style")
        with self._text(params, _WORK_FACTOR) as text:
            result = self._rated(text)
            masked = mask(session, text, result.spans, STYLES[style])
        places = [
            replace(span, start=low, end=high)
            for span, (low, high) in zip(result.spans, masked.places, strict=True)
        ]
        shown = bytearray(masked.text.encode("utf-8"))
        packed = pack_spans((*result.spans, *places))
        size = len(shown)
        if size + len(packed) <= len(shared):
            shared[:size] = shown
            shared[size : size + len(packed)] = packed
        wipe(shown)
        level = LEVELS.index(result.level) | pack_verdict(result) << 8
        return (0, 0, 0, 0, level, pack_score(result.score), size, len(packed))

    def _unmask(self, params: Params) -> Values:
        """In UTF-8 text; out the text with its values; in/out as told here.

        In (vault, flags): bit 0: no more text follows; from bit 32 on the bytes at its beginning
        that were given back before. In user. Out (bytes of the answer, bytes of the input it stands
        for), (0, 0). When it does not fit, none is written.

        Security: the restored text is written last, the byte copies are overwritten.
        """
        shared, flags = params.memory(1), params.values[5]
        session = self._session(params)
        given, low = flags >> _CONTEXT_SHIFT, flags & ((1 << _CONTEXT_SHIFT) - 1)
        _refuse_if(given > len(params.memory(0)) or low > _FINAL_BIT, "flags")
        with self._text(params, _UNMASK_FACTOR) as text:
            context = _characters(text, given)
            final = bool(flags & _FINAL_BIT)
            restored, stop = unmask(session, text, context=context, final=final)
            used = len(text[:stop].encode("utf-8"))
        data = bytearray(restored.encode("utf-8"))
        size = len(data)
        if size <= len(shared):
            shared[:size] = data
        wipe(data)
        return (0, 0, 0, 0, size, used, 0, 0)

    def _check(self, params: Params) -> Values:
        """In UTF-8 text; out what of this vault it holds, and what else is private in it.

        In (vault, flags), user. Flags: bit 0: it is text, so that short values count; bit 1: scan
        it as well. Out (kind of a value, kind of a span), both counted from 1, 0 for none.

        Security: tells one kind of each, not where, which or how often.
        """
        session, flags = self._session(params), params.values[5]
        _refuse_if(flags & ~(_WORDS_BIT | _SCAN_BIT), "flags")
        with self._text(params, _WORK_FACTOR) as text:
            held = find_held(session, text, words=bool(flags & _WORDS_BIT))
            spans = self._rated(text).spans if flags & _SCAN_BIT else ()
            private = find_private(session, text, spans)
        codes = [0 if kind is None else KINDS.index(kind) + 1 for kind in (held, private)]
        return (0, 0, *codes, 0, 0, 0, 0)

    def _forget(self, params: Params) -> Values:
        """In user; in (vault or 0 for all of the user's, kind | number << 32, or 0 for all).

        Out (values that were forgotten, vaults that were). A kind is counted from 1.
        """
        number, named = params.values[2:4]
        _refuse_if(not number and named, "forget")
        user = _user(params, 0)
        if not number:
            ended = [self._vault.forget(session) for session in self._vault.of_user(user)]
            return (0, 0, 0, 0, sum(ended), len(ended), 0, 0)
        session = self._vault.get(user, number)
        if not named:
            return (0, 0, 0, 0, self._vault.forget(session), 1, 0, 0)
        code = (named & 0xFFFFFFFF) - 1
        _refuse_if(not 0 <= code < len(KINDS), "kind")
        value = (KINDS[code], named >> 32)
        tokens = [token for token in session.entries if token[:2] == value]  # every spelling
        return (0, 0, 0, 0, self._vault.forget(session, tokens), 0, 0, 0)

    def _save_vault(self, params: Params) -> Values:
        """Out the vault sealed; out (its bytes, generation); in (vault, 0), user.

        When it does not fit, none is written and the generation is as it was.

        Security: the copy of the values is overwritten; ciphertext alone leaves.
        """
        shared, session, key = params.memory(0), self._session(params), self._storage_key()
        size = sealed_bytes(session)
        _refuse_if(params.values[5] or size > MAX_OBJECT_BYTES, "save")
        if size <= len(shared):
            with self._charged(3 * size):
                shared[:size] = seal(key, session)
        return (0, 0, size, session.generation, 0, 0, 0, 0)

    def _load_vault(self, params: Params) -> Values:
        """In a sealed vault; out (vault, generation); in (the vault it must be or 0, 0), user.

        Security: nothing of it is used before it was authenticated; nothing of it stays when it is
        refused. OpenSSL's copy of the values is freed, not overwritten.
        """
        shared, (number, zero), key = params.memory(0), params.values[4:6], self._storage_key()
        _refuse_if(zero or len(shared) > MAX_OBJECT_BYTES, "load")
        with self._charged(3 * len(shared)):
            session = unseal(key, self._vault, bytearray(shared), _user(params, 6), number)
        return (0, 0, session.number, session.generation, 0, 0, 0, 0)

    def _close_vault(self, params: Params) -> Values:
        """In user; in (vault, 0): it is overwritten here; what was saved of it stays good."""
        number, zero = params.values[2:4]
        _refuse_if(zero, "close")
        self._vault.end(self._vault.get(_user(params, 0), number))
        return NO_VALUES

    def _storage_key(self) -> memoryview:
        if self._kept_key is None:
            raise TeeError(ResultCode.NOT_SUPPORTED, Origin.TRUSTED_APP, "no storage key")
        return self._kept_key.view

    def _session(self, params: Params) -> Session:
        return self._vault.get(_user(params, 6), params.values[4])

    @contextmanager
    def _text(self, params: Params, factor: int) -> Iterator[str]:
        """Copy the text of the first parameter in, decode it, and charge the block's work for it.

        Raises:
            TeeError: OUT_OF_MEMORY: it is too long; BAD_FORMAT: it is not UTF-8.
        """
        shared = params.memory(0)
        size = len(shared)
        if size > MAX_TEXT_BYTES:
            raise TeeError(ResultCode.OUT_OF_MEMORY, Origin.TRUSTED_APP, "text too long")
        with self._charged(factor * size):
            copy = bytearray(shared)
            try:
                text = copy.decode("utf-8")
            except UnicodeDecodeError:
                raise TeeError(ResultCode.BAD_FORMAT, Origin.TRUSTED_APP, "not UTF-8") from None
            finally:
                wipe(copy)
            yield text

    @contextmanager
    def _charged(self, n_bytes: int) -> Iterator[None]:
        """Have the budget pay for the block's work."""
        self._budget.charge(n_bytes)
        try:
            yield
        finally:
            self._budget.refund(n_bytes)


def _refuse_if(wrong: object, what: str) -> None:
    if wrong:
        raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, what)


def _user(params: Params, at: int) -> bytes:
    return b"".join(half.to_bytes(8, "little") for half in params.values[at : at + 2])


def _characters(text: str, n_bytes: int) -> int:
    """Return how many characters the first `n_bytes` bytes of a text are."""
    head = text.encode("utf-8")[:n_bytes]
    try:
        return len(head.decode("utf-8"))
    except UnicodeDecodeError:
        raise TeeError(ResultCode.BAD_PARAMETERS, Origin.TRUSTED_APP, "flags") from None
