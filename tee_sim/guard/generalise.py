"""Coarser words in the place of private values: an age's decade, a date's year, a city's country.

One way: nothing of the value is kept, so nothing brings it back.
"""

import re

from tee_sim.guard.words import pairs

_COUNTRY = pairs("city_countries")
_YEAR = re.compile(r"(?<!\d)(?:1[89]|20)\d\d(?!\d)")
_YEARS = re.compile(r"(?<!\d)\d{1,3}(?!\d)")
_WORDS = pairs("kinds")


def generalise(kind: str, value: str) -> str:
    """Return what may be said in the place of a value.

    Security: of an age the decade is told (from 90 on: "90 or over"), of a date its year, of a city
    its country; of all else the kind alone.
    """
    if kind == "AGE" and (years := _YEARS.search(value)):
        decade = int(years.group()) // 10 * 10
        return "90 or over" if decade >= 90 else f"{decade}s" if decade else "under 10"
    if kind in ("DATE", "DATE_OF_BIRTH") and (year := _YEAR.search(value)):
        return year.group()
    city = " ".join(value.lower().split()).strip(".,")
    if kind == "LOCATION" and city in _COUNTRY:
        return _COUNTRY[city]
    return _WORDS.get(kind) or f"a {kind.replace('_', ' ').lower()}"
