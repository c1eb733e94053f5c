"""A vault at rest: it comes back whole or not at all, and every refusal has its own name."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_texts import USER, masked, spanned

from tee_sim import sealing
from tee_sim.errors import ResultCode, TeeError
from tee_sim.guard import at_rest
from tee_sim.guard import vault as vault_module
from tee_sim.guard.at_rest import seal, sealed_bytes, unseal
from tee_sim.guard.restoring import unmask
from tee_sim.guard.scoring import scan_text
from tee_sim.guard.vault import Vault
from tee_sim.memory import Budget
from tee_sim.placeholders import Token
from tee_sim.vault_format import VAULT_HEADER, VAULT_TAG_BYTES, vault_header

KEY = memoryview(bytes(range(32)))
OTHER = bytes(15) + b"\1"
TEXT = "My name is Quirin Zaphod, mail quirin.z@mail.com, call 010-8642-9753"
STYLES = ("placeholder", "surrogate")


def saved_session(style="placeholder", ttl_s=60):
    """A session with values: (vault, session, what it showed, its blob)."""
    vault = Vault(Budget())
    held = vault.open(USER, ttl_s)
    shown = masked(held, TEXT, scan_text(TEXT).spans, style)
    return vault, held, shown, seal(KEY, held)


def refused(code, blob, user=USER, number=0, key=KEY, vault=None):
    """Load a blob that must be refused with this code and leave nothing."""
    vault = Vault(Budget()) if vault is None else vault
    before = len(vault), vault._budget.used_bytes
    with pytest.raises(TeeError) as error:
        unseal(key, vault, bytearray(blob), user, number)
    assert ResultCode(error.value.code).name == code.name
    assert (len(vault), vault._budget.used_bytes) == before


# ---------------------------------------------------------------------------------- what comes back


@settings(max_examples=60, deadline=None)
@given(spanned(), spanned(), st.sampled_from(STYLES), st.sampled_from(STYLES))
def test_a_session_goes_on_as_if_it_had_never_been_away(first, second, style, later):
    held = Vault(Budget()).open(USER, 60)
    shown = masked(held, *first, style)
    again = unseal(KEY, Vault(Budget()), seal(KEY, held), USER, held.number)
    assert unmask(again, shown) == unmask(held, shown) == (first[0], len(shown))
    assert masked(again, *second, later) == masked(held, *second, later)
    assert again.name_words == held.name_words and again.last == held.last
    assert (again.key, again.seen, again.entries.keys()) == (
        held.key,
        held.seen,
        held.entries.keys(),
    )
    assert sorted(again.stand_ins) == sorted(held.stand_ins)


def test_it_keeps_whose_it_is_its_number_its_time_and_what_it_costs():
    vault, held, _, blob = saved_session(ttl_s=1234)
    other = Vault(Budget())
    again = unseal(KEY, other, blob, USER, held.number)
    assert (again.user, again.number, again.ttl_s) == (USER, held.number, 1234)
    assert other.get(USER, held.number) is again
    assert other._budget.used_bytes == vault._budget.used_bytes
    other.end(again)
    assert other._budget.used_bytes == 0


def test_numbers_of_forgotten_values_are_not_used_again_after_a_rest():
    vault, held, _, _ = saved_session()
    vault.forget(held, [Token("PERSON", 1)])
    again = unseal(KEY, Vault(Budget()), seal(KEY, held), USER, 0)
    assert again.value(Token("PERSON", 1)) is None
    assert str(again.issue("PERSON", "Ann Lee")) == "[PERSON_2]"


def test_every_save_has_the_next_generation_and_another_ciphertext():
    _, held, _, blob = saved_session()
    again = seal(KEY, held)
    assert [vault_header(each).generation for each in (blob, again)] == [1, 2]
    assert held.generation == 2 and len(again) == len(blob) == sealed_bytes(held)
    assert again[VAULT_HEADER.size :] != blob[VAULT_HEADER.size :]
    loaded = unseal(KEY, Vault(Budget()), again, USER, 0)
    assert vault_header(seal(KEY, loaded)).generation == 3


# ------------------------------------------------------------------------------ what is refused


def test_every_changed_byte_is_refused_and_by_the_documented_name():
    _, _, _, blob = saved_session()
    for at in range(len(blob)):
        blob[at] ^= 1 << at % 8
        refused(ResultCode.BAD_FORMAT if at < 12 else ResultCode.MAC_INVALID, blob)
        blob[at] ^= 1 << at % 8
    assert len(unseal(KEY, Vault(Budget()), blob, USER, 0).entries) == 3  # it was good all along


def test_every_truncation_and_extension_is_refused():
    _, _, _, blob = saved_session()
    least = VAULT_HEADER.size + VAULT_TAG_BYTES
    for size in (*range(300), *range(300, len(blob), 37), len(blob) - 1):
        refused(ResultCode.TRUNCATED if size < least else ResultCode.MAC_INVALID, blob[:size])
    refused(ResultCode.MAC_INVALID, blob + b"\0")


def test_another_users_another_vaults_and_another_devices_blobs_are_refused():
    _, held, _, blob = saved_session()
    refused(ResultCode.WRONG_OBJECT, blob, user=OTHER)
    refused(ResultCode.WRONG_OBJECT, blob, number=held.number ^ 1)
    refused(ResultCode.MAC_INVALID, blob, key=memoryview(bytes(32)))


def test_headers_that_were_swapped_between_two_vaults_open_neither():
    _, _, _, one = saved_session()
    _, _, _, two = saved_session()
    at = VAULT_HEADER.size
    refused(ResultCode.MAC_INVALID, one[:at] + two[at:])
    refused(ResultCode.MAC_INVALID, two[:at] + one[at:])


def test_a_vault_that_is_open_is_not_loaded_over():
    vault, held, shown, blob = saved_session()
    refused(ResultCode.BAD_STATE, blob, vault=vault)
    assert unmask(held, shown)[0] == TEXT


@pytest.mark.parametrize("tokens", [[Token("PERSON", 1)], None], ids=["a value", "all of it"])
def test_what_was_saved_before_something_was_forgotten_is_refused(tokens):
    vault, held, _, blob = saved_session()
    assert vault.forget(held, tokens) == (3 if tokens is None else 1)
    newer = seal(KEY, held) if tokens is not None else None
    if newer is not None:
        vault.end(held)
    refused(ResultCode.ROLLED_BACK, blob, vault=vault)
    if newer is not None:
        again = unseal(KEY, vault, newer, USER, 0)
        assert again.value(Token("PERSON", 1)) is None and len(again.entries) == 2


def test_so_many_forgettings_are_remembered_and_the_oldest_go_first(monkeypatch):
    monkeypatch.setattr(vault_module, "_MAX_FORGOTTEN", 2)
    vault = Vault(Budget())
    blobs = []
    for _ in range(3):
        held = vault.open(USER, 60)
        blobs.append(seal(KEY, held))
        vault.forget(held)
    for blob in blobs[1:]:
        refused(ResultCode.ROLLED_BACK, blob, vault=vault)
    unseal(KEY, vault, blobs[0], USER, 0)


def test_one_that_does_not_fit_leaves_nothing(monkeypatch):
    _, held, _, blob = saved_session()
    monkeypatch.setattr(vault_module, "MAX_VAULTS", 0)
    refused(ResultCode.BUSY, blob)
    monkeypatch.undo()
    refused(ResultCode.OUT_OF_MEMORY, blob, vault=Vault(Budget(limit_bytes=26_000)))
    assert len(held.entries) == 3


# -------------------------------------------------------------------------------------- its time


@pytest.fixture
def clocks(monkeypatch):
    """Both clocks, and the machine's start, in the test's hand."""
    now = {"boot": 5000.5, "wall": 1.8e9 + 0.5}
    monkeypatch.setattr(vault_module, "clock", lambda: now["boot"])
    monkeypatch.setattr(at_rest, "clock", lambda: now["boot"])
    monkeypatch.setattr(at_rest, "wall_clock", lambda: now["wall"])

    def restart():
        monkeypatch.setattr(at_rest, "BOOT_ID", bytes(16))
        now["boot"] = 3.0

    now["restart"] = restart
    return now


def test_within_one_start_of_the_machine_its_own_clock_counts_and_no_other(clocks):
    _, _, _, blob = saved_session(ttl_s=60)
    for wall in (0.0, 1.9e9):
        clocks["wall"] = wall
        unseal(KEY, Vault(Budget()), blob, USER, 0)
    clocks["boot"] += 59
    unseal(KEY, Vault(Budget()), blob, USER, 0)
    clocks["boot"] += 1
    refused(ResultCode.EXPIRED, blob)
    clocks["boot"] = 4999.0
    refused(ResultCode.CLOCK_SET_BACK, blob)


def test_after_a_restart_of_the_machine_the_wall_clock_counts_and_may_not_be_behind(clocks):
    _, _, _, blob = saved_session(ttl_s=60)
    clocks["restart"]()
    clocks["wall"] += 59
    unseal(KEY, Vault(Budget()), blob, USER, 0)
    clocks["wall"] += 1
    refused(ResultCode.EXPIRED, blob)
    clocks["wall"] -= 3600
    refused(ResultCode.CLOCK_SET_BACK, blob)


def test_loading_is_a_use_and_saving_writes_the_time_anew(clocks):
    _, held, _, blob = saved_session(ttl_s=60)
    clocks["boot"] += 50
    vault = Vault(Budget())
    again = unseal(KEY, vault, blob, USER, 0)
    clocks["boot"] += 50
    assert vault.get(USER, held.number) is again
    newer = seal(KEY, again)
    clocks["boot"] += 50
    refused(ResultCode.EXPIRED, blob)
    unseal(KEY, Vault(Budget()), newer, USER, 0)


# --------------------------------------------------------------------------------- what it shows


@pytest.mark.parametrize("style", STYLES)
def test_the_blob_shows_no_value_no_token_and_no_surrogate(style):
    _, held, shown, blob = saved_session(style)
    sealed = bytes(blob[VAULT_HEADER.size :])
    words = [*TEXT.split(), *shown.split(), "Quirin Zaphod", "PERSON"]
    for word in (word.strip(".,[]") for word in words if len(word) > 3):
        for form in (word, word.lower(), word[::-1], word.encode().hex()):
            assert form.encode() not in blob
    assert held.key not in sealed and bytes(64) not in sealed  # the filter is mostly zeros
    assert held.key in bytes(16) + held.key  # such a search does find


def test_the_plaintext_is_overwritten_after_sealing_and_after_opening(monkeypatch):
    wiped = []
    for module in (at_rest, sealing):
        monkeypatch.setattr(module, "wipe", lambda *buffers: wiped.extend(buffers))
    _, _, _, blob = saved_session()
    unseal(KEY, Vault(Budget()), blob, USER, 0)
    size = len(blob) - VAULT_HEADER.size - VAULT_TAG_BYTES
    assert [len(each) for each in wiped] == [32, size, 32, size]
    assert b"Quirin Zaphod" in wiped[1] and wiped[1] == wiped[3] and wiped[0] == wiped[2]
