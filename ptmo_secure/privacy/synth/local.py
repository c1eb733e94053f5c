"""Everyday life: small firms, clubs, further layouts of addresses, dates and ages in words."""

import datetime
import random
from typing import TYPE_CHECKING

from ptmo_secure.privacy.synth.example import Split
from ptmo_secure.privacy.synth.identifiers import digits
from ptmo_secure.privacy.synth.words import word_list

if TYPE_CHECKING:
    from faker import Faker

    from ptmo_secure.privacy.synth.places import Places

_FIRMS = (
    *("{a} & {b}", "{a} and {b}", "{a} Brothers", "{a} Bros.", "{a} Bros. {t}", "{a} & Daughters"),
    *("{a} and Sons", "{a} {t}", "{a} {t}", "{a}'s {t}", "{a}'s", "{f}'s {t}", "{f}'s", "Chez {f}"),
    *("{a}, {b} & {c}", "{a} {b} {c}", "{a} & Co.", "{a} Family {t}", "House of {a}", "{a} + {b}"),
    *("Studio {a}", "Casa {a}", "{a} & {b} LLP", "{a} {b} Architects", "{a} Pty Ltd", "{a} GmbH"),
    *("Gebrüder {a}", "Maison {a}", "Fratelli {a}", "{a} Oy", "{a} S.p.A.", "{a} Sp. z o.o."),
    *(
        "J. {a} & Son",
        "{f} {a} {t}",
        "{a} e Hijos",
        "Bäckerei {a}",
        "{a} BV",
        "Law Office of {f} {a}",
    ),
)
_SHOPS = (
    *("The {w} {n}", "The {w} {n}", "{n} & {m}", "{n} and {m}", "{n}", "{n} + {m}", "{n} {t}"),
    *("Two {ns}", "The {n}", "{w} {n} {t}", "{n} & {m} {t}", "Little {n}", "{n} No. {k}", "{n}{k}"),
    *("{w} {t}", "Project {n}", "{n} House", "{n} Collective", "Hello {n}", "Not Just {ns}"),
    *("{w} {ns}", "Under the {n}", "{n} by {n2}", "{n} to {m}", "Plan {n}", "{n}ology", "Un{n}"),
)
_HOUSES = (
    *(
        "Rose Cottage",
        "The Old Rectory",
        "Mill House",
        "Hollybank",
        "Tower B",
        "Block C",
        "Lea View",
    ),
    *("The Gables", "Orchard Farm", "Building 7", "Haus Sonnblick", "Oakdene", "The Annexe"),
)
_FLOORS = (
    *(
        "2nd floor",
        "3rd Fl",
        "ground floor",
        "top floor",
        "Flat {n}",
        "Flat {n}B",
        "Apt {n}",
        "#{n}",
    ),
    *(
        "Apartment {n}A",
        "Room {n}",
        "Unit {n}",
        "Flat 0/{d}",
        "Door {d}",
        "Suite {n}",
        "stairwell {d}",
    ),
)
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth"
    " fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
_MONTHS = (
    "January February March April May June July August September October November December"
).split()
_SEASONS = ("spring", "summer", "autumn", "fall", "winter")


def firm(fake: "Faker", rng: random.Random, split: Split) -> str:
    """A firm that bears the names of those who own it."""
    a, b, c = (str(fake.last_name()) for _ in range(3))
    trade = rng.choice(word_list("trade", split))
    return rng.choice(_FIRMS).format(a=a, b=b, c=c, f=fake.first_name(), t=trade)


def shop(rng: random.Random, split: Split) -> str:
    """A shop, café, studio or band whose name is made of words that mean something else."""
    n, m, other = (rng.choice(word_list("shopnoun", split)) for _ in range(3))
    first = rng.choice(word_list("shopword", split))
    trade = rng.choice(word_list("trade", split))
    form = rng.choice(_SHOPS)
    name = form.format(w=first, n=n, m=m, n2=other, ns=_plural(n), t=trade, k=rng.randint(2, 99))
    return name[0] + name[1:].lower() if form in ("{n}ology", "Un{n}") else name


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "x", "h")) else "s")


def club(fake: "Faker", rng: random.Random, split: Split) -> str:
    """A local club, team, parish or charity."""
    tail, city = rng.choice(word_list("clubtail", split)), str(fake.city())
    last = str(fake.last_name())
    forms = (
        *(f"{city} {tail}", f"{city} {tail}", f"{last} {tail}", f"FC {city}", f"SV {city}"),
        *(f"Friends of {city} {rng.choice(('Library', 'Park', 'Museum', 'Station'))}",),
        *(f"{rng.randint(1, 30)}th {city} Scouts", f"{last} Street {tail}", f"The {last} Trust"),
        *(f"{last} Memorial {rng.choice(('Fund', 'Trust', 'Chapel', 'Hall'))}", f"AC {city}"),
        f"{city} {_plural(rng.choice(word_list('shopnoun', split)))}",
    )
    return rng.choice(forms)


def address(places: "Places", rng: random.Random) -> str:
    """An address on one line: flats, house names, with a country or without postcode."""
    floor = rng.choice(_FLOORS).format(n=rng.randint(1, 480), d=rng.randint(1, 9))
    street, city, code = places.street(), places.city(), places.zip()
    country, house = places.country().removeprefix("the "), rng.choice(_HOUSES)
    road, number = places.road(), rng.randint(1, 199)
    forms = (
        *(f"{floor}, {street}, {city}", f"{street}, {floor}, {city} {code}", f"{street} in {city}"),
        *(f"{house}, {road}, {city}", f"{house}, {street}, {city}, {code}", f"{street}, {country}"),
        *(f"{street}, {city}, {country}", f"{floor}, {street}, {city} {code}, {country}"),
        *(f"{road} {number}, {code} {city}, {country}", f"{road} {number}, {city}"),
        *(f"{number} {road}, {city} {code}", f"{number}/{rng.randint(1, 60)} {road}, {city}"),
        *(f"{road} {number}/{rng.randint(1, 40)}, {code} {city}", f"{number} {road} {city} {code}"),
        *(f"{street} ({floor}), {city}", f"{number}-{number + 4} {road}, {city}, {code}"),
        *(f"{country}, {city}, {road} {number}", f"{code} {city}, {road} {number}"),
        f"{street} · {code} {city}",
    )
    return rng.choice(forms)


def label(places: "Places", rng: random.Random) -> str:
    """The lines of an address label below the name, in American, British or continental form."""
    floor = rng.choice(_FLOORS).format(n=rng.randint(1, 480), d=rng.randint(1, 9))
    street, city, code = places.street(), places.city(), places.zip()
    country, road = places.country().removeprefix("the "), places.road()
    number = rng.randint(1, 199)
    forms = (
        (street, floor, f"{city} {code}"),
        (floor, street, city, code),
        (rng.choice(_HOUSES), f"{number} {road}", city.upper(), code),
        (f"{road} {number}", f"{code} {city}", country.upper()),
        (f"{road} {number}", f"{code} {city}"),
        (street, f"{city} {code}", country),
        (street, city, places.region(), country),
        (f"{number} {road}", city),
        (f"PO Box {digits(rng, 4)}", city.upper(), country),
    )
    return rng.choice(("\n", "\n", "\n", ",\n", "\n  ", " / ")).join(rng.choice(forms))


def number_words(number: int) -> str:
    """A number below a hundred, in words; "a hundred and two" above."""
    if number >= 100:
        return "a hundred" + (f" and {number_words(number - 100)}" if number > 100 else "")
    if number < 20:
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")


def date_words(day: datetime.date, rng: random.Random) -> str:
    """A date as one says it: "the fourteenth of March nineteen eighty-two"."""
    nth = _ordinal(day.day)
    month = _MONTHS[day.month - 1]
    stem = rng.choice((f"the {nth} of {month}", f"{month} the {nth}", f"{month} {nth}"))
    return stem + rng.choice((" ", ", ")) + year_words(day.year)


def year_words(year: int) -> str:
    """A year as one says it."""
    century, rest = divmod(year, 100)
    if 2000 <= year < 2010:
        return "two thousand" + (f" and {_ONES[rest]}" if rest else "")
    tail = f"oh {_ONES[rest]}" if 0 < rest < 10 else number_words(rest)
    return f"{number_words(century)} {tail if rest else 'hundred'}"


def _ordinal(day: int) -> str:
    if day <= 20:
        return _ORDINALS[day - 1]
    if day == 30:
        return "thirtieth"
    return f"{_TENS[day // 10 - 2]}-{_ORDINALS[day % 10 - 1]}"


def on_day(rng: random.Random, split: Split) -> str:
    """A day that can stand after "on"."""
    when = _some_day(rng, 1995, 2027)
    month, short = _MONTHS[when.month - 1], _MONTHS[when.month - 1][:3]
    weekday = when.strftime("%A")
    forms = (
        *(f"{when.day} {month}", f"{month} {when.day}", f"{month} {when.day}, {when.year}"),
        *(f"{when.day} {month} {when.year}", f"{weekday}, {when.day} {month}", weekday, weekday),
        *(f"{weekday} {when.day} {short}", f"the {_ordinal(when.day)} of {month}"),
        *(f"{month} the {_ordinal(when.day)}", when.isoformat(), f"{when.day}.{when.month}."),
        *(f"{when.month}/{when.day}", f"{when.day:02d}/{when.month:02d}/{when.year}"),
        f"{weekday} the {when.day}th" if 10 < when.day < 20 else f"{weekday}, {month} {when.day}",
    )
    return rng.choice(forms)


def in_year(rng: random.Random, split: Split) -> str:
    """A year, season or month that can stand after "in"."""
    when = _some_day(rng, 1938, 2026)
    month = _MONTHS[when.month - 1]
    forms = (
        *(str(when.year), str(when.year), str(when.year), f"{month} {when.year}"),
        *(f"the {rng.choice(_SEASONS)} of {when.year}", f"early {when.year}", f"late {when.year}"),
        *(f"{rng.choice(_SEASONS)} {when.year}", f"mid-{when.year}", year_words(when.year)),
    )
    return rng.choice(forms)


def _some_day(rng: random.Random, first: int, last: int) -> datetime.date:
    return datetime.date(rng.randint(first, last), rng.randint(1, 12), rng.randint(1, 28))
