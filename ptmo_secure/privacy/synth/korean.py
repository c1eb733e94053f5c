"""Korean people and values, for templates that glue particles to them."""

import datetime
import random
from collections.abc import Callable, Mapping

from ptmo_secure.privacy.synth import credentials, identifiers
from ptmo_secure.privacy.synth.example import Piece, Split
from ptmo_secure.privacy.synth.grammar import particle
from ptmo_secure.privacy.synth.identifiers import digits
from ptmo_secure.privacy.synth.words import word_list

_MAIL_HOSTS = ("naver.com", "daum.net", "hanmail.net", "gmail.com", "kakao.com", "nate.com")
_ROMAN = (
    "minsu",
    "jiwoo",
    "hana",
    "sora",
    "jun",
    "yuna",
    "dong",
    "hyun",
    "eun",
    "tae",
    "suji",
    "bora",
)
_AREAS = ("02", "031", "032", "051", "053", "062", "042", "064", "070")
_COMMON_SHARE = 0.6
_TITLES = ("씨", "님", " 씨", " 님", " 과장", " 대리", " 교수", " 원장", " 선생님", "씨")
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
        if attribute == "full":
            return Piece(self._part(person, "last") + self._part(person, "first"), "PERSON")
        if attribute == "last":
            common = self._rng.random() < _COMMON_SHARE
            return Piece(self.word("ko_common" if common else "ko_family"), "PERSON")
        if attribute == "first":
            usual = self._rng.random() < _COMMON_SHARE
            name = self.word("ko_given") if usual else "".join(self._syllables())
            return Piece(name, "PERSON")
        return self._value(attribute)

    def _part(self, person: str, attribute: str) -> str:
        key = f"{person}.{attribute}"
        if key not in self._known:
            self._known[key] = self._attribute(person, attribute)
        return self._known[key].text

    def _syllables(self) -> list[str]:
        rng = self._rng
        count = rng.choice((1, 2, 2, 2, 2, 2, 2, 2))
        return rng.sample(word_list("ko_syllable", self._split), count)

    def _value(self, slot: str) -> Piece:
        if slot in _SLOTS:
            kind, make = _SLOTS[slot]
            return Piece(make(self), kind)
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

    def phone(self) -> str:
        """A Korean number, mobile most often."""
        rng = self._rng
        middle, last = digits(rng, 4, "23456789"), digits(rng, 4)
        mobile = f"010{{0}}{middle}{{0}}{last}"
        land = f"{rng.choice(_AREAS)}-{digits(rng, rng.choice((3, 4)), '2345678')}-{last}"
        forms = (*(mobile.format(sep) for sep in ("-", "-", "-", " ", "", ".")), land)
        return rng.choice((*forms, f"+82 10-{middle}-{last}", f"+82-10-{middle}-{last}"))

    def address(self) -> str:
        """A road address, with building and flat at times."""
        rng = self._rng
        road = f"{self.word('ko_region')} {self.street()}"
        flat = (
            "",
            f", {rng.randint(1, 30)}층",
            f" {rng.randint(101, 120)}동 {rng.randint(101, 2504)}호",
            f" {self.word('ko_building')} {rng.randint(101, 120)}동 {rng.randint(101, 2504)}호",
            f", {rng.randint(101, 909)}호",
        )
        return road + rng.choice(flat)

    def street(self) -> str:
        """Road and house number."""
        rng = self._rng
        lane = f" {rng.randint(2, 60)}길" if rng.random() < 0.2 else ""
        minor = f"-{rng.randint(1, 30)}" if rng.random() < 0.25 else ""
        return f"{self.word('ko_road')}{lane} {rng.randint(1, 480)}{minor}"

    def born(self) -> str:
        """A date of birth."""
        rng = self._rng
        day = datetime.date(1940, 1, 1) + datetime.timedelta(days=rng.randrange(29_000))
        forms = (
            f"{day.year}년 {day.month}월 {day.day}일",
            f"{day.year}.{day.month:02d}.{day.day:02d}",
            day.isoformat(),
            f"{day:%y%m%d}",
            f"{day.year % 100:02d}년 {day.month}월 {day.day}일",
            f"{day.year}. {day.month}. {day.day}.",
        )
        return rng.choice(forms)

    def date(self) -> str:
        """A date or weekday."""
        rng = self._rng
        month, day = rng.randint(1, 12), rng.randint(1, 28)
        return rng.choice(
            (
                f"{month}월 {day}일",
                f"{rng.choice('월화수목금토일')}요일",
                f"2025년 {month}월 {day}일",
            )
        )

    def email(self) -> str:
        """An e-mail address of a Korean provider, or another."""
        rng = self._rng
        local = f"{rng.choice(_ROMAN)}{rng.choice(('', '.', '_'))}{rng.choice(_ROMAN)}"
        return f"{local}{rng.randint(1, 99)}@{rng.choice(_MAIL_HOSTS)}"

    def account(self) -> str:
        """An account number as Korean banks write it."""
        rng = self._rng
        sizes = rng.choice(((3, 2, 6), (6, 2, 6), (3, 3, 6), (4, 3, 6), (3, 6, 2, 3)))
        return "-".join(digits(rng, size) for size in sizes)

    def money(self) -> str:
        """An amount in won."""
        rng = self._rng
        many = rng.randint(2, 99)
        return rng.choice((f"{many}00만 원", f"{many}만원", f"{many},000,000원", f"{many}억 원"))

    def passport(self) -> str:
        """A passport number of the Republic of Korea."""
        rng = self._rng
        return rng.choice((f"M{digits(rng, 8)}", f"M{digits(rng, 3)}A{digits(rng, 4)}"))

    def license(self) -> str:
        """A Korean driving licence number."""
        rng = self._rng
        area = rng.randint(11, 28)
        return f"{area}-{rng.randint(10, 24)}-{digits(rng, 6)}-{digits(rng, 2)}"

    def business_number(self) -> str:
        """A business registration number by its shape."""
        rng = self._rng
        return f"{digits(rng, 3, '123456')}-{digits(rng, 2)}-{digits(rng, 5)}"

    def user(self) -> str:
        """A user name."""
        return f"{self._rng.choice(_ROMAN)}{self._rng.choice(_ROMAN)}{digits(self._rng, 3)}"

    def draw(self, make: Callable[[random.Random], str]) -> str:
        """A value that is the same in every country."""
        return make(self._rng)

    def between(self, low: int, high: int) -> str:
        """A number."""
        return str(self._rng.randint(low, high))


def _drawn(make: Callable[[random.Random], str]) -> Callable[[KoreanFiller], str]:
    return lambda filler: filler.draw(make)


def _word(name: str) -> Callable[[KoreanFiller], str]:
    return lambda filler: filler.word(name)


_SLOTS: Mapping[str, tuple[str | None, Callable[[KoreanFiller], str]]] = {
    "rrn": ("KR_RRN", _drawn(identifiers.rrn)),
    "card": ("PAYMENT_CARD", _drawn(identifiers.payment_card)),
    "password": ("SECRET", _drawn(credentials.password)),
    "pin": ("SECRET", _drawn(credentials.pin)),
    "apikey": ("API_KEY", _drawn(credentials.api_key)),
    "ip": ("IP_ADDRESS", _drawn(credentials.ip_address)),
    "phone": ("PHONE", KoreanFiller.phone),
    "email": ("EMAIL", KoreanFiller.email),
    "user": ("USERNAME", KoreanFiller.user),
    "address": ("ADDRESS", KoreanFiller.address),
    "street": ("ADDRESS", KoreanFiller.street),
    "dob": ("DATE_OF_BIRTH", KoreanFiller.born),
    "date": ("DATE", KoreanFiller.date),
    "account": ("BANK_ACCOUNT", KoreanFiller.account),
    "passport": ("PASSPORT", KoreanFiller.passport),
    "license": ("DRIVER_LICENSE", KoreanFiller.license),
    "taxid": ("TAX_ID", KoreanFiller.business_number),
    "amount": ("FINANCIAL", KoreanFiller.money),
    "age": ("AGE", lambda filler: filler.between(18, 90)),
    "city": ("LOCATION", _word("ko_city")),
    "org": ("ORG", _word("ko_org")),
    "job": (None, _word("ko_job")),
    "condition": ("MEDICAL", _word("ko_condition")),
    "nationality": ("NATIONALITY", _word("ko_nationality")),
    "relation": (None, _word("ko_relation")),
    "title": (None, lambda filler: filler.draw(lambda rng: rng.choice(_TITLES))),
    "time": (None, lambda filler: filler.between(1, 12) + "시"),
    "noise": (None, lambda filler: filler.noise(2, 5)),
    "sentence": (None, lambda filler: filler.noise(3, 9)),
    "small": (None, lambda filler: filler.between(2, 20)),
    "num": (None, lambda filler: filler.between(3, 900)),
    "year": (None, lambda filler: filler.between(1200, 2024)),
}
