"""Views: other readings of a text, each with a map back to the characters it was made from."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tee_sim.guard.normalise.decode import decode_edits, looks_backward, looks_rotated
from tee_sim.guard.normalise.fold import fold_edits
from tee_sim.guard.normalise.view import View, whole_clusters
from tee_sim.guard.normalise.views import views

PIECES = st.sampled_from(
    [
        *("my password is ", "hunter2", "five three six two ", "j o h n ", "%41%42", "am9obkBh"),
        *(
            "&#65;",
            "\u0430\u0435",
            "\uff11\uff12",
            "e\u0301",
            "\u200b",
            "\U0001f468\u200d\U0001f469",
        ),
        *(
            "\u05d0\u05d1",
            "\u202e",
            "\ud55c\uae00",
            "\u1112\u1161\u11ab",
            "1/2/3 4",
            "a@b",
            "\n",
            " at ",
        ),
        *(
            "dot com",
            "p4ss",
            "\uacf5\uc77c\uacf5",
            "=41",
            "6a6f686e",
            "\u2460",
            "\u00bd",
            "\U0001d552",
        ),
    ]
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=14).map("".join),
)


@settings(deadline=None)
@given(TEXTS)
def test_maps_stay_inside_the_text_and_never_go_back(text):
    for view in views(text):
        assert len(view.text) == len(view.starts) == len(view.ends)
        assert all(0 <= s < e <= len(text) for s, e in zip(view.starts, view.ends, strict=True))
        for ends_of_map in (list(view.starts), list(view.ends)):
            assert ends_of_map in (sorted(ends_of_map), sorted(ends_of_map, reverse=True))


@settings(deadline=None)
@given(st.text(max_size=12), st.data())
def test_an_edited_view_is_what_a_list_of_characters_with_their_ranges_gives(text, data):
    view = View.identity(text)
    plain = [(char, i, i + 1) for i, char in enumerate(text)]
    for _ in range(2):
        length = len(view.text)
        cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=6)))
        pairs = zip(cuts[::2], cuts[1::2], strict=False)
        edits = [(a, b, data.draw(st.text(max_size=3))) for a, b in pairs if a < b]
        edited = view.edited(edits)
        for a, b, new in reversed(edits):
            if "".join(char for char, _, _ in plain[a:b]) != new:
                low, high = plain[a][1], plain[b - 1][2]
                plain[a:b] = [(char, low, high) for char in new]
        assert list(zip(edited.text, edited.starts, edited.ends, strict=True)) == plain
        view = edited


@settings(deadline=None)
@given(TEXTS)
def test_no_view_is_given_twice_in_a_row(text):
    texts = [view.text for view in views(text)]
    assert texts[0] == text
    assert all(a != b for a, b in zip(texts[2:], texts[1:], strict=False))


@settings(deadline=None)
@given(st.text(alphabet="abcdefgh ,.?!'", max_size=80))
def test_plain_prose_keeps_its_length(text):
    assert list(fold_edits(text)) == []
    assert next(views(text)).text == text


@pytest.mark.parametrize(
    "text",
    [
        "What is Python?",
        "Explain how a hash table works, and when to use one.",
        "The meeting is on 2024-01-15 at 10:30, in room 204.",
        "Write a poem about the sea in the style of a sonnet.",
        "\ud30c\uc774\uc36c\uc774 \ubb50\uc57c?",
        "Qu\u2019est-ce que l\u2019\u00e9t\u00e9 ? Un caf\u00e9, s\u2019il vous pla\u00eet.",
    ],
)
def test_plain_text_has_one_view(text):
    assert [view.text for view in views(text)] == [text]


@settings(deadline=None)
@given(TEXTS, st.data())
def test_windows_hold_all_that_is_new(text, data):
    for view in views(text):
        reach = data.draw(st.integers(1, 30))
        spans = list(view.windows(reach))
        assert all(0 <= low <= high <= len(view.text) for low, high in spans)
        for start, end in view.fresh or [(0, len(view.text))]:
            assert any(low <= start and end <= high for low, high in spans)


def test_windows_far_apart_are_scanned_by_themselves():
    text = "a\u200bb " + "word " * 60 + "c\u200bd"
    (view,) = (v for v in views(text) if v.fresh is not None)
    first, second = view.windows(20)
    assert first[1] < 60 and second[0] > len(view.text) - 60


EXAMPLES = [
    ("zero width", "jo\u200bhn\u2060@mail.com", "john@mail.com"),
    ("soft hyphen", "jo\u00adhn@mail.com", "john@mail.com"),
    ("fullwidth", "\uff4a\uff4f\uff48\uff4e\uff20mail.com", "john@mail.com"),
    ("cyrillic", "j\u043ehn@m\u0430il.com", "john@mail.com"),
    ("greek", "j\u03bfhn@mail.com", "john@mail.com"),
    ("math", "\U0001d423\U0001d428\U0001d421\U0001d427@mail.com", "john@mail.com"),
    ("struck through", "j\u0336o\u0336h\u0336n\u0336@mail.com", "john@mail.com"),
    ("overloaded accents", "\u0135\u00f6\u0125\u00f1@mail.com", "john@mail.com"),
    ("squared letters", "\U0001f139OHN", "JOHN"),
    ("arabic digits", "\u0665\u0663\u0666", "536"),
    ("keycaps", "5\ufe0f\u20e33\ufe0f\u20e3", "53"),
    ("circled digits", "\u2464\u2462\u2465", "536"),
    ("hangul in parts", "\u1112\u1161\u11ab\u1100\u1173\u11af", "\ud55c\uae00"),
    ("base64", "am9obkBtYWlsLmNvbQ==", "john@mail.com"),
    ("base64 without padding", "am9obkBtYWlsLmNvbQ", "john@mail.com"),
    ("base64 twice", base64.b64encode(b"am9obkBtYWlsLmNvbQ==").decode(), "john@mail.com"),
    ("base32", base64.b32encode(b"john@mail.com").decode(), "john@mail.com"),
    ("hex", "6a6f686e406d61696c2e636f6d", "john@mail.com"),
    ("spaced hex", "6a 6f 68 6e 40 6d 61 69 6c 2e 63 6f 6d", "john@mail.com"),
    ("hex of digits", "3533362d32322d31323334", "536-22-1234"),
    ("binary", "01101010 01101111 01101000 01101110", "john"),
    ("percent", "john%40mail%2Ecom", "john@mail.com"),
    ("entities", "john&#64;mail&#x2e;com", "john@mail.com"),
    ("named entities", "john&commat;mail&period;com", "john@mail.com"),
    ("escapes", "john\\u0040mail.com", "john@mail.com"),
    ("quoted-printable", "john=40mail.com", "john@mail.com"),
    ("spoken address", "john at mail dot com", "john@mail.com"),
    ("brackets", "john (at) mail [dot] com", "john@mail.com"),
    ("korean at", "john\uace8\ubc45\uc774mail.com", "john@mail.com"),
    ("cut address", "john.doe\n42@mail.com", "john.doe42@mail.com"),
    ("spaced", "j o h n @ m a i l . c o m", "john@mail.com"),
    ("wide gaps", "J o h n   S m i t h", "John Smith"),
    ("stitched", "j-o-h-n", "john"),
    ("words", "five three six two two one two three four", "536-22-1234"),
    ("double", "two one two, triple five, oh one two three", "212-555-0123"),
    ("tens", "five thirty-six twenty-two twelve thirty-four", "536-22-1234"),
    (
        "korean words",
        "\uacf5\uc77c\uacf5 \uc77c\uc774\uc0bc\uc0ac \uc624\uc721\uce60\ud314",
        "010-1234-5678",
    ),
    ("slashes", "536/22/1234", "536-22-1234"),
    ("newlines", "536\n22\n1234", "536-22-1234"),
    ("letters for digits", "5S6-22-I234", "556-22-1234"),
    ("leet", "p4ssw0rd", "password"),
    ("small letters", "call john smith", "call John Smith"),
    ("hashes", "j#o#h#n#@#m#a#i#l#.#c#o#m", "john@mail.com"),
    ("brackets", "(5)(3)(6)-(2)(2)", "536-22"),
    ("pictures", "536\U0001f600-22-1234", "536-22-1234"),
    ("sums of strings", "john@ma' + 'il.com", "john@mail.com"),
    ("french digits", "cinq trois six deux deux un deux trois quatre", "536-22-1234"),
    ("german digits", "f\u00fcnf drei sechs zwei zwei eins zwei drei vier", "536-22-1234"),
    ("mixed case", "jAmEs sMiTh", "James Smith"),
    ("reversed name", "erooM nhoJ", "John Moore"),
]


@pytest.mark.parametrize("text,plain", [row[1:] for row in EXAMPLES], ids=[r[0] for r in EXAMPLES])
def test_a_disguise_is_undone_in_some_view(text, plain):
    readings = {view.text for view in views(text)}
    assert plain in readings and plain != text


@pytest.mark.parametrize(
    "text",
    ["Zl anzr vf Wbua", "wbua@znvy.pbz", "nhoJ si eman yM", "moc.liam@nhoj"],
)
def test_whole_texts_in_rot13_or_backwards_are_read(text):
    readings = [view.text.lower() for view in views(text)]
    assert any("my name is john" in r or "john@mail.com" in r for r in readings)


@pytest.mark.parametrize("text", ["What is Python?", "The end of the poem", "Barg, anq fb ba"])
def test_ordinary_text_is_not_taken_for_rot13_or_reversed(text):
    assert not looks_rotated(text) and not looks_backward(text)


@pytest.mark.parametrize(
    "text",
    [
        "one two three four five six seven eight",
        "3.14159265358979",
        "1,234,567,890",
        "password",
        "deadbeef",
    ],
)
def test_counting_decimals_and_words_stay_as_they_are(text):
    assert [view.text for view in views(text)] == [text]


def test_a_hit_in_code_covers_all_of_the_code():
    view = View.identity("see am9obkBtYWlsLmNvbQ== ok").edited(
        decode_edits("see am9obkBtYWlsLmNvbQ== ok")
    )
    at = view.text.index("@")
    assert view.original(at, at + 1) == (4, 24)


def test_an_edit_inside_an_earlier_one_is_left_out():
    view = View.identity("abcdef").edited([(1, 4, "X"), (2, 3, "Y"), (4, 5, "Z")])
    assert view.text == "aXZf" and view.fresh == ((1, 2), (2, 3))
    assert [view.original(i, i + 1) for i in range(4)] == [(0, 1), (1, 4), (4, 5), (5, 6)]


def test_edits_that_change_nothing_give_the_same_view():
    view = View.identity("abc")
    assert view.edited([(0, 1, "a")]) is view


def test_a_reversed_view_maps_both_ends():
    view = View.identity("abc").reversed()
    assert view.text == "cba" and view.original(0, 2) == (1, 3)


@pytest.mark.parametrize(
    "text,start,end,whole",
    [
        ("e\u0301a", 0, 1, (0, 2)),
        ("e\u0301a", 1, 2, (0, 2)),
        ("\U0001f468\u200d\U0001f469x", 0, 1, (0, 3)),
        ("\U0001f44d\U0001f3fd!", 0, 1, (0, 2)),
        ("ab", 0, 1, (0, 1)),
        ("x\ufe0fy", 0, 1, (0, 2)),
    ],
)
def test_clusters_are_covered_whole(text, start, end, whole):
    assert whole_clusters(text, start, end) == whole


@settings(deadline=None)
@given(st.text(max_size=40), st.data())
def test_widening_never_shrinks_or_leaves_the_text(text, data):
    if not text:
        return
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    low, high = whole_clusters(text, start, end)
    assert 0 <= low <= start < end <= high <= len(text)
