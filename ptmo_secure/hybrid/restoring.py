"""Puts the values back into a cloud's answer, for its user alone.

A cloud, or whoever wrote what it read, can answer with a link that holds placeholders, so that a
program which shows pictures sends the values to a stranger. So nothing is filled in inside a link.
"""

import json
import re
from collections.abc import Mapping
from typing import Protocol

from ptmo_secure.hybrid.reading import in_strings
from tee_sim.client import Unmasker

_MAX_RUN, _KEPT = 4096, 32  # characters kept back of what has no blank, and of a longer one
_LINK = re.compile(r"//|\]\(|(?:src|href|url)\s*[=(]|www\.|data:|javascript:", re.IGNORECASE)
_RUN = re.compile(r"[!-~]+|[^!-~]+")
_BLANK = re.compile(r"\s")


class Unmasking(Protocol):
    """Fills in placeholders; a `tee_sim.client.Vault` is one."""

    def unmask(self, text: str) -> str:
        """Return a text with its values."""

    def unmasker(self) -> Unmasker:
        """Return what unmasks a text that comes piece by piece."""


class Restorer:
    """Restores an answer that comes in pieces, wherever these are cut.

    Keeps back what may become a placeholder or a link: the run of ASCII letters and marks at the
    end, until a blank comes. What stands before a link in its run is not filled in either.

    Args:
        vault: that masked what was asked.

    Security: only placeholders that this vault gave out are filled, and none inside a link.
    """

    def __init__(self, vault: Unmasking) -> None:
        self._unmasker = vault.unmasker()
        self._run = ""
        self._in_link = False  # until a blank comes

    def feed(self, piece: str) -> str:
        """Take the next piece; return what is ready."""
        ready, plain = [], ""  # plain text is unmasked at once: each call of the guard takes time
        for part in _RUN.findall(piece):
            blank = _BLANK.search(part)
            if self._in_link:
                end = len(part) if blank is None else blank.start()
                ready.append(part[:end])
                part, self._in_link = part[end:], blank is None
            if part and "!" <= part[0] <= "~":
                self._run += part
                if _LINK.search(self._run):
                    ready += [self._unmasked(plain), self._unmasker.finish(), self._run]
                    plain, self._run, self._in_link = "", "", True
                elif len(self._run) > _MAX_RUN:
                    plain, self._run = plain + self._run[:-_KEPT], self._run[-_KEPT:]
            else:
                plain, self._run = plain + self._run + part, ""
        return "".join([*ready, self._unmasked(plain)])

    def finish(self) -> str:
        """Return what was kept back. It may be used anew."""
        run, self._run, self._in_link = self._run, "", False
        return self._unmasked(run) + self._unmasker.finish()

    def _unmasked(self, text: str) -> str:
        return self._unmasker.feed(text) if text else ""


def restore_call(vault: Unmasking, call: Mapping[str, object]) -> dict[str, object]:
    """Return a tool call with the values in its arguments.

    Arguments are JSON: each string in them is restored by itself, so that a value with quotes in it
    stays one string. What is no JSON stays masked.

    Args:
        vault: that masked what was asked.
        call: whole, as in the OpenAI API.
    """
    function = call.get("function")
    if not isinstance(function, Mapping):
        return dict(call)
    said = function.get("arguments")
    try:
        value = json.loads(said) if isinstance(said, str) else said
    except (ValueError, RecursionError):
        return dict(call)
    arguments = json.dumps(in_strings(value, lambda text: restore(vault, text)), ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def restore(vault: Unmasking, text: str) -> str:
    """Return a whole text with its values, links as they are."""
    restorer = Restorer(vault)
    return restorer.feed(text) + restorer.finish()
