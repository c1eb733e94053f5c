"""I1 and I3: no value of a vault reaches the cloud's bytes, whatever is said in however many turns,
and nothing at all does when guard, log or budget fail."""

import itertools
import json
import os
import random
import re
import signal
import unicodedata

import pytest
from worlds import CARRIES, MIXED, ScriptedEngine, world

from ptmo_secure.errors import EngineError
from ptmo_secure.hybrid.reading import ConversationReader
from ptmo_secure.privacy.budget import BudgetLimits, PrivacyBudget
from ptmo_secure.types import Level, Route
from tee_sim.client import TeeClient, TeeDeadError
from tests.cloud import hostile_server as hostile

PEOPLE = ("Andre Novak", "Ada Lindqvist", "Mira Holmberg", "Kwame Mensah", "Yuki Tanabe")
VALUES = {
    "password": ("secret123", "hunter22-Xy", "Tr0ub4dor&3"),
    "card": ("4111 1111 1111 1111", "5500-0000-0000-0004"),
    "phone": ("010-1234-5678", "+49 171 2345678"),
    "email": ("andre.novak@novak-mail.org", "ada@lindqvist.se"),
    "iban": ("DE89 3704 0044 0532 0130 00",),
}
SAID = (
    "My password is {password}. {public}",
    "My password is {password}.",
    "{public}",
    "Please charge card {card}. {public}",
    "Call me at {phone}. {public}",
    "Write an email to {person} at {email} about the roof.",
    "My name is {person}. {public}",
    "{public} My IBAN is {iban}.",
    "Is {password} a good password? {public}",
    "Translate to French: meet {person} at noon.",
    "And what about her?",
    "Repeat what I told you about it.",
    "Is it as strong as {word}?",
    "And is {word} better than that one?",
    "What did I tell you about my {word}?",
    "{public} Also, {public}",
)
PUBLIC = (
    "What is Python?",
    "How do I bake bread?",
    "Why is the sky blue?",
    "Explain how a heat pump works.",
    "Write a haiku about autumn.",
    "Who wrote Faust?",
)
CALL = {"id": "call_1", "type": "function"}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def disguised(text: str, draw: random.Random) -> str:
    """A text in another Unicode form, as keyboards and copied pages give it."""
    form = draw.choice(("NFC", "NFC", "NFD", "NFKC", "upper"))
    text = text.upper() if form == "upper" else unicodedata.normalize(form, text)
    return text.replace(" ", "\u00a0") if draw.random() < 0.1 else text


KEPT = ("The bakery uses {word} and rye.", "Our plan {word} begins in spring. {public}")
LOCAL = "only the device says {word}"  # in each answer of it, and nowhere else


def conversation(draw: random.Random):
    """Return a chat's turns of the user, and the values that are told in it.

    Each turn holds a word of its own, by which it is known in the bytes, where it may stay.
    """
    values = {kind: draw.choice(some) for kind, some in VALUES.items()}
    values["person"] = draw.choice(PEOPLE)
    turns = []
    for _ in range(draw.randint(2, 6)):
        template, *public = draw.choice(SAID + KEPT), *draw.sample(PUBLIC, 2)
        template = template.replace("{word}", made_up(draw))
        for question in public:
            template = template.replace("{public}", question, 1)
        turns.append(disguised(template.format(**values), draw))
    return turns, [*values.values()]


def made_up(draw: random.Random) -> str:
    """A word that stands nowhere else: syllables, which no rule takes for anything."""
    return "".join(draw.choice("bdfgklmnprstv") + draw.choice("aeiou") for _ in range(5))


def forms(value: str) -> list[str]:
    """The forms of a value that may stand in no byte: as is, case-folded, digits only, spaced."""
    digits = re.sub(r"\D", "", value)
    spaced = " ".join(value.replace(" ", ""))
    return [value, value.casefold(), spaced, *([digits] if len(digits) >= 5 else [])]


def found_in(received: bytes, values: list[str]) -> list[str]:
    """The values that stand in some bytes in any of these forms."""
    text = received.decode("utf-8", "replace")
    folded = unicodedata.normalize("NFKC", text).casefold()
    digits = re.sub(r"(?<=\d)[\W_]{1,3}(?=\d)", "", text)
    places = (text, folded, digits)
    return [v for v in values if any(f in place for f in forms(v) for place in places)]


class Chat:
    """A conversation, and what of it no byte may hold.

    Args:
        here: the world.
        draw: of what happens.
        values: that its user may tell.
    """

    def __init__(self, here, draw, values) -> None:
        self.here, self.draw, self.values = here, draw, values
        self.messages, self.withheld = [], []
        self.count, self.stayed = 0, False

    def have(self, turns) -> None:
        """Have it; now and then a tool is called, and its result is what is asked about."""
        for said in turns:
            self.messages.append({"role": "user", "content": said})
            self.ask(said)
            if self.draw.random() < 0.3:
                self.call()

    def call(self) -> None:
        """Have the answer call a tool, which tells what the user told and a word of its own."""
        ident, word = f"call_{self.count}", made_up(self.draw)
        asked = {"q": self.draw.choice((PUBLIC[0], "Paris", self.values[0]))}
        function = {"name": "look_up", "arguments": json.dumps(asked)}
        if self.messages[-1]["role"] != "assistant":
            return
        self.messages[-1]["tool_calls"] = [CALL | {"id": ident, "function": function}]
        result = f"{word}: {self.messages[0]['content']}"
        self.messages.append({"role": "tool", "tool_call_id": ident, "content": result})
        self.ask(word)

    def ask(self, said) -> None:
        """Ask about the last message, and look at what stayed of it."""
        here, draw = self.here, self.draw
        word = made_up(draw)
        here.engine.texts = type(here.engine.texts)([f"{LOCAL.format(word=word)}: {said[:30]}"])
        said_back = hostile.stream(["As to [PERSON_1], [SEC", "RET_1], ok."])
        here.server.default = hostile.status(400) if draw.random() < 0.15 else said_back
        wish, kept, local = draw.random(), (), False
        if wish < 0.15:
            local = True
        elif wish < 0.3:
            kept = (draw.choice((0, 0, 1)),)
        before = len(here.server.requests)
        more = {"user": "ann", "session": "s", "keep_local": kept, "local_only": local}
        tools = [TOOL] if draw.random() < 0.3 else []
        answer = here.answer(self.messages, None, lambda _: None, tools=tools, **more)
        self.count += 1
        steps = {step.name: step.facts for step in answer.trace}
        told = [request.body for request in here.server.requests[before:]]
        if "cloud.send" not in steps:
            self.stayed = True
            self.withheld += unusual(said)
        elif told:
            self.stayed = self.stayed or steps["decompose"]["stays"] > 0
            self.withheld += [one for one in unusual(said) if one.encode() not in told[0]]
        if self.stayed and "engine.generate" in steps:
            self.withheld.append(word)
        self.messages.append({"role": "assistant", "content": answer.text})


def unusual(text: str) -> list[str]:
    """The words of a text that `made_up` gave it."""
    return re.findall(r"\b(?:[bdfgklmnprstv][aeiou]){5}\b", text)


def fuzz(make, n_turns, seed):
    draw, done, sent = random.Random(seed), 0, 0
    budget = PrivacyBudget(BudgetLimits(1e9, 1e9))
    here = make(budget=budget)
    for number in itertools.count():
        if done >= n_turns:
            return done, sent
        here.server.forget()
        here.pipeline.forget("ann", "s")
        turns, values = conversation(draw)
        said = " ".join(turns)
        told = [value for value in values if found_in(said.encode(), [value])]
        chat = Chat(here, draw, values)
        chat.have(turns)
        done += chat.count
        sent += len(here.server.requests)
        leaked = found_in(here.server.received, told)
        leaked += [word for word in chat.withheld if word.encode() in here.server.received]
        assert leaked == [], (number, chat.messages, here.server.received)


def test_no_value_reaches_the_cloud_in_chats_of_many_turns(make):
    done, sent = fuzz(make, 320, seed=1)
    assert done >= 320 and sent > done / 6  # a pipeline that sends nothing would pass as well


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_no_value_reaches_the_cloud_in_very_many_turns(make):
    done, sent = fuzz(make, int(os.environ.get("PTMO_FUZZ_TURNS", "100000")), seed=2)
    assert sent > done / 6


def test_the_search_finds_each_form_of_a_value():
    for value in ("secret123", "4111 1111 1111 1111", "Andre Novak"):
        for form in forms(value):
            assert found_in(f"x{form}y".encode(), [value]) == [value]
    assert found_in(b"411-111-111-111-1111", ["4111 1111 1111 1111"]) != []
    assert found_in(b"What is Python?", ["secret123", "Andre Novak"]) == []


def test_what_was_private_in_an_earlier_turn_is_never_told_later(make):
    here = make(engine=ScriptedEngine("Your password secret123 is noted."))
    history = [{"role": "user", "content": "My password is secret123."}]
    first = here.answer(history)
    history += [{"role": "assistant", "content": first.text}]
    second = here.answer([*history, {"role": "user", "content": "What is Python?"}])
    assert (first.route, second.route) == (Route.LOCAL, Route.CLOUD)
    assert here.bodies()[0]["messages"] == [{"role": "user", "content": "What is Python?"}]
    third = here.answer([*history, {"role": "user", "content": "Is it strong?"}])
    assert (third.route, third.level) == (Route.LOCAL, Level.PRIVATE)
    assert len(here.bodies()) == 1


def test_a_placeholder_means_the_same_value_in_every_turn_of_a_session(make):
    here = make(behaviour=hostile.stream(["Ok, [PERSON_1]."]))
    history = [{"role": "user", "content": CARRIES}]
    first = here.answer(history)
    assert first.text == "Ok, Dr. Andre Novak."
    history += [{"role": "assistant", "content": first.text}]
    history += [{"role": "user", "content": "Write a letter to Dr. Andre Novak about the weather."}]
    second = here.answer(history)
    told = [message["content"] for message in here.bodies()[1]["messages"]]
    assert told[1:] == [
        "Write an email to [PERSON_1] at [EMAIL_1] about the roof.",
        "Ok, [PERSON_1].",
        "Write a letter to [PERSON_1] about the weather.",
    ]
    assert second.text == "Ok, Dr. Andre Novak."


def test_a_secret_that_only_the_question_before_gives_away_stays(make):
    here = make()
    history = [
        {"role": "assistant", "content": "What is your password?"},
        {"role": "user", "content": "hunter22-Xy"},
    ]
    answer = here.answer(history)
    assert answer.route is Route.LOCAL and here.server.received == b""


def test_a_question_about_oneself_stays_when_something_was_withheld(make):
    here = make(engine=ScriptedEngine("Noted.", "Ada."))
    history = [{"role": "user", "content": "My name is Ada Lindqvist and I have diabetes."}]
    history += [{"role": "assistant", "content": here.answer(history).text}]
    answer = here.answer([*history, {"role": "user", "content": "What is my name?"}])
    assert (answer.text, answer.route) == ("Ada.", Route.LOCAL)
    assert here.server.received == b""


def test_a_guard_that_dies_keeps_everything_here(tmp_path):
    launched = []

    def launch():
        launched.append(TeeClient.launch("guard", poll_us=0))
        return launched[-1]

    first = launch()
    with world(tmp_path, first, launch_guard=launch) as here:
        assert here.answer("What is Python?").route is Route.CLOUD
        here.server.forget()
        os.kill(launched[-1].pid, signal.SIGKILL)
        answer = here.answer("What is Python?")
        assert (answer.route, answer.level) == (Route.LOCAL, Level.PRIVATE)
        assert here.server.received == b""
        assert here.answer("What is Python?").route is Route.CLOUD
    first.close()


def test_a_guard_that_does_not_start_keeps_everything_here(make):
    def refuse():
        raise TeeDeadError

    here = make(launch_guard=refuse)
    answer = here.answer("What is Python?")
    assert (answer.route, answer.level, answer.text) == (
        Route.LOCAL,
        Level.PRIVATE,
        "from the device",
    )
    assert here.server.received == b""


@pytest.mark.parametrize("call", ["mask", "check", "scan"])
def test_whichever_call_of_the_guard_fails_nothing_leaves(make, guard, monkeypatch, call):
    from tee_sim.client import Vault

    def fail(*_args, **_more):
        raise TeeDeadError

    here = make()
    owner = TeeClient if call == "scan" else Vault
    monkeypatch.setattr(owner, call, fail)
    history = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}]
    for query in (MIXED, [*history, {"role": "user", "content": "What is Python?"}]):
        answer = here.answer(query)
        assert answer.route is Route.LOCAL and here.server.received == b""


def test_an_egress_log_that_cannot_be_written_keeps_everything_here(make):
    here = make()
    here.egress.log.folder.parent.joinpath("egress").write_text("a file in the folder's place")
    answer = here.answer("What is Python?")
    assert answer.route is Route.LOCAL and here.server.received == b""
    failed = {step.name: step.facts for step in answer.trace}["cloud.answer"]["failed"]
    assert failed == "EgressRefusedError:log"


def test_a_budget_that_is_spent_keeps_everything_here(make):
    here = make(budget=PrivacyBudget(BudgetLimits(user_epsilon=0.011, session_epsilon=0.011)))
    routes = [here.answer("What is Python?").route for _ in range(4)]
    assert routes == [Route.CLOUD, Route.CLOUD, Route.LOCAL, Route.LOCAL]
    assert len(here.bodies()) == 2
    assert here.answer("What is Python?", user="bob").route is Route.CLOUD


def test_a_budget_that_cannot_be_read_keeps_everything_here(make, monkeypatch):
    here = make()

    def fail(_user):
        raise EngineError("no disk")

    monkeypatch.setattr(here.budget, "status", fail)
    assert here.answer("What is Python?").route is Route.LOCAL
    assert here.server.received == b""


def test_a_budget_that_cannot_be_stored_keeps_everything_here(make, monkeypatch):
    here = make()

    def fail(*_args):
        raise OSError("disk full")

    monkeypatch.setattr(here.budget, "spend", fail)
    assert here.answer("What is Python?").route is Route.LOCAL
    assert here.server.received == b""


def test_a_policy_can_never_widen_the_gate(make):
    class Wild:
        name = "wild"

        def __init__(self, wish):
            self.wish = wish

        def view(self, situation, left):
            from ptmo_secure.hybrid.deciding import plain_view

            return plain_view(situation)

        def choose(self, view, mask):
            mask[:] = True  # its copy, it should be
            if self.wish == "raise":
                raise RuntimeError
            return self.wish

    here = make()
    for wish in (1, 2, 3, 4, -1, 99, None, "cloud", "raise"):
        here.pipeline._planner.policy = Wild(wish)
        for query in ("My password is secret123.", "I have diabetes. What should I eat?"):
            assert here.answer(query).route is Route.LOCAL
    assert here.server.received == b""
    here.pipeline._planner.policy = Wild(1)  # cloud: the whole query, of which only a part may go
    assert here.answer(MIXED).route is Route.LOCAL
    assert here.server.received == b""


def test_the_reader_remembers_no_value(make):
    here = make(engine=ScriptedEngine("Your password secret123 is noted."))
    history = [
        {"role": "user", "content": MIXED},
        {"role": "assistant", "content": "Noted: secret123. It is a language."},
        {"role": "user", "content": "Why is the sky blue?"},
    ]
    here.answer(history)
    reader = here.pipeline._planner._reader
    assert isinstance(reader, ConversationReader)
    archive = reader._archive
    assert len(archive.known) == 1 and len(archive.revealed) == 1
    held = [vars(part) for part in (archive.known, archive.revealed, archive.memory._words)]
    assert "secret123" not in repr(held) and "Python" in repr(held)
    assert "secret123" not in repr(here.pipeline.answer(MIXED).trace)
