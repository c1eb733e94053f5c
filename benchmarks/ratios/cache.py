"""What the type of the cache does to the speed."""

from ratios.decoding import compare_engines
from ratios.measured import Measured, Settings


def kv_int8(settings: Settings, threads: int) -> Measured:
    """INT8 KV / FP16 KV at 2,048 tokens, both without a shield."""
    return compare_engines(
        settings,
        threads,
        2048,
        {"shield": "none", "kv_dtype": "int8"},
        {"shield": "none", "kv_dtype": "fp16"},
    )
