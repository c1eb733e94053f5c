"""The guard as the host uses it: a second process, text through shared memory."""

import os
import signal

import pytest

from tee_sim import memory
from tee_sim.client import TeeClient, TeeDeadError, TeeError
from tee_sim.errors import ResultCode
from tee_sim.guard.ner import open_model
from tee_sim.guard.scoring import scan_text
from tee_sim.layout import KvLayout
from tee_sim.memory import Budget
from tee_sim.ta import guard as guard_application
from tests.guard.inside import scanning


@pytest.fixture(scope="module")
def guard():
    with TeeClient.launch("guard") as client:
        yield client


@pytest.mark.parametrize(
    "text",
    [
        "My password is secret123. What is Python?",
        "What is Python?",
        "",
        "\U0001f600 \ud55c\uae00 my password is hunter2",
        "x" * 200_000,
        " ".join(f"user{i}@example.com" for i in range(400)),
        "m\u0443 n\u0430me is Ann Lee, am9obkBnbWFpbC5jb20=, GB82 WEST 1234 5698 7654 32, "
        "81.2.69.142, 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa, eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOjF9.x, "
        "born 1985-03-12, \uc81c \uc774\ub984\uc740 \uae40\ubbfc\uc218\uc785\ub2c8"
        "\ub2e4, I have HIV, one two three four",
    ],
    ids=["example", "public", "empty", "unicode", "long", "many entities", "every rule"],
)
def test_the_guard_answers_what_rules_and_classifier_say(guard, text):
    assert guard.scan(text) == scan_text(text, classifier=open_model())


@pytest.mark.slow
def test_ten_thousand_entities_are_all_found():
    text = " ".join(f"user{i}@example.com" for i in range(10_000))
    with TeeClient.launch("guard") as guard:
        result = guard.scan(text)
    masked = sum(span.end - span.start for span in result.spans)
    assert result.level == "PRIVATE" and masked >= len(text) - 10_000


def test_the_guard_is_another_process_with_its_own_role(guard):
    status = guard.status()
    assert status["role"] == "guard"
    assert status["pid"] == guard.pid != os.getpid()
    assert status["debug"] is False


def test_one_scan_is_one_crossing(guard):
    before = guard.crossings
    guard.scan("my password is hunter2")
    assert guard.crossings == before + 1


def test_shared_memory_is_wiped_after_the_reply(guard):
    result = guard.scan("my password is hunter2, " * 50)
    assert len(result.spans) == 50
    assert not any(guard._window.buffer)


def test_shared_memory_is_wiped_after_a_refusal():
    with TeeClient.launch("guard") as client:
        client.scan("x" * 250_000)  # so that the window exists
        with pytest.raises(TeeError):
            client.scan("my password is hunter2 " * 50_000)
        assert not any(client._window.buffer)


def test_the_guards_own_copy_is_wiped_and_its_budget_given_back(monkeypatch):
    copies = []

    def recording_wipe(*buffers):
        copies.extend(buffers)
        memory.wipe(*buffers)

    class Params:
        def __init__(self, text):
            self._memory = [memoryview(bytearray(text)), memoryview(bytearray(1000))]

        def memory(self, index):
            return self._memory[index]

    monkeypatch.setattr(guard_application, "wipe", recording_wipe)
    budget = Budget()
    application = guard_application.GuardApplication(budget)
    application._scan(Params(b"my password is hunter2"))
    with pytest.raises(TeeError):
        application._scan(Params(b"my password is hunter2 \xff"))
    assert [len(copy) for copy in copies] == [22, 24]
    assert not any(any(copy) for copy in copies)
    assert budget.used_bytes == 0


def test_text_that_is_not_unicode_is_an_error_that_does_not_quote_it(guard):
    with pytest.raises(TeeError) as refused:
        guard.scan("my password is hunter2 \ud800")
    assert refused.value.code == ResultCode.BAD_FORMAT
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None and refused.value.__suppress_context__


def test_a_text_beyond_the_limit_is_an_error(guard):
    with pytest.raises(TeeError) as refused:
        guard.scan("x" * (guard_application.MAX_TEXT_BYTES + 1))
    assert refused.value.code == ResultCode.OUT_OF_MEMORY
    assert guard.scan("my PIN is 4821").level == "PRIVATE"


def test_the_guard_does_not_serve_key_commands(guard, request):
    with pytest.raises(TeeError) as refused:
        guard.open_model(KvLayout(1, 1, 1, 8, 8, 8))
    assert refused.value.code in (ResultCode.BAD_PARAMETERS, ResultCode.NOT_SUPPORTED)


def test_the_core_does_not_scan():
    with TeeClient.launch() as core, pytest.raises(TeeError) as refused:
        core.scan("my password is hunter2")
    assert refused.value.code == ResultCode.BAD_PARAMETERS


def test_a_dead_guard_is_an_error_and_never_a_harmless_result():
    with TeeClient.launch("guard") as client:
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(TeeDeadError):
            client.scan("What is Python?")
        with pytest.raises(TeeDeadError):
            client.scan("What is Python?")


def test_a_bug_in_the_rules_kills_the_application_and_stays_an_error(monkeypatch):
    def broken(text, **_):
        raise RuntimeError(f"a bug that quotes {text}")

    scan = scanning()
    assert scan().command == 0
    monkeypatch.setattr(guard_application, "scan_text", broken)
    for _ in range(2):
        reply = scan()
        assert reply.command == ResultCode.TARGET_DEAD and not any(reply.values)
    monkeypatch.undo()
    assert scan().command == ResultCode.TARGET_DEAD
