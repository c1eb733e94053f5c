"""Segments: nothing is lost, nothing private is called public."""

import pytest
from fakes import FakeGuard
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure import Level, QueryDecomposer, SensitivityClassifier
from ptmo_secure.errors import InputError
from ptmo_secure.privacy.decompose import MAX_SEGMENTS, STRATEGIES, rejoin
from tee_sim.client import TeeError
from tee_sim.guard.scoring import scan_text
from tee_sim.scan_result import ScanResult

EXAMPLE = "My password is secret123. What is Python?"
PUBLIC, SEMI, PRIVATE = Level.PUBLIC, Level.SEMI_SENSITIVE, Level.PRIVATE


class InProcess:
    """The guard's rules without its process."""

    def scan(self, text):
        return scan_text(text)

    def close(self):
        pass


@pytest.fixture(scope="module")
def decomposer():
    return QueryDecomposer(SensitivityClassifier(InProcess()))


def levels(segments):
    return [(segment.text, segment.level) for segment in segments]


def test_the_real_guard_splits_the_example():
    with QueryDecomposer() as subject:
        first, second = subject.decompose(EXAMPLE)
    assert (first.text, first.level, first.score) == ("My password is secret123.", PRIVATE, 0.75)
    assert (second.text, second.level, second.score) == ("What is Python?", PUBLIC, 0.0)
    assert (first.separator, first.joint, second.joint) == (" ", "sentence", "end")
    assert EXAMPLE[first.spans[0].start : first.spans[0].end] == "secret123"


def test_a_public_clause_of_one_sentence_is_set_free(decomposer):
    found = decomposer.decompose("my password is secret123, and what is Python?")
    assert levels(found) == [
        ("my password is secret123,", PRIVATE),
        ("and what is Python?", PUBLIC),
    ]
    assert found[0].joint == "clause"


def test_a_task_that_carries_a_value_is_cut_around_it(decomposer):
    found = decomposer.decompose("Write a birthday card for my daughter Emma please")
    assert [segment.entity for segment in found] == [None, "PERSON", None]
    assert found[1].text == "Emma"
    assert found[1].level is not PUBLIC


def test_each_strategy_cuts_its_own_way(decomposer):
    query = "My name is Ann Lee, and what is Python? Explain it."
    by = {name: [s.text for s in decomposer.decompose(query, name)] for name in STRATEGIES}
    assert by["sentence"] == ["My name is Ann Lee, and what is Python?", "Explain it."]
    assert by["clause"] == ["My name is Ann Lee,", "and what is Python?", "Explain it."]
    assert by["entity"] == ["My name is ", "Ann Lee", ", and what is Python? Explain it."]
    assert by["auto"] == by["clause"]


@pytest.mark.parametrize(
    ("query", "bound", "target"),
    [
        ("My friend Amaya Perez moves to Chile. What does she need? What is Chile?", 1, 0),
        ("My password is secret123. Is it safe? What is Python?", 1, 0),
        ("My card is 4111 1111 1111 1111. Was that one issued in Spain? What is a bank?", 1, 0),
        ("제 비밀번호는 secret123이에요. 그건 안전해요? 그런데 파이썬은 뭐예요?", 1, 0),
        ("저는 에이즈에 걸렸어요. 그런데 파이썬이 뭐예요? 그게 위험해요?", 2, 0),
    ],
)
def test_a_word_for_something_private_binds_its_segment_to_it(decomposer, query, bound, target):
    found = decomposer.decompose(query)
    assert found[bound].refers_to == target
    assert found[bound].level is found[target].level is PRIVATE
    assert found[bound].score >= found[target].score > 0
    assert PUBLIC in [segment.level for segment in found]


def test_a_word_for_something_in_a_public_query_binds_nothing(decomposer):
    found = decomposer.decompose("What is Python? Is it hard?")
    assert [(segment.level, segment.refers_to) for segment in found] == [(PUBLIC, None)] * 2


def test_no_segment_of_a_private_query_is_anything_else(decomposer):
    for query in (
        "I was diagnosed with HIV. How do I tell my wife?",
        "My SSN is 536-22-1234. Is it valid?",
        "저는 우울증이 있어요. 회사에 말해야 할까요?",
    ):
        found = decomposer.decompose(query)
        assert len(found) == 2
        assert {segment.level for segment in found} == {PRIVATE}
        assert min(segment.score for segment in found) > 0


def test_a_block_of_code_a_list_and_quoted_mail_stay_whole(decomposer):
    query = (
        "> Hi. I am\n> late. Ann\n\nMy PIN is 4821. Steps:\n1. mix. 2 eggs\n"
        "```\na. b! c?\n```\nWhat is Python?"
    )
    texts = [segment.text for segment in decomposer.decompose(query, "sentence")]
    assert "> Hi. I am\n> late. Ann" in texts
    assert "```\na. b! c?\n```" in texts
    assert "What is Python?" in texts


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("query", [" ", "\n\n", "  hi  ", "", "a", ".", "\ufeff"])
def test_blank_and_tiny_queries_come_back(decomposer, strategy, query):
    found = decomposer.decompose(query, strategy)
    assert rejoin(found) == query
    assert bool(found) == bool(query)


PARTS = [
    "My password is secret123.",
    "What is Python?",
    "I was diagnosed with HIV",
    "is it safe?",
    " and ",
    "Call me at 010-1234-5678, ",
    "My name is Ann Lee. ",
    "그는 누구예요?",
    "\n",
    "```x. y```",
    "e\u0301\U0001f468\u200d\U0001f469",
    "> quoted. mail\n",
    "\u202eabc",
    ", ",
]
queries = st.lists(st.sampled_from(PARTS) | st.text(max_size=12), max_size=8).map("".join)


@settings(deadline=None, max_examples=60)
@given(queries, st.sampled_from(STRATEGIES))
def test_segments_make_up_the_query_and_none_is_lower_than_its_values(query, strategy):
    classifier = SensitivityClassifier(InProcess())
    whole = classifier.classify(query)
    found = QueryDecomposer(classifier).decompose(query, strategy)
    assert rejoin(found) == query
    at = 0
    for order, segment in enumerate(found):
        assert (segment.order, segment.start) == (order, at)
        assert segment.text == query[segment.start : segment.end]
        at = segment.end + len(segment.separator)
        if segment.spans:
            assert segment.level is not PUBLIC
            assert segment.score >= max(span.severity for span in segment.spans) - 1e-12
        if segment.level is PUBLIC:
            assert (segment.spans, segment.topics, segment.refers_to) == ((), (), None)
            assert classifier.classify(segment.text).level is PUBLIC
        if segment.refers_to is not None:
            assert segment.refers_to < order
            assert segment.level is not PUBLIC
        if whole.level is PRIVATE:
            assert segment.level is PRIVATE
    assert tuple(span for segment in found for span in segment.spans) == whole.spans


def test_more_sentences_than_segments_stay_together_in_the_last(decomposer):
    query = "What is Python? " * 2 * MAX_SEGMENTS + "My password is hunter2."
    found = decomposer.decompose(query, "sentence")
    assert len(found) == MAX_SEGMENTS
    assert rejoin(found) == query
    assert found[-1].level is not PUBLIC
    assert found[0].level is PUBLIC


def test_a_situation_that_no_segment_tells_by_itself_leaves_none_public():
    class Whole(InProcess):
        def scan(self, text):
            if text == "One. Two?":
                return ScanResult("SEMI_SENSITIVE", 0.3, (), ("work",), "request_stands_alone")
            return ScanResult("PUBLIC", 0.0, ())

    found = QueryDecomposer(SensitivityClassifier(Whole())).decompose("One. Two?")
    assert [(segment.level, segment.score) for segment in found] == [(SEMI, 0.3)] * 2


def test_a_failing_guard_makes_one_private_segment():
    broken = SensitivityClassifier(FakeGuard(fails=TeeError(0xFFFF0006)))
    (segment,) = QueryDecomposer(broken).decompose(EXAMPLE)
    assert (segment.text, segment.level, segment.score) == (EXAMPLE, PRIVATE, 1.0)


def test_a_guard_that_fails_at_a_segment_makes_that_private():
    class Failing(InProcess):
        def scan(self, text):
            if text.startswith("What"):
                raise TeeError(0xFFFF0006)
            return scan_text(text)

    found = QueryDecomposer(SensitivityClassifier(Failing())).decompose(EXAMPLE, "sentence")
    assert [segment.level for segment in found] == [PRIVATE, PRIVATE]


@pytest.mark.parametrize(("query", "strategy"), [("hi", "words"), ("hi", ""), (b"hi", "auto")])
def test_a_wrong_query_or_strategy_is_refused(decomposer, query, strategy):
    with pytest.raises(InputError):
        decomposer.decompose(query, strategy)
