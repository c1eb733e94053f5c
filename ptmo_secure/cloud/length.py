"""How long an answer may be, held to here: a server may leave `max_tokens` alone.

A server says how many tokens an answer has only in its end, if it does, and a chunk is no token.
Where it sends log-probabilities each token has one, and they are counted. Elsewhere characters are,
with room for honest answers: tokenizers make 3 to 5 characters a token of prose, 10 of code
that is mostly blanks, and no token of theirs has more than 128.
"""

from collections.abc import Mapping
from dataclasses import replace

from ptmo_secure.cloud.types import CloudDelta

CHARACTERS_PER_TOKEN = 16
CHARACTERS_BESIDE = 128  # one token of the longest
CUT = "length"  # the finish_reason


class Length:
    """Takes the pieces of one answer and cuts where it is too long. For one thread.

    Args:
        max_tokens: that were asked for, 1 or more.

    Attributes:
        passed: whether it was too long; nothing more is to be read then.
    """

    def __init__(self, max_tokens: int) -> None:
        self._tokens = max_tokens
        self._characters = CHARACTERS_BESIDE + CHARACTERS_PER_TOKEN * max_tokens
        self.passed = False

    def take(self, delta: CloudDelta) -> CloudDelta:
        """Return what of the next piece is within the length; it ends there if not all is.

        Args:
            delta: a piece of a stream, or a whole answer. Of the calls in it those go that are not
                within the length as a whole.
        """
        text, positions = delta.text, delta.positions[: self._tokens]
        if len(positions) < len(delta.positions):
            self.passed = True
            kept = b"".join(position.chosen.bytes for position in positions)
            text = text[: len(kept.decode("utf-8", "ignore"))]
        self._tokens -= len(positions)
        if len(text) > self._characters:
            self.passed = True
            text = text[: self._characters]
        self._characters -= len(text)
        calls = tuple(call for call in delta.tool_calls if not self.passed and self._fits(call))
        if not self.passed:
            return delta
        return replace(delta, text=text, tool_calls=calls, positions=positions, finish_reason=CUT)

    def _fits(self, call: Mapping[str, object]) -> bool:
        function = call.get("function")
        parts = function.values() if isinstance(function, Mapping) else ()
        self._characters -= sum(len(part) for part in parts if isinstance(part, str))
        self.passed = self.passed or self._characters < 0
        return not self.passed
