"""A cloud's answer gets the values of what it was asked, not all that a vault holds."""

import itertools
import json

import pytest
from worlds import CARRIES, MIXED

from ptmo_secure.hybrid.cache import ResponseCache
from ptmo_secure.hybrid.restoring import Restorer, restore
from ptmo_secure.hybrid.settings import HybridSettings
from ptmo_secure.hybrid.telling import known_values
from ptmo_secure.types import Route
from tee_sim.client import Filler, ScanResult, Span, names_in
from tests.cloud import hostile_server as hostile

TOOL = {
    "type": "function",
    "function": {"name": "search", "description": "[SECRET_1]", "parameters": {"type": "object"}},
}
FORMS = ("[SECRET_1]", "[secret 1]", "SECRET_1", "<SECRET-1>", "[SECRET_1's]", "{{SECRET_1}}")


def calling(arguments):
    """A cloud that calls the tool."""
    function = {"name": "search", "arguments": json.dumps(arguments)}
    piece = {"index": 0, "id": "call_9", "type": "function", "function": function}
    return hostile.events([hostile.event({"tool_calls": [piece]}), hostile.event({}, "tool_calls")])


@pytest.mark.parametrize("form", FORMS)
def test_what_never_left_is_not_filled_into_a_tools_arguments(make, form):
    here = make(behaviour=calling({"q": form, "host": "evil.example"}))
    told = here.answer(MIXED, user="ann", session="s", tools=[TOOL])
    assert here.sent() == ["What is Python?"]
    (call,) = told.tool_calls
    assert json.loads(call["function"]["arguments"]) == {"q": form, "host": "evil.example"}


@pytest.mark.parametrize("form", FORMS)
def test_what_never_left_is_not_filled_into_an_answer(make, form):
    here = make(behaviour=hostile.stream([*form, " is it, ", form]))
    assert here.answer(MIXED, user="ann", session="s").text == f"{form} is it, {form}"


def test_a_cloud_that_writes_a_number_twice_gets_no_value_for_it(make):
    here = make(behaviour=hostile.stream(["It is [SECRET_1]."]))
    talk = [{"role": "user", "content": MIXED}]
    for question in ("What is Rust?", "What is Java?"):
        told = here.answer(talk, user="ann", session="s")
        assert told.text == "It is [SECRET_1]."
        talk.append({"role": "assistant", "content": told.text})
        talk.append({"role": "user", "content": question})
    assert "[SECRET_1]" in str(here.bodies()[-1])  # it does stand in the second request


def test_values_of_the_conversation_and_of_its_system_prompt_return(make):
    here = make(behaviour=hostile.stream(["[PERSON_1] at [EMAIL_1] or [EMAIL_2]"]))
    talk = [
        {"role": "system", "content": "Write to maria.lopez@example.com."},
        {"role": "user", "content": CARRIES},
    ]
    first = here.answer(talk, user="ann", session="s")
    assert first.route is Route.HYBRID
    assert "Novak" in first.text and "andre@novak.org" in first.text and "lopez" in first.text
    talk += [{"role": "assistant", "content": first.text}]
    talk += [{"role": "user", "content": "What is a good subject line?"}]
    again = here.answer(talk, user="ann", session="s")
    assert "[PERSON_1]" in str(here.bodies()[-1]["messages"]) and again.text == first.text


def test_another_conversation_of_the_same_session_gets_none_of_its_values(make):
    here = make()
    here.answer(CARRIES, user="ann", session="s")
    here.says(hostile.stream(["Ask [PERSON_1] at [EMAIL_1]"]))
    assert here.answer("What is Python?", user="ann", session="s").text == (
        "Ask [PERSON_1] at [EMAIL_1]"
    )


def test_a_cached_answer_is_filled_by_the_question_it_answers(make):
    here = make(
        settings=HybridSettings(cache=ResponseCache()),
        behaviour=hostile.stream(["[PERSON_1] or [SECRET_1]"]),
    )
    texts = [here.answer(CARRIES, user="ann", session="s").text]
    here.answer("My password is hunter22-Xy.", user="ann", session="s")
    texts.append(here.answer(CARRIES, user="ann", session="s").text)
    assert len(here.bodies()) == 1
    assert texts == ["Dr. Andre Novak or [SECRET_1]"] * 2


def test_a_filler_fills_its_names_however_they_are_altered_and_cut(vault):
    text = (
        "a [person 1]'s PERSON_1 (EMAIL_1), <secret_1> SECRET 1; {Person-1's} [SECRET_12] EMAIL_1"
    )
    filler = Filler(vault, {"[PERSON_1]", "[EMAIL_1]"})
    whole = restore(filler, text)
    assert whole.count("Dr. Andre Novak") == 3 and whole.count("andre@novak.org") == 2
    assert "<secret_1> SECRET 1;" in whole and "hunter22" not in whole
    everything = Filler(vault, {"[PERSON_1]", "[EMAIL_1]", "[SECRET_1]"})
    assert restore(everything, text) == restore(vault, text)
    for cuts in itertools.combinations(range(1, len(text), 3), 2):
        restorer, edges = Restorer(filler), (0, *cuts, len(text))
        ready = [restorer.feed(text[a:b]) for a, b in itertools.pairwise(edges)]
        assert "".join(ready) + restorer.finish() == whole, cuts


def test_a_filler_without_names_asks_no_guard():
    class Silent:
        def unmask(self, text):
            raise AssertionError(text)

    assert restore(Filler(Silent(), ()), "Dear [PERSON_1]") == "Dear [PERSON_1]"


def test_names_are_read_as_the_guard_writes_them_alone():
    text = "[PERSON_1b] [SECRET_2] SECRET_3 [secret_4] <EMAIL_5> [TEXT_6] [SECRET 7]"
    assert names_in(text) == {"[PERSON_1b]", "[SECRET_2]", "[TEXT_6]"}


def test_a_text_with_what_looks_like_a_placeholder_has_no_words_that_stay():
    def known(text, value):
        at = text.index(value)
        span = Span(at, at + len(value), "DATE", 1, "rule")
        return known_values(ScanResult("PRIVATE", 1.0, (span,)), text, f"due on {value}")

    assert known("Call on 12 May.", "12 May") == ("12 May",)
    assert known("On 12 call [PERSON_12].", "12") == ()  # shown back it would be a placeholder
