"""How much of the machine's read bandwidth decoding uses."""

import statistics

from rounds import interleave

from ptmo_secure.bench import decode_bytes, read_bandwidth
from ratios.decoding import Decoding, open_engine
from ratios.measured import Measured, Settings, median_of

CONTEXT = 16


def bandwidth(settings: Settings, threads: int) -> Measured:
    """Bytes that decoding reads a second / bytes that the cores read of a buffer as large."""
    with open_engine(settings, threads, CONTEXT, shield="none") as engine:
        decoding = Decoding(engine, CONTEXT)
        decoding.seconds_per_token(settings.decode_tokens)  # warms up
        size = decode_bytes(engine, CONTEXT, settings.decode_tokens)
        found = interleave(
            {
                "machine": lambda: read_bandwidth(size, threads),
                "decode": lambda: size / decoding.seconds_per_token(settings.decode_tokens),
            },
            settings.rounds,
            settings.runs,
        )
    shares = [a / b for a, b in zip(found["decode"], found["machine"], strict=True)]
    return median_of(
        shares,
        decode_gbps=statistics.median(found["decode"]) / 1e9,
        read_gbps=statistics.median(found["machine"]) / 1e9,
        bytes_per_token=size,
    )
