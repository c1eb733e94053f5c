"""The rows against llama.cpp, all from one comparison."""

from collections.abc import Collection, Sequence
from pathlib import Path

from compare_llamacpp import METRICS as RATES
from compare_llamacpp import Options, compare_all
from peers.models import KINDS, Say

from ratios.measured import Measured, Settings

METRICS = tuple(f"{rate}_{kind}" for rate in RATES for kind in KINDS)


def measure(
    settings: Settings,
    peer_python: Path,
    names: Collection[str],
    threads: Sequence[int],
    say: Say,
) -> dict[tuple[str, int], Measured]:
    """Compare with the peer; figures by metric and thread count."""
    options = Options(
        peer_python=peer_python,
        model=settings.model,
        kinds=tuple(kind for kind in KINDS if any(name.endswith(kind) for name in names)),
        metrics=tuple(rate for rate in RATES if any(name.startswith(rate) for name in names)),
        threads=tuple(threads),
        rounds=settings.rounds,
    )
    found: dict[tuple[str, int], Measured] = {}
    for row in compare_all(options, say).rows:
        ratios = tuple(a / b for a, b in zip(row.ours_rounds, row.peer_rounds, strict=True))
        detail = {"tokens_per_s": row.ours, "peer_tokens_per_s": row.peer}
        found[row.metric, row.threads] = Measured(row.ratio, ratios, detail)
    return found
