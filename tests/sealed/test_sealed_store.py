"""Objects in files: found again by the same device, refused by name when somebody changed them."""

import os
import stat
import threading

import pytest

from ptmo_secure.errors import EngineError, InputError, SecurityError
from ptmo_secure.sealed import files
from ptmo_secure.sealed.store import VERSIONS, SealedStore
from tee_sim.client import MAX_OBJECT_BYTES
from tee_sim.sealed_format import MAX_RECORD_BYTES


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "device"


@pytest.fixture
def store(folder):
    with SealedStore.open(folder) as opened:
        opened.put("mine", b"first")
        opened.put("other", b"other")
        yield opened


def sealed_file(folder, name):
    return folder / "objects" / f"{name}.sealed"


def reopened(store, folder):
    store.close()
    return SealedStore.open(folder)


def refusal(folder, call, *args):
    """The text of a SecurityError, without the folder."""
    with pytest.raises(SecurityError) as refused:
        call(*args)
    text = str(refused.value)
    assert "\n" not in text and text.startswith(f"{folder}/")
    return text[len(f"{folder}/") :]


@pytest.mark.parametrize("restart", [False, True])
def test_what_was_put_is_got_also_after_a_restart(store, folder, restart):
    big = os.urandom(MAX_OBJECT_BYTES)
    for name, data in (("mine", b"second"), ("empty", b""), ("B-1_x.y", big)):
        store.put(name, data)
    if restart:
        store = reopened(store, folder)
    assert store.names() == ["B-1_x.y", "empty", "mine", "other"]
    assert store.get("mine") == b"second" and store.get("empty") == b""
    assert store.get("B-1_x.y") == big and store.get("other") == b"other"
    store.remove("mine")
    assert "mine" not in store.names()
    with pytest.raises(InputError, match=r"mine\.sealed: no such sealed object"):
        store.get("mine")
    with pytest.raises(InputError, match="no such sealed object"):
        store.remove("mine")
    store.close()


def test_everything_is_for_its_owner_alone_and_shows_no_content(store, folder):
    store.put("mine", b"a text that must not be found" * 9)
    paths = list(folder.rglob("*"))
    assert sorted(path.name for path in paths) == [
        *("counter", "fuses", "mine.sealed", "objects", "other.sealed"),
    ]
    for path in [folder, *paths]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        assert path.is_dir() or b"must not be" not in path.read_bytes()


@pytest.mark.parametrize("restart", [False, True])
def test_each_kind_of_tampering_is_named_with_its_file(store, folder, restart):
    path, old = sealed_file(folder, "mine"), sealed_file(folder, "mine").read_bytes()
    store.put("mine", b"newest")
    newest, other = path.read_bytes(), sealed_file(folder, "other").read_bytes()
    changed = newest[:-1] + bytes([newest[-1] ^ 1])
    cases = [
        (old, "an older version than the newest (ROLLED_BACK)"),
        (other, "the file of another object (WRONG_OBJECT)"),
        (changed, "changed, or sealed by another device (MAC_INVALID)"),
        (newest[:-1], "cut short, lengthened, or removed while the counter names it (TRUNCATED)"),
        (newest + b"\0" * MAX_OBJECT_BYTES, "cut short, lengthened, or removed while"),
        (b"", "cut short, lengthened, or removed while the counter names it (TRUNCATED)"),
        (b"\0" + newest[1:], "not a file of this kind and version (BAD_FORMAT)"),
        (None, "cut short, lengthened, or removed while the counter names it (TRUNCATED)"),
    ]
    for data, message in cases:
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        if restart:
            store = reopened(store, folder)
        assert refusal(folder, store.get, "mine").startswith(f"objects/mine.sealed: {message}")
        assert store.get("other") == b"other"
    path.write_bytes(newest)
    assert store.get("mine") == b"newest"
    store.close()


def test_a_rolled_back_or_damaged_counter_is_named(store, folder):
    counter = folder / "counter"
    stale = counter.read_bytes()
    store.put("mine", b"second")
    store.put("mine", b"third")
    newest = counter.read_bytes()
    counter.write_bytes(stale)
    assert store.get("mine") == b"third"  # a running TEE does not ask the file
    store.close()
    assert refusal(folder, SealedStore.open, folder).startswith(
        "objects/mine.sealed: unknown to the counter: its file was rolled back or replaced"
    )
    for data, message in (
        (newest[:-1], "cut short"),
        (newest[:-1] + bytes([newest[-1] ^ 1]), "changed, or sealed by another device"),
        (b"x" + newest[1:], "not a file of this kind"),
        (None, "missing, though there are sealed objects"),
    ):
        if data is None:
            counter.unlink()
        else:
            counter.write_bytes(data)
        text = refusal(folder, SealedStore.open, folder)
        assert text.startswith(f"counter: {message}")
    counter.write_bytes(newest)
    with SealedStore.open(folder) as again:
        assert again.get("mine") == b"third"


@pytest.mark.parametrize("removed", [(), ("counter",), ("objects",)])
def test_fuses_that_were_removed_are_named_and_none_are_burned(store, folder, removed):
    """A new root key would open nothing of what is there."""
    store.close()
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "fuses").unlink()
    for path in whole:
        if {path.name, path.parent.name} & set(removed):
            path.unlink()
    for create in (True, False):
        text = refusal(folder, lambda c=create: SealedStore.open(folder, create=c))
        assert text == (
            "fuses: missing, though there is sealed state: put the file back; "
            f"to start over as a new device, remove {folder}"
        )
    assert not (folder / "fuses").exists()
    for path, data in whole.items():
        path.write_bytes(data)
        path.chmod(0o600)
    with SealedStore.open(folder, create=False) as again:
        assert again.get("mine") == b"first"


def test_a_folder_that_lost_everything_is_a_new_device(store, folder):
    store.close()
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    with SealedStore.open(folder) as again:
        assert again.names() == [] and again.state().boots == 1


@pytest.mark.parametrize("extra", [1, 1 << 20, 9 << 20])
def test_a_counter_longer_than_any_record_is_named_as_such(store, folder, extra):
    store.close()
    counter = folder / "counter"
    whole = counter.read_bytes()
    longest = MAX_RECORD_BYTES - len(whole)
    for begin, code in ((whole, "TRUNCATED"), (b"x" + whole[1:], "BAD_FORMAT")):
        counter.write_bytes(begin + bytes(longest + extra))
        text = refusal(folder, SealedStore.open, folder)
        assert text.startswith("counter: ") and text.endswith(f"({code})")
    counter.write_bytes(whole)
    with SealedStore.open(folder) as again:
        assert again.get("mine") == b"first"


def test_an_old_record_beside_one_old_object_is_noticed_by_a_newer_third(store, folder):
    old = {path: path.read_bytes() for path in (folder / "counter", folder / "objects/mine.sealed")}
    store.put("mine", b"second")
    store.put("notes", b"newer than the record by two")
    store.close()
    for path, content in old.items():
        path.write_bytes(content)
    assert "notes.sealed: unknown to the counter" in refusal(folder, SealedStore.open, folder)


def test_a_state_folder_named_relatively_stays_the_same_when_the_working_directory_changes(
    tmp_path, monkeypatch
):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        with SealedStore.open(tmp_path / place / "device") as store:
            store.put("name", place.encode())
    monkeypatch.chdir(tmp_path / "here")
    with SealedStore.open("device") as store:
        monkeypatch.chdir(tmp_path / "there")
        store.put("more", b"of here")
        assert store.get("name") == b"here"
    with SealedStore.open("device") as store:
        assert (store.names(), store.get("name")) == (["name"], b"there")


def test_our_own_object_is_not_a_users_to_name(store):
    for name in ("_versions", str(VERSIONS), VERSIONS[:]):
        with pytest.raises(InputError, match="no object's name"):
            store.put(name, b"{}")
    store.put("files", b"a user's own")
    store.put(VERSIONS, b"{}")
    assert "files" in store.names() and VERSIONS not in store.names()


def test_data_that_is_no_bytes_is_named(store):
    with pytest.raises(InputError, match="mine: data is str, not bytes"):
        store.put("mine", "text")


def test_the_files_of_another_device_are_refused(store, folder, tmp_path):
    with SealedStore.open(tmp_path / "stranger") as stranger:
        stranger.put("mine", b"theirs")
        sealed_file(tmp_path / "stranger", "mine").write_bytes(
            sealed_file(folder, "mine").read_bytes()
        )
        assert "sealed by another device" in refusal(tmp_path / "stranger", stranger.get, "mine")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a b", "x" * 65, "\u00e9", None])
def test_a_name_that_is_no_file_name_is_refused(store, name):
    for call in (store.get, store.remove, lambda n: store.put(n, b"")):
        with pytest.raises(InputError, match="is no object's name"):
            call(name)


def test_an_object_that_is_too_long_is_refused_and_changes_nothing(store):
    with pytest.raises(InputError, match="mine: 8388609 bytes, at most 8388608 are sealed"):
        store.put("mine", bytes(MAX_OBJECT_BYTES + 1))
    assert store.get("mine") == b"first"


def test_a_second_store_on_the_same_device_is_refused(store, folder):  # after 2 s of trying
    with pytest.raises(EngineError, match="device: in use by another program or engine"):
        SealedStore.open(folder)
    assert store.get("mine") == b"first"


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the state folder's path is empty"):
        SealedStore.open("")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="file/device: Not a directory"):
        SealedStore.open(tmp_path / "file" / "device")


def test_one_unreadable_object_does_not_keep_the_others_from_opening(store, folder):
    sealed_file(folder, "folder").mkdir()
    (folder / "objects" / "notes.txt").write_bytes(b"not ours")
    with reopened(store, folder) as again:
        assert again.get("mine") == b"first" and again.names() == ["folder", "mine", "other"]
        with pytest.raises(EngineError, match=r"folder\.sealed: Is a directory"):
            again.get("folder")


def test_threads_share_a_store(store):
    failures = []

    def work(i):
        try:
            for round_number in range(5):
                store.put(f"thread-{i}", bytes([i]) * round_number)
                assert store.get(f"thread-{i}") == bytes([i]) * round_number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and len(store.names()) == 10


def test_a_replaced_file_that_was_not_flushed_stays_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="Input/output error"), monkeypatch.context() as patched:

        def fsync(_):
            raise OSError(5, "Input/output error")

        patched.setattr(files.os, "fsync", fsync)
        with files.replacing(path) as file:
            file.write(b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
