"""Korean people and values, for templates that glue particles to them."""

import random
from collections.abc import Callable, Mapping

from ptmo_secure.privacy.synth import credentials, identifiers, korean_names, korean_values
from ptmo_secure.privacy.synth.example import Piece, Split
from ptmo_secure.privacy.synth.grammar import particle
from ptmo_secure.privacy.synth.identifiers import digits
from ptmo_secure.privacy.synth.words import word_list

_TITLES = (
    *("씨", "님", " 씨", " 님", " 과장", " 대리", " 교수", " 원장", " 선생님", "씨"),
    *(" 차장", " 부장님", " 팀장", " 사장님", " 이모", " 삼촌", " 집사님", " 주임", "쌤", " 여사"),
)
_SPACED = 0.03  # of the full names have a space after the surname
# After a consonant / after a vowel
_PARTICLES = (
    *("은/는", "이/가", "을/를", "과/와", "으로/로", "이나/나", "이랑/랑"),
    *(
        f"{same}/{same}"
        for same in ("", "의", "에", "에서", "도", "만", "부터", "까지", "보다", "처럼")
    ),
)


class KoreanFiller:
    """Fills the slots of one Korean text; the counterpart of `Filler`."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self._rng, self._split = rng, split
        self._known: dict[str, Piece] = {}

    def __call__(self, slot: str) -> Piece:
        """The value of a slot; those of a person and numbered ones are drawn once.

        Raises:
            KeyError: there is no such slot.
        """
        name, dot, attribute = slot.partition(".")
        base, numbered, _ = slot.partition("#")
        if not dot and not numbered:
            return self._value(slot)
        if slot not in self._known:
            self._known[slot] = self._attribute(name, attribute) if dot else self._value(base)
        return self._known[slot]

    def word(self, name: str) -> str:
        """A word of a list, for this split."""
        return self._rng.choice(word_list(name, self._split))

    def _attribute(self, person: str, attribute: str) -> Piece:
        rng, split = self._rng, self._split
        if attribute == "full":
            names = (self._part(person, "last"), self._part(person, "first"))
            return Piece((" " if rng.random() < _SPACED else "").join(names), "PERSON")
        if attribute == "last":
            return Piece(korean_names.surname(rng, split), "PERSON")
        if attribute == "first":
            return Piece(korean_names.given(rng, split), "PERSON")
        if attribute == "foreign":
            return Piece(korean_names.foreign(rng, split), "PERSON")
        if attribute == "nick":
            return Piece(self.word("ko_nick"), "PERSON")
        if attribute == "roman":
            names = (self._part(person, "last"), self._part(person, "first"))
            return Piece(korean_names.roman(*names, rng), "PERSON")
        if attribute == "name":
            form = rng.choices(("full", "first", "foreign"), (6, 3, 1))[0]
            return Piece(self._part(person, form), "PERSON")
        if attribute in _OF_NAME:
            kind, make = _OF_NAME[attribute]
            return Piece(make(rng, self._part(person, "first")), kind)
        return self._value(attribute)

    def _part(self, person: str, attribute: str) -> str:
        key = f"{person}.{attribute}"
        if key not in self._known:
            self._known[key] = self._attribute(person, attribute)
        return self._known[key].text

    def _value(self, slot: str) -> Piece:
        if slot in _OF_NAME:
            kind, make = _OF_NAME[slot]
            return Piece(make(self._rng, korean_names.given(self._rng, self._split)), kind)
        if slot in _SLOTS:
            return Piece(_SLOTS[slot][1](self), _SLOTS[slot][0])
        return Piece(self.word(slot))

    def noise(self, least: int, most: int) -> str:
        """Everyday words with their particles, so that none is taken for a name by its ending."""
        rng = self._rng
        words = []
        for _ in range(rng.randint(least, most)):
            if rng.random() < 0.3:
                words.append(self.word("ko_modifier"))
            noun = self.word("ko_noun")
            if rng.random() < 0.25:
                noun += self.word("ko_noun")
            words.append(noun + particle(rng.choice(_PARTICLES), noun))
        return " ".join((*words, self.word("ko_verb")))

    def draw(self, make: Callable[[random.Random], str]) -> str:
        """A value that is the same in every country."""
        return make(self._rng)

    def make(self, make: Callable[[random.Random, Split], str]) -> str:
        """A value of Korea."""
        return make(self._rng, self._split)

    def org(self) -> str:
        """An organisation, known or made up."""
        return self.word("ko_org") if self._rng.random() < 0.5 else self.make(_organisation)

    def between(self, low: int, high: int) -> str:
        """A number."""
        return str(self._rng.randint(low, high))


_organisation = korean_values.organisation


def _drawn(make: Callable[[random.Random], str]) -> Callable[[KoreanFiller], str]:
    return lambda filler: filler.draw(make)


def _made(make: Callable[[random.Random, Split], str]) -> Callable[[KoreanFiller], str]:
    return lambda filler: filler.make(make)


def _named(tails: str) -> Callable[[KoreanFiller], str]:
    return lambda filler: filler.make(lambda rng, split: _organisation(rng, split, tails))


def _word(name: str) -> Callable[[KoreanFiller], str]:
    return lambda filler: filler.word(name)


# Made of the person's name
_OF_NAME: Mapping[str, tuple[str, Callable[[random.Random, str], str]]] = {
    "email": ("EMAIL", korean_values.email),
    "user": ("USERNAME", korean_values.handle),
    "url": ("URL", korean_values.url),
}
_SLOTS: Mapping[str, tuple[str | None, Callable[[KoreanFiller], str]]] = {
    "rrn": ("KR_RRN", _drawn(identifiers.rrn)),
    "alien": ("KR_RRN", _made(korean_values.alien_number)),
    "card": ("PAYMENT_CARD", _drawn(identifiers.payment_card)),
    "cvv": ("SECRET", lambda filler: filler.draw(lambda rng: digits(rng, 3))),
    "expiry": ("DATE", lambda filler: f"{filler.between(1, 12):>02}/{filler.between(26, 33)}"),
    "password": ("SECRET", _made(korean_values.password)),
    "pin": ("SECRET", _drawn(credentials.pin)),
    "door": ("SECRET", _made(korean_values.door_code)),
    "apikey": ("API_KEY", _drawn(credentials.api_key)),
    "ip": ("IP_ADDRESS", _drawn(credentials.ip_address)),
    "mac": ("MAC_ADDRESS", _drawn(credentials.mac_address)),
    "coords": ("COORDINATES", _drawn(credentials.coordinates)),
    "phone": ("PHONE", _made(korean_values.phone)),
    "address": ("ADDRESS", _made(korean_values.address)),
    "street": ("ADDRESS", _made(korean_values.street)),
    "flat": ("ADDRESS", _made(korean_values.flat)),
    "home": ("ADDRESS", _made(korean_values.home)),
    "zip": ("ADDRESS", lambda filler: filler.draw(lambda rng: digits(rng, 5))),
    "dob": ("DATE_OF_BIRTH", _made(korean_values.born)),
    "birthyear": ("DATE_OF_BIRTH", _made(korean_values.birth_year)),
    "date": ("DATE", _made(korean_values.date)),
    "account": ("BANK_ACCOUNT", _made(korean_values.account)),
    "passport": ("PASSPORT", _made(korean_values.passport)),
    "license": ("DRIVER_LICENSE", _made(korean_values.licence)),
    "taxid": ("TAX_ID", _made(korean_values.business_number)),
    "amount": ("FINANCIAL", _made(korean_values.money)),
    "age": ("AGE", lambda filler: filler.between(18, 90)),
    "kid": ("AGE", lambda filler: filler.between(3, 18)),
    "ageword": ("AGE", _made(korean_values.spoken_age)),
    "city": ("LOCATION", _word("ko_city")),
    "quarter": ("LOCATION", _word("ko_dong")),
    "org": ("ORG", KoreanFiller.org),
    "firm": ("ORG", _named("ko_firm")),
    "school": ("ORG", _named("ko_school")),
    "hospital": ("ORG", _named("ko_hospital")),
    "shop": ("ORG", _named("ko_shop")),
    "academy": ("ORG", _named("ko_academy")),
    "bank": ("ORG", _word("ko_bank")),
    "job": (None, _word("ko_job")),
    "condition": ("MEDICAL", _word("ko_condition")),
    "medication": ("MEDICAL", _word("ko_medication")),
    "nationality": ("NATIONALITY", _word("ko_nationality")),
    "relation": (None, _word("ko_relation")),
    "title": (None, lambda filler: filler.draw(lambda rng: rng.choice(_TITLES))),
    "time": (None, lambda filler: filler.between(1, 12) + "시"),
    "price": (None, _made(korean_values.price)),
    "order": (None, _made(korean_values.order)),
    "noise": (None, lambda filler: filler.noise(2, 5)),
    "sentence": (None, lambda filler: filler.noise(3, 9)),
    "small": (None, lambda filler: filler.between(2, 20)),
    "num": (None, lambda filler: filler.between(3, 900)),
    "year": (None, lambda filler: filler.between(1200, 2024)),
}
