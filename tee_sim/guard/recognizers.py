"""The table of recognisers: one row per entity kind, with its risk and what finds it.

Severity is the risk of one disclosed value; it enters the score by noisy-or. It follows three
questions: does the value open something (credentials), does it name one person (identifiers), or
does it only narrow the circle (quasi-identifiers)? A floor is the least score of a text that holds
such a value: kinds whose values are checked by digit or structure have one.

Each row scans the whole text once. Patterns have bounded repetitions only, and look-behinds keep a
long run from being entered at every position, so the time is linear in the text.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tee_sim.guard import addresses, dates, korean, names, network, tokens, topics
from tee_sim.guard.digit_runs import find_payment_cards, find_phones, find_ssns
from tee_sim.guard.identifiers import find_identifiers
from tee_sim.guard.stated_numbers import find_stated_numbers
from tee_sim.guard.stated_secrets import find_secrets

Ranges = Iterable[tuple[int, int]]
Finder = Callable[[str], Ranges]


@dataclass(frozen=True, slots=True)
class Recognizer:
    """One row of the table.

    Args:
        kind: entity kind, one of `scan_result.ENTITY_KINDS`.
        severity: risk of one disclosed value, in [0, 1]; enters the score by noisy-or.
        floor: least score of a text that holds a value (near 1 for checksum-valid identifiers).
        find: yields the half-open ranges of validated values.
    """

    kind: str
    severity: float
    floor: float
    find: Finder


def _all(*finders: Finder) -> Finder:
    """Return a finder that yields what each of several finds."""

    def find(text: str) -> Iterator[tuple[int, int]]:
        for finder in finders:
            yield from finder(text)

    return find


def _left_to_the_model(text: str) -> Ranges:
    """Find nothing: no frame or shape tells these from public text."""
    return ()


_ROWS: tuple[tuple[str, float, float, Finder], ...] = (
    # Opens an account or a machine. A stated secret is not verified; the others have a shape.
    ("SECRET", 0.75, 0.0, find_secrets),
    ("PRIVATE_KEY", 0.99, 0.99, tokens.find_private_keys),
    ("API_KEY", 0.95, 0.95, tokens.find_api_keys),
    ("JWT", 0.95, 0.95, tokens.find_jwts),
    # Money can be taken with it
    ("PAYMENT_CARD", 0.98, 0.98, find_payment_cards),
    ("IBAN", 0.95, 0.95, find_identifiers("IBAN")),
    ("BANK_ACCOUNT", 0.85, 0.0, find_identifiers("BANK_ACCOUNT")),
    ("CRYPTO_ADDRESS", 0.7, 0.0, tokens.find_wallets),  # public by design, but names its owner
    # One person for life, and the key to their records
    ("US_SSN", 0.95, 0.95, find_ssns),
    ("KR_RRN", 0.98, 0.98, find_identifiers("KR_RRN")),
    ("NATIONAL_ID", 0.95, 0.95, find_identifiers("NATIONAL_ID")),
    ("TAX_ID", 0.85, 0.0, find_identifiers("TAX_ID")),
    ("PASSPORT", 0.9, 0.0, find_identifiers("PASSPORT")),
    ("DRIVER_LICENSE", 0.85, 0.0, find_identifiers("DRIVER_LICENSE")),
    ("ID_NUMBER", 0.7, 0.0, find_stated_numbers),  # some number called somebody's, unchecked
    # Protected by law (GDPR art. 9), or as telling as that
    ("MEDICAL", 0.8, 0.0, topics.find_medical),
    ("FINANCIAL", 0.6, 0.0, topics.find_financial),
    ("DEMOGRAPHIC", 0.3, 0.0, _left_to_the_model),  # nationality, religion, politics
    # Reaches or finds one person
    ("ADDRESS", 0.7, 0.0, addresses.find_addresses),
    ("PHONE", 0.65, 0.0, find_phones),
    ("EMAIL", 0.6, 0.0, network.find_emails),
    ("COORDINATES", 0.6, 0.0, network.find_coordinates),
    ("VEHICLE", 0.6, 0.0, find_identifiers("VEHICLE")),
    ("DATE_OF_BIRTH", 0.6, 0.0, dates.find_births),  # with a post code names most people
    ("PERSON", 0.5, 0.0, _all(names.find_names, korean.find_korean_names)),
    ("URL", 0.65, 0.0, network.find_urls),
    ("USERNAME", 0.45, 0.0, network.find_usernames),
    ("MAC_ADDRESS", 0.45, 0.0, network.find_macs),
    ("IP_ADDRESS", 0.4, 0.0, network.find_ips),
    # Narrows the circle
    ("AGE", 0.25, 0.0, dates.find_ages),
    ("ORG", 0.25, 0.0, _all(names.find_employers, korean.find_korean_employers)),
    ("LOCATION", 0.25, 0.0, addresses.find_homes),
    ("DATE", 0.1, 0.0, _left_to_the_model),
)
RECOGNIZERS: tuple[Recognizer, ...] = tuple(Recognizer(*row) for row in _ROWS)
