"""The guard's token classifier: BERT in ONNX Runtime, over windows of tokens.

Files of a model's folder, each with its sum in `SHA256SUMS`: `model.onnx` (input_ids,
attention_mask [B, T] int64 -> logits [B, T, L] float32), `tokenizer.json` (WordPiece) and
`labels.json` ({"labels": ["O", "B-KIND", "I-KIND", ...], "thresholds": {KIND: p},
"hangul_thresholds": {KIND: p}}, the latter for words in Hangul).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from tee_sim.guard.rules import load

MODEL = Path(__file__).parent / "model"
WINDOW_TOKENS = 192
OVERLAP_TOKENS = 32
BATCH_WINDOWS = 2
PIECE_CHARS = 8_192  # read at once: memory does not grow with the text
SEAM_CHARS = 256  # of two pieces: what lies across their seam is whole in one of them
LIKELY_NAME = 0.1  # probability from which a word counts that looks like a full Korean name
_FULL_NAME = load("korean")["full_name"][0].pattern
_FILES = ("labels.json", "model.onnx", "tokenizer.json")
_OUTSIDE = 0  # index of the label "O"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Entity:
    """A piece of text that the model takes for private.

    Args:
        start, end: half-open range in Unicode code points.
        kind: entity kind.
        probability: that of the most private of its tokens, 1 - P(O).
    """

    start: int
    end: int
    kind: str
    probability: float


def read_checked(folder: Path = MODEL) -> dict[str, bytes]:
    """Return a model's files, each as its line of `SHA256SUMS` says.

    Raises:
        ValueError: a file is missing, unreadable or damaged; one line that names it.
    """
    name = "SHA256SUMS"
    try:
        lines = (folder / name).read_text("ascii").splitlines()
        sums = {path: digest for digest, path in (line.split("  ") for line in lines)}
        contents = {}
        for name in _FILES:
            contents[name] = (folder / name).read_bytes()
            if hashlib.sha256(contents[name]).hexdigest() != sums[name]:
                raise ValueError("wrong checksum")
    except (OSError, ValueError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) else "damaged"
        raise ValueError(f"the guard's model: {name}: {reason}") from None
    return contents


def open_model(folder: Path = MODEL) -> "TokenClassifier":
    """Return the classifier of a folder, its files checked, with nothing left to load.

    Raises:
        ValueError: a file is missing, damaged or not what it should be; one line.
    """
    classifier = TokenClassifier(read_checked(folder))
    try:
        list(classifier.find("a"))
    except Exception as error:  # the libraries have no common class of their own
        raise ValueError(f"the guard's model: {type(error).__name__}") from None
    return classifier


class TokenClassifier:
    """Finds entities. One thread; made before the filter of system calls comes.

    Security: the text is held as tokens while `find` runs; freed, not overwritten.

    Args:
        files: of `read_checked`.

    Raises:
        ValueError: a file is not what it should be.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        try:
            settings = json.loads(files["labels.json"])
            labels = settings["labels"]
            self._kinds = _kinds_of(labels)
            # Of words, of words in Hangul, and of those among them that look like a full name
            tables = [settings["thresholds"], *[settings["hangul_thresholds"]] * 2]
            self._thresholds = np.array([[float(t[k]) for k in self._kinds] for t in tables])
            self._thresholds[2, self._kinds.index("PERSON")] = LIKELY_NAME
            self._tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode("utf-8"))
            self._first, self._last = self._tokenizer.encode("").ids  # [CLS], [SEP]
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.enable_cpu_mem_arena = False  # it keeps the largest text's memory for good
            options.log_severity_level = 4
            self._session = onnxruntime.InferenceSession(
                files["model.onnx"], options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the libraries have no common class of their own
            raise ValueError(f"the guard's model: {type(error).__name__}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Column k of the product is the probability of kind k, as beginning or inside.
        self._by_kind = np.zeros((len(labels), len(self._kinds)), dtype=np.float32)
        for index, label in enumerate(labels[1:], start=1):
            self._by_kind[index, self._kinds.index(label[2:])] = 1
        self._begins = np.array([label.startswith("B-") for label in labels], dtype=np.float32)

    def find(self, text: str) -> Iterator[Entity]:
        """Yield the entities of a text; around the seams of a long one some come twice."""
        start = 0
        while True:
            end = min(len(text), start + PIECE_CHARS)
            piece = text[start:end]
            for entity in self._find(piece):
                yield replace(entity, start=start + entity.start, end=start + entity.end)
            if end == len(text):
                return
            # The next piece begins between words, if it can
            start = max(piece.rfind(" ", 0, len(piece) - SEAM_CHARS), PIECE_CHARS // 2) + start

    def _find(self, text: str) -> Iterator[Entity]:
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        ids = np.array(encoded.ids, dtype=np.int64)
        if len(ids):
            words = [i for i, token in enumerate(encoded.tokens) if i == 0 or token[:2] != "##"]
            rows = [_row(text, encoded.offsets[i][0]) for i in words]
            yield from self._entities(self._probabilities(ids), words, encoded.offsets, rows)

    def _probabilities(self, ids: npt.NDArray[np.int64]) -> Floats:
        """Class probabilities of every token; of one in two windows, the more private ones."""
        result = np.zeros((len(ids), len(self._begins)), dtype=np.float32)
        result[:, _OUTSIDE] = 2.0  # not seen yet
        windows = _windows(len(ids))
        for at in range(0, len(windows), BATCH_WINDOWS):
            group = windows[at : at + BATCH_WINDOWS]
            for (start, _), window in zip(group, self._run(ids, group), strict=True):
                seen = result[start : start + len(window)]
                better = window[:, _OUTSIDE] < seen[:, _OUTSIDE]
                seen[better] = window[better]
        return result

    def _run(
        self, ids: npt.NDArray[np.int64], ranges: Sequence[tuple[int, int]]
    ) -> Iterator[Floats]:
        windows = [ids[start:end] for start, end in ranges]
        longest = max(len(window) for window in windows)
        batch = np.zeros((len(windows), longest + 2), dtype=np.int64)
        mask = np.zeros_like(batch)
        for row, window in enumerate(windows):
            batch[row, 0], batch[row, len(window) + 1] = self._first, self._last
            batch[row, 1 : len(window) + 1] = window
            mask[row, : len(window) + 2] = 1
        (logits,) = self._session.run(None, {"input_ids": batch, "attention_mask": mask})
        for row, window in enumerate(windows):
            yield _softmax(logits[row, 1 : len(window) + 1])

    def _entities(
        self,
        probabilities: Floats,  # [T, L]
        words: Sequence[int],  # the first token of each
        offsets: Sequence[tuple[int, int]],
        rows: Sequence[int],  # of the thresholds, for each word
    ) -> Iterator[Entity]:
        kinds = probabilities @ self._by_kind  # [T, K]
        begins = (probabilities @ self._begins)[words] > kinds[words].max(axis=1) / 2
        scores = np.maximum.reduceat(1.0 - probabilities[:, _OUTSIDE], words)
        likeliest = np.add.reduceat(kinds, words).argmax(axis=1)
        private = scores >= self._thresholds[rows, likeliest]
        ends = [*words[1:], len(offsets)]
        found: Entity | None = None
        last = -2  # the private word before
        for word in np.flatnonzero(private).tolist():
            kind, score = self._kinds[likeliest[word]], float(scores[word])
            end = offsets[ends[word] - 1][1]
            if found is not None and word == last + 1 and found.kind == kind and not begins[word]:
                found = replace(found, end=end, probability=max(score, found.probability))
            else:
                if found is not None:
                    yield found
                found = Entity(offsets[words[word]][0], end, kind, score)
            last = word
        if found is not None:
            yield found


def _row(text: str, start: int) -> int:
    """Return the row of thresholds for the word that begins at `start`."""
    hangul = "\uac00" <= text[start : start + 1] <= "\ud7a3"
    return hangul + (hangul and _FULL_NAME.match(text, start) is not None)


def _kinds_of(labels: Sequence[str]) -> list[str]:
    if not labels or labels[0] != "O" or any(label[:2] not in ("B-", "I-") for label in labels[1:]):
        raise ValueError("labels.json: expected O, then B-KIND and I-KIND")
    return sorted({label[2:] for label in labels[1:]})


def _windows(n_tokens: int) -> list[tuple[int, int]]:
    """Return overlapping half-open ranges of about one length, so that a batch has no padding."""
    step = WINDOW_TOKENS - OVERLAP_TOKENS
    count = max(1, -(-(n_tokens - OVERLAP_TOKENS) // step))
    length = -(-(n_tokens + (count - 1) * OVERLAP_TOKENS) // count)
    starts = (i * (n_tokens - length) // max(1, count - 1) for i in range(count))
    return [(start, start + length) for start in starts]


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalised: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return normalised
