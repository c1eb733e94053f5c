"""unmask(mask(x)) == x, for every text, whole and in pieces (invariant I6)."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from masked_texts import ALIKE, PRIVATE, masked, session, spanned, texts

from tee_sim.guard.masking import mask
from tee_sim.guard.restoring import unmask
from tee_sim.guard.scoring import scan_text
from tee_sim.placeholders import begun, fold, shapes
from tee_sim.scan_result import STYLES, Span

EXACT = ("placeholder", "surrogate")
CONVERSATION = " ".join(PRIVATE)
SLOW = (pytest.mark.slow, pytest.mark.timeout(1800))
# However fast the machine is and whatever else runs on it
ALIKE_EVERYWHERE = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow],
}


def in_pieces(held, text, cuts):
    """Unmask as the client does with a stream cut at these places."""
    ready, before, kept = [], "", ""
    for low, high in zip([0, *cuts], [*cuts, len(text)], strict=True):
        whole = before + kept + text[low:high]
        out, used = unmask(held, whole, context=len(before), final=False)
        assert len(whole) - used <= 160
        ready.append(out)
        before, kept = whole[:used][-1:], whole[used:]
    out, used = unmask(held, before + kept, context=len(before), final=True)
    assert used == len(before + kept)
    return "".join([*ready, out])


def for_each(count, strategy, check):
    """Have Hypothesis check so many cases."""
    settings(max_examples=count, **ALIKE_EVERYWHERE)(given(strategy)(check))()


def tiers(fast, slow):
    return pytest.mark.parametrize(
        "count",
        [pytest.param(fast, id="sample"), pytest.param(slow, id="all", marks=SLOW)],
    )


@tiers(200, 10_000)
@pytest.mark.parametrize("style", EXACT)
def test_what_the_rules_mask_comes_back_exactly(style, count):
    def check(text):
        held = session()
        shown = masked(held, text, scan_text(text).spans, style)
        assert unmask(held, shown)[0] == text

    for_each(count, texts, check)


@tiers(250, 10_000)
@pytest.mark.parametrize("style", EXACT)
def test_spans_anywhere_come_back_exactly_also_after_later_turns(style, count):
    @example((("AnnPERSON_1", [Span(0, 3, "PERSON", 0.5)]), ("PERSON_2", [])))
    @example((("[Ann]", [Span(1, 4, "PERSON", 0.5)]), ("\\Ann\\", [])))
    @example((("xAnn Lee1", [Span(1, 8, "PERSON", 0.5)]), ("", [])))
    def check(turns):
        held = session()
        shown = [masked(held, text, spans, style) for text, spans in turns]
        assert unmask(held, shown[1])[0] == turns[1][0]
        if style == "placeholder":
            assert unmask(held, shown[0])[0] == turns[0][0]

    for_each(count, st.tuples(spanned(), spanned()), check)


@settings(max_examples=150, **ALIKE_EVERYWHERE)
@given(case=spanned())
def test_a_masked_text_shows_no_value_at_its_place(case):
    text, spans = case
    held = session()
    done = mask(held, text, spans, "placeholder")
    shown = [done.text[low:high] for low, high in done.places]
    assert len(shown) == len(spans)
    for place, span in zip(shown, spans, strict=True):
        found = list(shapes(place, fold(place)))
        assert [(s.start, s.end) for s in found] == [(0, len(place))]
        assert text[span.start : span.end] in held.value(found[0].token)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=80, **ALIKE_EVERYWHERE)
@given(words=st.lists(st.sampled_from(["(", "_1", "[PERSON", "Ann", " ", "+", "'"]), max_size=5))
@example(words=["(DATE OF BIRTH 1", "Ann", ")"])
def test_no_style_shows_a_value_whatever_stands_around_it(style, words):
    around = "".join(words)
    text = f"{around}(Xanthippe Quux){around}'+82-10-9876-5432'{around}"
    at = [text.index("(Xan"), text.index("'+82")]
    spans = [Span(at[0], at[0] + 16, "PERSON", 0.5), Span(at[1], at[1] + 18, "PHONE", 0.6)]
    shown = masked(session(), text, spans, style)
    assert not any(word in shown for word in ("Xanth", "Quux", "9876", "5432"))


@tiers(120, 3_000)
@pytest.mark.parametrize("style", EXACT)
def test_a_stream_split_anywhere_is_what_the_whole_is(style, count):
    held = session()
    masked(held, CONVERSATION, scan_text(CONVERSATION).spans, style)
    known = [entry.stand_in for entry in held.entries.values() if entry.stand_in]
    tokens = [str(token) for token in held.entries]
    part = st.one_of(
        st.sampled_from([*tokens, *known, *[token.lower() for token in tokens]]),
        st.sampled_from([token[1:-1] for token in tokens]),
        st.sampled_from(ALIKE),
        st.text("PERSON_1[]{}<>()\\ -s'a", max_size=8),
    )

    def check(case):
        parts, cuts = case
        text = "".join(parts)
        whole = unmask(held, text)[0]
        assert in_pieces(held, text, sorted(cut % (len(text) + 1) for cut in cuts)) == whole
        assert in_pieces(held, text, list(range(len(text)))) == whole

    cuts = st.lists(st.integers(0, 400), max_size=12)
    for_each(count, st.tuples(st.lists(part, max_size=10), cuts), check)


@settings(max_examples=150, **ALIKE_EVERYWHERE)
@given(text=st.text("PERSONTEXTDATE_OFBIRTH12[]{}<>()\\ -s'&;ltg", max_size=40))
def test_what_begins_nothing_is_not_kept_back(text):
    """Nothing that more text makes a placeholder begins before the place that `begun` names."""
    folded = fold(text)
    place = begun(folded, 0, list(shapes(text, folded)))
    for more in ("_1]", "1]", "ERSON_1 ", "]", "}}", "S_1>", " 1)", "&gt;", "\\]", "gt;", "_1."):
        longer = text + more
        for shape in shapes(longer, fold(longer)):
            assert not (shape.start < place and shape.end > len(text))
