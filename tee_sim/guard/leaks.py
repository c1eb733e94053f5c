"""Whether what is about to leave the device holds a value of a session, or something private.

A value of five characters or more is looked for in any text: as it is, folded (NFKD without marks,
look-alike letters, case), spaced out, and by its digits. Shorter ones, and those with fewer letters
and digits spaced out, count as whole words, in text alone.
"""

import re
import unicodedata
from collections.abc import Iterable

from tee_sim.guard.normalise.fold import fold_edits
from tee_sim.guard.normalise.view import View
from tee_sim.guard.restoring import find_fills
from tee_sim.guard.vault import Session
from tee_sim.placeholders import ESCAPED, fold, shapes
from tee_sim.scan_result import Span

LONG = 5
_SEPARABLE = 8  # letters and digits of a value that is found however it is cut
_SPACED = re.compile(r"(?<![^\W_])[^\W_](?:[\W_]{1,4}[^\W_](?![^\W_]))+")
_GROUPED = re.compile(r"(?<=\d)[\W_]{1,3}(?=\d)")
_NO_LETTER = re.compile(r"[\W_]+")
_NO_DIGIT = re.compile(r"\D+")


def find_held(session: Session, text: str, *, words: bool) -> str | None:
    """Return the kind of a value of the session that a text holds, or None.

    Args:
        session: whose values.
        text: any string.
        words: it is text, so values shorter than five characters count as well.
    """
    plain, flat = text.casefold(), _flat(text)
    spaced = _SPACED.sub(lambda match: _NO_LETTER.sub("", match[0]), flat)
    bare, digits = _NO_LETTER.sub("", flat), _GROUPED.sub("", flat)
    for token, entry in session.entries.items():
        value = entry.value.decode("utf-8")
        if token.kind == ESCAPED and _is_shape(value):
            continue  # it only looks like a placeholder, which may stand there
        own, form = value.casefold(), _flat(value)
        letters, number = _NO_LETTER.sub("", form), _NO_DIGIT.sub("", form)
        sought = (
            *((value, text, 1), (own, plain, 1), (" ".join(own), plain, 1), (form, flat, 1)),
            *((letters, spaced, LONG), (letters, bare, _SEPARABLE), (number, digits, LONG)),
        )
        found = len(value) >= LONG and any(len(w) >= least and w in t for w, t, least in sought)
        if words and min(len(value), len(letters)) < LONG:
            found = found or _stands(own, plain) or _stands(form, flat) or _spread(form, flat)
        if found:
            return token.kind
    return None


def find_private(session: Session, text: str, spans: Iterable[Span]) -> str | None:
    """Return the kind of the first span that is more than what this session put there, or None.

    Args:
        session: whose placeholders and surrogates are none of its values.
        text: what was scanned.
        spans: what the scan found.
    """
    own = bytearray(len(text))
    for fill in find_fills(session.stand_ins, text, fold(text)):
        if fill.stand_in is not None or fill.token in session.entries:
            own[fill.start : fill.end] = b"\1" * (fill.end - fill.start)
    for span in spans:
        if any(text[i].isalnum() and not own[i] for i in range(span.start, span.end)):
            return span.kind
    return None


def _flat(text: str) -> str:
    plain = View.identity(unicodedata.normalize("NFKD", text))
    return plain.edited(fold_edits(plain.text)).text.casefold()


def _is_shape(value: str) -> bool:
    return any(s.end - s.start == len(value) for s in shapes(value, fold(value)))


def _spread(word: str, text: str) -> bool:
    """Whether a word stands in a text with signs between its letters."""
    letters = r"[\W_]{1,4}".join(map(re.escape, _NO_LETTER.sub("", word)))
    end = "" if "\uac00" <= word[-1:] <= "\ud7a3" else r"(?![^\W_])"
    return bool(letters) and re.search(rf"(?<![^\W_]){letters}{end}", text) is not None


def _stands(word: str, text: str) -> bool:
    """Whether a word stands in a text by itself; particles follow a Korean one."""
    end = "" if "\uac00" <= word[-1:] <= "\ud7a3" else r"(?!\w)"
    return bool(word) and re.search(rf"(?<!\w){re.escape(word)}{end}", text) is not None
