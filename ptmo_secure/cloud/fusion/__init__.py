"""Logit-level fusion: the device's model decodes, a cloud's log-probabilities advise it.

`decode.FusedDecoder` is the way in. `mix` has the formulas, `align` compares two vocabularies by
their bytes, `gate` and `training` say how much each model counts, `view` what the cloud is told,
`asking` and `draft` keep requests few and waits short, `fuser` puts a token together.
"""

from ptmo_secure.cloud.fusion.config import FusionConfig, FusionStats
from ptmo_secure.cloud.fusion.decode import FusedDecoder
from ptmo_secure.cloud.fusion.gate import (
    EntropyWeight,
    FixedWeight,
    LearnedWeight,
    Weight,
    load_gate,
)
from ptmo_secure.cloud.fusion.view import PublicView, as_it_is, never

__all__ = [
    "EntropyWeight",
    "FixedWeight",
    "FusedDecoder",
    "FusionConfig",
    "FusionStats",
    "LearnedWeight",
    "PublicView",
    "Weight",
    "as_it_is",
    "load_gate",
    "never",
]
