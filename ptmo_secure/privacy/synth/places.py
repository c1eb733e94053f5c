"""Made-up addresses in the manner of many countries, and made-up organisations."""

import random
from typing import TYPE_CHECKING

from ptmo_secure.privacy.synth import local
from ptmo_secure.privacy.synth.example import Split
from ptmo_secure.privacy.synth.identifiers import digits, letters
from ptmo_secure.privacy.synth.words import word_list

if TYPE_CHECKING:
    from faker import Faker

_STREET_ENDS = (
    *("St", "Street", "Ave", "Avenue", "Rd", "Road", "Blvd", "Lane", "Ln", "Dr", "Drive", "Court"),
    *("Way", "Place", "Terrace", "Close", "Crescent", "Square", "Hill", "Parkway", "Trail", "Loop"),
)
_STREET_NAMES = (
    *("Maple", "Oak", "Cedar", "Elm", "Washington", "Lake", "Hill", "Church", "Station", "Mill"),
    *("Victoria", "King", "Queen", "Park", "High", "Sunset", "River", "Pine", "Birch", "Franklin"),
    *(
        "Chestnut",
        "Spruce",
        "Highland",
        "Meadow",
        "Forest",
        "Jackson",
        "Bridge",
        "Willow",
        "Dogwood",
    ),
)
_STREET_LONG_ENDS = (
    *("Alley", "Bend", "Bypass", "Causeway", "Common", "Cove", "Crossing", "Dale", "Esplanade"),
    *("Estate", "Gardens", "Glen", "Grove", "Heights", "Highway", "Mews", "Park", "Quay", "Rise"),
    *("Row", "Ridge", "Springs", "Track", "Vale", "View", "Walk", "Wharf", "Wood", "Yard"),
)
_UNITS = (
    "Apt {n}",
    "Apt. {n}",
    "Suite {n}",
    "Unit {n}",
    "#{n}",
    "Flat {n}",
    "Apartment {n}",
    "Fl. {n}",
)
_CITY_FORMS = (
    *("Port {}", "Mount {}", "Saint {}", "North {}", "West {}", "Lower {}", "Villa {}", "San {}"),
    *(
        "{} Heights",
        "{} Falls",
        "{} Bay",
        "{} Ext",
        "{} Nord",
        "{} Centre",
        "{} am See",
        "{}-sur-Mer",
    ),
    *("{} del Rio", "{} de la Sierra", "Bad {}", "Nieuw {}", "El {}", "{} Island", "Fort {}"),
)
_US_STATES = (
    "AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM"
    " NY NC ND OH OK OR PA RI SC SD TN TX UT VT VA WA WV WI WY"
).split()
_CA_PROVINCES = ("ON", "QC", "BC", "AB", "MB", "SK", "NS", "NB")
_AU_STATES = ("NSW", "VIC", "QLD", "WA", "SA", "TAS", "ACT")

_LOCAL_BODIES = (
    *("Community College", "Dental Care", "Credit Union", "Primary School", "Times", "Bakery"),
    *("Housing Association", "Tennis Club"),
)


class Places:
    """Addresses and organisations of one locale.

    Args:
        fake: the source of local street and city names.
        rng: decides everything else.
        split: whose word lists are used.
    """

    def __init__(self, fake: "Faker", rng: random.Random, split: Split) -> None:
        self._fake, self._rng, self._split = fake, rng, split

    def get(self, part: str) -> str:
        """One part: inline, block, street, unit, box, corner, zip, city, region, country, org."""
        value: str = getattr(self, part)()
        return value

    def inline(self) -> str:
        """A whole address on one line."""
        style = self._rng.random()
        if style < 0.3:
            return ", ".join(
                line.strip(" ,") for line in self._local().splitlines() if line.strip()
            )
        if style < 0.4:
            return f"{self.street()}, {self.city()}"
        if style < 0.5:
            return self.box()
        return self._rng.choice((", ", ", ", " ")).join(self._lines())

    def block(self) -> str:
        """A whole address over several lines, indented at times."""
        rng = self._rng
        if rng.random() < 0.25:
            return self._local()
        lines = self._lines()
        if rng.random() < 0.3:
            lines.append(self.country())
        if rng.random() < 0.15:
            lines = [line.upper() for line in lines]
        return rng.choice(("\n", "\n", "\n ", "\n    ", ",\n")).join(lines)

    def street(self) -> str:
        """Street and house number."""
        rng = self._rng
        style = rng.random()
        if style < 0.4:
            name = rng.choice(_STREET_NAMES) if rng.random() < 0.6 else self._fake.last_name()
            ordinal = f"{rng.randint(4, 120)}th"
            name = rng.choice((name, name, name, name, f"{rng.choice('NSEW')} {name}", ordinal))
            return f"{rng.randint(1, 9900)} {name} {rng.choice(_STREET_ENDS)}"
        if style < 0.55:
            return f"{rng.randint(1, 400)} {self._fake.street_name()}"
        if style < 0.7:
            number = f"{rng.randint(1, 180)}{rng.choice(('', '', 'a', 'b'))}"
            return f"{self._fake.street_name()} {number}"
        return str(self._fake.street_address()).replace("\n", ", ")

    def unit(self) -> str:
        """A flat or suite."""
        rng = self._rng
        number = f"{rng.randint(1, 990)}{rng.choice(('', '', '', 'A', 'B', 'C'))}"
        return rng.choice(_UNITS).format(n=number)

    def zip(self) -> str:
        """A postcode of this or another country."""
        rng = self._rng
        if rng.random() < 0.5:
            return str(self._fake.postcode())
        forms = (
            *(digits(rng, 5), f"{digits(rng, 5)}-{digits(rng, 4)}", digits(rng, 4, "123456789")),
            *(f"{digits(rng, 3)} {digits(rng, 2)}", f"{digits(rng, 2)}-{digits(rng, 3)}"),
            *(self._uk_code(), self._canadian_code(), f"{digits(rng, 4)}-{digits(rng, 3)}"),
        )
        return rng.choice(forms)

    def city(self) -> str:
        """A real city of the list, or a local one that may not exist; at times in capitals."""
        rng = self._rng
        listed = rng.random() < 0.5
        name = rng.choice(word_list("city", self._split)) if listed else str(self._fake.city())
        if rng.random() < 0.08:
            name = rng.choice(_CITY_FORMS).format(name)
        return name.upper() if rng.random() < 0.06 else name

    def region(self) -> str:
        """A state or region."""
        return self._rng.choice(word_list("region", self._split))

    def country(self) -> str:
        """A country, as one says it."""
        return self._rng.choice(word_list("country", self._split))

    def org(self) -> str:
        """An organisation: known, of local fashion, after its founders, or a coined brand."""
        rng, last = self._rng, self._fake.last_name
        style = rng.random()
        if style < 0.12:
            return rng.choice(word_list("employer", self._split))
        if style < 0.28:
            return str(self._fake.company())
        if style < 0.5:
            return self._descriptive()
        if style < 0.58:
            return rng.choice(
                (
                    f"{last()} & Sons",
                    f"{last()}-{last()}",
                    f"{last()}, {last()} and {last()}",
                    f"{last()} {rng.choice(word_list('brandlegal', self._split))}",
                )
            )
        if style < 0.66:
            city = rng.choice(word_list("city", self._split))
            return f"{city} {rng.choice(_LOCAL_BODIES)}"
        stem, tail = word_list("brandstem", self._split), word_list("brandtail", self._split)
        brand = rng.choice(stem) + rng.choice(tail)
        if rng.random() < 0.45:
            brand += " " + rng.choice(word_list("brandlegal", self._split))
        return brand

    def _descriptive(self) -> str:
        """A name made of words: "Harbour Freight Services", "4 Owls Inc", "The Ember Group"."""
        rng = self._rng
        noun, other = (self._company_word("orgnoun") for _ in range(2))
        first = self._company_word("orgword")
        legal = rng.choice(word_list("brandlegal", self._split))
        joint = f"{first}{noun.lower()}"
        forms = (
            *(f"{first} {noun}", f"{first} {noun} {other}", f"The {first} {legal}", joint),
            *(f"{first} and {other}", f"{rng.randint(2, 24)} {first} {noun}", f"{first} & {other}"),
            *(
                f"{first} {noun} {legal}",
                joint.lower(),
                f"{rng.choice('ABCDJKMTW')} {first} {legal}",
            ),
            *(first, f"{rng.choice(('i', 'e', 'my', 'go', 'get'))}{first}", f"{joint}.com"),
        )
        return rng.choice(forms)

    def _company_word(self, kind: str) -> str:
        """A word of firms, or any word: "Maybe" is a bank somewhere."""
        if self._rng.random() < 0.6:
            return self._rng.choice(word_list(kind, self._split))
        return str(self._fake.word()).capitalize()

    def _local(self) -> str:
        """Faker's own address of this locale."""
        return str(self._fake.address())

    def _lines(self) -> list[str]:
        """An address of the US, UK, Canada, Australia or continental Europe, line by line."""
        rng = self._rng
        street = self.street()
        if rng.random() < 0.3:
            street += rng.choice((", ", " ")) + self.unit()
        place, style = self.city(), rng.random()
        if style < 0.4:
            code = digits(rng, 5) if rng.random() < 0.85 else f"{digits(rng, 5)}-{digits(rng, 4)}"
            return [street, f"{place}, {rng.choice(_US_STATES)} {code}"]
        if style < 0.55:
            return [street, place, self._uk_code()]
        if style < 0.65:
            return [street, f"{place} {rng.choice(_CA_PROVINCES)} {self._canadian_code()}"]
        if style < 0.75:
            code = digits(rng, 4, "234567")
            return [street, f"{place} {rng.choice(_AU_STATES)} {code}"]
        return [f"{self._fake.street_name()} {rng.randint(1, 190)}", f"{self.zip()} {place}"]

    def corner(self) -> str:
        """Two streets that cross, or the one beside which something lies."""
        forms = (
            *("the corner of {a} and {b}", "the junction of {a} and {b}", "{a}, corner of {b}"),
            *("{a} at {b}", "{a} and {b}", "between {a} and {b}", "{a} / {b}", "opposite {a}"),
        )
        return self._rng.choice(forms).format(a=self.street(), b=self._way())

    def _way(self) -> str:
        rng = self._rng
        if rng.random() < 0.5:
            return str(self._fake.street_name())
        names = (rng.choice(_STREET_NAMES), self._fake.last_name(), self._fake.first_name())
        ends = rng.choice(_STREET_ENDS) if rng.random() < 0.5 else rng.choice(_STREET_LONG_ENDS)
        return f"{rng.choice(names)} {ends}"

    def box(self) -> str:
        """A post office box with its town."""
        rng = self._rng
        word = rng.choice(("P.O. Box", "PO Box", "Postfach", "Box"))
        return f"{word} {rng.randint(10, 9999)}, {', '.join(self._lines()[1:])}"

    def firm(self) -> str:
        """A firm that bears the names of its owners."""
        return local.firm(self._fake, self._rng, self._split)

    def shop(self) -> str:
        """A firm with a name of words that mean something else."""
        return local.shop(self._rng, self._split)

    def club(self) -> str:
        """A local club, parish or charity."""
        return local.club(self._fake, self._rng, self._split)

    def addr(self) -> str:
        """An address on one line, in further layouts."""
        return local.address(self, self._rng)

    def label(self) -> str:
        """The lines of an address label below the name."""
        return local.label(self, self._rng)

    def road(self) -> str:
        """A street without its number."""
        return self._way()

    def _uk_code(self) -> str:
        rng = self._rng
        area = letters(rng, rng.choice((1, 2)))
        return f"{area}{rng.randint(1, 29)} {rng.randint(1, 9)}{letters(rng, 2)}"

    def _canadian_code(self) -> str:
        rng = self._rng
        area = f"{letters(rng, 1)}{digits(rng, 1)}{letters(rng, 1)}"
        return f"{area} {digits(rng, 1)}{letters(rng, 1)}{digits(rng, 1)}"
