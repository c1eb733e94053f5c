"""The views of a text that are worth scanning: each differs from all before it."""

from collections.abc import Callable, Iterable, Iterator

from tee_sim.guard.normalise.decode import (
    decode_edits,
    looks_backward,
    looks_rotated,
    rot13_table,
)
from tee_sim.guard.normalise.fold import fold_edits
from tee_sim.guard.normalise.spell import (
    address_edits,
    junk_edits,
    letter_edits,
    look_alike_digit_edits,
    name_edits,
    separator_edits,
    spacing_edits,
    spoken_digit_edits,
)
from tee_sim.guard.normalise.view import Edit, View

Step = Callable[[str], Iterable[Edit]]

# Each step starts from what the one before made. Code may hold code, three layers of it.
_DECODING: tuple[Step, ...] = (fold_edits, *(decode_edits, fold_edits) * 3)
_STEPS: tuple[Step, ...] = (
    junk_edits,
    spacing_edits,
    look_alike_digit_edits,
    spoken_digit_edits,
    address_edits,
    separator_edits,
    letter_edits,
    name_edits,
)


def views(text: str) -> Iterator[View]:
    """Yield the text as it stands, then its other readings.

    Plain prose has one view. Every step takes linear time.

    Args:
        text: any string.
    """
    view = View.identity(text)
    yield view
    if looks_rotated(text):
        yield view.translated(rot13_table())
    if looks_backward(text):
        yield view.reversed()
    for step in _DECODING:
        changed = view.edited(step(view.text))
        if changed is not view:
            yield changed
        elif step is decode_edits:
            break
        view = changed
    for step in _STEPS:
        changed = view.edited(step(view.text))
        if changed is not view:
            yield changed
        view = changed
