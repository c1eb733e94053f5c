"""The guard's own training data: templates, fillers and labels, seeded and without any download."""

from ptmo_secure.privacy.synth.example import CORE_KINDS, KINDS, QUASI_KINDS, Example, Label
from ptmo_secure.privacy.synth.generator import (
    dataset,
    harmless,
    korean_private,
    paired_frames,
    private,
    told,
)

__all__ = [
    "CORE_KINDS",
    "KINDS",
    "QUASI_KINDS",
    "Example",
    "Label",
    "dataset",
    "harmless",
    "korean_private",
    "paired_frames",
    "private",
    "told",
]
