"""Some of a vault's values, by their placeholders' names: what an answer to one request may hold.

names = names_in(masked.text)
answer = Filler(vault, names).unmask(ask_the_cloud(masked.text))
"""

from collections.abc import Collection
from typing import Protocol

from tee_sim.mask_calls import Unmasker
from tee_sim.placeholders import Shape, begun, fold, shapes
from tee_sim.scan_result import encode_text


class Filling(Protocol):
    """Fills in placeholders; a `Vault` does."""

    def unmask(self, text: str) -> str:
        """Return a text with its values."""


class Filler:
    """Fills in the placeholders that are named, altered ones too, as `Vault.unmask` reads them.

    Security: all others stay as they stand in the text, whatever the vault knows of them, and so do
    surrogates. The guard is asked for each placeholder by itself, and sees no more of the text.

    Args:
        vault: whose values.
        names: as `names_in` gives them.
    """

    def __init__(self, vault: Filling, names: Collection[str]) -> None:
        self._vault, self._names = vault, frozenset(names)

    def unmask(self, text: str) -> str:
        """Return a text with its values.

        Raises:
            TeeError: as `Vault.unmask`, where a placeholder is to be filled in.
        """
        return self._unmask(encode_text(text), 0, final=True)[0]

    def unmasker(self) -> Unmasker:
        """Return what does the same with a text that comes piece by piece."""
        return Unmasker(self)

    def _unmask(self, data: bytes, given: int, *, final: bool) -> tuple[str, int]:
        """Return the filled text, and how many bytes of `data` it stands for; as `Vault`."""
        text, context = data.decode("utf-8"), len(data[:given].decode("utf-8"))
        folded = fold(text)
        found = list(shapes(text, folded, context))
        stop = len(text)
        if not final:
            stop = begun(folded, context, found)
            stop = next((s.start for s in found if s.start < stop < s.end), stop)
        pieces, at = list[str](), context
        for shape in found:
            if shape.end > stop:
                break
            pieces += [text[at : shape.start], self._filled(text, shape)]
            at = shape.end
        pieces.append(text[at:stop])
        return "".join(pieces), len(text[:stop].encode("utf-8"))

    def _filled(self, text: str, shape: Shape) -> str:
        written = text[shape.start : shape.end]
        return self._vault.unmask(written) if str(shape.token) in self._names else written
