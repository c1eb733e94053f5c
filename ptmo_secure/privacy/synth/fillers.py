"""What fills a slot: one `Filler` holds the people and values of one text."""

import datetime
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ptmo_secure.errors import not_installed
from ptmo_secure.privacy.synth import credentials, identifiers, local
from ptmo_secure.privacy.synth.example import Piece, Split
from ptmo_secure.privacy.synth.identifiers import digits, letters
from ptmo_secure.privacy.synth.people import Persona, profession, written_date
from ptmo_secure.privacy.synth.places import Places
from ptmo_secure.privacy.synth.words import word_list

if TYPE_CHECKING:
    from faker import Faker

_COMMON = {"word": (1, 1), "words": (2, 3), "sentence": (5, 14)}  # slot: number of words
Make = Callable[[random.Random, Split], str]
LOCALES: Mapping[Split, tuple[str, ...]] = {
    "train": (
        *("en_US", "en_US", "en_GB", "en_CA", "en_AU", "en_IN", "de_DE", "fr_FR", "es_ES", "es_MX"),
        *("it_IT", "nl_NL", "pt_BR", "pl_PL", "sv_SE", "fi_FI", "cs_CZ", "tr_TR", "da_DK", "ro_RO"),
        *("hu_HU", "el_GR", "vi_VN", "yo_NG"),
    ),
    "heldout": (
        *("en_US", "en_IE", "en_NZ", "de_AT", "de_CH", "nl_BE", "pt_PT", "no_NO", "sk_SK", "hr_HR"),
        *("sl_SI", "es_CO", "es_AR", "fr_CA", "en_PK", "ru_RU", "zu_ZA"),
    ),
}


class Sources:
    """The seeded generators of one data set, shared by all of its texts.

    Args:
        split: chooses locales and words.
        seed: any integer.
    """

    def __init__(self, split: Split, seed: int) -> None:
        self.split = split
        self.rng = random.Random(f"{split}/{seed}")  # noqa: S311 - data, not secrets
        self._fakes: dict[str, Faker] = {}

    def fake(self) -> "Faker":
        """Faker of a locale drawn at random.

        Raises:
            InputError: Faker is not installed.
        """
        try:
            from faker import Faker
        except ImportError:
            raise not_installed("made-up data", "train") from None
        locale = self.rng.choice(LOCALES[self.split])
        if locale not in self._fakes:
            fake = Faker(locale)
            fake.seed_instance(self.rng.getrandbits(32))
            _order_cities(fake)
            self._fakes[locale] = fake
        return self._fakes[locale]

    def common_words(self, least: int, most: int) -> str:
        """Everyday English words, so that none is taken for private by its place in a sentence."""
        words = word_list("everyday", self.split)
        return " ".join(self.rng.choices(words, k=self.rng.randint(least, most)))


def _order_cities(fake: "Faker") -> None:
    """Sort lists that Faker makes out of a set: their order would change with each process."""
    for provider in fake.factories[0].providers:
        cities = getattr(provider, "cities", None)
        if isinstance(cities, list):
            provider.cities = sorted(cities)


class Filler:
    """Fills the slots of one text, so that a person is the same person throughout it."""

    def __init__(self, sources: Sources) -> None:
        self._sources, self._rng, self._split = sources, sources.rng, sources.split
        self._people: dict[str, Persona] = {}
        self._known: dict[str, Piece] = {}

    def person(self, name: str) -> Persona:
        """The person of this letter."""
        if name not in self._people:
            fake = self._sources.fake()
            places = Places(fake, self._rng, self._split)
            self._people[name] = Persona(fake, self._rng, places, self._split)
        return self._people[name]

    def __call__(self, slot: str) -> Piece:
        """The value of a slot.

        Raises:
            KeyError: there is no such slot.
        """
        name, dot, attribute = slot.partition(".")
        if attribute.endswith(".upper"):
            text, kind = self(slot.removesuffix(".upper"))
            return Piece(text.upper(), kind)
        if attribute.endswith(".lower"):
            text, kind = self(slot.removesuffix(".lower"))
            return Piece(text.lower(), kind)
        if dot and len(name) == 1:
            return self.person(name).get(attribute)
        if name in _NAMED_IDS:
            return self._named_id(name, attribute)
        base, numbered, _ = slot.partition("#")
        if numbered and slot in self._known:
            return self._known[slot]
        piece = self._value(base)
        if numbered:
            self._known[slot] = piece
        return piece

    def _value(self, slot: str) -> Piece:
        if slot in _PLACES:
            places = Places(self._sources.fake(), self._rng, self._split)
            return Piece(places.get(slot), _PLACES[slot])
        if slot in _COMMON:
            return Piece(self._sources.common_words(*_COMMON[slot]))
        if slot in SLOTS:
            kind, make = SLOTS[slot]
            return Piece(make(self._rng, self._split), kind)
        return Piece(self._rng.choice(word_list(slot, self._split)))

    def _named_id(self, slot: str, attribute: str) -> Piece:
        """An identifier whose issuer is named elsewhere in the text as {slot.name}."""
        kind, makers = _NAMED_IDS[slot]
        if slot not in self._known:
            name = self._rng.choice(sorted(makers))
            self._known[f"{slot}.name"] = Piece(name)
            self._known[slot] = Piece(makers[name](self._rng), kind)
        return self._known[f"{slot}.{attribute}" if attribute else slot]


def day(rng: random.Random, split: Split) -> str:
    """A date or a time that says when: of any form, a weekday, or with the hour."""
    when = datetime.date(1995, 1, 1) + datetime.timedelta(days=rng.randrange(12_500))
    style = rng.random()
    weekday, month = rng.choice(word_list("weekday", split)), rng.choice(word_list("month", split))
    if style < 0.45:
        return written_date(when, rng, year_alone=0.3)
    if style < 0.6:
        return weekday
    if style < 0.75:
        return rng.choice((f"{month} {when.day}", f"{when.day} {month}", f"{month} {when.year}"))
    if style < 0.85:
        return stamp(rng, split)
    return rng.choice((f"{weekday}, {month} {when.day}", f"{weekday} {month[:3]} {when.day}"))


def stamp(rng: random.Random, split: Split) -> str:
    """A date with the time of day, as machines write it."""
    when = datetime.date(1970, 1, 1) + datetime.timedelta(days=rng.randrange(21_000))
    between = rng.choice(("  TT"[rng.randrange(4)], " "))
    seconds = rng.choice((f":{rng.randint(0, 59):02d}", f":{rng.randint(0, 59):02d}", ""))
    return f"{when.isoformat()}{between}{clock(rng)}{seconds}"


def hour(rng: random.Random, split: Split) -> str:
    """A time of day on 24 or on 12 hours."""
    late = rng.choice(("a.m.", "p.m.", "am", "pm", "AM", "PM"))
    half = f"{rng.randint(1, 12)}{rng.choice((':00', ':30', ':15', ''))} {late}"
    return rng.choice((clock(rng), half))


def clock(rng: random.Random) -> str:
    """A time of day on 24 hours."""
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"


def money(rng: random.Random, low: int, high: int) -> str:
    """An amount, rounded as people round, with a currency."""
    amount = int(rng.uniform(low, high))
    step = 10 ** max(0, len(str(amount)) - 2)
    amount = max(low, amount // step * step) if rng.random() < 0.6 else amount
    sign = rng.choice("$$$£€")
    forms = (f"{sign}{amount:,}", f"{sign}{amount}", f"{amount:,} {rng.choice(('USD', 'EUR'))}")
    thousands = f"{sign}{amount // 1000}k" if amount >= 10_000 else forms[0]
    return rng.choice((*forms, thousands, f"{amount:,} dollars"))


def price(rng: random.Random, split: Split) -> str:
    """A price in a shop."""
    return f"{rng.choice('$$€£')}{rng.randint(1, 400)}.{rng.choice(('99', '50', '00', '95'))}"


def version(rng: random.Random, split: Split) -> str:
    """A version of a program, with two to four numbers."""
    return ".".join(str(rng.randint(0, 30)) for _ in range(rng.choice((2, 3, 3, 4))))


def isbn(rng: random.Random, split: Split) -> str:
    """An ISBN-13 by its shape."""
    return f"978-{digits(rng, 1)}-{digits(rng, 3)}-{digits(rng, 5)}-{digits(rng, 1)}"


def order(rng: random.Random, split: Split) -> str:
    """An order, ticket or part number."""
    shapes = (
        lambda: f"{letters(rng, 2)}-{digits(rng, 5)}",
        lambda: f"#{digits(rng, 6, '123456789')}",
        lambda: f"{digits(rng, 3)}-{digits(rng, 7)}-{digits(rng, 7)}",
        lambda: f"{letters(rng, 3)}{digits(rng, 4)}",
        lambda: digits(rng, 8, "123456789"),
    )
    return rng.choice(shapes)()


def _words(name: str) -> Make:
    return lambda rng, split: rng.choice(word_list(name, split))


def _range(low: int, high: int) -> Make:
    return lambda rng, split: str(rng.randint(low, high))


def _drawn(make: Callable[[random.Random], str]) -> Make:
    return lambda rng, split: make(rng)


def _money(low: int, high: int) -> Make:
    return lambda rng, split: money(rng, low, high)


_NAMED_IDS = {
    "natid": ("NATIONAL_ID", identifiers.NATIONAL_IDS),
    "taxid": ("TAX_ID", identifiers.TAX_IDS),
}
_PLACES = {
    **{"address": "ADDRESS", "street": "ADDRESS", "block": "ADDRESS", "org": "ORG"},
    **{"city": "LOCATION", "country": "LOCATION", "region": "LOCATION"},
    **{"firm": "ORG", "shop": "ORG", "club": "ORG", "addr": "ADDRESS", "road": "ADDRESS"},
    **{"zip": "ADDRESS", "unit": "ADDRESS", "corner": "ADDRESS"},
}
SLOTS: Mapping[str, tuple[str | None, Make]] = {
    "card": ("PAYMENT_CARD", _drawn(identifiers.payment_card)),
    "cvv": ("SECRET", _drawn(partial(digits, count=3))),
    "iban": ("IBAN", _drawn(identifiers.iban)),
    "account": ("BANK_ACCOUNT", _drawn(identifiers.bank_account)),
    "routing": ("BANK_ACCOUNT", _drawn(identifiers.routing_number)),
    "ssn": ("US_SSN", _drawn(identifiers.us_ssn)),
    "rrn": ("KR_RRN", _drawn(identifiers.rrn)),
    "passport": ("PASSPORT", _drawn(identifiers.passport)),
    "license": ("DRIVER_LICENSE", _drawn(identifiers.driver_license)),
    "password": ("SECRET", _drawn(credentials.password)),
    "pin": ("SECRET", _drawn(credentials.pin)),
    "apikey": ("API_KEY", _drawn(credentials.api_key)),
    "jwt": ("API_KEY", _drawn(credentials.web_token)),
    "privkey": ("API_KEY", _drawn(credentials.private_key)),
    "ip": ("IP_ADDRESS", _drawn(credentials.ip_address)),
    "mac": ("MAC_ADDRESS", _drawn(credentials.mac_address)),
    "coords": ("COORDINATES", _drawn(credentials.coordinates)),
    "condition": ("MEDICAL", _words("condition")),
    "medication": ("MEDICAL", _words("medication")),
    "procedure": ("MEDICAL", _words("procedure")),
    "hospital": ("ORG", _words("hospital")),
    "school": ("ORG", _words("school")),
    "spot": ("LOCATION", _words("spot")),
    "nationality": ("NATIONALITY", _words("nationality")),
    "kidage": ("AGE", _range(1, 17)),
    "job": (None, profession),
    "salary": ("FINANCIAL", _money(18_000, 240_000)),
    "debt": ("FINANCIAL", _money(900, 90_000)),
    "amount": ("FINANCIAL", _money(40, 9_000)),
    "creditscore": ("FINANCIAL", _range(390, 820)),
    "date": ("DATE", day),
    "onday": ("DATE", local.on_day),
    "inyear": ("DATE", local.in_year),
    "expiry": ("DATE", lambda rng, split: f"{rng.randint(1, 12):02d}/{rng.randint(26, 33)}"),
    "stamp": ("DATE", stamp),
    "nationals": ("NATIONALITY", _words("nationals")),
    "time": (None, hour),
    "price": (None, price),
    "version": (None, version),
    "isbn": (None, isbn),
    "order": (None, order),
    "small": (None, _range(2, 20)),
    "num": (None, _range(3, 900)),
    "big": (None, _range(1_000, 90_000)),
    "year": (None, _range(1200, 2024)),
    "kids": (None, _range(2, 16)),
    "percent": (None, _range(1, 99)),
}
