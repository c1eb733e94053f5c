"""A quantised copy is a GGUF file others read, with the metadata of its source."""

import os
import tempfile
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.engine.quantize import quantize_file
from ptmo_secure.errors import InputError, ModelFormatError
from tests.tiny_models import make_tiny_model

KINDS = {"q4_0": (Kind.Q4_0, 2), "q4_1": (Kind.Q4_1, 3)}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("source_quant", ["F32", "F16", "BF16", "Q8_0"])
def test_matrices_become_4_bit_and_the_rest_is_kept(
    name: str, source_quant: str, tmp_path: Path
) -> None:
    kind, file_type = KINDS[name]
    source = make_tiny_model(tmp_path, quant=source_quant).path
    done = quantize_file(source, tmp_path / "out.gguf", name)  # type: ignore[arg-type]
    before, after = gguf.GGUFReader(source), gguf.GGUFReader(done.path)
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        exact = dequantize(old.data, old.tensor_type).reshape(new.shape[::-1])
        if len(new.shape) == 1:
            assert new.tensor_type == Kind.F32
            assert np.array_equal(new.data, exact)
            continue
        kept = new.name in ("token_embd.weight", "output.weight")
        wanted = Kind.Q8_0 if kept else kind
        assert new.tensor_type == wanted
        packed = old.data if old.tensor_type == wanted else quantize(exact, wanted)
        assert np.array_equal(new.data, packed)
    keys = {key for key in before.fields if not key.startswith("GGUF.")}
    assert {key for key in after.fields if not key.startswith("GGUF.")} == keys | {
        "general.file_type",
        "general.quantization_version",
    }
    for key in keys:
        assert after.fields[key].contents() == before.fields[key].contents()
        assert after.fields[key].types == before.fields[key].types
    assert after.fields["general.file_type"].contents() == file_type
    assert done.bytes == done.path.stat().st_size
    assert not list(tmp_path.glob(".quantize-*"))


def test_the_copy_runs_through_the_importer_losslessly(tmp_path: Path) -> None:
    source = make_tiny_model(tmp_path, quant="F32", rope_scaling="llama3").path
    path = quantize_file(source, tmp_path / "out.gguf", "q4_1").path
    with ModelSource(source) as old, ModelSource(path) as new:
        assert new.config == old.config
        assert np.array_equal(new.inv_freq, old.inv_freq)
        exact = old.tensor("layers.1.down").dequantize()
        error = np.abs(new.tensor("layers.1.down").dequantize() - exact)
        assert 0 < error.max() < np.ptp(exact) / 15


def test_progress_counts_every_weight(tmp_path: Path) -> None:
    source = make_tiny_model(tmp_path, quant="F32", n_layers=1).path
    calls: list[tuple[str, int, int]] = []
    done = quantize_file(source, tmp_path / "o.gguf", "q4_0", lambda *call: calls.append(call))
    assert calls[-1][1] == calls[-1][2] == done.weights
    assert len(calls) == 12


def test_a_failed_run_leaves_the_old_target_and_nothing_else(tmp_path: Path) -> None:
    source = make_tiny_model(tmp_path, quant="F32", n_layers=1).path
    broken = bytearray(source.read_bytes())
    broken[-4:] = np.float32(np.nan).tobytes()
    source.write_bytes(broken)
    target = tmp_path / "out.gguf"
    target.write_bytes(b"old")
    with pytest.raises(ModelFormatError, match="not finite"):
        quantize_file(source, target, "q4_1")
    assert target.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {source.name, "out.gguf"}


def test_bad_arguments_are_refused_by_name(tmp_path: Path) -> None:
    source = make_tiny_model(tmp_path, quant="F32", n_layers=1).path
    with pytest.raises(InputError, match="'q3' is unknown"):
        quantize_file(source, tmp_path / "o.gguf", "q3")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="same file"):
        quantize_file(source, source, "q4_0")
    with pytest.raises(InputError, match="no such folder"):
        quantize_file(source, tmp_path / "absent" / "o.gguf", "q4_0")
    with pytest.raises(InputError, match="cannot be read"):
        quantize_file(tmp_path / "absent.gguf", tmp_path / "o.gguf", "q4_0")


def test_a_target_that_cannot_be_a_file_is_refused_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tiny_model(tmp_path, quant="F32", n_layers=1).path
    fifo, dangling = tmp_path / "fifo", tmp_path / "dangling"
    os.mkfifo(fifo)
    dangling.symlink_to(tmp_path / "absent")
    for target in (fifo, dangling):
        with pytest.raises(InputError, match=f"^{target}: .*not a regular file"):
            quantize_file(source, target, "q4_0")
    assert fifo.is_fifo()
    with pytest.raises(InputError, match=f"^{tmp_path}: cannot be written: a folder"):
        quantize_file(source, tmp_path, "q4_0")
    target = tmp_path / "o.gguf"

    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system", str(tmp_path / ".quantize-x.part"))

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", refuse)
        with pytest.raises(InputError, match=f"^{target}: .*: Read-only file system$"):
            quantize_file(source, target, "q4_0")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(InputError, match=f"^{target}: .*: its folder is not writable$"):
        quantize_file(source, target, "q4_0")
