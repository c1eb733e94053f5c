"""How long a device, a network and a cloud take, what they draw and what they charge.

Figures marked "modelled" were not measured on the thing itself; `device_from_bench` makes a profile
of what `ptmo bench --json` measured on the user's own machine.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ptmo_secure.errors import InputError


class _Positive:
    """Checks that every number of a profile is finite and above 0."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, item.name)
            if isinstance(value, (int, float)) and not (np.isfinite(value) and value > 0):
                raise InputError(f"{item.name} is {value}: a profile has numbers above 0")


@dataclass(frozen=True, slots=True)
class Device(_Positive):
    """A device that answers by itself.

    Args:
        name: in tables.
        prefill_tps, decode_tps: tokens per second.
        watts: drawn while it answers, above idle.
        radio_watts: drawn while it waits for a cloud.
        battery_j: energy that a charged battery holds for answering.
        source: where the numbers come from.
    """

    name: str
    prefill_tps: float
    decode_tps: float
    watts: float
    radio_watts: float
    battery_j: float
    source: str

    def seconds(self, prompt_tokens: float, answer_tokens: float) -> float:
        """Time of one answer: prompt / prefill rate + answer / decode rate."""
        return prompt_tokens / self.prefill_tps + answer_tokens / self.decode_tps


@dataclass(frozen=True, slots=True)
class Network(_Positive):
    """A way to the cloud.

    Args:
        name: in tables.
        round_trip_s: one round trip.
        upload_bps: bytes per second towards the cloud.
        source: where the numbers come from.
    """

    name: str
    round_trip_s: float
    upload_bps: float
    source: str


@dataclass(frozen=True, slots=True)
class Cloud(_Positive):
    """A cloud model: its speed and its price list.

    Args:
        name: in tables.
        first_token_s: from the arrival of the prompt to the first token.
        decode_tps: tokens per second after it.
        usd_per_prompt_token, usd_per_answer_token: price list.
        cached_discount: share of a cached prompt token's price that is still charged.
        source: where the numbers come from.
    """

    name: str
    first_token_s: float
    decode_tps: float
    usd_per_prompt_token: float
    usd_per_answer_token: float
    cached_discount: float
    source: str


DEVICES = {
    device.name: device
    for device in (
        Device(
            "orin-nano-8b-int4",
            prefill_tps=310.0,
            decode_tps=13.0,
            watts=11.0,
            radio_watts=1.5,
            battery_j=40_000.0,
            source="modelled: decode = 0.6 of 102 GB/s over 4.7 GB of INT4 weights; "
            "prefill = 0.15 of 33 dense INT8 TOPS over 16 GFLOP a token; 15 W mode above idle",
        ),
        Device(
            "m4a1-logged",
            prefill_tps=400.0,
            decode_tps=27.6,
            watts=10.0,
            radio_watts=1.5,
            battery_j=40_000.0,
            source="fitted: M4A1's local answers took 7.58 s on average, 205 tokens of 4 letters; "
            "power is modelled",
        ),
    )
}

NETWORKS = {
    network.name: network
    for network in (
        Network("wired", 0.02, 12_500_000.0, "modelled: 100 Mbit/s, 20 ms"),
        Network("wifi", 0.04, 3_000_000.0, "modelled: 24 Mbit/s up, 40 ms"),
        Network("4g", 0.09, 600_000.0, "modelled: 4.8 Mbit/s up, 90 ms"),
    )
}

CLOUDS = {
    cloud.name: cloud
    for cloud in (
        Cloud(
            "large",
            first_token_s=0.6,
            decode_tps=70.0,
            usd_per_prompt_token=2.5e-6,
            usd_per_answer_token=1.0e-5,
            cached_discount=0.5,
            source="modelled: list prices of GPT-4o's class",
        ),
    )
}


def profile(registry: Mapping[str, Any], what: str, name: str) -> Any:
    """Return a profile by its name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in registry:
        raise InputError(f"unknown {what} {name!r}: expected one of {', '.join(registry)}")
    return registry[name]


def device_from_bench(path: Path, watts: float = 11.0, battery_j: float = 40_000.0) -> Device:
    """Make a profile of the first row of a result of `ptmo bench --json`.

    Args:
        path: the JSON file.
        watts, battery_j: as in `Device`; the benchmark does not measure them.

    Raises:
        InputError: the file cannot be read, or has no such row.
    """
    try:
        row = json.loads(path.read_text(encoding="utf-8"))["results"][0]
        rates = float(row["prefill_tps"]), float(row["decode_tps"])
    except OSError as failure:
        raise InputError(f"{path}: {failure.strerror}") from None
    except (KeyError, IndexError, TypeError, ValueError):
        raise InputError(f"{path}: no result of ptmo bench with prefill_tps, decode_tps") from None
    return Device(path.stem, *rates, watts, 1.5, battery_j, f"measured by ptmo bench: {path.name}")
