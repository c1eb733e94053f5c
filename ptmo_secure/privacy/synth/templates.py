"""The template files, read and split into training and held-out ones.

A line is a template; a line after `~ ` is a paraphrase of the one above, and has its id. `# `
starts a comment. A line `@ name=value ...` sets, for the lines after it: frame (private, public or
none), split (train, heldout or hash) and weight (how often, beside others).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ptmo_secure.privacy.synth.example import SPLITS, Split
from ptmo_secure.privacy.synth.grammar import Node, parse
from ptmo_secure.privacy.synth.words import DATA, held_out

_HELD_OUT_OF = 5
_DEFAULTS = {"frame": "none", "split": "hash", "weight": "1"}


@dataclass(frozen=True, slots=True)
class Template:
    """One template with its paraphrases.

    Args:
        id: file and hash of the first line.
        family: name of the file it stands in.
        sources: its lines, the first and the paraphrases.
        parsed: the same, parsed.
        split: the side of the data it belongs to.
        frame: "private", "public" or "".
        weight: how often it is drawn, beside others.
    """

    id: str
    family: str
    sources: tuple[str, ...]
    parsed: tuple[tuple[Node, ...], ...]
    split: Split
    frame: str
    weight: float


@cache
def load(family: str) -> tuple[Template, ...]:
    """Read the file `data/FAMILY.txt`.

    Raises:
        ValueError: a line does not parse, or a setting is unknown.
    """
    return tuple(read(DATA / f"{family}.txt"))


@cache
def of_split(family: str, split: Split) -> tuple[Template, ...]:
    """The templates of a file that belong to one side."""
    return tuple(template for template in load(family) if template.split == split)


def read(path: Path) -> Iterator[Template]:
    """Parse a template file."""
    settings = dict(_DEFAULTS)
    group: list[str] = []
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), "@"], start=1):
        if line.startswith("~ ") and group:
            group.append(line[2:])
            continue
        if not line.strip() or line.startswith("# "):
            continue
        if group:
            yield _template(path.stem, tuple(group), settings)
            group = []
        if f"{line} ".startswith("@ "):
            settings = _settings(line, f"{path.name}:{number}")
        else:
            group = [line]


def _settings(line: str, where: str) -> dict[str, str]:
    given = dict(pair.split("=", 1) for pair in line[1:].split())
    unknown = sorted(set(given) - set(_DEFAULTS))
    if unknown or given.get("split", "hash") not in ("hash", *SPLITS):
        raise ValueError(f"{where}: unknown setting in {line!r}")
    return {**_DEFAULTS, **given}


def _template(family: str, sources: tuple[str, ...], settings: dict[str, str]) -> Template:
    split: Split = "train"
    if settings["split"] == "heldout" or (
        settings["split"] == "hash" and held_out(sources[0], _HELD_OUT_OF)
    ):
        split = "heldout"
    name = hashlib.sha256(sources[0].encode()).hexdigest()[:8]
    return Template(
        id=f"{family}/{name}",
        family=family,
        sources=sources,
        parsed=tuple(parse(source) for source in sources),
        split=split,
        frame="" if settings["frame"] == "none" else settings["frame"],
        weight=float(settings["weight"]),
    )
