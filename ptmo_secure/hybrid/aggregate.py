"""Makes one answer of the device's part and the cloud's, in the order of the question.

The device's part is whole before the cloud's is shown, so that the cloud's can be held against it,
sentence by sentence, as it comes:

- a sentence that the device said already is left out;
- where both say something else of the same private thing ("Your appointment is ..."), the device's
  counts: it knows, and the cloud guessed from a placeholder.

Where a link may be open nothing is left out: one that lost its end would take in what follows.

Nothing is added, so an answer never says more than its parts do, and it goes to the user alone.
"""

import re
import unicodedata

from ptmo_secure.hybrid.links import Links
from ptmo_secure.privacy.splitting import pieces, sentence_cuts

ALIKE = 0.85  # share of common words from which two sentences say the same
_MIN_WORDS = 4  # of a sentence that counts as said twice by its words alone
_MAX_HELD = 4000  # characters of one sentence that are kept back while it comes
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_CLAIM = re.compile(
    r"(?P<whose>your|my|his|her|their|our)\s+(?P<thing>[^.,;:!?\n]{1,80}?)\s+"
    r"(?:is|are|was|were|will be|would be|has been|=)\s+(?P<what>[^\n]{1,200})",
    re.IGNORECASE,
)
_FENCE = "```"
_STOPS = frozenset("the a an of to at in on for and is are was were will be".split())


class Merger:
    """Filters a cloud's answer, which comes in pieces, by what the device said.

    Args:
        local: the device's part; "" filters nothing.

    Attributes:
        repeated, overruled: sentences left out because they were said, or said otherwise.
    """

    def __init__(self, local: str) -> None:
        sentences = sentences_of(local)
        self._said = [_words(sentence) for sentence in sentences]
        self._claims = dict(filter(None, map(_claim, sentences)))
        self._held = ""
        self._fenced = False
        self._links = Links()
        self._left = self._gap = ""  # blanks: before what was left out, and since
        self.repeated = self.overruled = 0

    def feed(self, piece: str) -> str:
        """Take the next piece of the cloud's part; return the sentences that are certain."""
        if not self._said:
            return piece
        self._held += piece
        cuts = [cut for cut in sentence_cuts(self._held) if cut < len(self._held)]
        if not cuts and len(self._held) <= _MAX_HELD:
            return ""
        end = cuts[-1] if cuts else len(self._held)
        ready, self._held = self._held[:end], self._held[end:]
        return self._filtered(ready)

    def finish(self) -> str:
        """Return what is left of it."""
        rest, self._held = self._held, ""
        return self._filtered(rest) + self._apart()

    def _filtered(self, text: str) -> str:
        kept, at = [], 0
        for low, high in pieces(text, sentence_cuts(text)) if text.strip() else []:
            self._gap += text[at:low]
            if self._fits(text[low:high]):
                kept.append(self._followed(self._apart() + text[low:high]))
            else:
                self._left, self._gap = _wider(self._left, self._gap), ""
            at = high
        self._gap += text[at:]
        return "".join(kept)

    def _apart(self) -> str:
        """Return what stands before the next sentence: what is left out leaves its blank line."""
        blanks = _wider(self._left, self._gap)
        self._left = self._gap = ""
        return blanks

    def _followed(self, shown: str) -> str:
        for char in shown:
            self._links.take(char)
        return shown

    def _fits(self, sentence: str) -> bool:
        marks = sentence.count(_FENCE)
        if self._fenced or marks:  # code is never cut
            self._fenced ^= bool(marks % 2)
            return True
        if self._links.is_open:
            return True
        words = _words(sentence)
        if any(_alike(words, said) for said in self._said):
            self.repeated += 1
            return False
        claim = _claim(sentence)
        if claim is not None and not _agrees(claim[1], self._claims.get(claim[0], claim[1])):
            self.overruled += 1
            return False
        return True


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text."""
    return [text[low:high] for low, high in pieces(text, sentence_cuts(text))] if text else []


def joint(first: str, second: str) -> str:
    """Return what stands between two parts of an answer."""
    return "\n\n" if first.strip() and second.strip() else ""


def merged(local: str, cloud: str, *, local_first: bool) -> str:
    """Return both parts as one answer, when both are whole."""
    merger = Merger(local)
    told = merger.feed(cloud) + merger.finish()
    first, second = (local, told) if local_first else (told, local)
    return first.rstrip() + joint(first, second) + (second.strip() if first.strip() else second)


def _wider(some: str, other: str) -> str:
    """Return the blanks that set more apart."""
    return max(some, other, key=lambda blanks: (blanks.count("\n"), len(blanks)))


def _words(sentence: str) -> frozenset[str]:
    return frozenset(_WORD.findall(unicodedata.normalize("NFKC", sentence).casefold()))


def _alike(some: frozenset[str], others: frozenset[str]) -> bool:
    if some == others:
        return bool(some)
    if min(len(some), len(others)) < _MIN_WORDS:
        return False
    if {w for w in some ^ others if any(c.isdigit() for c in w)}:
        return False  # figures that differ make them say different things
    return len(some & others) / len(some | others) >= ALIKE


def _agrees(told: frozenset[str], known: frozenset[str]) -> bool:
    return told <= known or known <= told


def _claim(sentence: str) -> tuple[tuple[str, ...], frozenset[str]] | None:
    """Return whose what a sentence speaks of, and what it says of it; None for no such sentence."""
    match = _CLAIM.search(sentence)
    if match is None:
        return None
    thing = tuple(w.casefold() for w in _WORD.findall(match["thing"]))
    whose = match["whose"].casefold()
    what = _words(match["what"]) - _STOPS
    return ((whose, *thing), frozenset(what)) if thing and what else None
