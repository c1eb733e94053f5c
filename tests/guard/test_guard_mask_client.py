"""The vault as the host uses it: texts through shared memory, many conversations, faults."""

import os
import random
import signal
import threading

import pytest

from tee_sim.client import TeeClient, TeeDeadError, TeeError
from tee_sim.errors import ResultCode
from tee_sim.protocol import GuardCommand
from tee_sim.scan_result import STYLES
from tee_sim.ta.guard import MAX_TEXT_BYTES

EXAMPLE = "Call Dr. Kim at 010-1234-5678 about my HIV test."


@pytest.fixture(scope="module")
def guard():
    with TeeClient.launch("guard") as client:
        yield client


@pytest.fixture
def vault(guard):
    with guard.open_vault("somebody") as opened:
        yield opened


def refused(code, call, *arguments):
    with pytest.raises(TeeError) as error:
        call(*arguments)
    assert error.value.code == code
    return str(error.value)


def test_one_call_masks_and_says_what_a_scan_says(guard, vault):
    before = guard.crossings
    masked = vault.mask(EXAMPLE)
    assert guard.crossings == before + 1
    assert masked.text == "Call [PERSON_1] at [PHONE_1] about my [MEDICAL_1]."
    scan = guard.scan(EXAMPLE)
    assert (masked.level, masked.score, masked.spans) == (scan.level, scan.score, scan.spans)
    assert (masked.topics, masked.reason) == (scan.topics, scan.reason) != ((), "nothing_private")
    plain = "What is Python? And is it safe?"
    assert vault.mask(plain).refers_back == guard.scan(plain).refers_back is True
    shown = [masked.text[place.start : place.end] for place in masked.places]
    assert shown == ["[PERSON_1]", "[PHONE_1]", "[MEDICAL_1]"]
    assert [p.kind for p in masked.places] == [s.kind for s in masked.spans]
    assert vault.unmask(masked.text) == EXAMPLE


@pytest.mark.parametrize("style", ["placeholder", "surrogate"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "What is Python?",
        "\U0001f468\u200d\U0001f469 Ann",
        "\u05e9\u05dc\u05d5\u05dd [PERSON_1]",
    ],
)
def test_texts_come_back_through_shared_memory(vault, style, text):
    assert vault.unmask(vault.mask(text, style).text) == text


def test_answers_longer_than_what_was_expected_come_back_whole(vault):
    long = "x" * 3000 + "@mail.com"
    masked = vault.mask(f"write to {long[-60:]} now")
    answer = f"{masked.text} " * 2000
    assert vault.unmask(answer) == f"write to {long[-60:]} now " * 2000


def test_a_stream_is_restored_piece_by_piece(vault):
    masked = vault.mask(EXAMPLE)
    answer = f"\u2026{masked.text.lower()} \U0001f468 and <PERSON_1>'s [x"
    whole = vault.unmask(answer)
    assert "kim" in whole.lower() and "PERSON" not in whole
    rng = random.Random(3)
    for _ in range(5):
        pieces, at = [], 0
        while at < len(answer):
            step = rng.randint(1, 9)
            pieces.append(answer[at : at + step])
            at += step
        assert "".join(vault.unmasker().each(iter(pieces))) == whole
    streaming = vault.unmasker()
    assert streaming.feed("so [PERS") == "so " and streaming.feed("ON_1] is") == "Dr. Kim is"
    assert streaming.feed(" [P") == " " and streaming.finish() == "[P"


# ------------------------------------------------------------------------- whose values they are


def test_another_user_and_another_session_get_nothing(guard):
    with guard.open_vault("ann") as ann, guard.open_vault("bob") as bob:
        ann.mask(EXAMPLE)
        assert bob.unmask("[PERSON_1] [PHONE_1]") == "[PERSON_1] [PHONE_1]"
        assert bob.mask("My name is Eve Fox").text == "My name is [PERSON_1]"
        bob.number = ann.number
        refused(ResultCode.ITEM_NOT_FOUND, bob.unmask, "[PERSON_1]")
        refused(ResultCode.ITEM_NOT_FOUND, bob.mask, EXAMPLE)
        refused(ResultCode.ITEM_NOT_FOUND, bob.forget)
        assert ann.unmask("[PERSON_1]") == "Dr. Kim"


def test_sixteen_conversations_at_once_never_see_each_others_values(guard):
    """Every thread has values of its own; every answer names every placeholder there may be."""
    failures, rounds = [], 12

    def talk(number):
        try:
            with guard.open_vault(f"user {number % 5}") as vault:
                for turn in range(rounds):
                    own = f"user{number}x{turn}@mail.com"
                    masked = vault.mask(f"My name is Zed Q{chr(97 + number)}z, mail {own}")
                    assert own not in masked.text
                    answer = " ".join(f"[EMAIL_{n}]" for n in range(1, rounds + 2))
                    said = [f"user{number}x{n}@mail.com" for n in range(turn + 1)]
                    rest = [f"[EMAIL_{n}]" for n in range(turn + 2, rounds + 2)]
                    assert vault.unmask(answer) == " ".join([*said, *rest])
                    assert vault.unmask("[PERSON_1]") == f"Zed Q{chr(97 + number)}z"
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not any(guard._window.buffer)


def test_forgetting_a_value_a_vault_or_a_user(guard):
    one, two, other = (guard.open_vault(user) for user in ("ann", "ann", "bob"))
    used = guard.status()["used_bytes"]
    for vault in (one, two, other):
        vault.mask(EXAMPLE)
    assert one.forget("[PERSON_1]") == 1 and one.forget("[PERSON_1]") == 0
    assert one.unmask("[PERSON_1] [PHONE_1]") == "[PERSON_1] 010-1234-5678"
    assert one.forget_user() == 2
    for vault in (one, two):
        refused(ResultCode.ITEM_NOT_FOUND, vault.unmask, "[PHONE_1]")
    assert other.unmask("[PERSON_1]") == "Dr. Kim" and other.forget() == 3
    assert guard.status()["used_bytes"] < used
    refused(ResultCode.BAD_PARAMETERS, other.forget, "PERSON")


# ------------------------------------------------------------------------------------ fail closed


@pytest.mark.parametrize("style", STYLES)
def test_a_text_that_is_too_long_is_an_error_and_the_vault_goes_on(vault, style):
    vault.mask(EXAMPLE)
    for call in (vault.unmask, lambda text: vault.mask(text, style)):
        refused(ResultCode.OUT_OF_MEMORY, call, "x" * (MAX_TEXT_BYTES + 1))
    assert vault.unmask("[PERSON_1]") == "Dr. Kim"


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(40_000, id="sample"),
        pytest.param(MAX_TEXT_BYTES, id="megabyte", marks=pytest.mark.slow),
    ],
)
def test_a_long_text_is_masked_and_comes_back(vault, size):
    text = ("my password is hunter2 and [PERSON_1] " * (size // 38 + 1))[:size]
    masked = vault.mask(text)
    assert "hunter2" not in masked.text and masked.level == "PRIVATE"
    half = masked.text[: len(masked.text) // 2].rpartition(" ")[0]
    assert text.startswith(vault.unmask(half)) and len(half) > size // 3


def test_bytes_that_are_no_text_and_wrong_parameters_are_errors(guard, vault):
    from tee_sim.mask_calls import _TEXT
    from tee_sim.protocol import memref

    shared = guard.register_memory(4096)
    shared.buffer[:4] = b"ab\xff\xfe"
    places = (*memref(shared.id, 0, 4), *memref(shared.id, 64, 1024))
    for command in (GuardCommand.MASK, GuardCommand.UNMASK):
        values = (*places, vault.number, 0, *vault._owner)
        refused(ResultCode.BAD_FORMAT, guard._invoke, command, _TEXT, values)
    shared.buffer[:4] = "\u20aca".encode()
    for command, word in ((3, 3), (3, 1 << 40), (4, 2), (4, 9 << 32), (4, 2 << 32)):
        values = (*places, vault.number, word, *vault._owner)
        refused(ResultCode.BAD_PARAMETERS, guard._invoke, command, _TEXT, values)
    refused(ResultCode.BAD_PARAMETERS, guard.open_vault, "ann", 0)
    said = refused(ResultCode.BAD_FORMAT, vault.mask, "my password is hunter2 \ud800")
    assert "hunter2" not in said
    refused(ResultCode.BAD_PARAMETERS, vault.mask, "a", "none")
    assert guard.status()["used_bytes"] < 1 << 20


def test_a_guard_that_is_killed_is_an_error_and_never_a_text():
    with TeeClient.launch("guard") as client:
        vault = client.open_vault()
        masked = vault.mask(EXAMPLE)
        streaming = vault.unmasker()
        assert streaming.feed("Hello [PERS") == "Hello "
        os.kill(client.pid, signal.SIGKILL)
        for call in (vault.mask, vault.unmask, streaming.feed):
            with pytest.raises(TeeDeadError) as error:
                call(masked.text)
            assert "Kim" not in str(error.value)
        vault.close()
    with TeeClient.launch("guard") as client, client.open_vault() as anew:
        assert anew.unmask(masked.text) == masked.text  # the values went with the process
        anew.number = vault.number
        refused(ResultCode.ITEM_NOT_FOUND, anew.unmask, masked.text)
