"""Disguised values: how much of each stays masked under 26 ways to write it differently."""

import base64
import codecs
import random
import urllib.parse

import pytest

from tee_sim.guard.numbers import is_card, is_nanp, is_ssn
from tee_sim.guard.scoring import scan_text

FIRST = "James Mary Robert Patricia John Linda Michael Jennifer David Barbara".split()
LAST = "Smith Johnson Brown Garcia Miller Davis Lopez Wilson Anderson Taylor".split()
FRAMES = {
    "name": ("My name is {}.", "My neighbor {} is sick.", "Please call {} at noon."),
    "email": ("My email is {}.", "Write to {} please."),
    "phone": ("Call me at {}.", "You can reach me on {} tonight."),
    "ssn": ("My SSN is {}.", "social security number: {}"),
    "card": ("Charge {} please.", "My card is {}."),
}


def drawn(seed=11):
    """Twelve values of each kind, each in one of its frames."""
    rng = random.Random(seed)

    def digits(n):
        return "".join(rng.choice("0123456789") for _ in range(n))

    def until(make, valid):
        while not valid(value := make()):
            pass
        return value

    cases = []
    for i in range(12):
        first, last = rng.choice(FIRST), rng.choice(LAST)
        phone = until(lambda: rng.choice("23456789") + digits(9), is_nanp)
        ssn = until(lambda: digits(9), is_ssn)
        card = until(lambda: "4" + digits(15), is_card)
        values = {
            "name": f"{first} {last}",
            "email": f"{first}.{last}{i}@mail{i}.example.org".lower(),
            "phone": f"{phone[:3]}-{phone[3:6]}-{phone[6:]}",
            "ssn": f"{ssn[:3]}-{ssn[3:5]}-{ssn[5:]}",
            "card": " ".join(card[j : j + 4] for j in range(0, 16, 4)),
        }
        cases += [(kind, v, FRAMES[kind][i % len(FRAMES[kind])]) for kind, v in values.items()]
    return cases


WORDS = "zero one two three four five six seven eight nine".split()
CYRILLIC = str.maketrans(
    "aeopcxyisABEKMHOPCTX",
    "\u0430\u0435\u043e\u0440\u0441\u0445\u0443\u0456\u0455\u0410"
    "\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425",
)
LEET = str.maketrans("aeiostAEIOST", "431057431057")


def numeric(value):
    return "@" not in value and any(c.isdigit() for c in value)


def each(change):
    return lambda value: "".join(map(change, value))


def math_bold(char):
    for first, start in (("a", 0x1D41A), ("A", 0x1D400), ("0", 0x1D7CE)):
        if ord(first) <= ord(char) < ord(first) + (10 if first == "0" else 26):
            return chr(start + ord(char) - ord(first))
    return char


def spelled(value):
    if numeric(value):
        return " ".join(WORDS[int(c)] for c in value if c.isdigit())
    return value.replace("@", " at ").replace(".", " dot ")


def dotted(value):
    if "@" in value:
        return value.replace("@", " (at) ").replace(".", " [dot] ")
    return value.replace("-", ".").replace(" ", ".")


ATTACKS = {
    "none": str,
    "zero width": "\u200b".join,
    "invisible": "\u00ad\u2060".join,
    "fullwidth": each(lambda c: chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c),
    "cyrillic": lambda v: v.translate(CYRILLIC),
    "math bold": each(math_bold),
    "struck through": each(lambda c: c + "\u0336"),
    "spelled out": spelled,
    "spaced": lambda v: "  ".join(" ".join(word) for word in v.split(" ")),
    "leet": lambda v: v.translate(LEET),
    "letters for digits": lambda v: v.translate(str.maketrans("015", "OIS")) if numeric(v) else v,
    "base64": lambda v: base64.b64encode(v.encode()).decode(),
    "base64 url": lambda v: base64.urlsafe_b64encode(v.encode()).decode().rstrip("="),
    "hex": lambda v: v.encode().hex(),
    "percent": lambda v: "".join(f"%{b:02X}" for b in v.encode()),
    "url": lambda v: urllib.parse.quote(v, safe=""),
    "html": each(lambda c: f"&#{ord(c)};"),
    "dots": dotted,
    "newline": lambda v: v[: len(v) // 2] + "\n" + v[len(v) // 2 :],
    "lower": str.lower,
    "upper": str.upper,
    "rot13": lambda v: codecs.encode(v, "rot13"),
    "reversed": lambda v: v[::-1],
    "slashes": lambda v: v.replace("-", "/").replace(" ", "/") if numeric(v) else v,
    "arabic digits": each(lambda c: chr(0x660 + int(c)) if c.isdigit() else c),
    "keycaps": each(lambda c: c + "\ufe0f\u20e3" if c.isdigit() else c),
}


def masked_share(value, frame):
    text, at = frame.format(value), frame.index("{}")
    covered = {i for span in scan_text(text).spans for i in range(span.start, span.end)}
    wanted = [i for i in range(at, at + len(value)) if text[i].isalnum()]
    return sum(i in covered for i in wanted) / len(wanted)


@pytest.mark.parametrize("attack", ATTACKS)
def test_disguised_values_stay_masked(attack):
    shares = {}
    for kind, value, frame in drawn():
        shares.setdefault(kind, []).append(masked_share(ATTACKS[attack](value), frame))
    means = {kind: sum(each) / len(each) for kind, each in shares.items()}
    structured = [mean for kind, mean in means.items() if kind != "name"]
    assert sum(structured) / 4 >= 0.95, means
    assert min(structured) >= 0.85 and means["name"] >= 0.8, means


@pytest.mark.parametrize(
    "text",
    [
        "p\u0430ssw\u043erd: hunter2",
        "my p4ssw0rd is hunter2",
        "bXkgcGFzc3dvcmQgaXMgaHVudGVyMg==",
        "my password is aHVudGVyMjJzZWNyZXQ=",
        "m\u0443 \u0440assword is hunter2",
        "zl cnffjbeq vf uhagre2",
        "2retnuh si drowssap ym",
        "\uff4d\uff59 \uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44 is hunter2",
        "My 5\u200b36-2\u200b2-12\u200b34 is my SSN",
        "call me at two one two five five five oh one two three",
        "\uc81c \ubc88\ud638\ub294 \uacf5\uc77c\uacf5 \uc77c\uc774\uc0bc\uc0ac \uc624"
        "\uc721\uce60\ud314\uc774\uc5d0\uc694",
    ],
)
def test_disguised_sentences_are_private(text):
    assert scan_text(text).level == "PRIVATE"


@pytest.mark.parametrize(
    "text",
    [
        "Decode this base64: SGVsbG8gd29ybGQh",
        "What does 48656c6c6f mean in hex?",
        "Translate \u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440 into English",
        "Spell one two three four five six seven eight nine ten in French",
        "Sort 5 3 8 1 9 2 7 4 6",
        "Numbers:\n12\n15\n18\n21\n24",
        "What is uryyb in rot13?",
        "Is 'racecar' a palindrome when reversed?",
        "h e l l o  w o r l d",
        "URL-encode a b: a%20b",
        "\U0001d4af\U0001d4bd\U0001d4be\U0001d4c8 is a font",
        "C-3PO and R2-D2",
    ],
)
def test_codes_and_fonts_without_a_value_are_public(text):
    assert scan_text(text).spans == ()


def test_a_disguise_far_into_a_text_is_masked_where_it_stands():
    text = "It rained for days. " * 40 + "write to j\u200bohn@mail.com now. " + "It rained. " * 40
    (span,) = scan_text(text).spans
    assert text[span.start : span.end] == "j\u200bohn@mail.com"


def test_a_decoded_hit_masks_the_whole_code():
    text = "see bXkgcGFzc3dvcmQgaXMgaHVudGVyMg== ok"
    (span,) = scan_text(text).spans
    assert text[span.start : span.end] == "bXkgcGFzc3dvcmQgaXMgaHVudGVyMg=="


def test_a_span_ends_after_the_marks_of_its_last_letter():
    text = "My name is Jose\u0301."
    (span,) = scan_text(text).spans
    assert text[span.start : span.end] == "Jose\u0301"
