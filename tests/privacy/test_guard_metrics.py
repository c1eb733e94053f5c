"""Each metric on examples worked out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.intervals import clopper_pearson, wilson
from ptmo_secure.privacy.metrics import Count, LevelCount, MaskCount, covered, percentile
from ptmo_secure.privacy.obfuscate import OBFUSCATIONS

TEXT = "Ana lives at 12 Elm St, Bath."
GOLD = ((0, 3, "PERSON"), (13, 28, "ADDRESS"))


def test_a_span_counts_as_masked_from_ninety_percent_of_its_letters_and_digits() -> None:
    text = "x" * 10 + " - " + "y" * 20
    gold = ((0, 10, "A"), (13, 33, "B"))
    count = MaskCount()
    assert count.add(text, gold, [(0, 9), (13, 30)]) == [(13, 33, "B")]  # 9 of 10, 17 of 20
    assert (count.spans.successes, count.spans.trials) == (1, 2)
    assert count.by_kind["A"].rate == 1.0
    assert count.by_kind["B"].rate == 0.0


def test_signs_inside_a_span_decide_nothing() -> None:
    count = MaskCount()
    # the letters and digits of "12 Elm St, Bath" in three pieces, without the comma
    missed = count.add(TEXT, GOLD, [(0, 3), (13, 15), (16, 22), (24, 28)])
    assert missed == []
    assert count.spans.rate == 1.0
    assert count.characters.rate == 1.0
    assert count.characters.trials == 3 + 2 + 5 + 4


def test_several_spans_may_cover_one_together_and_overlap() -> None:
    count = MaskCount()
    assert count.add("abcdefghij", ((0, 10, "X"),), [(0, 6), (4, 10)]) == []
    assert count.characters.trials == 10


def test_character_precision_is_the_share_of_masked_letters_that_are_gold() -> None:
    count = MaskCount()
    count.add(TEXT, GOLD, [(0, 9)])  # "Ana lives": 3 of 8 letters are gold
    assert count.characters.rate == 3 / 8
    assert count.spans.rate == 1 / 2


def test_a_span_without_letters_is_counted_over_all_of_its_characters() -> None:
    count = MaskCount()
    assert count.add("** ##", ((0, 2, "X"), (3, 5, "Y")), [(0, 2), (3, 4)]) == [(3, 5, "Y")]


@pytest.mark.parametrize("span", [(2, 2), (3, 1), (-1, 2), (0, 6)])
def test_a_range_outside_of_the_text_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="5 characters"):
        covered(5, [span])


def test_macro_f1_and_shares_of_a_known_confusion_matrix() -> None:
    count = LevelCount(("LOW", "MID", "HIGH"))
    for true, said, times in (
        *(("LOW", "LOW", 8), ("LOW", "MID", 2), ("MID", "MID", 5), ("MID", "LOW", 5)),
        *(("HIGH", "HIGH", 9), ("HIGH", "LOW", 1)),
    ):
        for _ in range(times):
            count.add(true, said)
    assert count.total == 30
    assert count.f1("LOW") == pytest.approx(16 / 24)  # said 14, true 10
    assert count.f1("MID") == pytest.approx(10 / 17)
    assert count.f1("HIGH") == pytest.approx(18 / 19)
    assert count.macro_f1 == pytest.approx((16 / 24 + 10 / 17 + 18 / 19) / 3)
    assert (count.share("HIGH", "LOW").successes, count.share("HIGH", "LOW").trials) == (1, 10)
    assert LevelCount(("A",)).f1("A") == 0.0
    with pytest.raises(ValueError, match="'WEIRD'"):
        count.add("LOW", "WEIRD")


def test_rates_and_intervals_of_counts() -> None:
    count = Count()
    assert (count.rate, count.ci95) == (0.0, (0.0, 1.0))
    for index in range(10):
        count.add(index < 5)
    assert count.rate == 0.5
    assert count.ci95 == pytest.approx((0.1871, 0.8129), abs=1e-4)  # R: binom.test(5, 10)


def test_intervals_agree_with_published_values() -> None:
    assert clopper_pearson(0, 299)[1] == pytest.approx(0.01226, abs=1e-5)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # Brown et al. 2001
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0, 0) == clopper_pearson(0, 0) == (0.0, 1.0)
    for interval in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match=r"0\.\.2"):
            interval(3, 2)
        with pytest.raises(ValueError, match="confidence"):
            interval(1, 2, 1.0)


@settings(deadline=None)
@given(st.integers(0, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_rate(pair: tuple[int, int]) -> None:
    successes, trials = pair
    for interval in (wilson, clopper_pearson):
        low, high = interval(successes, trials)
        rate = successes / trials if trials else 0.0
        assert 0.0 <= low <= rate + 1e-12
        assert rate - 1e-12 <= high <= 1.0


def test_percentiles_take_the_nearest_rank() -> None:
    values = [float(v) for v in range(1, 21)]
    assert percentile(values, 0.95) == 19.0
    assert percentile(values, 0.5) == 10.0
    assert percentile(values, 1.0) == 20.0
    assert percentile([3.0], 0.5) == 3.0
    for bad in ([], [1.0]):
        with pytest.raises(ValueError, match="percentile"):
            percentile(bad, 0.5 if not bad else 0.0)


EXPECTED = {
    "zero_width": "A\u200bn\u200ca\u2060@\u200b9\u200c.\u2060i\u200bo",
    "fullwidth": "\uff21\uff4e\uff41\uff20\uff19\uff0e\uff49\uff4f",
    "cyrillic": "\u0410n\u0430@9.\u0456\u043e",
    "math_bold": "\U0001d400\U0001d427\U0001d41a@\U0001d7d7.\U0001d422\U0001d428",
    "spelled_out": "Ana at nine dot io",
    "spaced": "A n a @ 9 . i o",
    "leet": "4n4@9.10",
    "base64": "QW5hQDkuaW8=",
    "hex": "416e6140392e696f",
    "rot13": "Nan@9.vb",
    "url_encoded": "Ana%409.io",
    "reversed": "oi.9@anA",
    "dotted": "Ana (at) 9 [dot] io",
    "newline_split": "Ana@\n9.io",
    "lower_case": "ana@9.io",
    "upper_case": "ANA@9.IO",
}


@pytest.mark.parametrize("name", OBFUSCATIONS)
def test_an_obfuscation_rewrites_the_span_and_nothing_else(name: str) -> None:
    text, (start, end) = OBFUSCATIONS[name]("mail Ana@9.io now", (5, 13))
    assert text.startswith("mail ")
    assert text.endswith(" now")
    assert (start, text[end:]) == (5, " now")
    if name in EXPECTED:
        assert text[start:end] == EXPECTED[name]
    else:  # marks stand after each letter, combined where Unicode has the letter
        assert name == "combining_marks"
        assert text[start:end] == "\u00c1\u1e47a\u0336@9\u0323.\u00ed\u1ecd"


def test_seventeen_obfuscations_and_numbers_in_words() -> None:
    assert len(OBFUSCATIONS) == len(EXPECTED) + 1 == 17
    phone = "(415) 555-01"
    assert OBFUSCATIONS["spelled_out"](phone, (0, len(phone)))[0] == (
        "four one five five five five zero one"
    )
    assert OBFUSCATIONS["spelled_out"]("Ana Ruiz", (0, 8))[0] == "Ana Ruiz"
    assert OBFUSCATIONS["dotted"]("4539 1488", (0, 9))[0] == "4.5.3.9.1.4.8.8"
    assert OBFUSCATIONS["dotted"]("Ana Ruiz", (0, 8))[0] == "Ana.Ruiz"
    assert OBFUSCATIONS["url_encoded"]("1-2 3", (0, 5))[0] == "1%2D2%203"
