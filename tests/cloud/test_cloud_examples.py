"""The examples of the pages on the cloud, run as printed against a server on loopback."""

import os
import subprocess
import sys

import pytest

from ptmo_secure.cloud import providers
from ptmo_secure.engine import registry
from ptmo_secure.errors import InputError
from tests.cloud import hostile_server as hostile
from tests.test_examples import MODEL, ROOT, examples


def test_the_clouds_example_masks_asks_and_restores(server, tmp_path, monkeypatch, capsys):
    here = {"openai": providers.provider_at(server.url, "openai")}
    monkeypatch.setattr(providers, "load_providers", lambda: here)
    monkeypatch.chdir(tmp_path)
    server.script = [hostile.models("a-model"), hostile.chat("Dear [PERSON_1]!")]
    (example,) = examples("docs/cloud.md")
    exec(compile(example, "docs/cloud.md", "exec"), {})
    assert capsys.readouterr().out.startswith("Dear Maria Lopez! ")
    assert b"[PERSON_1]" in server.received and b"Lopez" not in server.received


def test_the_pipelines_example_sends_the_public_part_alone(server, tmp_path):
    try:
        registry.resolve(MODEL)
    except InputError:
        pytest.skip(f"{MODEL} is not pulled (ptmo model pull {MODEL})")
    (example,) = examples("docs/pipeline.md")
    assert "127.0.0.1:8766" in example
    server.default = hostile.stream(["A language."])
    done = subprocess.run(
        [sys.executable, "-c", example.replace("127.0.0.1:8766", f"127.0.0.1:{server.port}")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PTMO_STATE": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("hybrid ") and "A language." in done.stdout
    assert b"What is Python?" in server.received and b"secret123" not in server.received
