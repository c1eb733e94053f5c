"""The classifier of the host: the guard's verdict, and the worst one when there is none."""

import gc
import os
import signal
import socket
import struct
import threading

import pytest
from fakes import FakeGuard

from ptmo_secure import Level, SensitivityClassifier
from ptmo_secure.errors import InputError
from tee_sim.client import TeeClient, TeeDeadError

EXAMPLE = "My password is secret123. What is Python?"


@pytest.fixture(scope="module")
def classifier():
    with SensitivityClassifier() as subject:
        yield subject


def test_the_quick_start_gives_what_it_says(classifier):
    result = SensitivityClassifier().classify(EXAMPLE)
    assert (result.level.name, result.score) == ("SEMI_SENSITIVE", pytest.approx(0.75, abs=0.02))
    assert classifier.classify("My password is secret123.").level is Level.PRIVATE
    assert classifier.classify("My password is secret123.").score == result.score
    public = classifier.classify("What is Python?")
    assert (public.level, public.score, public.spans) == (Level.PUBLIC, 0.0, ())


VARIED = [
    "What is Python? My password is secret123.",
    "my password's secret123, and what is Python?",
    "PASSWORD: secret123\n\nWhat is Python?",
    "Hey, quick one. My passcode is secret123. Explain Python to me.",
    "I use secret123 as my password. What is Python?",
    "secret123 is my wifi password. What is the capital of Peru?",
    "Our wifi key is secret123. Tell me a joke about cats.",
    "my PIN is 4821. How do magnets work?",
    "My bank PIN: 4821. What is compound interest?",
    "I just changed my mail password to hunter2! What is Python?",
    "The door code is 90521, what is the tallest waterfall?",
    "export DB_PASSWORD=hunter2-prod; what does export do in bash?",
    "My son's password is secret123. What is Python?",
    "Her laptop password is Blue-Horse-22. How does bread rise?",
    "psst: password hunter2. Write a poem about snow.",
    "The 2FA code I got is 883 120. What is two-factor authentication?",
    "My old password was Summer2019 - what is Python?",
    "My password is s e c r e t 1 2 3. What is Python?",
    "My password is \uff53\uff45\uff43\uff52\uff45\uff54\uff11\uff12\uff13. What is Python?",
    "m\u0443 p\u0430ssword is hunter2. What is Python?",
    "비밀번호는 secret123입니다. 파이썬이 뭐예요?",
    "제 비번은 hunter22예요. 그런데 된장찌개는 어떻게 끓여요?",
    "My password is hunter2. My password is hunter2! What is Python?",
    "The password to log in is Thursday*99. Also, what is Python?",
]


@pytest.mark.parametrize("text", VARIED)
def test_whatever_way_a_secret_is_told_the_score_stays(classifier, text):
    found = classifier.classify(text)
    assert found.score == pytest.approx(0.75, abs=0.05)
    assert found.level is Level.SEMI_SENSITIVE
    assert len(VARIED) >= 20


def test_the_explanation_names_span_rule_severity_and_reason(classifier):
    found = classifier.classify("My password is secret123 and Ivan knows that I am a Muslim.")
    assert found.reasons == (
        "SECRET at 15-24, by rule, severity 0.75",
        "PERSON at 29-33, by model, severity 0.50",
        "DEMOGRAPHIC at 52-58, by model, severity 0.30",
        "topic religion",
        "PRIVATE: no request is left without what is private",
    )
    assert found.kinds == {"SECRET": 1, "PERSON": 1, "DEMOGRAPHIC": 1}
    assert "secret123" not in repr(found)


def test_the_probability_grows_with_the_score(classifier):
    texts = ("What is Python?", "I got laid off. How do I write a CV?", EXAMPLE)
    probabilities = [classifier.classify(text).probability for text in texts]
    assert probabilities == sorted(probabilities)
    assert probabilities[0] < 0.5 < probabilities[1] <= 1.0


@pytest.mark.parametrize(
    "text",
    ["\ud800 my password is hunter2", "What is Python? " * 70_000],
    ids=["lone surrogate", "over a mebibyte"],
)
def test_what_the_guard_refuses_is_private(text):
    with SensitivityClassifier() as subject:
        found = subject.classify(text)
        assert (found.level, found.score, found.error) == (Level.PRIVATE, 1.0, "TeeError")
        assert found.probability == 1.0
        assert subject.classify("What is Python?").level is Level.PUBLIC


def test_only_a_string_is_taken():
    for wrong in (b"text", None, 3, ["a"]):
        with pytest.raises(InputError, match="not a string"):
            SensitivityClassifier().classify(wrong)


def test_a_guard_that_was_killed_makes_one_text_private_and_the_next_gets_another():
    with SensitivityClassifier() as subject:
        assert subject.classify("What is Python?").level is Level.PUBLIC
        os.kill(subject._held.guard.pid, signal.SIGKILL)
        dead = subject.classify("What is Python?")
        assert (dead.level, dead.error) == (Level.PRIVATE, "TeeDeadError")
        assert subject.classify("What is Python?").level is Level.PUBLIC


def test_a_guard_that_hangs_makes_the_text_private():
    with SensitivityClassifier() as subject:
        assert subject.classify("What is Python?").level is Level.PUBLIC
        guard = subject._held.guard
        os.kill(guard.pid, signal.SIGSTOP)
        one_second = struct.pack("@ll", 1, 0)
        guard._channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, one_second)
        hung = subject.classify("What is Python?")
        assert (hung.level, hung.error) == (Level.PRIVATE, "TeeDeadError")


def test_a_guard_that_does_not_start_makes_the_text_private():
    def refuse():
        raise OSError("no memory")

    found = SensitivityClassifier(launch_guard=refuse).classify("What is Python?")
    assert (found.level, found.score, found.error) == (Level.PRIVATE, 1.0, "OSError")


@pytest.mark.parametrize("level", ["HARMLESS", "", "public"])
def test_a_verdict_of_no_known_level_is_private(level):
    found = SensitivityClassifier(FakeGuard(level, 0.0)).classify("What is Python?")
    assert (found.level, found.score, found.error) == (Level.PRIVATE, 1.0, "KeyError")


def test_a_lent_guard_stays_the_callers():
    guard = FakeGuard("PUBLIC", 0.0, fails=None)
    with SensitivityClassifier(guard) as subject:
        assert subject.classify("text").level is Level.PUBLIC
        guard.fails = TeeDeadError()
        assert subject.classify("text").level is Level.PRIVATE
    assert guard.closed is False


def test_no_guard_starts_before_the_first_text_and_it_ends_with_the_object():
    started = []

    def launch():
        started.append(FakeGuard("PUBLIC", 0.0))
        return started[-1]

    subject = SensitivityClassifier(launch_guard=launch)
    assert started == []
    subject.classify("one")
    subject.classify("two")
    assert len(started) == 1
    del subject
    gc.collect()
    assert started[0].closed is True


def test_threads_share_one_guard():
    with SensitivityClassifier() as subject:
        levels = []

        def work(text, expected):
            for _ in range(5):
                levels.append(subject.classify(text).level is expected)

        threads = [
            threading.Thread(
                target=work,
                args=(EXAMPLE, Level.SEMI_SENSITIVE) if i % 2 else ("Hi", Level.PUBLIC),
            )
            for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert levels == [True] * 40
        assert isinstance(subject._held.guard, TeeClient)
