"""Korean names of all generations, foreign ones in Hangul, and Korean ones in Latin letters."""

import random

from ptmo_secure.privacy.synth.example import Split
from ptmo_secure.privacy.synth.words import word_list

# Of 1,000 people, about as many bear these as in the census of 2015
_FREQUENT = {
    **{"김": 215, "이": 147, "박": 84, "최": 47, "정": 43, "강": 24, "조": 21, "윤": 21, "장": 20},
    **{"임": 17, "한": 15, "오": 15, "서": 15, "신": 15},
}
_TWO_SYLLABLES = ("남궁", "황보", "제갈", "선우", "독고", "사공", "서문", "동방")
_SURNAME_SHARES = (0.46, 0.47, 0.07)  # frequent, others evenly, of two syllables

_INITIALS = "g kk n d tt r m b pp s ss  j jj ch k t p h".split(" ")
_VOWELS = "a ae ya yae eo e yeo ye o wa wae oe yo u wo we wi yu eu ui i".split()
_FINALS = " k k k n n n t l k m l l l p l m p p t t ng t t k t p t".split(" ")
_SURNAMES = {
    **{"김": "Kim", "이": "Lee", "박": "Park", "최": "Choi", "정": "Jung", "강": "Kang"},
    **{"조": "Cho", "윤": "Yoon", "임": "Lim", "오": "Oh", "신": "Shin", "권": "Kwon"},
    **{"안": "Ahn", "류": "Ryu", "고": "Ko", "문": "Moon", "허": "Huh", "유": "Yoo", "심": "Shim"},
    **{"노": "Noh", "구": "Koo", "우": "Woo", "주": "Joo"},
}
_USUAL = (("hyeon", "hyun"), ("yeong", "young"), ("jeong", "jung"), ("seong", "sung"), ("u", "oo"))


def surname(rng: random.Random, split: Split) -> str:
    """A surname: a frequent one as often as it occurs, or any other."""
    style = rng.choices(range(3), _SURNAME_SHARES)[0]
    if style == 0:
        return rng.choices(list(_FREQUENT), list(_FREQUENT.values()))[0]
    return rng.choice(_TWO_SYLLABLES if style == 2 else word_list("ko_family", split))


def given(rng: random.Random, split: Split) -> str:
    """A given name: known, pure Korean, of one syllable, or put together of syllables."""
    style = rng.random()
    if style < 0.78:
        name = "ko_given" if style < 0.55 else "ko_pure" if style < 0.7 else "ko_short"
        return rng.choice(word_list(name, split))
    return "".join(rng.sample(word_list("ko_syllable", split), 2))


def foreign(rng: random.Random, split: Split) -> str:
    """A foreign name as Koreans write it."""
    if rng.random() < 0.35:
        return rng.choice(word_list("ko_foreign", split))
    first = rng.choice(word_list("ko_foreign_first", split))
    if rng.random() < 0.45:
        return first
    return rng.choice((" ", " ", " ", "·")).join(
        (first, rng.choice(word_list("ko_foreign_last", split)))
    )


def roman(family: str, first: str, rng: random.Random) -> str:
    """A Korean name in Latin letters, in one of the orders and spellings that are in use."""
    last = _SURNAMES.get(family) or spelled(family, "").capitalize()
    names = spelled(first, rng.choice(("", "", "-", " ")))
    for official, usual in _USUAL:
        if rng.random() < 0.5:
            names = names.replace(official, usual)
    names = names.capitalize()
    text = rng.choice((f"{names} {last}", f"{last} {names}", f"{last}, {names}", f"{last} {names}"))
    return text.upper() if rng.random() < 0.2 else text


def spelled(name: str, between: str) -> str:
    """Hangul in Latin letters (Revised Romanization, each syllable by itself)."""
    syllables = []
    for char in name:
        code = ord(char) - ord("가")
        initial, vowel, final = code // 588, code % 588 // 28, code % 28
        syllables.append(_INITIALS[initial] + _VOWELS[vowel] + _FINALS[final])
    return between.join(syllables)
