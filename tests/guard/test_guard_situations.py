"""Levels of texts by what they tell and what they ask, also without any named value."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tee_sim.guard.requests import MASK, mask, sentences
from tee_sim.guard.scoring import scan_text


class Saw:
    """A classifier that takes one range of a text for a person's name."""

    def __init__(self, start, end):
        self.start, self.end, self.kind = start, end, "PERSON"

    def find(self, text, *, accompanied=False):
        return [self]


@pytest.mark.parametrize(
    "text",
    [
        "I was treated for syphilis last year.",
        "My wife had a miscarriage on Sunday.",
        "The user is being treated for depression and is HIV positive.",
        "Some nights I want to end my life.",
        "I think I'm gay and I can't say so at home.",
        "I had an affair with a woman from the choir.",
        "I left Islam when I was twenty.",
        "They arrested my brother for dealing, what happens to him now?",
        "My stepfather hits me when he drinks.",
        "I never told anybody that I dropped out.",
        "we are going to lay off the whole Leeds office",
        "I didn't declare the rent from my flat. What can happen to me?",
        "저는 게이인데 아무도 몰라요.",
        "음주 운전으로 면허가 취소됐어요.",
        "아버지가 술을 마시면 때려요.",
    ],
)
def test_a_grave_disclosure_is_private_without_any_named_value(text):
    result = scan_text(text)
    assert (result.level, result.spans) == ("PRIVATE", ()) or result.spans[0].kind == "MEDICAL"
    assert result.score >= 0.5


@pytest.mark.parametrize(
    "text",
    [
        "What is syphilis and how is it treated?",
        "Which famous people had a miscarriage?",
        "What should the app say when the user has a miscarriage?",
        "Write a scene in which a character comes out as gay.",
        "I'm writing an essay about suicide in Hamlet. Which scenes matter?",
        "Can you explain how an arrest works in Germany?",
        "What happens if someone doesn't declare rent?",
        "Tell me about the history of abortion law.",
        "If a person is convicted, can they vote?",
        "Suppose a man hits me in a dream. What would Freud say?",
        "thanks, that was very helpful",
        "I'm bored and it rains.",
        "I love hiking and jazz.",
        "My printer shows an error again.",
        "우울증의 원인은 무엇인가요?",
        "음주 운전의 처벌 기준을 알려 줘.",
    ],
)
def test_the_same_topics_in_a_general_question_are_public(text):
    result = scan_text(text)
    assert (result.level, result.score, result.topics) == ("PUBLIC", 0.0, ())


@pytest.mark.parametrize(
    "text",
    [
        "I got laid off in May. How do I write a CV?",
        "We can't afford the rent any more. What help is there?",
        "I moved to Oslo for a job. How do people make friends there?",
        "My boss shouts at us every morning. How do I stay calm?",
        "I failed my chemistry exam. Any tips for learning formulas?",
        "My daughter is moving to Lima. What should she pack?",
        "어제 면접에서 떨어졌어요. 영화를 추천해 줘.",
    ],
)
def test_a_mild_situation_with_a_question_is_semi_sensitive(text):
    result = scan_text(text)
    assert result.level == "SEMI_SENSITIVE"
    assert result.topics
    assert 0.3 <= result.score < 0.6


def test_a_mild_situation_that_asks_for_nothing_is_private():
    assert scan_text("I got laid off in May.").level == "PRIVATE"
    assert scan_text("I keep a tin of coins under the third stair.").topics == ("statement",)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("I was diagnosed with HIV. Unrelated: how do I centre a div?", "SEMI_SENSITIVE"),
        ("I was diagnosed with HIV. What is the capital of Peru?", "SEMI_SENSITIVE"),
        ("I was diagnosed with HIV. How do I tell my wife?", "PRIVATE"),
        ("I was diagnosed with HIV. Is it curable?", "PRIVATE"),
        ("I was diagnosed with HIV. What should I do?", "PRIVATE"),
        ("저는 우울증이 있어요. 회사에 말해야 할까요?", "PRIVATE"),
        ("저는 우울증이 있어요. 그런데 파이썬은 어떻게 설치해요?", "SEMI_SENSITIVE"),
    ],
)
def test_beside_a_grave_disclosure_only_an_unrelated_question_is_left(text, level):
    assert scan_text(text).level == level


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("Write a birthday card for my son Leon.", "SEMI_SENSITIVE"),
        ("Translate: Dear Mrs. Holt, thank you. Yours, Ann Lee", "SEMI_SENSITIVE"),
        ("How do I explain to my nephew Leon why it rains?", "SEMI_SENSITIVE"),
        ("Write a mail to bob@example.com about the party", "SEMI_SENSITIVE"),
        ("박지훈 부장님께 휴가 신청 메일을 써 줘.", "SEMI_SENSITIVE"),
        ("Does my husband Erik lie to me?", "PRIVATE"),
        ("Guess the age of my neighbour Hanna Krause.", "PRIVATE"),
        ("Who is calling me from 0151 5550 4471?", "PRIVATE"),
        ("010-8831-2290에서 자꾸 전화가 오는데 누구예요?", "PRIVATE"),
        ("My card is 4111 1111 1111 1111, write it into a table.", "PRIVATE"),
    ],
)
def test_a_task_may_carry_a_light_value_but_not_be_about_it(text, level):
    result = scan_text(text)
    assert result.level == level
    expected = "request_carries_values" if level == "SEMI_SENSITIVE" else "nothing_left_to_ask"
    assert result.reason == expected


def test_a_mild_situation_does_not_add_to_the_values_beside_it():
    assert scan_text("My son's password is secret123. I moved to Lima.").score == pytest.approx(
        1 - 0.25 * 0.75
    )
    text = "My son is called Leon, he lives in Lima and works at a bank. What is a bank?"
    assert scan_text(text).score == pytest.approx(1 - 0.5 * 0.75)


def test_the_reason_names_why():
    assert scan_text("What is Python?").reason == "nothing_private"
    assert scan_text("My PIN is 4821. What is Python?").reason == "request_stands_alone"
    many = " ".join(f"u{i}@example.com" for i in range(100))
    assert scan_text(many).reason == "too_many_values"


def test_a_situation_that_a_span_names_already_counts_once():
    alone = scan_text("I have HIV.")
    assert [span.kind for span in alone.spans] == ["MEDICAL"]
    assert "health" in alone.topics
    assert alone.score == 0.8


def test_a_private_name_makes_a_grave_word_somebodys():
    text = "Noah Becker, class 3b, wets himself."
    assert scan_text(text).level == "PUBLIC"  # the rules know no bare name
    named = scan_text(text, classifier=Saw(0, 11))
    assert (named.level, named.topics) == ("PRIVATE", ("health",))
    assert named.score == pytest.approx(1 - 0.5 * 0.2)


def test_the_source_of_a_span_is_what_found_it():
    text = "My SSN is 536-22-1234, says Ann Lee."
    at = text.index("Ann")
    result = scan_text(text, classifier=Saw(at, at + 7))
    assert [(span.kind, span.source) for span in result.spans] == [
        ("US_SSN", "rule"),
        ("PERSON", "model"),
    ]


def test_more_spans_of_a_model_never_lower_the_score():
    text = "My SSN is 536-22-1234, says Ann Lee. What is Python?"
    at = text.index("Ann")
    more = scan_text(text, classifier=Saw(at, at + 7))
    assert more.score > scan_text(text).score
    assert more.level == "SEMI_SENSITIVE"


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("Is it safe?", True),
        ("What does she need?", True),
        ("그는 어디에 있어요?", True),
        ("What is Python?", False),
        ("How do I fix this loop?", False),
    ],
)
def test_a_word_for_something_said_before_is_reported(text, back):
    assert scan_text(text).refers_back is back


@settings(deadline=None)
@given(st.text(alphabet="aI .?!\n;,?\u3002my gay Dr.", max_size=120))
def test_sentences_adjoin_and_make_up_the_text(text):
    places = sentences(text)
    assert "".join(text[start:end] for start, end in places) == text
    assert all(a[1] == b[0] for a, b in pairwise(places))


def test_an_abbreviation_ends_no_sentence():
    text = "Mail Dr. Kim, e.g. today. Then call."
    assert [text[a:b] for a, b in sentences(text)] == ["Mail Dr. Kim, e.g. today.", " Then call."]


def test_a_mask_keeps_lengths_and_a_closing_mark():
    assert mask("is hunter2! safe", [(3, 11)]) == f"is {MASK * 7}! safe"
    assert mask("is Co. it", [(3, 6)]) == f"is {MASK * 2}. it"
    assert mask("!", [(0, 1)]) == MASK
