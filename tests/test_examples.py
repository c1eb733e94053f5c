"""The documents' Python examples, run as printed, each in a process and a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ptmo_secure.engine import registry
from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.errors import InputError
from tests.peft_files import some_adapter, write_adapter

ROOT = Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m"
DOCUMENTS = {
    "README.md": 1,
    "docs/engine.md": 5,
    "docs/guard-data.md": 1,
    "docs/measuring-optee.md": 1,
    "docs/offload.md": 1,
    "docs/privacy.md": 1,
    "docs/serve.md": 1,
    "docs/tee.md": 4,
}  # and how many examples each holds
# Those that need a server, which their own tests start
WITH_A_SERVER = {"docs/cloud.md": 1, "docs/fusion.md": 1, "docs/pipeline.md": 1}  # tests/cloud
ON_A_DEVICE = {"docs/cuda.md": 2}  # tests/gpu
EXAMPLES = [(name, at) for name, count in DOCUMENTS.items() for at in range(count)]


def examples(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def model_file() -> Path:
    try:
        return registry.resolve(MODEL)
    except InputError:
        pytest.skip(f"{MODEL} is not pulled (ptmo model pull {MODEL})")


def test_every_python_example_of_a_document_is_run() -> None:
    documents = [ROOT / "README.md", *ROOT.glob("*/*.md"), ROOT / "CONTRIBUTING.md"]
    names = [str(path.relative_to(ROOT)) for path in documents]
    assert {name: len(examples(name)) for name in names if examples(name)} == (
        DOCUMENTS | WITH_A_SERVER | ON_A_DEVICE
    )


@pytest.mark.parametrize(("document", "at"), EXAMPLES)
def test_an_example_runs_as_printed(
    document: str, at: int, model_file: Path, tmp_path: Path
) -> None:
    with ModelSource(model_file) as source:  # the README loads a user's own adapter
        write_adapter(tmp_path / "my-adapter", some_adapter(source.config, rank=4))
    done = subprocess.run(
        [sys.executable, "-c", examples(document)[at]],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PTMO_STATE": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
