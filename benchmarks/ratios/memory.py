"""How far loading a model and running it drives a process's memory up."""

import json
import subprocess
import sys
from pathlib import Path

from ptmo_secure.engine import registry
from ptmo_secure.errors import EngineError
from ratios.measured import Measured, Settings, median_of

PROBE = Path(__file__).with_name("memory_probe.py")
PROMPT_TOKENS, DECODE_TOKENS = 512, 128
ALLOWED_BESIDES = 64 << 20


def memory(settings: Settings, threads: int) -> Measured:
    """Growth from before `Engine.load` to the end / (weights once + KV + 64 MiB)."""
    registry.resolve(settings.model)  # told here in one line, by the probe in a traceback
    probes = [_probe(settings, threads) for _ in range(settings.rounds)]
    ratios = [growth_ratio(probe) for probe in probes]
    return median_of(ratios, **{name: float(value) for name, value in probes[-1].items()})


def growth_ratio(probe: dict[str, int]) -> float:
    """The ratio from what a probe printed."""
    allowed = probe["weights_bytes"] + probe["kv_bytes"] + ALLOWED_BESIDES
    return (probe["peak_bytes"] - probe["before_bytes"]) / allowed


def _probe(settings: Settings, threads: int) -> dict[str, int]:
    arguments = (settings.model, threads, PROMPT_TOKENS, DECODE_TOKENS)
    done = subprocess.run(
        [sys.executable, str(PROBE), *map(str, arguments)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise EngineError(f"the memory probe failed: {''.join(done.stderr.splitlines()[-1:])}")
    probe: dict[str, int] = json.loads(done.stdout)
    return probe
