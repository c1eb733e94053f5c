"""The guard's token classifier: BERT in ONNX Runtime, over windows of tokens.

Files of a model's folder, each with its sum in `SHA256SUMS`: `model.onnx` (input_ids,
attention_mask [B, T] int64 -> logits [B, T, L] float32), `tokenizer.json` (WordPiece) and
`labels.json` ({"labels": ["O", "B-KIND", "I-KIND", ...], "thresholds": {KIND: p},
"hangul_thresholds": {KIND: p}, "alone": p, "hangul_alone": p, "small": p, "small_alone": p,
"capital": p, "capital_alone": p}: from which probability a word counts, a word in Hangul; and one
of them at least, in a text in which nothing else is private).

The model knows no capitals. In a text that writes names with capitals, a small word is hardly one,
and a capital within a sentence mostly is: for the kinds that are names, `small` and `capital` take
the place of the thresholds.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from tee_sim.guard.reading import Entity
from tee_sim.guard.rules import load, patterns

MODEL = Path(__file__).parent / "model"
WINDOW_TOKENS = 192
OVERLAP_TOKENS = 32
BATCH_WINDOWS = 2
PIECE_CHARS = 8_192  # read at once: memory does not grow with the text
SEAM_CHARS = 256  # of two pieces: what lies across their seam is whole in one of them
LIKELY_NAME = 0.05  # probability from which a word counts that looks like a full Korean name
_FULL_NAME = load("korean")["full_name"][0].pattern
_CASED, _SMALL, _CAPITAL = patterns(load("word_forms"), "cased small capital")
_NAMES = ("PERSON", "ORG", "LOCATION", "ADDRESS")
_FILES = ("labels.json", "model.onnx", "tokenizer.json")
_OUTSIDE = 0  # index of the label "O"

Floats = npt.NDArray[np.float32]


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
            # Of words, of words in Hangul, of those among them that look like a full name; of small
            # ones, and of capitals within a sentence
            tables = [settings[f"{form}thresholds"] for form in ("", "hangul_", "hangul_", "", "")]
            self._thresholds = np.array([[float(t[k]) for k in self._kinds] for t in tables])
            self._thresholds[2, self._kinds.index("PERSON")] = LIKELY_NAME
            names = np.isin(self._kinds, _NAMES)
            self._thresholds[3, names] = np.maximum(self._thresholds[3, names], settings["small"])
            self._thresholds[4, names] = settings["capital"]
            forms = ("", "hangul_", "hangul_", "small_", "capital_")
            self._alone = np.array([settings[f"{form}alone"] for form in forms], float)
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

    def find(self, text: str, *, accompanied: bool = False) -> Iterator[Entity]:
        """Yield the entities of a text; around the seams of a long one some come twice.

        Texts are harmless as a whole or hold several private words: one doubtful word among
        harmless ones is a false alarm, the same word beside a phone number is a name.

        Args:
            text: any string.
            accompanied: whether something private is known to stand in it or beside it.
        """
        start = 0
        while True:
            end = min(len(text), start + PIECE_CHARS)
            piece = text[start:end]
            for entity in self._find(piece, accompanied):
                yield replace(entity, start=start + entity.start, end=start + entity.end)
            if end == len(text):
                return
            # The next piece begins between words, if it can
            start = max(piece.rfind(" ", 0, len(piece) - SEAM_CHARS), PIECE_CHARS // 2) + start

    def _find(self, text: str, accompanied: bool) -> Iterator[Entity]:
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        offsets = encoded.offsets  # once: each look at it makes the list anew
        ids = np.array(encoded.ids, dtype=np.int64)
        if len(ids):
            words = [i for i, token in enumerate(encoded.tokens) if i == 0 or token[:2] != "##"]
            cased = _CASED.match(text) is not None and not text.isupper()
            rows = [_row(text, offsets[i][0], cased) for i in words]
            probabilities = self._probabilities(ids)
            yield from self._entities(probabilities, words, offsets, rows, accompanied)

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
        accompanied: bool,
    ) -> list[Entity]:
        kinds = probabilities @ self._by_kind  # [T, K]
        begins = (probabilities @ self._begins)[words] > kinds[words].max(axis=1) / 2
        scores = np.maximum.reduceat(1.0 - probabilities[:, _OUTSIDE], words)
        likeliest = np.add.reduceat(kinds, words).argmax(axis=1)
        private = scores >= self._thresholds[rows, likeliest]
        private &= accompanied or np.any(private & (scores >= self._alone[rows]))
        ends = [*words[1:], len(offsets)]
        found: list[Entity] = []
        last = -2  # the private word before
        for word in np.flatnonzero(private).tolist():
            kind, score = self._kinds[likeliest[word]], float(scores[word])
            end = offsets[ends[word] - 1][1]
            if word == last + 1 and found[-1].kind == kind and not begins[word]:
                score = max(score, found[-1].probability)
                found[-1] = replace(found[-1], end=end, probability=score)
            else:
                found.append(Entity(offsets[words[word]][0], end, kind, score))
            last = word
        return found


def _row(text: str, start: int, cased: bool) -> int:
    """Return the row of thresholds for the word that begins at `start`."""
    if "\uac00" <= text[start : start + 1] <= "\ud7a3":
        return 2 if _FULL_NAME.match(text, start) else 1
    if cased and _SMALL.match(text, start):
        return 3
    return 4 if cased and _CAPITAL.match(text, start) else 0


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
