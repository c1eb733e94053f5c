"""The attackers of the KV cache: what each one reads, and nothing more.

The same five stand in `docs/threat-model.md`. An attack names the weakest attacker that can run it,
so a shield that withstands attacker A must defeat every attack whose `attacker` is A or weaker.
"""

from enum import Enum


class Attacker(str, Enum):
    """How much of the device an attacker reads. Base weights and tokenizer are public to all."""

    A0 = "A0"
    """KV pages only: all layers, one layer, or a fraction of the rows. Residue left in GPU memory
    (LeftoverLocals, CVE-2023-4969), swap, a stolen session file."""

    A1 = "A1"
    """A0 and other activations: the layer input x, attention scores. A malicious kernel on the GPU.
    x is a function of the token at layer 0, so no shield of the KV cache alone stops A1."""

    A2 = "A2"
    """A0 and the weights as deployed on the device (permuted ones too), but no activations. A dump
    of GPU memory."""

    A3 = "A3"
    """A0 and some plaintext of the same session: the chat template, a system prompt, or text the
    attacker chose. Every real chat gives this much away."""

    A4 = "A4"
    """A0 over many sessions, the attacker's own among them. A long-lived spy."""

    @property
    def sees(self) -> str:
        """One line for tables: what this attacker reads."""
        return _SEES[self]

    @property
    def has_known_text(self) -> bool:
        """Whether the attacker knows the plaintext of some session it also reads the pages of."""
        return self in (Attacker.A3, Attacker.A4)


_SEES = {
    Attacker.A0: "KV pages",
    Attacker.A1: "KV pages, other activations",
    Attacker.A2: "KV pages, deployed weights",
    Attacker.A3: "KV pages, some plaintext of the session",
    Attacker.A4: "KV pages of many sessions, its own among them",
}
