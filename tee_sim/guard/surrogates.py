"""Surrogates: made-up values of the same type, in ranges reserved for that where there are any.

Drawn by the session's own PRF: the same within a session, unrelated between sessions. A value for
which none fits gets none, and its placeholder is shown.
"""

import re
from collections.abc import Callable

from tee_sim.guard.stand_ins import MAX_CHARS, StandIn, bare_word, core, words
from tee_sim.guard.surrogate_numbers import NUMBER_MAKERS, Digits
from tee_sim.guard.vault import Session
from tee_sim.guard.words import entries, pairs
from tee_sim.placeholders import Token, fold

_MOST_DRAWS = 24
_LEAST_CHARS = 6  # of a number: shorter ones stand in answers by chance
_TRIMMED = frozenset(" +().,'\"\u2019")
_TITLES = frozenset("DR MR MRS MS MX PROF SIR MADAM MISS".split())
_LISTS: dict[str, list[str]] = {}
for _list, _word in (entry.split("=", 1) for entry in entries("surrogate_words")):
    _LISTS.setdefault(_list, []).append(_word)
    _LISTS.setdefault(f"small {_list}", []).append(_word.lower())
_HASHES = 3
_BLANK = re.compile(r"\{([^}]+)\}")
_Maker = Callable[[Session, str, Digits], str]


def give_stand_in(session: Session, token: Token, value: str) -> str:
    """Return the surrogate of a value, drawn when it has none; "" if none fits.

    Security: what surrounds the letters and digits of a value stays, if it is a mark as in
    "+1 (555)"; else the value gets none.

    Args:
        session: which issued the token.
        token: of the value.
        value: as the token's spelling has it.
    """
    entry = session.entries[token]
    low, high = core(value)
    if entry.stand_in or high - low > MAX_CHARS or not low < high:
        return entry.stand_in
    if not _TRIMMED.issuperset(value[:low] + value[high:]):
        return ""
    make = _name if token.kind == "PERSON" else _MAKERS.get(token.kind)
    if make is None:
        return ""
    plain = value[low:high]
    for attempt in range(_MOST_DRAWS):
        drawn = make(session, plain, Digits(session.draw("surrogate", *token, attempt)))
        if drawn and _fits(session, token, plain, drawn):
            entry.stand_in = drawn
            session.stand_ins.add(StandIn(drawn, token))
            _add_name_words(session, token, value, plain, drawn)
            return drawn
    return ""


def note_words(session: Session, text: str) -> None:
    """Remember the words of a text, so that no later surrogate is made of them."""
    for word in set(words(fold(text))):
        for bit in _bits(session, word):
            session.seen[bit >> 3] |= 1 << (bit & 7)


def _bits(session: Session, word: str) -> list[int]:
    drawn, size = session.draw("seen", word), 8 * len(session.seen)
    return [int.from_bytes(drawn[4 * n : 4 * n + 4], "little") % size for n in range(_HASHES)]


def _was_seen(session: Session, word: str) -> bool:
    return all(session.seen[bit >> 3] & 1 << (bit & 7) for bit in _bits(session, word))


def _fits(session: Session, token: Token, plain: str, drawn: str) -> bool:
    """Whether a surrogate can be told from the value, from texts and from other surrogates."""
    folded = words(fold(drawn))
    if not folded or core(drawn) != (0, len(drawn)) or drawn == plain:
        return False
    if token.kind == "PERSON":
        return True  # judged word by word
    if token.kind in NUMBER_MAKERS and sum(map(len, folded)) < _LEAST_CHARS:
        return False
    return not session.stand_ins.knows(drawn) and not all(
        _was_seen(session, word) for word in folded
    )


def _name(session: Session, plain: str, digits: Digits) -> str:
    """Return a name of as many words; the same word becomes the same one, in its own case."""
    if any("\uac00" <= char <= "\ud7a3" for char in plain):
        name = digits.pick(_LISTS["korean_family"]) + digits.pick(_LISTS["korean_given"])
        whole = len(words(plain)) == 1 and 3 <= len(plain) <= 4
        return name if whole and not _was_seen(session, name) else ""
    parts = plain.split(" ")
    if not all(parts) or not all(any(char.isalpha() for char in part) for part in parts):
        return ""
    named: list[str] = []
    for index, part in enumerate(parts):
        word = bare_word(part)
        if fold(word) in _TITLES:
            named.append(part)
            continue
        kind = "family" if index and index == len(parts) - 1 else "given"
        other = _name_word(session, kind, fold(word))
        if not other:
            return ""
        styled = other.upper() if word.isupper() and len(word) > 1 else other
        named.append(part.replace(word, styled.lower() if word.islower() else styled, 1))
    return " ".join(named)


def _name_word(session: Session, kind: str, word: str) -> str:
    own = session.draw("word", word)[:16]
    for attempt in range(_MOST_DRAWS):
        other = Digits(session.draw("name", kind, word, attempt)).pick(_LISTS[kind])
        key = fold(other)
        if len(word) > 2 and fold(word) in key:
            continue  # "Kimball" would tell "Kim"
        taken = session.name_words.get(key)
        if taken == own:
            return other
        if taken is None and not _was_seen(session, key):
            session.name_words[key] = own
            return other
    return ""


def _add_name_words(session: Session, token: Token, value: str, plain: str, drawn: str) -> None:
    """Let single words of a name stand for those of the value."""
    split, others = value.split(), drawn.split(" ")
    if token.kind != "PERSON" or len(split) != len(others) or len(others) < 2:
        return
    for index, (word, other) in enumerate(zip(split, others, strict=True)):
        plain_other = bare_word(other)
        if fold(plain_other) not in _TITLES and bare_word(word) and len(plain_other) > 1:
            session.stand_ins.add(StandIn(plain_other, token, index))


def _formed(form: str) -> _Maker:
    """Return a maker that fills a form: {LIST} with a word, {LOW+MANY} with a number."""

    def make(session: Session, plain: str, digits: Digits) -> str:
        def drawn(blank: "re.Match[str]") -> str:
            low, plus, many = blank[1].partition("+")
            return str(int(low) + digits.below(int(many))) if plus else digits.pick(_LISTS[low])

        return _BLANK.sub(drawn, form)

    return make


def _number(make: "Callable[[str, Digits], str]") -> _Maker:
    return lambda session, plain, digits: make(plain, digits) if plain.isascii() else ""


_MAKERS: dict[str, _Maker] = {
    **{kind: _formed(form) for kind, form in pairs("surrogate_forms").items()},
    **{kind: _number(make) for kind, make in NUMBER_MAKERS.items()},
}
