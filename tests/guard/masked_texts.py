"""Hypothesis strategies of texts that are hard to mask, and a vault session to mask them in."""

from hypothesis import strategies as st

from tee_sim.guard.masking import mask
from tee_sim.guard.vault import Vault
from tee_sim.memory import Budget
from tee_sim.scan_result import ENTITY_KINDS, Span

USER = bytes(16)
PRIVATE = (
    "my name is Ann Lee",
    "ANN LEE",
    "Ann",
    "Dr. Kim at 010-1234-5678",
    "ann.lee@mail.com",
    "4111 1111 1111 1111",
    "my password is hunter2!",
    "about my HIV test",
    "GB82 WEST 1234 5698 7654 32",
    "\uc81c \uc774\ub984\uc740 \uae40\ubbfc\uc218\uc785\ub2c8\ub2e4",
    "born on 1985-03-12",
    "I live in Berlin",
)
ALIKE = (
    *("[PERSON_1]", "[person_2b]", "PERSON_1", "PERSON 1", "Person 1", "{{EMAIL_1}}", "<PHONE_1>"),
    *("(DATE OF BIRTH 1)", r"\[PERSON\_1\]", "[PERSON_1's]", "PERSON_1s", "[TEXT_1]", "[TEXT_2]"),
    *("\uff3bPERSON\uff3f\uff11\uff3d", "&lt;PERSON_1&gt;", "[[PERSON_1]]", "[PERSON_", "1]"),
    *("[", "]", "\\", "{", "}}", "<", "(", "_", "1", "s", "'s", "PERSON", "_1", "Maria", "PERSON_"),
)
MARKS = (
    *("e\u0301", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1f0\U0001f1f7", "\u200b"),
    *("\u05e9\u05dc\u05d5\u05dd", "\u202eabc\u202c", "\u0915\u094d\u0937", "\0", "\n", " ", ". "),
    *("\ufeff", "\u00df", "\u0130", "\u1100\u1161\u11a8", "\U0001d400", ", ", "\r\n"),
)
piece = st.one_of(
    st.sampled_from(ALIKE),
    st.sampled_from(PRIVATE),
    st.sampled_from(MARKS),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=6),
)
texts = st.lists(piece, max_size=12).map("".join)


@st.composite
def spanned(draw):
    """A text, and spans anywhere in it: also where no rule would find any."""
    text = draw(texts)
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=8, unique=True).map(sorted))
    kinds = st.sampled_from(ENTITY_KINDS)
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    return text, [Span(low, high, draw(kinds), 0.5) for low, high in pairs]


def session(ttl_s=60):
    """A session of a vault of its own, whose draws are always the same."""
    held = Vault(Budget()).open(USER, ttl_s)
    held.key[:] = bytes(range(32))
    return held


def masked(held, text, spans, style="placeholder"):
    return mask(held, text, spans, style).text
