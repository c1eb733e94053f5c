"""The views of a text that are worth scanning: each differs from all before it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from tee_sim.guard.normalise import decode, spell
from tee_sim.guard.normalise.fold import fold_edits
from tee_sim.guard.normalise.view import Edit, View

Step = Callable[[str], Iterable[Edit]]

# Each step starts from what the one before made. Code may hold code, three layers of it.
_DECODING: tuple[Step, ...] = (fold_edits, *(decode.decode_edits, fold_edits) * 3)
_STEPS: tuple[Step, ...] = (
    spell.junk_edits,
    spell.spacing_edits,
    spell.look_alike_digit_edits,
    spell.spoken_digit_edits,
    spell.address_edits,
    spell.separator_edits,
    spell.letter_edits,
    spell.name_edits,
)


def views(text: str) -> Iterator[View]:
    """Yield the text as it stands, then its other readings.

    Plain prose has one view. Every step takes linear time.

    Args:
        text: any string.
    """
    view = View.identity(text)
    yield view
    if decode.looks_rotated(text):
        yield view.translated(decode.rot13_table())
    if decode.looks_backward(text):
        yield view.reversed()
    for step in _DECODING:
        changed = view.edited(step(view.text))
        if changed is not view:
            yield changed
        elif step is decode.decode_edits:
            break
        view = changed
    for step in _STEPS:
        changed = view.edited(step(view.text))
        if changed is not view:
            yield changed
        view = changed
    recased = view.edited(spell.capital_edits(view.text))
    if recased is not view:
        yield replace(recased, recased=True)
