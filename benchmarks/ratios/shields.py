"""What a shield leaves of the speed."""

from ratios.decoding import compare_engines
from ratios.measured import Measured, Settings

PERMUTE_CONTEXT = 1024
NONE: dict[str, object] = {"shield": "none"}


def seal_1024(settings: Settings, threads: int) -> Measured:
    """`seal` / `none` at 1,024 tokens."""
    return compare_engines(settings, threads, 1024, {"shield": "seal"}, NONE)


def seal_4096(settings: Settings, threads: int) -> Measured:
    """`seal` / `none` at 4,096 tokens."""
    return compare_engines(settings, threads, 4096, {"shield": "seal"}, NONE)


def permute(settings: Settings, threads: int) -> Measured:
    """`permute` with its restore folded into the weights / `none`."""
    folded: dict[str, object] = {"shield": "permute", "restore": "folded"}
    return compare_engines(settings, threads, PERMUTE_CONTEXT, folded, NONE)
