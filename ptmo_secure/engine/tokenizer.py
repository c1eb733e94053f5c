"""Text to token ids and back, as the model file's own metadata defines it.

Two tokenizer models are known: "gpt2" (byte-level BPE, split as `tokenizer.ggml.pre` says) and
"llama" (SentencePiece BPE with byte fallback). Token ids equal llama.cpp's; like it, and unlike
some `tokenizer.json` files, no Unicode normalisation is applied.
"""

import operator
import re
from collections.abc import Iterable, Iterator, Mapping

import tokenizers
from tokenizers import models

from ptmo_secure.engine.metadata import Metadata
from ptmo_secure.engine.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from ptmo_secure.engine.sentencepiece_bpe import SPACE, encode_pieces
from ptmo_secure.errors import InputError

_KEY = "tokenizer.ggml"
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>")
_STOPS = (*_TURN_ENDS, "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "</s>")
_MAX_TOKENS = 1 << 20

Offsets = list[tuple[int, int]]


class Tokenizer:
    """A model's tokenizer.

    Args:
        metadata: metadata of the model file.
        source: what error messages call the file.

    Attributes:
        vocab_size: number of tokens.
        bos_id, eos_id, eot_id, unknown_id: special ids, None where the model has none.
        add_bos_token: whether a prompt starts with BOS.
        stop_ids: ids that end an answer.
        control_pattern: matches the name of every token that only `encode_with_special` yields.

    Raises:
        ModelFormatError: the metadata is incomplete, contradictory or of an unknown kind.
    """

    def __init__(self, metadata: Mapping[str, object], source: str = "tokenizer") -> None:
        meta = Metadata(metadata, source)
        self._tokens = _read_tokens(meta)
        self.vocab_size: int = len(self._tokens)
        kinds = meta.numbers(f"{_KEY}.token_type", self.vocab_size, default=1.0)
        self._kinds: list[int] = kinds.astype(int).tolist()
        self._ids = {text: index for index, text in enumerate(self._tokens)}
        if len(self._ids) != self.vocab_size:
            raise meta.error(f"{_KEY}.tokens", "a token appears twice")
        self.bos_id: int | None = self._special_id(meta, "bos")
        self.eos_id: int | None = self._special_id(meta, "eos")
        self.unknown_id: int | None = self._special_id(meta, "unknown")
        self.eot_id: int | None = self._special_id(meta, "eot")
        if self.eot_id is None:
            self.eot_id = next(filter(self.is_control, self._known(_TURN_ENDS)), None)
        self.stop_ids: frozenset[int] = frozenset(
            index for index in (self.eos_id, self.eot_id) if index is not None
        ) | frozenset(filter(self.is_control, self._known(_STOPS)))
        self.control_pattern: re.Pattern[str] | None = self._matcher((_CONTROL, _UNKNOWN))
        self._all_special = self._matcher((_CONTROL, _UNKNOWN, _USER_DEFINED))
        self._user_defined = self._matcher((_USER_DEFINED,))
        self._bpe: tokenizers.Tokenizer | None = None
        add_bos = True
        model = meta.text(f"{_KEY}.model")
        if model == "gpt2":
            pre = _pre_tokenizer(meta)
            add_bos = pre.add_bos
            self._space_prefix = False
            self._bpe = self._build_bpe(meta, pre)
            self._bytes = [self._byte_level(index) for index in range(self.vocab_size)]
        elif model == "llama":
            self._space_prefix = meta.boolean(f"{_KEY}.add_space_prefix", default=True)
            self._read_sentencepiece(meta)
            self._bytes = [self._sentencepiece(index) for index in range(self.vocab_size)]
        else:
            raise meta.error(f"{_KEY}.model", f"{model!a} is not supported (gpt2, llama)")
        self.add_bos_token: bool = meta.boolean(f"{_KEY}.add_bos_token", default=add_bos)
        if self.add_bos_token and self.bos_id is None:
            raise meta.error(f"{_KEY}.bos_token_id", "missing, but add_bos_token is set")

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Encode text in which the names of control tokens are text like any other.

        Args:
            text: any text without lone surrogates.
            add_bos: start with BOS if the model wants one (`add_bos_token`).

        Raises:
            InputError: the text is no valid Unicode.
        """
        ids, _ = self.encode_offsets(text, special=False)
        return self._with_bos(ids) if add_bos else ids

    def encode_with_special(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Encode the output of a chat template: names of control tokens become those tokens.

        Security: user text in it can forge a turn; `chat_template` keeps it from doing so.
        """
        ids, _ = self.encode_offsets(text, special=True)
        return self._with_bos(ids) if add_bos else ids

    def encode_offsets(self, text: str, *, special: bool) -> tuple[list[int], Offsets]:
        """Encode text and say which code points each token stands for.

        The text is taken to begin the prompt or to follow a special token, where a SentencePiece
        model wants a space in front.

        Args:
            text: any text without lone surrogates.
            special: names of control tokens become those tokens.

        Returns:
            Ids, and (start, end) code points of `text` per id.
        """
        _check_unicode(text)
        ids: list[int] = []
        offsets: Offsets = []
        after_special = True
        for start, piece in self._split(text, special):
            if isinstance(piece, int):
                ids.append(piece)
                offsets.append((start, start + len(self._tokens[piece])))
                after_special = True
                continue
            new_ids, new_offsets = self._encode_plain(piece, after_special)
            ids.extend(new_ids)
            offsets.extend((start + begin, start + end) for begin, end in new_offsets)
            after_special = False
        return ids, offsets

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Turn ids into text; bytes that are no UTF-8 become U+FFFD.

        Raises:
            InputError: an id is not in the vocabulary.
        """
        joined = b"".join(self.token_bytes(index, special=not skip_special) for index in ids)
        if self._space_prefix and joined.startswith(b" "):
            joined = joined[1:]
        return joined.decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int, *, special: bool = False) -> bytes:
        """Return the bytes a token adds to the text; control tokens add none.

        Args:
            token_id: in 0..vocab_size-1.
            special: give a control token's name instead of nothing.
        """
        index = self._check_id(token_id)
        if self._kinds[index] in (_CONTROL, _UNKNOWN, _UNUSED):
            return self._tokens[index].encode("utf-8") if special else b""
        return self._bytes[index]

    def token_text(self, token_id: int) -> str:
        """Return the vocabulary's own spelling of a token."""
        return self._tokens[self._check_id(token_id)]

    def token_id(self, text: str) -> int | None:
        """Return the id of the token spelled exactly so, or None."""
        return self._ids.get(text)

    def is_control(self, token_id: int) -> bool:
        """Say whether a token is a control token (type 3), which no user text yields."""
        return self._kinds[self._check_id(token_id)] == _CONTROL

    @property
    def missing_bytes(self) -> frozenset[int]:
        """Bytes the vocabulary cannot express; `encode` drops them, as llama.cpp does."""
        if self._bpe is None:
            return frozenset()
        return frozenset(b for b, char in _BYTE_TO_CHAR.items() if char not in self._ids)

    def _with_bos(self, ids: list[int]) -> list[int]:
        if self.add_bos_token and self.bos_id is not None:
            return [self.bos_id, *ids]
        return ids

    def _split(self, text: str, special: bool) -> Iterator[tuple[int, str | int]]:
        """Yield (start, plain text | token id) from left to right."""
        matcher = self._all_special if special else self._user_defined
        start = 0
        if matcher is not None:
            for match in matcher.finditer(text):
                if match.start() > start:
                    yield start, text[start : match.start()]
                yield match.start(), self._ids[match.group()]
                start = match.end()
        if start < len(text):
            yield start, text[start:]

    def _encode_plain(self, text: str, after_special: bool) -> tuple[list[int], Offsets]:
        if self._bpe is not None:
            encoding = self._bpe.encode(text, add_special_tokens=False)
            return list(encoding.ids), list(encoding.offsets)
        shift = int(self._space_prefix and after_special)
        spaced = (SPACE * shift) + text.replace(" ", SPACE)
        ids, offsets = encode_pieces(spaced, self._entries, self._byte_ids, self.unknown_id)
        return ids, [(max(0, begin - shift), end - shift) for begin, end in offsets]

    def _check_id(self, token_id: int) -> int:
        try:
            index = operator.index(token_id)
        except TypeError:
            raise InputError(f"token id {ascii(token_id)[:40]} is not an integer") from None
        if not 0 <= index < self.vocab_size:
            raise InputError(f"token id {index} is not in 0..{self.vocab_size - 1}")
        return index

    def _special_id(self, meta: Metadata, name: str) -> int | None:
        key = f"{_KEY}.{name}_token_id"
        return meta.integer(key, 0, self.vocab_size - 1) if key in meta else None

    def _known(self, names: Iterable[str]) -> Iterator[int]:
        return (self._ids[name] for name in names if name in self._ids)

    def _matcher(self, kinds: tuple[int, ...]) -> re.Pattern[str] | None:
        """Build a pattern of the tokens of these kinds, the longest first."""
        names = [
            text
            for text, kind in zip(self._tokens, self._kinds, strict=True)
            if kind in kinds and (len(text) > 1 or kind == _USER_DEFINED)
        ]
        names.sort(key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names))) if names else None

    def _build_bpe(self, meta: Metadata, pre: PreTokenizer) -> tokenizers.Tokenizer:
        """Build the BPE model; control tokens are left out, so that no text can yield one."""
        vocab = {
            text: index
            for index, text in enumerate(self._tokens)
            if self._kinds[index] not in (_CONTROL, _UNKNOWN)
        }
        merges: dict[tuple[str, str], None] = {}
        for line in meta.texts(f"{_KEY}.merges"):
            middle = line.find(" ", 1)
            if not 0 < middle < len(line) - 1:
                raise meta.error(f"{_KEY}.merges", f"{line[:40]!a} is not a pair")
            left, right = line[:middle], line[middle + 1 :]
            if left in vocab and right in vocab and left + right in vocab:
                merges.setdefault((left, right))
        # cache_capacity 0: the library's cache would keep words of one user's text for the next.
        bpe = models.BPE(
            vocab=vocab,
            merges=list(merges),
            cache_capacity=0,
            ignore_merges=pre.ignore_merges,
        )
        built = tokenizers.Tokenizer(bpe)
        built.pre_tokenizer = pre.build()
        return built

    def _byte_level(self, index: int) -> bytes:
        text = self._tokens[index]
        if self._kinds[index] == _USER_DEFINED:
            return text.encode("utf-8")
        return b"".join(_CHAR_TO_BYTES.get(char) or char.encode("utf-8") for char in text)

    def _read_sentencepiece(self, meta: Metadata) -> None:
        scores = meta.numbers(f"{_KEY}.scores", self.vocab_size).tolist()
        self._entries: dict[str, tuple[int, float]] = {}
        self._byte_ids: dict[int, int] = {}
        for index, (text, kind) in enumerate(zip(self._tokens, self._kinds, strict=True)):
            if kind == _BYTE:
                self._byte_ids[_byte_value(meta, text)] = index
            elif kind not in (_CONTROL, _UNKNOWN, _UNUSED):
                self._entries[text] = (index, scores[index])

    def _sentencepiece(self, index: int) -> bytes:
        text = self._tokens[index]
        if self._kinds[index] == _BYTE:
            return bytes([int(text[3:5], 16)])
        if self._kinds[index] == _USER_DEFINED:
            return text.encode("utf-8")
        return text.replace(SPACE, " ").encode("utf-8")


def _read_tokens(meta: Metadata) -> list[str]:
    tokens = meta.texts(f"{_KEY}.tokens")
    if not 1 <= len(tokens) <= _MAX_TOKENS:
        raise meta.error(f"{_KEY}.tokens", f"{len(tokens)} tokens, not in 1..{_MAX_TOKENS}")
    return [text or f"[EMPTY_{index}]" for index, text in enumerate(tokens)]


def _pre_tokenizer(meta: Metadata) -> PreTokenizer:
    name = meta.text(f"{_KEY}.pre", default="default")
    pre = PRE_TOKENIZERS.get(name)
    if pre is None:
        raise meta.error(f"{_KEY}.pre", f"pre-tokenizer {name!a} is not supported")
    return pre


def _byte_value(meta: Metadata, text: str) -> int:
    match = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", text)
    if match is None:
        raise meta.error(f"{_KEY}.tokens", f"{text[:40]!a} is not a byte token")
    return int(match.group(1), 16)


def _check_unicode(text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"text must be a string, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"text holds a lone surrogate at position {error.start}") from None


def _byte_alphabet() -> dict[int, str]:
    """Return GPT-2's byte -> printable character map (openai/gpt-2, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in alphabet:
            alphabet[byte] = chr(256 + len(alphabet) - len(printable))
    return alphabet


_BYTE_TO_CHAR = _byte_alphabet()
_CHAR_TO_BYTES = {char: bytes([byte]) for byte, char in _BYTE_TO_CHAR.items()}
