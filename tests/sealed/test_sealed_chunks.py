"""Large sealed files: every change of one is named, whatever it is and wherever."""

import hashlib
import io
import json
import os
import random
import shutil

import pytest

from ptmo_secure.errors import EngineError, InputError, SecurityError
from ptmo_secure.sealed import chunks, newest
from ptmo_secure.sealed.chunks import SealedFile, SealedKind, seal
from ptmo_secure.sealed.marks import is_sealed
from ptmo_secure.sealed.store import VERSIONS, SealedStore
from tests.sealed.power_loss import states_after

ROOT_KEY = bytes(range(32))
HEADER_BYTES = 40
OLD = "an older version than the newest (ROLLED_BACK)"
CHANGED = "changed, or sealed by another device (MAC_INVALID)"
CUT = "cut short, lengthened, or removed while the counter names it (TRUNCATED)"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 256 bytes, so that a small file has several."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 256)


@pytest.fixture
def store(base):
    with opened(base) as store:
        yield store


def opened(base):
    return SealedStore.open(base / "device", debug_root_key=ROOT_KEY)


def data_of(n_bytes, seed=1):
    return random.Random(seed).randbytes(n_bytes)


def sealed(store, path, data):
    seal(store, SealedKind.MODEL, [io.BytesIO(data)], len(data), path)
    return path.read_bytes()


def content(store, path):
    return b"".join(SealedFile(path, store).chunks())


def refusal(store, path):
    """The text of a SecurityError, without the path, and what was given out before it."""
    given = []
    with pytest.raises(SecurityError) as refused:
        for piece in SealedFile(path, store).chunks():
            given.append(piece)
    text = str(refused.value)
    assert "\n" not in text and text.startswith(f"{path}: ")
    return text[len(f"{path}: ") :], b"".join(given)


@pytest.mark.parametrize("n_bytes", [0, 1, 255, 256, 257, 512, 1000])
def test_what_was_sealed_comes_back_chunk_by_chunk(store, base, n_bytes):
    data, reports = data_of(n_bytes), []
    path = base / "file.sealed"
    parts = [io.BytesIO(data[: n_bytes // 3]), io.BytesIO(), io.BytesIO(data[n_bytes // 3 :])]
    seal(store, SealedKind.ADAPTER, parts, n_bytes, path, lambda *args: reports.append(args))
    assert path.stat().st_size == HEADER_BYTES + n_bytes + 16 * max(1, -(-n_bytes // 256))
    assert path.stat().st_mode & 0o777 == 0o600
    assert reports[-1] == (n_bytes, n_bytes) and len(reports) == max(1, -(-n_bytes // 256))
    file = SealedFile(path, store)
    assert (file.kind, file.n_bytes) == (SealedKind.ADAPTER, n_bytes)
    pieces = list(file.chunks())
    assert b"".join(pieces) == data and max(map(len, pieces)) <= 256
    assert not any(data[at : at + 16] in path.read_bytes() for at in range(0, n_bytes - 16, 16))


def test_one_content_sealed_twice_has_no_chunk_in_common(store, base):
    data = data_of(1000)
    first = sealed(store, base / "a.sealed", data)
    second = sealed(store, base / "b.sealed", data)
    assert not {first[at : at + 16] for at in range(16, len(first), 16)} & {
        second[at : at + 16] for at in range(16, len(second), 16)
    }


def test_the_format_is_what_is_written_down(store, base):
    """Opened by another implementation of AES-GCM-SIV, from the module's description alone."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

    from tee_sim import keys
    from tee_sim.protocol import TA_STORE

    data = data_of(700)
    raw = sealed(store, base / "file.sealed", data)
    assert raw[:24] == b"PTMOFILE" + bytes([1, 0, 1, 0, 0, 0, 0, 0]) + (700).to_bytes(8, "little")
    cipher = AESGCMSIV(keys.sealed_file_key(ROOT_KEY, TA_STORE, raw[24:40]))
    plain, at = b"", 40
    for index, size in enumerate((256, 256, 188)):
        place = index.to_bytes(4, "little") + bytes([index == 2])
        nonce = index.to_bytes(12, "little")
        plain += cipher.decrypt(nonce, raw[at : at + size + 16], raw[:40] + place)
        at += size + 16
    assert plain == data and at == len(raw)


def test_each_kind_of_tampering_is_named(store, base):
    path, other = base / "file.sealed", base / "other.sealed"
    old = sealed(store, path, data_of(700, 1))
    new = sealed(store, path, data_of(700, 2))
    others = sealed(store, other, data_of(700, 3))
    head, step = HEADER_BYTES, 272
    first, second = new[head : head + step], new[head + step : head + 2 * step]
    cases = [
        (old, OLD, 0),
        (others, f"the file of another object, sealed as {other} (WRONG_OBJECT)", 0),
        (b"", CUT, 0),
        (new[:5], CUT, 0),
        (new[:head], CUT, 0),
        (new[:-1], CUT, 0),
        (new[: head + 2 * step], CUT, 0),
        (new + b"\0", CUT, 0),
        (b"\0" + new[1:], "not a file of this kind and version (BAD_FORMAT)", 0),
        (new[:8] + b"\2" + new[9:], "not a file of this kind and version (BAD_FORMAT)", 0),
        (b"GGUF" + new[4:], "not a file of this kind and version (BAD_FORMAT)", 0),
        (old[:head] + new[head:], CHANGED, 0),
        (new[:head] + old[head:], "chunk 1 of 3 was changed or moved (MAC_INVALID)", 0),
        (
            new[:head] + second + first + new[head + 2 * step :],
            "chunk 1 of 3 was changed or moved (MAC_INVALID)",
            0,
        ),
        (
            new[: head + step] + first + new[head + 2 * step :],
            "chunk 2 of 3 was changed or moved (MAC_INVALID)",
            256,
        ),
        (new[:-1] + bytes([new[-1] ^ 1]), "chunk 3 of 3 was changed or moved (MAC_INVALID)", 512),
    ]
    for data, message, given in cases:
        path.write_bytes(data)
        assert refusal(store, path) == (message, data_of(700, 2)[:given])
    path.write_bytes(new)
    assert content(store, path) == data_of(700, 2)
    assert content(store, other) == data_of(700, 3)
    path.unlink()
    with pytest.raises(InputError, match=r"file\.sealed: No such file"):
        SealedFile(path, store)


def test_a_chunk_that_was_not_the_last_does_not_pass_for_it(store, base):
    """Two files of one length per chunk: the flag alone tells a shorter file from the longer."""
    raw = sealed(store, base / "file.sealed", data_of(512))
    shorter = raw[:16] + (256).to_bytes(8, "little") + raw[24 : HEADER_BYTES + 272]
    (base / "file.sealed").write_bytes(shorter)
    assert refusal(store, base / "file.sealed") == (CHANGED, b"")


def test_another_device_and_a_device_that_lost_its_counter_refuse(store, base, tmp_path):
    path = base / "file.sealed"
    raw = sealed(store, path, data_of(300))
    with SealedStore.open(tmp_path / "stranger") as stranger:
        assert refusal(stranger, path) == (CHANGED, b"")
    store.close()
    shutil.rmtree(base / "device")
    with opened(base) as again:
        text, _ = refusal(again, path)
        assert text.startswith("unknown to the counter") and "COUNTER_ROLLED_BACK" in text
        assert path.read_bytes() == raw


def flipped_text(place):
    if place < 10:
        return "not a file of this kind and version (BAD_FORMAT)"
    if place < HEADER_BYTES:
        return CHANGED
    return f"chunk {1 + (place - HEADER_BYTES) // 272} of 3 was changed or moved (MAC_INVALID)"


@pytest.mark.parametrize("bits", [(0,), pytest.param(range(8), marks=pytest.mark.slow)], ids=str)
def test_every_changed_byte_is_named(store, base, bits):
    path = base / "file.sealed"
    raw = sealed(store, path, data_of(600))
    for place in range(len(raw)):
        for bit in bits:
            changed = bytearray(raw)
            changed[place] ^= 1 << (bit + place) % 8
            path.write_bytes(changed)
            text, given = refusal(store, path)
            assert text == flipped_text(place), place
            assert given == data_of(600)[: max(0, place - HEADER_BYTES) // 272 * 256]
    path.write_bytes(raw)
    assert content(store, path) == data_of(600)


@pytest.mark.parametrize("change", ["added", "replaced"])
def test_a_power_failure_at_any_step_leaves_the_old_file_or_the_new_one(base, monkeypatch, change):
    root, path = base, base / "file.sealed"
    old = data_of(300, 1) if change == "replaced" else None
    with opened(base) as store:
        sealed(store, base / "other.sealed", data_of(9))
        if old is not None:
            sealed(store, path, old)

    def replace():
        with opened(base) as store:
            sealed(store, path, data_of(300, 2))

    states, found = states_after(monkeypatch, root, replace), []
    for state in states:
        for left in root.rglob("*"):
            if left.is_file():
                left.unlink()
        for name, data in state:
            (root / name).write_bytes(data)
        with opened(base) as store:
            value = content(store, path) if path.exists() else None
            assert value in (old, data_of(300, 2))
            assert content(store, base / "other.sealed") == data_of(9)
            sealed(store, path, data_of(5, 3))
            assert content(store, path) == data_of(5, 3)
        found.append(value)
    assert len(states) > 15
    assert (found[0], found[-1]) == (old, data_of(300, 2))


@pytest.mark.parametrize("moment", ["settle", "_announce"])
def test_a_seal_cut_off_at_its_end_leaves_a_choice_that_the_next_look_makes(
    store, base, monkeypatch, moment
):
    path = base / "file.sealed"
    old = sealed(store, path, data_of(300, 1))

    def die(*_):
        raise KeyboardInterrupt

    for _ in range(3):  # however often
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(newest.NewestVersions, moment, die)
            sealed(store, path, data_of(300, 2))
    assert len(json.loads(store.get(VERSIONS))[str(path)]) == (2 if moment == "settle" else 1)
    new = path.read_bytes()
    assert set(os.listdir(base)) == {"device", "file.sealed"}
    assert (new == old) == (moment == "_announce")
    assert content(store, path) == data_of(300, 1 if new == old else 2)
    if new != old:
        assert len(json.loads(store.get(VERSIONS))[str(path)]) == 1
        path.write_bytes(old)
        assert refusal(store, path) == (OLD, b"")


def test_a_target_that_is_something_else_is_left_alone(store, base):
    (base / "notes.sealed").write_bytes(b"mine")
    (base / "folder.sealed").mkdir()
    os.mkfifo(base / "pipe.sealed")
    for name, message in (
        ("model.gguf", r"model\.gguf: the name of a sealed file ends with \.sealed"),
        (".sealed", "the name of a sealed file ends with"),
        ("notes.sealed", "something is there already, and no sealed file"),
        ("folder.sealed", "something is there already, and no sealed file"),
        ("pipe.sealed", "something is there already, and no sealed file"),
        ("missing/a.sealed", "No such file or directory"),
    ):
        with pytest.raises(InputError, match=message):
            sealed(store, base / name, b"data")
    assert (base / "notes.sealed").read_bytes() == b"mine"
    for name in ("folder.sealed", "pipe.sealed"):
        with pytest.raises(InputError, match=f"{name}: not a file"):
            SealedFile(base / name, store)
    os.mkfifo(base / "pipe")
    assert not is_sealed(base / "pipe") and is_sealed(base / "pipe.sealed")
    assert store.names() == []


@pytest.mark.parametrize("announced", [99, 101])
def test_a_source_that_changes_meanwhile_is_refused(store, base, announced):
    with pytest.raises(InputError, match="the source changed while it was sealed"):
        seal(store, SealedKind.MODEL, [io.BytesIO(bytes(100))], announced, base / "a.sealed")
    assert os.listdir(base) == ["device"]


def test_a_full_disk_leaves_no_file(store, base, monkeypatch):
    def fsync(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(chunks.NewestVersions, "_announce", lambda *_: fsync(0))
        with pytest.raises(EngineError, match=r"a\.sealed: No space left on device"):
            sealed(store, base / "a.sealed", data_of(300))
    assert os.listdir(base) == ["device"]


def test_keys_are_given_back_and_a_dead_tee_opens_nothing(store, base):
    path = base / "file.sealed"
    sealed(store, path, data_of(300))
    regions = store.tee.status()["regions"]
    for _ in range(70):  # more than the TEE has room for
        assert hashlib.sha256(content(store, path)).digest()
    assert store.tee.status()["regions"] == regions
    store.tee.close()
    with pytest.raises(EngineError, match="the TEE process is gone"):
        content(store, path)
