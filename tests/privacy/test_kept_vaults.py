"""Masked sessions that outlive their program: whole, fresh, of this device and user, or refused."""

import logging
import os
import threading

import pytest

from ptmo_secure.errors import EngineError, InputError, SecurityError
from ptmo_secure.privacy import kept_vaults
from ptmo_secure.privacy.kept_vaults import KeptVaults
from ptmo_secure.privacy.masking import Masking
from tee_sim.client import TeeDeadError, vault_header

TEXT = "My name is Quirin Zaphod, mail quirin.z@mail.com, call 010-8642-9753"
VALUES = ("Quirin Zaphod", "quirin.z@mail.com", "010-8642-9753")
SHOWN = "[PERSON_1] [EMAIL_1] [PHONE_1]"
WHOLE = " ".join(VALUES)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "device"


def mask_in(folder, name="letter", user="", text=TEXT, style="placeholder", ttl_s=3600):
    with Masking.resume(folder, name, user, ttl_s=ttl_s) as masking:
        return masking.mask(text, style).text


def unmask_in(folder, answer=SHOWN, name="letter", user=""):
    with Masking.resume(folder, name, user) as masking:
        return masking.unmask(answer)


def files(folder):
    return {path.name: path for path in (folder / "objects").glob("vault-*.sealed")}


def only_file(folder):
    (path,) = files(folder).values()
    return path


def refused(folder, match, name="letter", user="", kind=SecurityError):
    with pytest.raises(kind, match=match) as error:
        unmask_in(folder, name=name, user=user)
    assert not any(value in str(error.value) for value in VALUES)


# ---------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize("style", ["placeholder", "surrogate"])
def test_what_one_process_masked_another_unmasks(folder, style):
    shown = mask_in(folder, style=style)
    assert unmask_in(folder, shown) == TEXT
    again = mask_in(folder, text="My name is Quirin Zaphod and I am Ann Lee", style=style)
    assert again.partition(" and ")[0] == shown.partition(",")[0]
    assert unmask_in(folder, again) == "My name is Quirin Zaphod and I am Ann Lee"
    assert unmask_in(folder, shown) == TEXT


def test_sessions_and_users_have_their_own_values(folder):
    texts = {(name, user): f"mail {name}{user}@mail.com" for name in "ab" for user in ("", "ann")}
    for (name, user), text in texts.items():
        assert mask_in(folder, name, user, text) == "mail [EMAIL_1]"
    for (name, user), text in texts.items():
        assert unmask_in(folder, "mail [EMAIL_1]", name, user) == text
    refused(folder, "no session 'b' is kept for 'bob'", "b", "bob", InputError)


def test_sixteen_sessions_at_once_keep_their_own_values(folder):
    failures = []

    def talk(kept, number):
        name, user = f"session {number}", f"user {number % 5}"
        try:
            for turn in range(3):
                with kept.session(name, user) as vault:
                    vault.mask(f"mail u{number}x{turn}@mail.com")
                    kept.keep(name, vault, user)
                with kept.session(name, user, create=False) as vault:
                    said = [f"u{number}x{n}@mail.com" for n in range(turn + 1)]
                    asked = [f"[EMAIL_{n + 1}]" for n in range(turn + 2)]
                    assert vault.unmask(" ".join(asked)) == " ".join([*said, asked[-1]])
        except BaseException as failure:
            failures.append(failure)

    with KeptVaults.open(folder) as kept:
        threads = [threading.Thread(target=talk, args=(kept, number)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(kept.sessions()) == 16 and len(kept.sessions("user 1")) == 3
        assert not any(
            kept._guard._window.buffer[: 1 << 16].tobytes().count(v) for v in (b"@mail",)
        )
    assert unmask_in(folder, "[EMAIL_3]", "session 7", "user 2") == "u7x2@mail.com"


def test_one_session_is_used_by_one_thread_at_a_time(folder):
    with KeptVaults.open(folder) as kept:
        entered, order = threading.Event(), []

        def second():
            entered.set()
            with kept.session("letter"):
                order.append("second")

        with kept.session("letter") as vault:
            waiting = threading.Thread(target=second)
            waiting.start()
            assert entered.wait(10)
            kept.keep("letter", vault)
            order.append("first")
        waiting.join()
    assert order == ["first", "second"]


# ------------------------------------------------------------------------------ what is refused


def test_changed_cut_removed_and_foreign_files_are_refused_by_name(folder, tmp_path):
    mask_in(folder)
    path = only_file(folder)
    good = path.read_bytes()
    mask_in(tmp_path / "other")
    with KeptVaults.open(folder) as kept:

        def refused_with(data, match):
            path.write_bytes(data)
            with pytest.raises(SecurityError, match=match):
                kept.session("letter").__enter__()

        for at in range(0, len(good), 97):
            changed = good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :]
            refused_with(changed, r"\((MAC_INVALID|BAD_FORMAT|TRUNCATED)\)")
        for size in (0, 50, len(good) - 1):
            refused_with(good[:size], r"\(TRUNCATED\)")
        refused_with(only_file(tmp_path / "other").read_bytes(), r"another device \(MAC_INVALID\)")
        path.unlink()
        with pytest.raises(SecurityError, match=r"removed while the counter names it"):
            kept.session("letter").__enter__()
        path.write_bytes(good)
        with kept.session("letter") as vault:
            assert vault.unmask(SHOWN) == WHOLE
    assert unmask_in(folder) == WHOLE


def test_an_older_version_is_refused(folder):
    mask_in(folder)
    path = only_file(folder)
    old = path.read_bytes()
    mask_in(folder, text="I am Ann Lee")
    path.write_bytes(old)
    refused(folder, r"\(ROLLED_BACK\)")


def test_files_swapped_between_users_or_sessions_are_refused(folder):
    for name, user in (("a", "ann"), ("a", "bob"), ("b", "ann")):
        mask_in(folder, name, user)
    one, two, three = files(folder).values()
    first, second, third = one.read_bytes(), two.read_bytes(), three.read_bytes()
    for path, data in ((one, second), (two, third), (three, first)):
        path.write_bytes(data)
    for name, user in (("a", "ann"), ("a", "bob"), ("b", "ann")):
        refused(folder, r"\(WRONG_OBJECT\)", name, user)


def test_a_supplicant_that_seals_one_users_vault_as_anothers_gets_nothing(folder):
    """Even this program's own rights do not carry a vault from user to user, or change one."""
    for user in ("ann", "bob"):
        mask_in(folder, "a", user)
    with KeptVaults.open(folder) as kept:
        places = {user: kept_vaults._place(user, "a") for user in ("ann", "bob")}
        ann = kept._store.get(places["ann"])
        names, _, blob = ann.partition(b"\n")
        kept._store.put(places["bob"], ann)
        with pytest.raises(SecurityError, match="no session of this device"):
            kept.session("a", "bob").__enter__()
        kept._store.put(places["bob"], names.replace(b"ann", b"bob") + b"\n" + blob)
        with pytest.raises(SecurityError, match="WRONG_OBJECT"):
            kept.session("a", "bob").__enter__()
        kept._store.put(places["bob"], names.replace(b"ann", b"bob") + b"\n" + blob[:-1] + b"\0")
        with pytest.raises(SecurityError, match="MAC_INVALID"):
            kept.session("a", "bob").__enter__()
        with kept.session("a", "ann") as vault:
            assert vault.unmask(SHOWN) == WHOLE


# ---------------------------------------------------------------------------- forgetting, and time


def test_a_forgotten_value_is_gone_from_the_file_and_no_old_copy_brings_it_back(folder):
    mask_in(folder)
    path = only_file(folder)
    old = path.read_bytes()
    with KeptVaults.open(folder) as kept:
        assert kept.forget_value("letter", "[PERSON_1]") == 1
        with kept.session("letter") as vault:
            assert vault.unmask(SHOWN) == f"[PERSON_1] {VALUES[1]} {VALUES[2]}"
    assert unmask_in(folder) == f"[PERSON_1] {VALUES[1]} {VALUES[2]}"
    assert len(path.read_bytes()) < len(old)
    path.write_bytes(old)
    refused(folder, r"\(ROLLED_BACK\)")


def test_a_forgotten_session_is_removed_and_no_old_copy_brings_it_back(folder):
    for name, user in (("a", ""), ("b", ""), ("a", "ann"), ("b", "bob")):
        mask_in(folder, name, user)
    copies = {path: path.read_bytes() for path in files(folder).values()}
    with KeptVaults.open(folder) as kept:
        assert kept.forget("a") == 1 and kept.forget("a") == 0
        assert kept.forget(user="bob") == 1
        assert [(one.user, one.name) for one in kept.sessions()] == [("", "b"), ("ann", "a")]
        assert kept.forget() == 2 and kept.sessions() == []
    assert files(folder) == {}
    for path, data in copies.items():
        path.write_bytes(data)
    for name, user in (("a", ""), ("b", "bob")):
        refused(folder, r"\(COUNTER_ROLLED_BACK\)", name, user)


def test_forgetting_removes_a_session_whose_file_was_damaged(folder):
    mask_in(folder, "a", "ann")
    only_file(folder).write_bytes(b"damaged")
    with KeptVaults.open(folder) as kept:
        with pytest.raises(SecurityError):
            kept.sessions()
        assert kept.forget(user="ann") == 0  # whose it is cannot be read
        assert kept.forget("a", "ann") == 1
        assert kept.sessions() == []
    mask_in(folder, "a", "ann")
    only_file(folder).write_bytes(b"damaged")
    with KeptVaults.open(folder) as kept:
        assert kept.forget() == 1 and files(folder) == {}


def test_a_session_whose_time_is_over_is_refused_and_removed(folder, monkeypatch):
    mask_in(folder, ttl_s=1)
    with KeptVaults.open(folder) as kept:
        saved = kept._store.get(kept_vaults._place("", "letter"))
        assert vault_header(saved.partition(b"\n")[2]).ttl_s == 1
        threading.Event().wait(2.1)  # the clock is the guard's own
        with pytest.raises(InputError, match="its time is over, it was forgotten"):
            kept.session("letter", create=False).__enter__()
    assert files(folder) == {}
    refused(folder, "no session 'letter' is kept", kind=InputError)


def test_a_list_shows_times_and_no_values_and_removes_what_is_over(folder, monkeypatch):
    mask_in(folder, "short", ttl_s=60)
    mask_in(folder, "long", "ann", ttl_s=6000)
    with KeptVaults.open(folder) as kept:
        now_s = kept.sessions("")[0].saved_s + 59
        monkeypatch.setattr(kept_vaults.time, "time", lambda: now_s)
        found = kept.sessions()
        assert [(one.user, one.name, one.ttl_s) for one in found] == [
            ("", "short", 60),
            ("ann", "long", 6000),
        ]
        assert found[0].left_s(now_s) == 1 and found[0].size_bytes > 16_000
        assert not any(value in repr(found) for value in VALUES)
        now_s += 1
        assert [one.name for one in kept.sessions()] == ["long"]
    assert len(files(folder)) == 1


# -------------------------------------------------------------------------- faults, and what shows


def test_a_store_that_fails_shows_no_masked_text_and_keeps_what_was_kept(folder, monkeypatch):
    mask_in(folder)
    with Masking.resume(folder, "letter", ttl_s=60) as masking:
        monkeypatch.setattr(
            "ptmo_secure.sealed.files.os.fsync",
            lambda fd: (_ for _ in ()).throw(OSError(28, "full")),
        )
        with pytest.raises(EngineError, match="full"):
            masking.mask("I am Ann Lee")
        monkeypatch.undo()
    assert unmask_in(folder, f"{SHOWN} [PERSON_2]") == f"{WHOLE} [PERSON_2]"


def test_a_dead_guard_or_core_is_an_error_and_a_new_start_has_everything(folder):
    mask_in(folder)
    for which in ("_guard", "_store"):
        with KeptVaults.open(folder) as kept:
            tee = kept._guard if which == "_guard" else kept._store.tee
            tee._channel.process.kill()
            tee._channel.process.wait()
            with pytest.raises((EngineError, TeeDeadError)), kept.session("letter") as vault:
                vault.mask(TEXT)
                kept.keep("letter", vault)
    assert unmask_in(folder) == WHOLE


@pytest.mark.parametrize(
    "name,user,ttl_s",
    [("", "", 60), ("x" * 201, "", 60), ("\ud800", "", 60), ("a", "x" * 201, 60), ("a", "", 0)],
)
def test_bad_names_and_times_are_refused(folder, name, user, ttl_s):
    with pytest.raises(InputError):
        mask_in(folder, name, user, ttl_s=ttl_s)


def test_nothing_of_a_value_or_of_a_name_is_in_the_state_folder_or_the_log(folder, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        for style in ("placeholder", "surrogate"):
            mask_in(folder, "private letter", "ann.user", style=style)
        unmask_in(folder, name="private letter", user="ann.user")
    stored = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    written = (caplog.text + "".join(capfd.readouterr())).encode()
    names = b" ".join(os.fsencode(path) for path in folder.rglob("*"))
    for text in (*VALUES, *TEXT.split(), "private letter", "ann.user"):
        for form in {text, text.lower(), text[::-1], text.encode().hex()} - {
            "is",
            "My",
            "si",
            "yM",
            "my",
        }:
            assert form.encode() not in stored + written + names or len(form) < 5
    assert len(stored) > 16_000
    (folder / "planted").write_bytes(VALUES[0].encode())
    assert any(VALUES[0].encode() in path.read_bytes() for path in folder.rglob("planted"))
