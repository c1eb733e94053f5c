"""What left the device, added up from the egress log."""

import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from ptmo_secure.cloud.egress_log import EgressRecord
from ptmo_secure.errors import InputError

_SPAN = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(slots=True)
class Destination:
    """What went to one model of one provider, or was kept from it.

    Args:
        provider, model: to whom.
        sent, refused: requests.
        sent_bytes: of their bodies.
        kinds: placeholders sent, by kind.
        codes: why others were refused.
        whys: what the sent ones were for.
        first_s, last_s: seconds since the epoch.
    """

    provider: str
    model: str
    sent: int = 0
    refused: int = 0
    sent_bytes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    whys: Counter[str] = field(default_factory=Counter)
    first_s: float = 0.0
    last_s: float = 0.0

    def add(self, record: EgressRecord) -> None:
        """Count a record."""
        self.first_s = self.first_s or record.time
        self.last_s = record.time
        if record.decision == "sent":
            self.sent += 1
            self.sent_bytes += record.bytes
            self.kinds.update(record.kinds)
            self.whys[record.why] += 1
        else:
            self.refused += 1
            self.codes[record.code] += 1

    def as_json(self) -> dict[str, object]:
        """The object that `ptmo audit --json` prints."""
        return {
            "provider": self.provider,
            "model": self.model,
            "sent": self.sent,
            "sent_bytes": self.sent_bytes,
            "refused": self.refused,
            "placeholders": dict(sorted(self.kinds.items())),
            "refusals": dict(sorted(self.codes.items())),
            "why": dict(sorted(self.whys.items())),
            "first": iso_time(self.first_s),
            "last": iso_time(self.last_s),
        }


def add_up(records: Iterable[EgressRecord]) -> list[Destination]:
    """Return what each destination got, in order of their names."""
    found: dict[tuple[str, str], Destination] = {}
    for record in records:
        name = (record.provider, record.model)
        found.setdefault(name, Destination(*name)).add(record)
    return [found[name] for name in sorted(found)]


def since_s(text: str, now_s: float | None = None) -> float:
    """Return the time that "24h", "7d", a date or a time of ISO 8601 stands for.

    Args:
        text: as the user gave it; UTC unless it says otherwise.
        now_s: seconds since the epoch that spans count back from.

    Raises:
        InputError: it is none of these.
    """
    span = _SPAN.fullmatch(text)
    if span is not None:
        now = time.time() if now_s is None else now_s
        return now - int(span[1]) * _SECONDS[span[2]]
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
        return aware.timestamp()
    except (ValueError, OverflowError):
        raise InputError(f"--since {text!a}: give 24h, 7d, 2026-04-01 or a time") from None


def iso_time(seconds: float) -> str:
    """Return a time in UTC, to the second."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
