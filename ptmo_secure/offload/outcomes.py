"""Tables of what models really answered: question by question, model by model.

None of them is part of the project. Each is read from a folder of the user's, and a missing one
says where to get it. `synthetic` stands in where there is no folder.
"""

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptmo_secure.errors import InputError
from ptmo_secure.offload.actions import Floats

LOCAL_MODEL, CLOUD_MODEL = 0, 1
_MAX_FILE_BYTES = 256 << 20
_DATA_VARIABLE = "PTMO_DATA"


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """Scores of a small and a large model on the same questions.

    Args:
        name: of the table.
        questions: one text each; no text twice.
        groups: task or domain of each question.
        scores: [questions, 2] in [0, 1]: the local model's, the cloud model's.
        models: their names.
    """

    name: str
    questions: tuple[str, ...]
    groups: tuple[str, ...]
    scores: Floats
    models: tuple[str, str]

    def __post_init__(self) -> None:
        if self.scores.shape != (len(self.questions), 2) or len(self.groups) != len(self.questions):
            raise InputError(
                f"{self.name}: {len(self.questions)} questions, {len(self.groups)} groups and "
                f"scores of shape {self.scores.shape} do not fit"
            )
        if len(set(self.questions)) != len(self.questions):
            raise InputError(f"{self.name}: a question stands in it twice")
        if not (np.isfinite(self.scores) & (self.scores >= 0) & (self.scores <= 1)).all():
            raise InputError(f"{self.name}: a score is not in [0, 1]")

    def take(self, rows: "NDArray[np.int64]") -> "OutcomeTable":
        """Return the table of some rows, in the order given."""
        return OutcomeTable(
            self.name,
            tuple(self.questions[row] for row in rows),
            tuple(self.groups[row] for row in rows),
            self.scores[rows],
            self.models,
        )


@dataclass(frozen=True, slots=True)
class Turn:
    """One logged turn of M4A1.

    Args:
        question, task: what was asked, and its category.
        images: numbers of the uploaded images.
        cloud: whether the cloud answered.
        score: judge's score over that of the reference answer, at least 0; 0 for a refusal.
        seconds, usd: as logged.
        association: how well each of the 3 images fits the question, [3].
    """

    question: str
    task: str
    images: tuple[int, ...]
    cloud: bool
    score: float
    seconds: float
    usd: float
    association: tuple[float, float, float]


Conversation = tuple[Turn, ...]

_REFUSALS = ("sorry", "I don't have", "can't")  # TMO scores an answer with one of them as 0


def data_folder(given: Path | None) -> Path | None:
    """Return the folder of the outcome tables: as given, else PTMO_DATA, else None.

    Raises:
        InputError: it is no folder.
    """
    named = str(given) if given is not None else os.environ.get(_DATA_VARIABLE, "")
    if not named:
        return None
    folder = Path(named)
    if not folder.is_dir():
        source = "--data" if given is not None else _DATA_VARIABLE
        raise InputError(f"{source} {folder}: no such folder")
    return folder


_HOW_TO_GET = {
    "m4a1": "data/M4A1.json of the repository liangqiyuan/TMO at commit 3db3d22",
    "llmrouter": "made from data/dcrouter_preprocessed of ulab-uiuc/LLMRouter; one JSON object a "
    "line with task, question and scores",
    "mmlu": "made from routellm/evals/mmlu/responses of lm-sys/RouteLLM; columns prompt, "
    "mixtral-8x7b, gpt-4-1106, domain",
}
_FILES = {
    "m4a1": "m4a1.json",
    "llmrouter": "llmrouter_outcomes.jsonl.gz",
    "mmlu": "routellm_mmlu_outcomes.csv.gz",
}
_LLMROUTER_MODELS = ("llama-3.1-8b-instruct", "llama-3.1-nemotron-51b-instruct")
_MMLU_MODELS = ("mixtral-8x7b", "gpt-4-1106")

TABLES = ("llmrouter", "mmlu")
"""Question tables that a data folder may hold."""


def table_file(name: str, folder: Path | None) -> Path:
    """Return the file of a table.

    Raises:
        InputError: the name is unknown, or the file is not there; the text says how to get it.
    """
    if name not in _FILES:
        raise InputError(f"unknown table {name!r}: expected one of {', '.join(_FILES)}")
    wanted = f"{_FILES[name]} ({_HOW_TO_GET[name]})"
    if folder is None:
        raise InputError(f"no data folder: name one in --data or {_DATA_VARIABLE}, with {wanted}")
    path = folder / _FILES[name]
    if not path.is_file():
        raise InputError(f"{folder} lacks {wanted}")
    return path


def load_m4a1(folder: Path | None) -> tuple[Conversation, ...]:
    """Read the conversations of M4A1.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = table_file("m4a1", folder)
    return parse_m4a1(_json(_read(path), str(path)), str(path))


def parse_m4a1(content: Any, where: str) -> tuple[Conversation, ...]:
    """Check conversations in M4A1's format, and give them types.

    Args:
        content: what the JSON held.
        where: named in errors.

    Raises:
        InputError: an entry is not as the format says.
    """
    if not isinstance(content, list) or not content:
        raise InputError(f"{where}: not a list of conversations")
    conversations = []
    for number, entry in enumerate(content):
        try:
            turns = tuple(
                _m4a1_turn(item, association)
                for item, association in zip(
                    entry["interactions"], entry["association_score"], strict=True
                )
            )
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{where}: conversation {number} is not in M4A1's format") from None
        if not turns:
            raise InputError(f"{where}: conversation {number} has no turn")
        conversations.append(turns)
    return tuple(conversations)


def _m4a1_turn(item: dict[str, Any], association: Iterable[Any]) -> Turn:
    first, second, third = (float(value) for value in association)
    images = tuple(sorted(int(index) for index in item["image_index"] or ()))
    if item["action"] not in (0, 1) or not set(images) <= {0, 1, 2}:
        raise ValueError("action or image index out of range")
    refused = any(words in item["answer"] for words in _REFUSALS)
    return Turn(
        question=str(item["question"]),
        task=str(item["task_cat"]),
        images=images if item["action"] == 1 else (),
        cloud=item["action"] == 1,
        score=0.0 if refused else float(item["score"]),
        seconds=float(item.get("interaction_time", 0.0)),
        usd=float(item.get("usage_cost", 0.0)),
        association=(first, second, third),
    )


def load_table(name: str, folder: Path | None) -> OutcomeTable:
    """Read a table of questions: one of `TABLES`.

    Raises:
        InputError: the table is unknown, missing or damaged.
    """
    readers: dict[str, Callable[[Path], OutcomeTable]] = {"llmrouter": _llmrouter, "mmlu": _mmlu}
    if name not in readers:
        raise InputError(f"unknown table {name!r}: expected one of {', '.join(readers)}")
    return readers[name](table_file(name, folder))


def _llmrouter(path: Path) -> OutcomeTable:
    rows: list[tuple[str, str, float, float]] = []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        entry = _json(line, f"{path}: line {number}")
        try:
            local, cloud = (float(entry["scores"][model]) for model in _LLMROUTER_MODELS)
            rows.append((str(entry["question"]), str(entry["task"]), local, cloud))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{path}: line {number} lacks a task, question or score") from None
    return _table("llmrouter", rows, _LLMROUTER_MODELS, path)


def _mmlu(path: Path) -> OutcomeTable:
    right = {"True": 1.0, "False": 0.0}
    rows: list[tuple[str, str, float, float]] = []
    for number, entry in enumerate(csv.DictReader(io.StringIO(_read(path), newline="")), start=1):
        try:
            local, cloud = (right[entry[model]] for model in _MMLU_MODELS)
            rows.append((entry["prompt"], entry["domain"], local, cloud))
        except KeyError:
            raise InputError(f"{path}: entry {number} lacks a prompt, domain or answer") from None
    return _table("mmlu", rows, _MMLU_MODELS, path)


def _table(
    name: str, rows: list[tuple[str, str, float, float]], models: tuple[str, str], path: Path
) -> OutcomeTable:
    """Build a table; of a question that comes twice the first row counts."""
    if not rows:
        raise InputError(f"{path}: holds no row")
    unique = {row[0]: row for row in reversed(rows)}
    kept = [row for row in rows if unique[row[0]] is row]
    scores = np.array([row[2:] for row in kept])
    texts = tuple(row[0] for row in kept)
    return OutcomeTable(name, texts, tuple(row[1] for row in kept), scores, models)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InputError(f"{path}: larger than {_MAX_FILE_BYTES >> 20} MiB")
        content = path.read_bytes()
        if path.suffix == ".gz":
            with gzip.open(path) as packed:
                content = packed.read(_MAX_FILE_BYTES)
        return content.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise InputError(f"{path}: not UTF-8 at byte {failure.start}") from None
    except (EOFError, gzip.BadGzipFile):
        raise InputError(f"{path}: not a whole gzip file") from None
    except OSError as failure:
        raise InputError(f"{path}: {failure.strerror}") from None


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as failure:
        raise InputError(f"{where}: not JSON (line {failure.lineno}): {failure.msg}") from None
    except (RecursionError, ValueError):
        raise InputError(f"{where}: not JSON that can be read") from None


def count_tokens(text: str) -> int:
    """Return about how many tokens a text has: words and marks, times 1.3 (subword pieces)."""
    return max(1, round(1.3 * len(re.findall(r"\w+|[^\w\s]", text))))
