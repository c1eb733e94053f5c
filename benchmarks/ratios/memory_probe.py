"""A process that loads a model, runs it, and prints its own memory: MODEL THREADS PROMPT DECODE."""

import json
import sys
from pathlib import Path

from ptmo_secure import Engine
from ptmo_secure.bench import count_of, decode_greedily, prompt_ids

STATUS = Path("/proc/self/status")


def status_bytes(field: str) -> int:
    """A size of this process as the kernel counts it."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def main(model: str, threads: int, prompt_tokens: int, decode_tokens: int) -> None:
    """Run, and print the sizes as JSON."""
    before = status_bytes("VmRSS")
    with Engine.load(model, threads=threads) as engine:
        session = engine.start_session()
        logits = session.feed(prompt_ids(range(300, 400), prompt_tokens))
        decode_greedily(session, logits, decode_tokens)
        stats = engine.stats()
        rows = prompt_tokens + decode_tokens
        sizes = {
            "before_bytes": before,
            "peak_bytes": status_bytes("VmHWM"),
            "weights_bytes": count_of(stats, "weights_bytes"),
            "kv_bytes": rows * count_of(stats, "kv_bytes_per_token"),
        }
    print(json.dumps(sizes))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
