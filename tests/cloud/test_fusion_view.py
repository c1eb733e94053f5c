"""What the cloud is told."""

import pytest

from ptmo_secure.cloud.fusion.view import PublicView, as_it_is, never
from ptmo_secure.errors import InputError

ASKED = {"role": "user", "content": "Who is [PERSON_1]?"}


def test_messages_are_followed_by_the_published_answer_as_a_partial_one():
    view = PublicView(str.upper, messages=(ASKED,))
    request = view.request("A poet", 8, 20)
    assert request.messages == (ASKED, {"role": "assistant", "content": "A POET"})
    assert (request.continue_final, request.max_tokens, request.top_logprobs) == (True, 8, 20)


def test_an_answer_not_begun_yet_is_asked_for_anew():
    request = PublicView(as_it_is, messages=(ASKED,)).request("", 8, 20)
    assert request.messages == (ASKED,)
    assert not request.continue_final


def test_a_prompt_is_followed_by_the_published_answer():
    request = PublicView(str.upper, prompt="Once ").request("upon ", 4, 5)
    assert (request.prompt, request.messages) == ("Once UPON ", None)


def test_what_may_not_be_published_makes_no_request():
    assert PublicView(never, messages=(ASKED,)).request("A poet", 8, 20) is None
    assert PublicView(never, messages=(ASKED,)).request("", 8, 20) is not None


@pytest.mark.parametrize(
    ("answer", "in_messages", "in_a_prompt"),
    [
        (b"End.\n\n", "End.", "End.\n\n"),
        (b" \n", "", " \n"),
        ("caf\u00e9".encode()[:-1], "caf", "caf"),
        (b"ok \xff bad", "ok", "ok "),
        ("\u00e9 ".encode(), "\u00e9", "\u00e9 "),
    ],
)
def test_half_characters_stay_out_and_in_messages_white_space_at_the_end_too(
    answer, in_messages, in_a_prompt
):
    assert PublicView(as_it_is, messages=(ASKED,)).publishable(answer) == in_messages
    assert PublicView(as_it_is, prompt="").publishable(answer) == in_a_prompt


@pytest.mark.parametrize("given", [{}, {"messages": (ASKED,), "prompt": "x"}])
def test_a_view_is_of_messages_or_of_a_prompt(given):
    with pytest.raises(InputError, match="not both"):
        PublicView(as_it_is, **given)
