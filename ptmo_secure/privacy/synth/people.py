"""Made-up people: a name in all its forms, and what goes with it."""

import datetime
import random
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ptmo_secure.privacy.synth import local
from ptmo_secure.privacy.synth.example import Piece, Split
from ptmo_secure.privacy.synth.identifiers import digits
from ptmo_secure.privacy.synth.places import Places
from ptmo_secure.privacy.synth.words import word_list

if TYPE_CHECKING:
    from faker import Faker

_TITLES = {
    "f": ("Mrs.", "Ms.", "Miss", "Dr.", "Mrs", "Ms", "Dr", "Prof.", "Professor", "Sister"),
    "m": ("Mr.", "Mr.", "Dr.", "Mr", "Dr", "Prof.", "Professor", "Rev.", "Sir", "Sgt."),
}
_NICKNAMES = ("Liz", "Bobby", "Mike", "Kate", "Tony", "Sasha", "Nell", "Vik", "Jojo", "Mimi", "Al")
_MAIL_HOSTS = (
    *(
        "gmail.com",
        "yahoo.com",
        "outlook.com",
        "hotmail.co.uk",
        "icloud.com",
        "proton.me",
        "gmx.de",
    ),
    *("web.de", "mail.ru", "orange.fr", "libero.it", "example.com", "example.org", "aol.com"),
)
_PAGE_HOSTS = ("me", "dev", "net", "com", "org", "io", "blog", "co.uk", "de", "se", "pt")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
_ROMAN_SHARE = 0.2


class Persona:
    """One person; every attribute is drawn once and then stays.

    Args:
        fake: the source of local names.
        rng: decides everything else.
        places: the source of addresses.
        split: whose word lists are used.
    """

    def __init__(self, fake: "Faker", rng: random.Random, places: Places, split: Split) -> None:
        self._fake, self._rng, self._places, self._split = fake, rng, places, split
        self._known: dict[str, Piece] = {}
        self.sex = rng.choice("fm")
        self.given, self.family = self._names()
        self.birth = datetime.date(1931, 1, 1) + datetime.timedelta(days=rng.randrange(33_000))

    def get(self, attribute: str) -> Piece:
        """The value of an attribute.

        Raises:
            KeyError: people have no such attribute.
        """
        if attribute not in self._known:
            kind, make = ATTRIBUTES[attribute]
            self._known[attribute] = Piece(make(self), kind)
        return self._known[attribute]

    def _names(self) -> tuple[str, str]:
        rng = self._rng
        if rng.random() < _ROMAN_SHARE:
            return (
                rng.choice(word_list("romangiven", self._split)),
                rng.choice(word_list("romanfamily", self._split)),
            )
        fake = self._fake
        given = fake.first_name_female() if self.sex == "f" else fake.first_name_male()
        family = fake.last_name()
        style = rng.random()
        if style < 0.05:
            family = f"{family}-{fake.last_name()}"
        elif style < 0.09:  # a surname nobody has, so that none need be learned by heart
            other = fake.last_name()
            family = family[: max(2, len(family) // 2)] + other[len(other) // 2 :].lower()
        return given, family

    def full(self) -> str:
        """Given and family name, sometimes with a second name or an initial."""
        style = self._rng.random()
        middle = ""
        if style < 0.08:
            middle = f"{self._rng.choice('ABCDEFGHJKLMNPRSTW')}. "
        elif style < 0.14:
            middle = f"{self._fake.first_name()} "
        return f"{self.given} {middle}{self.family}"

    def titled(self) -> str:
        """With a title, which is part of the span."""
        title = self._rng.choice(_TITLES[self.sex])
        rest = (self.family, self.family, f"{self.given} {self.family}")
        return f"{title} {self._rng.choice(rest)}"

    def doctor(self) -> str:
        """With the title of a doctor."""
        title = self._rng.choice(("Dr. ", "Dr. ", "Dr ", "Doctor ", "dr "))
        return title + self._rng.choice((self.family, self.family, f"{self.given} {self.family}"))

    def initials(self) -> str:
        """Initials alone, or with the family name."""
        first, last = self.given[0].upper(), self.family[0].upper()
        forms = (
            f"{first}. {self.family}",
            f"{first}. {self._rng.choice('ABDEJKLMRST')}. {self.family}",
            f"{first}.{last}.",
            f"{self.given} {last}.",
        )
        return self._rng.choice(forms)

    def mister(self) -> str:
        """A plain form of address with the family name."""
        title = self._rng.choice(("Ms", "Mrs", "Ms.", "Mrs.", "Miss", "Dr"))
        return (
            f"{title if self.sex == 'f' else self._rng.choice(('Mr', 'Mr.', 'Dr'))} {self.family}"
        )

    def initial_last(self) -> str:
        """The family name after one or two initials."""
        rng = self._rng
        second = rng.choice(("", "", f"{rng.choice('ABCDEFGHJKLMNPRST')}."))
        gap = rng.choice((" ", " ", ""))
        return f"{self.given[0].upper()}.{gap if second else ''}{second} {self.family}"

    def middle(self) -> str:
        """The full name with the initial of a second name."""
        return f"{self.given} {self._rng.choice('ABCDEFGHJKLMNPRSTVW')}. {self.family}"

    def last_initial(self) -> str:
        """The first name with the initial of the family name."""
        return f"{self.given} {self.family[0].upper()}{self._rng.choice(('.', ''))}"

    def reversed_name(self) -> str:
        """Family name first, as in lists."""
        name = f"{self.family}, {self.given}"
        return name.upper() if self._rng.random() < 0.2 else name

    def any_name(self) -> str:
        """One of the forms, the full name most often."""
        forms = (self.full, self.full, self.full, lambda: self.given, self.titled, self.initials)
        return self._rng.choice(forms)()

    def nickname(self) -> str:
        """A short first name."""
        short = self.given[: self._rng.randint(3, 5)]
        return self._rng.choice((short, short, self._rng.choice(_NICKNAMES)))

    def user(self) -> str:
        """A user name made of the name or of nothing in particular."""
        rng, first, last = self._rng, _plain(self.given), _plain(self.family)
        number = digits(rng, rng.choice((2, 2, 3, 4)))
        forms = (
            *(
                f"{first}{number}",
                f"{first}_{last}",
                f"{first}.{last}{number}",
                f"{first[0]}{last}",
            ),
            *(f"x{first}x{number}", f"{last}_{first[0]}{number}", f"the_real_{first}"),
            f"{rng.choice(('night', 'dark', 'lazy', 'happy', 'cyber', 'moon'))}_{last}{number}",
        )
        return rng.choice(forms)

    def email(self) -> str:
        """An e-mail address, mostly made of the name."""
        rng, first, last = self._rng, _plain(self.given), _plain(self.family)
        local = (
            *(f"{first}.{last}", f"{first}{last}", f"{first[0]}{last}", f"{last}.{first}"),
            *(f"{first}{rng.randint(1, 99)}", f"{first}_{last}{rng.randint(60, 99)}"),
            f"{self.given}{self.family}".replace(" ", "") if self.given.isascii() else first,
        )
        own = f"{last}{rng.choice(('-family', 'law', 'consulting', '', 'design'))}"
        host = (
            own + f".{rng.choice(_PAGE_HOSTS)}" if rng.random() < 0.2 else rng.choice(_MAIL_HOSTS)
        )
        address = f"{_address_safe(rng.choice(local))}@{host}"
        return address if address.isascii() else f"{first}@{host}"

    def url(self) -> str:
        """A page of this person's."""
        rng, first, last = self._rng, _plain(self.given), _plain(self.family)
        shout = f"{first.title()}{last.title()}"
        forms = (
            *(f"https://www.{first}{last}.{rng.choice(_PAGE_HOSTS)}", f"http://{shout}.com/"),
            *(
                f"https://github.com/{first}{last}",
                f"linkedin.com/in/{first}-{last}-{digits(rng, 4)}",
            ),
            *(f"https://{last}-{first}.{rng.choice(_PAGE_HOSTS)}/about", f"www.{first}writes.net"),
            f"https://drive.example.com/d/{digits(rng, 9)}?owner={first}",
            f"https://instagram.com/{self.user()}",
        )
        return rng.choice(forms)

    def age(self) -> str:
        """Age in years on a fixed day."""
        return str(max(1, 2026 - self.birth.year))

    def phone(self) -> str:
        """A telephone number as the country, or a form of our own, writes it."""
        rng = self._rng
        area = f"{rng.randint(2, 9)}{rng.randint(0, 8)}{rng.randint(2, 9)}"
        own = (
            lambda: f"({area}) {rng.randint(200, 999)}-{digits(rng, 4)}",
            lambda: f"{area}-{rng.randint(200, 999)}-{digits(rng, 4)}",
            lambda: f"{area}.{rng.randint(200, 999)}.{digits(rng, 4)}",
            lambda: f"+1 {area} {rng.randint(200, 999)} {digits(rng, 4)}",
            lambda: f"07{digits(rng, 3)} {digits(rng, 6)}",
            lambda: f"+44 7{digits(rng, 3)} {digits(rng, 6)}",
            lambda: (
                f"0{digits(rng, 3, '234567')} {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)}"
            ),
            lambda: (
                f"{digits(rng, 2, '23456789')}-{digits(rng, 2)}-{digits(rng, 2)}-{digits(rng, 2)}"
            ),
            lambda: f"+49 {digits(rng, 3, '12345')} {digits(rng, 7)}",
            lambda: f"+33 6 {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)}",
            lambda: f"010-{digits(rng, 4, '23456789')}-{digits(rng, 4)}",
            lambda: f"+82 10 {digits(rng, 4, '23456789')} {digits(rng, 4)}",
            lambda: f"{rng.randint(200, 999)} {digits(rng, 4)}",
        )
        if rng.random() < 0.5:
            return str(self._fake.phone_number())
        return rng.choice(own)()

    def born(self) -> str:
        """The date of birth in one of many forms, at times the year alone."""
        return written_date(self.birth, self._rng, year_alone=0.06)

    def age_words(self) -> str:
        """The age in words."""
        return local.number_words(int(self.age()))

    def birth_words(self) -> str:
        """The date of birth as one says it."""
        return local.date_words(self.birth, self._rng)

    def place(self, attribute: str) -> str:
        """A part of this person's address."""
        return self._places.get(attribute)

    def job(self) -> str:
        """What this person does for a living."""
        return profession(self._rng, self._split)

    def word(self, name: str) -> str:
        """A word of a list, for this split."""
        return self._rng.choice(word_list(name, self._split))


def profession(rng: random.Random, split: Split) -> str:
    """A job, as one says it or as a personnel office calls it."""
    if rng.random() < 0.6:
        job = rng.choice(word_list("job", split))
    else:
        area, role = (rng.choice(word_list(name, split)) for name in ("jobarea", "jobrole"))
        rank = rng.choice(("", "", "", "", "senior ", "assistant ", "chief ", "deputy ", "junior "))
        job = rng.choice((f"{rank}{area} {role}", f"{rank}{area} {role}", f"{role}, {area}"))
    return rng.choice((job, job, job.capitalize(), job.title() if rng.random() < 0.4 else job))


def written_date(day: datetime.date, rng: random.Random, year_alone: float = 0.0) -> str:
    """A date as people of several countries write it."""
    if rng.random() < year_alone:
        return str(day.year)
    month, short = _MONTHS[day.month - 1], _MONTHS[day.month - 1][:3]
    suffix = "th" if 10 < day.day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    forms = (
        *(
            day.isoformat(),
            f"{day.month}/{day.day}/{day.year}",
            f"{day.day:02d}/{day.month:02d}/{day.year}",
        ),
        *(
            f"{day.month:02d}/{day.day:02d}/{day.year % 100:02d}",
            f"{day.day}.{day.month}.{day.year}",
        ),
        *(
            f"{month} {day.day}, {day.year}",
            f"{day.day} {month} {day.year}",
            f"{short} {day.day} {day.year}",
        ),
        *(f"{month} {day.day}{suffix}, {day.year}", f"the {day.day}{suffix} of {month} {day.year}"),
        *(f"{day.day}-{short}-{day.year}", f"{day.year}/{day.month:02d}/{day.day:02d}"),
        *(f"{day.day:02d}-{day.month:02d}-{day.year}", f"{short}. {day.day}, {day.year}"),
        f"{day.day:02d}.{day.month:02d}.{day.year % 100:02d}",
    )
    return rng.choice(forms)


def _plain(name: str) -> str:
    """Letters of a name in ASCII and lower case; "user" where it has none."""
    folded = unicodedata.normalize("NFKD", name)
    return "".join(char for char in folded if char.isascii() and char.isalpha()).lower() or "user"


def _address_safe(local: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "", local) or "user"


def _place(attribute: str) -> Callable[[Persona], str]:
    return lambda person: person.place(attribute)


def _word(name: str) -> Callable[[Persona], str]:
    return lambda person: person.word(name)


ATTRIBUTES: Mapping[str, tuple[str | None, Callable[[Persona], str]]] = {
    "full": ("PERSON", Persona.full),
    "first": ("PERSON", lambda person: person.given),
    "last": ("PERSON", lambda person: person.family),
    "nick": ("PERSON", Persona.nickname),
    "titled": ("PERSON", Persona.titled),
    "doctor": ("PERSON", Persona.doctor),
    "initials": ("PERSON", Persona.initials),
    "reversed": ("PERSON", Persona.reversed_name),
    "name": ("PERSON", Persona.any_name),
    "email": ("EMAIL", Persona.email),
    "user": ("USERNAME", Persona.user),
    "url": ("URL", Persona.url),
    "phone": ("PHONE", Persona.phone),
    "dob": ("DATE_OF_BIRTH", Persona.born),
    "age": ("AGE", Persona.age),
    "address": ("ADDRESS", _place("inline")),
    "block": ("ADDRESS", _place("block")),
    "street": ("ADDRESS", _place("street")),
    "unit": ("ADDRESS", _place("unit")),
    "zip": ("ADDRESS", _place("zip")),
    "city": ("LOCATION", _place("city")),
    "state": ("LOCATION", _place("region")),
    "country": ("LOCATION", _place("country")),
    "org": ("ORG", _place("org")),
    "nationality": ("NATIONALITY", _word("nationality")),
    "job": (None, Persona.job),
    "box": ("ADDRESS", _place("box")),
    "mister": ("PERSON", Persona.mister),
    "initlast": ("PERSON", Persona.initial_last),
    "middle": ("PERSON", Persona.middle),
    "lastinit": ("PERSON", Persona.last_initial),
    "agewords": ("AGE", Persona.age_words),
    "dobwords": ("DATE_OF_BIRTH", Persona.birth_words),
    "addr": ("ADDRESS", _place("addr")),
    "label": ("ADDRESS", _place("label")),
    "road": ("ADDRESS", _place("road")),
    "firm": ("ORG", _place("firm")),
    "shop": ("ORG", _place("shop")),
    "club": ("ORG", _place("club")),
    "he": (None, lambda person: "she" if person.sex == "f" else "he"),
    "his": (None, lambda person: "her" if person.sex == "f" else "his"),
    "him": (None, lambda person: "her" if person.sex == "f" else "him"),
    "He": (None, lambda person: "She" if person.sex == "f" else "He"),
    "His": (None, lambda person: "Her" if person.sex == "f" else "His"),
}
