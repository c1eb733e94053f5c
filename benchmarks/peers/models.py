"""The files that both engines read, and the Python that runs the other one."""

import hashlib
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast

from ptmo_secure.bench import SAMPLE_TEXT
from ptmo_secure.errors import InputError

Say = Callable[[str], None]
KINDS = ("q4_1", "q4_0")
ROOT = Path(__file__).resolve().parent.parent.parent


def sample_ids(path: Path) -> list[int]:
    """Token ids of the sample text."""
    from ptmo_secure.engine.gguf_import import ModelSource
    from ptmo_secure.engine.tokenizer import Tokenizer

    with ModelSource(path) as source:
        return Tokenizer(source.metadata, path.name).encode(SAMPLE_TEXT)


def context_limit(path: Path) -> int:
    """Tokens that the model's context holds at most."""
    from ptmo_secure.engine.gguf_import import ModelSource

    with ModelSource(path) as source:
        return source.config.context_length


def model_files(model: str, kinds: Sequence[str], say: Say) -> tuple[Path, dict[str, Path]]:
    """The model's own file, and the file of each kind: its own, or one quantised from it."""
    from ptmo_secure.engine import registry

    source = registry.resolve_verified(model)
    own = next((kind for kind in KINDS if kind in source.name.lower()), None)
    files = {kind: source if kind == own else quantised(source, kind, say) for kind in kinds}
    return source, files


def quantised(source: Path, kind: str, say: Say) -> Path:
    """A 4-bit copy in the cache, named after the source's checksum; made once."""
    from ptmo_secure.engine import registry
    from ptmo_secure.engine.quantize import quantize_file

    folder = registry.cache_folder().parent / "benchmarks"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    target = folder / f"{source.stem}-as-{kind}-{digest}.gguf"
    if not target.is_file():
        say(f"writing {target}")
        folder.mkdir(parents=True, exist_ok=True)
        quantize_file(source, target, cast("Literal['q4_0', 'q4_1']", kind))
    return target


def peer_python(given: str | None) -> Path | None:
    """The Python that has llama_cpp: the one named, or that of `make bench-peers` if any.

    Raises:
        InputError: the one named is not there, does not run, or has no llama_cpp.
    """
    named = given or os.environ.get("PTMO_PEERS_PYTHON")
    path = Path(named) if named else ROOT / ".venv-peers" / "bin" / "python"
    if named and not path.is_file():
        raise InputError(f"peer-python {named}: no such file")
    if path.is_file() and _has_peer(path):
        return path
    if named:
        raise InputError(
            f"peer-python {named} cannot import llama_cpp and numpy: run make bench-peers, "
            "or name a Python that can"
        )
    return None


def _has_peer(python: Path) -> bool:
    try:
        command = [str(python), "-c", "import llama_cpp, numpy"]
        return (
            subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
        )
    except OSError:  # not executable
        return False
