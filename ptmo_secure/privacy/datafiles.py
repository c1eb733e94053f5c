"""Data files of others: labelled texts in Presidio's format, and harmless texts.

Security: an error names the file, the entry and the field, never the text.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptmo_secure.errors import InputError

_TEXT_KEYS = ("text", "question", "instruction", "prompt", "query")
_MAX_FILE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text with its gold spans (start, end, kind)."""

    text: str
    gold: tuple[tuple[int, int, str], ...]


def load(path: Path) -> tuple[list[LabelledText], bool]:
    """Read a file of texts.

    Args:
        path: .json (labelled, Presidio's format), .jsonl or .conll (harmless).

    Returns:
        The texts, and whether they are labelled.

    Raises:
        InputError: the file is missing, of another kind, too large or damaged.
    """
    readers = {".json": _presidio, ".jsonl": _json_lines, ".conll": _conll}
    if path.suffix not in readers:
        raise InputError(f"{path}: a data file ends in {', '.join(readers)}")
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InputError(f"{path}: larger than {_MAX_FILE_BYTES >> 20} MiB")
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as failure:
        raise InputError(f"{path}: not UTF-8 at byte {failure.start}") from None
    except OSError as failure:
        raise InputError(f"{path}: {failure.strerror}") from None
    texts = list(readers[path.suffix](content, path))
    if not texts:
        raise InputError(f"{path}: holds no text")
    return texts, path.suffix == ".json"


def _presidio(content: str, path: Path) -> Iterator[LabelledText]:
    entries = _parse(content, str(path))
    if not isinstance(entries, list):
        raise InputError(f"{path}: not a list of entries")
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        text = _text(entry, ("full_text",), where)
        spans = entry.get("spans")
        if not isinstance(spans, list):
            raise InputError(f"{where}: 'spans' is not a list")
        gold = (_span(span, text, f"{where}, span {i}") for i, span in enumerate(spans))
        yield LabelledText(text, tuple(sorted(gold)))


def _span(span: Any, text: str, where: str) -> tuple[int, int, str]:
    if not isinstance(span, dict):
        raise InputError(f"{where}: not an object")
    start, end, kind = (span.get(k) for k in ("start_position", "end_position", "entity_type"))
    if type(start) is not int or type(end) is not int:
        raise InputError(f"{where}: start_position and end_position are not both integers")
    if not 0 <= start < end <= len(text):
        raise InputError(f"{where}: {start}..{end} is not in its text of {len(text)} characters")
    if not isinstance(kind, str) or not kind:
        raise InputError(f"{where}: 'entity_type' is not a name")
    return start, end, kind


def _json_lines(content: str, path: Path) -> Iterator[LabelledText]:
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            where = f"{path}: line {number}"
            yield LabelledText(_text(_parse(line, where), _TEXT_KEYS, where), ())


def _conll(content: str, path: Path) -> Iterator[LabelledText]:
    """Sentences in which every token has the tag O."""
    for block in re.split(r"\n[ \t]*\n", content.replace("\r", "")):
        rows = [line.split("\t") for line in block.split("\n") if line.strip()]
        if any(len(row) < 2 for row in rows):
            raise InputError(f"{path}: a line has no tab between token and tag")
        if rows and all(row[-1].strip() == "O" for row in rows):
            yield LabelledText(" ".join(row[0] for row in rows), ())


def _parse(content: str, where: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as failure:
        raise InputError(f"{where}: not JSON (line {failure.lineno}): {failure.msg}") from None
    except (RecursionError, ValueError):
        raise InputError(f"{where}: not JSON that can be read") from None


def _text(entry: Any, keys: tuple[str, ...], where: str) -> str:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: not an object")
    for key in keys:
        value = entry.get(key)
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InputError(f"{where}: {key!r} holds a lone surrogate") from None
            return value
    raise InputError(f"{where}: no text under {' or '.join(map(repr, keys))}")
