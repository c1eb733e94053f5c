import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tee_sim.guard.recognizers import Recognizer
from tee_sim.guard.scoring import scan_text, score_of
from tee_sim.scan_result import (
    ENTITY_KINDS,
    REASONS,
    SOURCES,
    TOPICS,
    ScanResult,
    Span,
    pack_spans,
    pack_verdict,
    unpack_spans,
    unpack_verdict,
)

EXAMPLE = "My password is secret123. What is Python?"


def rate(text):
    result = scan_text(text)
    return result.level, result.score


def test_a_secret_with_a_public_question_is_semi_sensitive():
    level, score = rate(EXAMPLE)
    assert level == "SEMI_SENSITIVE"
    assert score == pytest.approx(0.75, abs=0.02)
    (span,) = scan_text(EXAMPLE).spans
    assert EXAMPLE[span.start : span.end] == "secret123"
    assert (span.kind, span.severity) == ("SECRET", 0.75)


def test_the_secret_alone_is_private_with_the_same_score():
    assert rate("My password is secret123.") == ("PRIVATE", rate(EXAMPLE)[1])


def test_the_question_alone_is_public():
    assert rate("What is Python?") == ("PUBLIC", 0.0)


PARAPHRASES = [
    "What is Python? My password is secret123.",
    "my password is secret123, what is Python?",
    "My password is secret123 and what is Python?",
    "My password is secret123! What is Python?",
    "My password is secret123\nWhat is Python?",
    "my password: secret123. what is python",
    "My password is: secret123. Explain Python to me.",
    "Password = secret123; what is Python?",
    "pwd secret123. What is Python?",
    "The password for my mail is secret123. What is Python?",
    "secret123 is my password. What is Python?",
    "I use secret123 as my password. What is Python?",
    "I changed my password to secret123. What is Python?",
    "My passcode is secret123. Please tell me about Python.",
    "my passphrase is secret123 - What is Python?",
    "my gmail password is 'secret123'. What is Python?",
    "Hi! My password's secret123. What is Python?",
    "What is Python? By the way, my password is secret123.",
    "Please explain Python. My old password was secret123.",
    "My password is currently secret123. Also, what is Python?",
    "(my password is secret123) What is Python?",
]


@pytest.mark.parametrize("text", PARAPHRASES)
def test_paraphrases_score_the_same(text):
    level, score = rate(text)
    assert score == pytest.approx(0.75, abs=0.05)
    assert level in ("SEMI_SENSITIVE", "PRIVATE")


def test_most_paraphrases_keep_their_public_part():
    semi = [text for text in PARAPHRASES if rate(text)[0] == "SEMI_SENSITIVE"]
    assert len(PARAPHRASES) >= 20
    assert len(semi) >= len(PARAPHRASES) - 3


@pytest.mark.parametrize(
    "text",
    [
        "My password is secret123. Is it strong?",
        "My password is secret123, is that safe?",
        "Is my password secret123 strong?",
        "Is secret123! is my password a good one?",
        "My password is secret123. Thanks!",
        "My password is secret123. Please help me.",
        "My password is secret123. What does secret123 mean?",
        "Who writes from bob@example.com?",
        "My card is 4111 1111 1111 1111. Can you check whether it is valid?",
        "Call 010-1234-5678 and tell her I am late.",
        "My SSN is 536-22-1234 and my phone is 212-555-0123.",
        "password: hunter2",
    ],
)
def test_without_a_part_that_stands_alone_the_text_is_private(text):
    assert rate(text)[0] == "PRIVATE"


@pytest.mark.parametrize(
    "text",
    [
        "My email is bob@example.com. What is the capital of France?",
        "My card is 4111 1111 1111 1111. Explain compound interest.",
        "Explain recursion. You can reach me at 212-555-0123.",
        "I was born in Rome, my SSN is 536-22-1234, how tall is the Eiffel tower?",
        "\ube44\ubc00\ubc88\ud638\ub294 secret123\uc785\ub2c8\ub2e4. \ud30c\uc774\uc36c?",
    ],
)
def test_a_part_that_stands_alone_makes_the_text_semi_sensitive(text):
    assert rate(text)[0] == "SEMI_SENSITIVE"


def test_severities_combine_by_noisy_or_over_distinct_values():
    one = scan_text("my password is hunter2").score
    two = scan_text("my password is hunter2 and my PIN is 4821").score
    assert one == 0.75
    assert two == pytest.approx(1 - 0.25 * 0.25)
    assert scan_text("my password is hunter2. Again: my password is hunter2").score == 0.75


def test_a_mention_of_a_value_or_of_its_part_does_not_count_again():
    text = "My name is Ann Lee. What did ANN LEE say, and Ann?"
    assert len(scan_text(text).spans) == 3
    assert scan_text(text).score == scan_text("My name is Ann Lee.").score == 0.5
    assert scan_text("My name is Ann Lee, my son is called Bo").score == 0.75


def test_a_checksum_valid_identifier_has_a_floor_near_one():
    assert scan_text("4111 1111 1111 1111").score >= 0.98
    assert score_of([Span(0, 1, "PAYMENT_CARD", 0.1)]) == 0.98


def test_every_copy_of_a_value_is_a_span():
    text = "My password is hunter2. Who else uses hunter2 as a password? Not hunter2again."
    spans = [(span.start, span.end) for span in scan_text(text).spans]
    assert spans == [(i, i + 7) for i in (15, 38, 65)]


def test_too_many_values_to_track_make_the_text_private():
    many = " ".join(f"u{i}@example.com" for i in range(100))
    assert rate(f"{many}. What is Python?")[0] == "PRIVATE"
    assert len(scan_text(many).spans) == 100


def test_overlapping_finds_become_one_span_of_the_worse_kind():
    text = "my password is bob@example.com"
    (span,) = scan_text(text).spans
    assert (text[span.start : span.end], span.kind) == ("bob@example.com", "SECRET")


def test_offsets_count_code_points():
    text = "\U0001f600\u0065\u0301 \ud55c\uad6d my password is hunter2\U0001f600?"
    (span,) = scan_text(text).spans
    assert text[span.start :].startswith("hunter2")


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_gives_ordered_disjoint_spans_inside_it(text):
    result = scan_text(text)
    assert 0.0 <= result.score <= 1.0
    assert (result.level == "PUBLIC") == (not result.spans and not result.topics)
    assert (result.level == "PUBLIC") == (result.score == 0.0)
    end = 0
    for span in result.spans:
        assert end <= span.start < span.end <= len(text)
        end = span.end


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_text_around_a_secret_never_hides_it(before, after):
    text = f"{before}\nmy password is hunter2\n{after}"
    at = len(before) + len("\nmy password is ")
    covered = [s for s in scan_text(text).spans if s.start <= at and s.end >= at + 7]
    assert len(covered) == 1


def test_a_failing_recogniser_is_an_error_and_not_a_public_text():
    def broken(text):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        scan_text("What is Python?", [Recognizer("SECRET", 0.75, 0.0, broken)])


spans = st.builds(
    Span,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from(ENTITY_KINDS),
    st.floats(0, 1),
    st.sampled_from(SOURCES),
)


@given(st.lists(spans, max_size=20))
def test_spans_survive_the_wire(made):
    assert unpack_spans(pack_spans(made)) == tuple(made)


def test_broken_span_records_are_refused():
    packed = pack_spans([Span(0, 1, "EMAIL", 0.5)])
    with pytest.raises(ValueError, match="records"):
        unpack_spans(packed[:-1])
    packed[8] = 99
    with pytest.raises(ValueError, match="entity"):
        unpack_spans(packed)


def test_a_verdict_survives_the_wire():
    for topics in ((), TOPICS[:1], TOPICS[-1:], TOPICS):
        for reason in REASONS:
            for back in (False, True):
                made = ScanResult("PRIVATE", 0.5, (), topics, reason, back)
                assert unpack_verdict(pack_verdict(made)) == (topics, reason, back)
                assert pack_verdict(made) < 2**64


@pytest.mark.parametrize("word", [len(REASONS) << 8, 1 << (16 + len(TOPICS)), 2**64 - 1])
def test_an_unknown_reason_or_topic_is_refused(word):
    with pytest.raises((ValueError, IndexError)):
        unpack_verdict(word)


def test_results_hold_no_text():
    told = {"topics", "reason", "refers_back"}
    assert set(ScanResult.__slots__) == {"level", "score", "spans"} | told
    assert set(Span.__slots__) == {"start", "end", "kind", "severity", "source"}
