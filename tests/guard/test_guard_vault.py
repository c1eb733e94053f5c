"""What a vault session remembers, for whom, how long, and what is left of it afterwards."""

import pytest
from masked_texts import USER, masked, session

from tee_sim.errors import ResultCode, TeeError
from tee_sim.guard import vault as vault_module
from tee_sim.guard.restoring import unmask
from tee_sim.guard.scoring import scan_text
from tee_sim.guard.vault import MAX_SPELLINGS, Vault
from tee_sim.mask_calls import _named
from tee_sim.memory import Budget
from tee_sim.placeholders import KINDS, Token, fold, shapes
from tee_sim.scan_result import Span

OTHER = bytes(15) + b"\1"


def refused(code, call, *arguments):
    with pytest.raises(TeeError) as error:
        call(*arguments)
    assert error.value.code == code


# ------------------------------------------------------------------- which value has which number


@pytest.mark.parametrize(
    "kind,values,expected",
    [
        ("PERSON", ["Ann Lee", "Ann Lee"], ["[PERSON_1]", "[PERSON_1]"]),
        (
            "PERSON",
            ["Ann Lee", "ANN LEE", "Ann  Lee"],
            ["[PERSON_1]", "[PERSON_1b]", "[PERSON_1c]"],
        ),
        ("PERSON", ["Ann Lee", "Lee", "Dr. Lee"], ["[PERSON_1]", "[PERSON_1b]", "[PERSON_1c]"]),
        ("PERSON", ["Ann Lee", "A. Lee", "Ann X. Lee"], ["[PERSON_1]", "[PERSON_2]", "[PERSON_3]"]),
        ("PERSON", ["Ann Lee", "Bob Lee", "Lee"], ["[PERSON_1]", "[PERSON_2]", "[PERSON_3]"]),
        ("PERSON", ["Jos\u00e9", "Jose\u0301"], ["[PERSON_1]", "[PERSON_1b]"]),
        ("PHONE", ["010-1234-5678", "010 1234 5678"], ["[PHONE_1]", "[PHONE_1b]"]),
        ("SECRET", ["Hunter2", "hunter2"], ["[SECRET_1]", "[SECRET_2]"]),
        ("EMAIL", ["a@b.io", "A@B.io", "c@b.io"], ["[EMAIL_1]", "[EMAIL_1b]", "[EMAIL_2]"]),
    ],
)
def test_values_that_are_the_same_share_a_number_and_each_spelling_is_kept(kind, values, expected):
    held = session()
    assert [str(held.issue(kind, value)) for value in values] == expected
    for value, shown in zip(values, expected, strict=True):
        assert unmask(held, shown)[0] == value


def test_the_same_value_has_the_same_placeholder_in_every_turn():
    held = session()
    for turn in ("mail ann.lee@mail.com now", "is ann.lee@mail.com there?"):
        assert "[EMAIL_1]" in masked(held, turn, scan_text(turn).spans)


def test_a_number_tells_nothing_of_other_sessions():
    vault = Vault(Budget())
    first = vault.open(USER, 60)
    for index in range(100):
        first.issue("PERSON", f"Somebody{index}")
    second = vault.open(OTHER, 60)
    assert str(second.issue("PERSON", "Somebody7")) == "[PERSON_1]"
    assert abs(first.number - second.number) > 1 << 20  # drawn, not counted


def test_the_letters_of_spellings_come_back_as_their_number():
    for spelling in [*range(700), MAX_SPELLINGS]:
        text = str(Token("PERSON", 12, spelling))
        assert next(shapes(text, fold(text))).token == Token("PERSON", 12, spelling)


def test_host_and_guard_count_kinds_alike():
    assert _named("[DATE_OF_BIRTH_12b]") == KINDS.index("DATE_OF_BIRTH") + 1 | 12 << 32


# ----------------------------------------------------------------------------- whose, and how long


def test_a_session_is_there_for_its_user_alone():
    vault = Vault(Budget())
    held = vault.open(USER, 60)
    assert vault.get(USER, held.number) is held
    refused(ResultCode.ITEM_NOT_FOUND, vault.get, OTHER, held.number)
    refused(ResultCode.ITEM_NOT_FOUND, vault.get, USER, held.number ^ 1)


def test_a_session_is_forgotten_when_it_was_not_used_for_its_time(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(vault_module, "clock", lambda: now[0])
    budget = Budget()
    vault = Vault(budget)
    held = vault.open(USER, 60)
    entry = held.entries[held.issue("PERSON", "Ann Lee")]
    now[0] += 59
    assert vault.get(USER, held.number) is held
    now[0] += 59  # the time began anew
    assert vault.get(USER, held.number) is held
    now[0] += 60
    refused(ResultCode.ITEM_NOT_FOUND, vault.get, USER, held.number)
    assert bytes(entry.value) == bytes(7) and not any(held.key) and not any(held.seen)
    assert len(vault) == budget.used_bytes == 0


@pytest.mark.parametrize("ttl_s", [0, vault_module.MAX_TTL_S + 1])
def test_a_time_to_live_out_of_range_is_refused(ttl_s):
    refused(ResultCode.BAD_PARAMETERS, Vault(Budget()).open, USER, ttl_s)


def test_a_forgotten_value_is_overwritten_and_its_number_is_not_used_again():
    held = session()
    entries = [held.entries[held.issue("PERSON", name)] for name in ("Ann Lee", "ANN LEE")]
    other = held.issue("PERSON", "Bob Fox")
    assert held.drop([Token("PERSON", 1), Token("PERSON", 1, 1)]) == 2
    assert [bytes(entry.value) for entry in entries] == [bytes(7), bytes(7)]
    assert unmask(held, "[PERSON_1] [PERSON_1b] [PERSON_2]")[0] == "[PERSON_1] [PERSON_1b] Bob Fox"
    assert str(held.issue("PERSON", "Ann Lee")) == "[PERSON_3]"
    assert held.value(other) == "Bob Fox"


def test_a_forgotten_value_has_no_surrogate_any_more():
    held = session()
    shown = masked(held, "Ann Lee", [Span(0, 7, "PERSON", 0.5)], "surrogate")
    assert unmask(held, shown)[0] == "Ann Lee" != shown
    held.drop(list(held.entries))
    assert unmask(held, shown)[0] == shown and len(held.stand_ins) == 0


# ------------------------------------------------------------------------------------------ limits


def test_a_full_session_refuses_and_holds_what_it_held(monkeypatch):
    monkeypatch.setattr(vault_module, "MAX_VALUES", 3)
    budget = Budget()
    held = Vault(budget).open(USER, 60)
    text = "aa bb cc dd"
    spans = [Span(at, at + 2, "PERSON", 0.5) for at in (0, 3, 6, 9)]
    used = budget.used_bytes
    refused(ResultCode.OUT_OF_MEMORY, masked, held, text, spans)
    assert budget.used_bytes == used and not held.entries
    assert unmask(held, masked(held, text, spans[:3]))[0] == text


def test_bytes_and_the_budget_are_limits_too(monkeypatch):
    monkeypatch.setattr(vault_module, "MAX_VALUE_BYTES", 10)
    held = session()
    held.issue("PERSON", "1234567")
    refused(ResultCode.OUT_OF_MEMORY, held.issue, "PERSON", "1234")
    small = Vault(Budget(limit_bytes=40_000)).open(USER, 60)
    with pytest.raises(TeeError) as error:
        for index in range(100):
            small.issue("PERSON", str(index))
    assert error.value.code == ResultCode.OUT_OF_MEMORY and 5 < len(small.entries) < 20


def test_there_are_so_many_vaults_and_no_more(monkeypatch):
    monkeypatch.setattr(vault_module, "MAX_VAULTS", 2)
    budget = Budget()
    vault = Vault(budget)
    sessions = [vault.open(USER, 60) for _ in "12"]
    refused(ResultCode.BUSY, vault.open, USER, 60)
    for held in sessions:
        vault.end(held)
    assert budget.used_bytes == 0
    vault.open(USER, 60)


def test_ten_thousand_values_come_back():
    text = " ".join(f"user{index}@example.com" for index in range(10_000))
    spans = [span for span in scan_text(text).spans if span.kind == "EMAIL"]
    held = session()
    shown = masked(held, text, spans)
    assert shown.count("[EMAIL_") == 10_000 and "@" not in shown
    assert unmask(held, shown)[0] == text
