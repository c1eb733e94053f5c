"""What a disclosure to the cloud costs, in units of epsilon.

A value of severity s costs ``-ln(1 - s)`` when it goes as it is, so that costs add up exactly as
severities combine in the score: ``1 - exp(-sum of costs)`` is their noisy-or. A masked value costs
a share of that, for what its placeholder still tells.

This is a DP-style cost and no differential-privacy guarantee: no noise is added, so no ratio of
probabilities is bounded. It makes disclosures comparable and lets them be counted and capped.
"""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from ptmo_secure.errors import InputError
from ptmo_secure.types import PrivateSpan

Style = Literal["unmasked", "generalised", "surrogate", "masked"]

# Share of the full cost. A placeholder tells kind and place; a surrogate that and its format; a
# generalisation (age to decade, city to country) a part of the value.
SHARES: Mapping[Style, float] = MappingProxyType(
    {"unmasked": 1.0, "generalised": 0.4, "surrogate": 0.12, "masked": 0.1}
)
# A severity of 1 would cost without end; 0.995 costs 5.3
MAX_SEVERITY = 0.995
# What the guard may have missed in a text that goes out
RESIDUAL = 0.005
GRAVE_TOPIC, MILD_TOPIC = 0.8, 0.3
_MILD = frozenset("work relationship family money study home travel civic online statement".split())


def disclosure_cost(severity: float, style: Style = "unmasked") -> float:
    """Return what one disclosed value costs: ``-share * ln(1 - severity)``.

    Args:
        severity: in [0, 1]; of the guard's table.
        style: how the value goes out.

    Raises:
        InputError: a severity outside [0, 1], or an unknown style.
    """
    if not 0.0 <= severity <= 1.0:
        raise InputError(f"severity {severity} is outside 0..1")
    if style not in SHARES:
        raise InputError(f"unknown style {style!r}: choose from {', '.join(SHARES)}")
    return -SHARES[style] * math.log1p(-min(severity, MAX_SEVERITY))


def text_cost(
    spans: Iterable[PrivateSpan] = (), topics: Iterable[str] = (), style: Style = "masked"
) -> float:
    """Return what one text that goes out costs: its values, its situations, and what was missed.

    Args:
        spans: private values in it.
        topics: situations it tells, which no mask hides.
        style: how the values go out.
    """
    values = sum(disclosure_cost(span.severity, style) for span in spans)
    told = sum(disclosure_cost(MILD_TOPIC if topic in _MILD else GRAVE_TOPIC) for topic in topics)
    return RESIDUAL + values + told
