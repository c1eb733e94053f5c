"""Sealed models and adapters: the same answers, nothing in the clear on disk, one-line refusals."""

import json
import os
import struct

import numpy as np
import pytest

from ptmo_secure import cli
from ptmo_secure.engine import gguf_file, sealed_source
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.errors import InputError, SecurityError
from ptmo_secure.sealed import bundle, chunks
from ptmo_secure.sealed.bundle import SETTINGS_NAME, WEIGHTS_NAME, seal_path
from ptmo_secure.sealed.chunks import SealedKind
from ptmo_secure.sealed.store import SealedStore
from tests.peft_files import some_adapter, write_adapter
from tests.tiny_models import make_tiny_model

IDS = [int(i) for i in np.random.default_rng(37).integers(0, 250, 20)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    with ModelSource(model) as source:
        weights = some_adapter(source.config, rank=4)
    return write_adapter(tmp_path_factory.mktemp("adapter") / "mine", weights)


@pytest.fixture(scope="module")
def device(model, adapter, tmp_path_factory):
    """A folder with a device's state and what it sealed."""
    folder = tmp_path_factory.mktemp("device")
    with SealedStore.open(folder / "state") as store:
        assert seal_path(store, model, folder / "model.gguf.sealed") == SealedKind.MODEL
        assert seal_path(store, adapter, folder / "mine.sealed") == SealedKind.ADAPTER
    return folder


def load(path, state, **fields):
    return Engine.load(path, tee_state=state, threads=1, context_tokens=64, **fields)


def contents_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def needles(model, adapter):
    """Pieces of plaintext: metadata, weights of every tensor, settings, an adapter's weights."""
    out = [b"tokenizer.ggml", b"blk.0.attn_q", b"lora_alpha", b"lora_A.weight"]
    raw = (adapter / WEIGHTS_NAME).read_bytes()
    out += [raw[at : at + 24] for at in range(len(raw) // 2, len(raw) - 24, 997)]
    with gguf_file.GgufFile(model) as file:
        for name, info in file.tensors.items():
            data = file.data(name).tobytes()
            out += [data[at : at + 24] for at in (0, info.nbytes // 2)]
    return [needle for needle in out if len(set(needle)) > 4]


@pytest.mark.parametrize(
    "fields",
    [{"shield": "seal"}, {"shield": "none"}, {"shield": "permute+seal"}],
    ids=lambda fields: fields["shield"],
)
def test_a_sealed_model_and_adapter_answer_as_the_open_ones_do(model, adapter, device, fields):
    with load(model, None, **fields) as engine:
        engine.load_adapter("mine", adapter)
        expected = engine.forward(IDS), engine.forward(IDS, ["mine"])
        digest = engine.sessions.saved_shape()
    assert not np.array_equal(*expected)
    with load(device / "model.gguf.sealed", device / "state", **fields) as engine:
        engine.load_adapter("mine", device / "mine.sealed")
        assert np.array_equal(engine.forward(IDS), expected[0])
        assert np.array_equal(engine.forward(IDS, ["mine"]), expected[1])
        assert engine.sessions.saved_shape() == digest  # sessions of either open in the other


def test_the_opened_model_leaves_memory_once_its_weights_are_packed(device):
    path, state = device / "model.gguf.sealed", device / "state"
    for shield, kept in (("seal", False), ("none", False), ("permute", True)):
        with load(path, state, shield=shield) as engine:
            mapped = engine._source._file._map
            assert mapped.closed is not kept
        assert mapped.closed


def test_under_permute_a_new_tee_permutes_a_sealed_model_anew(device):
    path, state = device / "model.gguf.sealed", device / "state"
    with load(path, state, shield="permute") as engine:
        engine.load_adapter("mine", device / "mine.sealed")
        expected = engine.forward(IDS, ["mine"])
        os.kill(engine._tee.client.pid, 9)
        engine._tee.client._channel.process.wait(10)
        engine.load_adapter("again", device / "mine.sealed")
        assert np.array_equal(engine.forward(IDS, ["mine"]), expected)
        assert np.array_equal(engine.forward(IDS, ["again"]), expected)


def test_no_plaintext_is_on_disk_at_any_moment(model, adapter, device, tmp_path, monkeypatch):
    """Every file is looked at after each chunk and each tensor, and at the end."""
    wanted = needles(model, adapter)
    plain = b"".join([*contents_below(adapter).values(), model.read_bytes()])
    assert len(wanted) > 50 and all(needle in plain for needle in wanted)  # they can be found
    seen = []

    def look(*_):
        for path, data in contents_below(tmp_path).items():
            seen.append(path.suffix)
            assert not any(needle in data for needle in wanted), path

    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4096)
    with SealedStore.open(tmp_path / "state") as store:
        seal_path(store, model, tmp_path / "model.sealed", look)
        seal_path(store, adapter, tmp_path / "mine.sealed", look)
    with Engine.load(
        tmp_path / "model.sealed", tee_state=tmp_path / "state", context_tokens=64, progress=look
    ) as engine:
        engine.load_adapter("mine", tmp_path / "mine.sealed")
        session = engine.start_session(["mine"])
        session.feed(IDS)
        session.save(tmp_path / "session")
        look()
        assert struct.pack("<4I", *IDS[:4]) not in (tmp_path / "session").read_bytes()
        assert engine.resume(tmp_path / "session", ["mine"]).tokens == IDS
    look()
    assert {".part", ".sealed"} <= set(seen)


def test_a_sealed_model_that_was_changed_anywhere_is_refused_before_it_is_read(
    model, tmp_path, monkeypatch
):
    path, state = tmp_path / "model.sealed", tmp_path / "state"
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4096)
    with SealedStore.open(state) as store:
        seal_path(store, model, path)
    raw = path.read_bytes()

    def parse(*_, **__):
        raise AssertionError("parsed")

    with monkeypatch.context() as patched:
        patched.setattr(sealed_source, "ModelSource", parse)
        for place, text in (
            (3, r"not a file of this kind and version \(BAD_FORMAT\)"),
            (30, r"changed, or sealed by another device \(MAC_INVALID\)"),
            (40, r"chunk 1 of \d+ was changed or moved \(MAC_INVALID\)"),
            (len(raw) - 1, r"chunk (\d+) of \1 was changed or moved \(MAC_INVALID\)"),
        ):
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
            with pytest.raises(SecurityError, match=rf"^{path}: {text}$"):
                load(path, state)
        path.write_bytes(model.read_bytes())  # the open model in the sealed one's place
        with pytest.raises(SecurityError, match="BAD_FORMAT"):
            load(path, state)
        path.write_bytes(raw)
        with pytest.raises(AssertionError, match="parsed"):
            load(path, state)


def test_what_is_sealed_needs_its_own_device_and_its_own_kind(model, device, tmp_path):
    path, mine = device / "model.gguf.sealed", device / "mine.sealed"
    with pytest.raises(InputError, match="a sealed file: name the state folder of the device"):
        load(path, None)
    with pytest.raises(InputError, match="nowhere: no device keeps its sealed state there"):
        load(path, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with SealedStore.open(tmp_path / "stranger"):
        pass
    with pytest.raises(SecurityError, match="changed, or sealed by another device"):
        load(path, tmp_path / "stranger")
    with pytest.raises(InputError, match="it holds a sealed adapter, not a model"):
        load(mine, device / "state")
    with pytest.raises(InputError, match=r"model\.gguf\.sealed: magic: a sealed file"):
        ModelSource(path)
    with load(model, None) as engine:
        with pytest.raises(InputError, match="a sealed file: name the state folder of the device"):
            engine.load_adapter("mine", mine)
    with load(model, device / "state") as engine:
        with pytest.raises(InputError, match="it holds a sealed model, not an adapter"):
            engine.load_adapter("mine", path)
        with pytest.raises(InputError, match="No such file"):
            engine.load_adapter("mine", device / "other.sealed")
        assert engine.adapters == {}


def test_a_sealed_adapter_of_another_model_is_named_by_its_file(adapter, device, tmp_path):
    other = make_tiny_model(tmp_path, "Q4_1", d_model=32).path
    with load(other, device / "state") as engine, pytest.raises(InputError) as refused:
        engine.load_adapter("mine", device / "mine.sealed")
    assert str(refused.value).startswith(f"{device / 'mine.sealed'}/{WEIGHTS_NAME}: ")


def test_a_bundle_with_a_wrong_length_is_refused():
    assert bundle.split((2).to_bytes(8, "little") + b"{}rest") == (b"{}", b"rest")
    for data in (b"", b"1234567", (3).to_bytes(8, "little") + b"{}", b"\xff" * 8 + b"{}"):
        with pytest.raises(SecurityError, match="settings are longer than the whole"):
            bundle.split(data)


def run(capsys, *arguments):
    code = cli.main([*map(str, arguments)])
    shown = capsys.readouterr()
    assert shown.err.count("\n") <= 1
    return code, shown.out, shown.err.removeprefix("error: ").rstrip("\n")


def test_the_commands_seal_answer_and_give_back(model, adapter, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PTMO_STATE", str(tmp_path / "state"))
    path, mine = tmp_path / "m.gguf.sealed", tmp_path / "mine.sealed"
    code, out, _ = run(capsys, "model", "seal", model, "-o", path, "--json")
    assert code == 0 and json.loads(out) == {
        "source": str(model),
        "target": str(path),
        "kind": "model",
        "bytes": path.stat().st_size,
        "state": str(tmp_path / "state"),
    }
    assert run(capsys, "model", "seal", adapter, "-o", mine)[0] == 0
    ask = ("ask", "hello", "--json", "--max-tokens", 4, "--adapter")
    open_answer = json.loads(run(capsys, *ask, f"a={adapter}", "--model", model)[1])
    code, out, err = run(capsys, *ask, f"a={mine}", "--model", path)
    assert (code, err) == (0, "") and json.loads(out)["answer"] == open_answer["answer"]
    assert run(capsys, "model", "unseal", path, "-o", tmp_path / "back.gguf")[0] == 0
    assert run(capsys, "model", "unseal", mine, "-o", tmp_path / "back")[0] == 0
    assert (tmp_path / "back.gguf").read_bytes() == model.read_bytes()
    assert sorted(os.listdir(tmp_path / "back")) == [SETTINGS_NAME, WEIGHTS_NAME]
    for name in (SETTINGS_NAME, WEIGHTS_NAME):
        assert (tmp_path / "back" / name).read_bytes() == (adapter / name).read_bytes()
    made = ["back", "back.gguf", "m.gguf.sealed", "mine.sealed", "state"]
    assert sorted(os.listdir(tmp_path)) == made


def test_the_commands_refuse_in_one_line_and_leave_nothing(model, adapter, tmp_path, capsys):
    path, state = tmp_path / "m.sealed", tmp_path / "state"
    empty = tmp_path / "empty"
    empty.mkdir()
    refused = [
        ((tmp_path / "none.gguf",), 2, "no such file"),
        ((empty,), 2, f"{empty / SETTINGS_NAME}: No such file or directory"),
        ((adapter / WEIGHTS_NAME, "-o", path), 2, "magic: not a GGUF file"),
        ((model, "-o", tmp_path / "m.gguf"), 2, "the name of a sealed file ends with .sealed"),
        ((model, "-o", tmp_path / "no" / "m.sealed"), 2, "No such file or directory"),
        ((model, "-o", path, "--state", model), 2, f"{model}: File exists"),
    ]
    for arguments, code, text in refused:
        given = ("--state", state) if "--state" not in arguments else ()
        found = run(capsys, "model", "seal", *arguments, *given)
        assert found[0] == code and text in found[2] and found[1] == "", found
    with SealedStore.open(state) as store:
        seal_path(store, model, path)
        busy = run(capsys, "model", "seal", model, "-o", tmp_path / "b.sealed", "--state", state)
        assert busy[0] == 1 and "state: in use by another program or engine" in busy[2]
    back = tmp_path / "back.gguf"
    unseal = ("model", "unseal", path, "-o", back, "--state")
    for plain in (model, adapter / SETTINGS_NAME):
        found = run(capsys, "model", "unseal", plain, "-o", back, "--state", state)
        assert found == (2, "", f"{plain}: not a sealed file")
    for command in (("bench",), ("attack", "kv"), ("demo",)):
        found = run(capsys, *command, "--model", path, "--json")
        assert found[:2] == (2, "") and "--state" not in found[2]
        assert found[2].startswith(f"{path}: a sealed model: this command compares engines")
    assert run(capsys, *unseal, empty)[2] == f"{empty}: no device keeps its sealed state there"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    code, _, text = run(capsys, *unseal, state)
    assert code == 1 and text.startswith(f"{path}: chunk ") and text.endswith("(MAC_INVALID)")
    path.write_bytes(raw)
    code, _, text = run(capsys, "model", "unseal", path, "-o", empty, "--state", state)
    assert (code, text) == (2, f"{empty}: there is something already")
    assert sorted(os.listdir(tmp_path)) == ["empty", "m.sealed", "state"]
    assert os.listdir(empty) == []
    assert run(capsys, *unseal, state)[0] == 0


@pytest.mark.parametrize("at", [1, 3])
def test_an_interrupted_seal_or_unseal_leaves_no_file(model, adapter, tmp_path, monkeypatch, at):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1024)

    def interrupt(done, total):
        if done >= at * 1024:
            raise KeyboardInterrupt

    with SealedStore.open(tmp_path / "state") as store:
        for source in (model, adapter):
            sealed, back = tmp_path / "a.sealed", tmp_path / "back"
            with pytest.raises(KeyboardInterrupt):
                seal_path(store, source, sealed, interrupt)
            assert os.listdir(tmp_path) == ["state"]
            seal_path(store, source, sealed)
            with pytest.raises(KeyboardInterrupt):
                bundle.unseal_path(store, sealed, back, interrupt)
            assert sorted(os.listdir(tmp_path)) == ["a.sealed", "state"]
            bundle.unseal_path(store, sealed, back)
            assert back.is_dir() == source.is_dir()
            sealed.unlink()
            if back.is_dir():
                continue
            back.unlink()
