"""What calls into a real TEE would cost: figures with their sources, and the time they add up to.

    simulated time = crossings * call + (bytes in + bytes out) / copy + buffers mapped * map

The formula and the presets are a model: no latency of OP-TEE on a Jetson Orin was found published.
docs/measuring-optee.md says how to measure the figures on a device and use them instead.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ptmo_secure.engine.paths import path_text
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from tee_sim.client import Usage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

DEFAULT_COST_MODEL = "orin_est"


@dataclass(frozen=True, slots=True)
class Figure:
    """A positive number and where it is from."""

    value: float
    source: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0):
            raise InputError(f"value {self.value} is not a positive number")
        if not self.source.strip():
            raise InputError("source is empty")


@dataclass(frozen=True, slots=True)
class CostModel:
    """Prices of the three things that a TEE's caller waits for.

    Args:
        name: of the preset, or of the device measured.
        call_us: microseconds of one command that does nothing, there and back.
        copy_gbps: 10^9 bytes a second that the TEE copies from and to shared memory.
        map_us: microseconds to register one buffer, once, its release included.
    """

    name: str
    call_us: Figure
    copy_gbps: Figure
    map_us: Figure

    def milliseconds(self, usage: "Usage") -> float:
        """Return the simulated time of what was asked of the TEE; its own work is not in it."""
        copied = usage.bytes_in + usage.bytes_out
        return (
            usage.crossings * self.call_us.value / 1e3
            + copied / (self.copy_gbps.value * 1e6)
            + usage.registrations * self.map_us.value / 1e3
        )

    def as_json(self) -> dict[str, object]:
        """The model as a JSON object: each figure with its source."""
        return asdict(self)


_COPY = Figure(
    2.0,
    "assumed: a slow single-core memory copy; the one figure found, 1.4x for SHA-256 inside a TA "
    "(put down to copies), gives no bandwidth",
)
_MAP = Figure(
    200.0,
    "assumed: a quarter of the up to 800 us that mapping dynamic shared memory took on a Cortex-A7 "
    "(OP-TEE optee_os issue 6731 and pull request 6728)",
)
_A53 = "131 us of a no-op TA call on a Raspberry Pi 3, Cortex-A53 (10GiC10V38/optee-rpi3-work)"
_PRESETS = (
    CostModel(
        "optimistic",
        Figure(
            10.0,
            "assumed: under the 22 us of the estimate `orin_est`, since Orin's Cortex-A78AE at "
            "2 GHz is newer than the core that estimate is made for; far above the floor, an EL3 "
            "call of 0.52 to 0.72 us on a Cortex-A57 (TF-A, psci-performance-juno.rst)",
        ),
        _COPY,
        _MAP,
    ),
    CostModel(
        "orin_est",
        Figure(
            25.0,
            f"estimated: {_A53}, over the 4 to 6 times by which a Cortex-A57 was faster than an "
            "A53 at the same EL3 call (TF-A, psci-performance-juno.rst): 22 to 33 us",
        ),
        _COPY,
        _MAP,
    ),
    CostModel("pessimistic", Figure(131.0, f"measured: {_A53}"), _COPY, _MAP),
)
PRESETS = {preset.name: preset for preset in _PRESETS}
_FIGURES = tuple(field.name for field in fields(CostModel) if field.name != "name")


def cost_model(wanted: str) -> CostModel:
    """Return a preset by its name, or the model that a TOML file describes.

    Raises:
        InputError: there is neither, or the file is wrong; the text names the file and the field.
    """
    if wanted in PRESETS:
        return PRESETS[wanted]
    path = Path(path_text("cost-model", wanted))
    if path.suffix != ".toml":
        raise InputError(
            f"unknown cost-model {wanted!r}: choose from {', '.join(PRESETS)}, or name a .toml file"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise InputError(f"cost-model {wanted!r}: {failure.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as failure:
        raise InputError(f"cost-model {wanted!r} is not TOML: {failure}") from None
    try:
        return _from_table(table, path.stem)
    except InputError as failure:
        raise InputError(f"cost-model {wanted!r}: {failure}") from None


def _from_table(table: Mapping[str, object], name: str) -> CostModel:
    """Build a model from `name`, `base` (a preset for what is left out) and a table a figure."""
    unknown = set(table) - {"name", "base", *_FIGURES}
    if unknown:
        raise InputError(f"unknown field {sorted(unknown)[0]!r}")
    base = table.get("base")
    if base is not None and base not in PRESETS:
        raise InputError(f"unknown base {base!r}: choose from {', '.join(PRESETS)}")
    figures = {}
    for field in _FIGURES:
        if field in table:
            figures[field] = _figure(field, table[field])
        elif isinstance(base, str):
            figures[field] = getattr(PRESETS[base], field)
        else:
            raise InputError(f"{field} is missing, and no base is named")
    return CostModel(str(table.get("name", name)), **figures)


def _figure(field: str, given: object) -> Figure:
    if not isinstance(given, dict) or set(given) != {"value", "source"}:
        raise InputError(f"{field} is not a table of value and source")
    value, source = given["value"], given["source"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not isinstance(source, str):
        raise InputError(f"{field}: value must be a number and source a text")
    try:
        return Figure(float(value), source)
    except InputError as failure:
        raise InputError(f"{field}: {failure}") from None
