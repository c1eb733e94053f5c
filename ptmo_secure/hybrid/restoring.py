"""Puts the values back into a cloud's answer, for its user alone.

A cloud, or whoever wrote what it read, can answer with a link that holds placeholders, so that a
program which shows pictures sends the values to a stranger. So nothing is filled in where a link
may be open (`links`), nor in a word that is one.
"""

import json
import re
from collections.abc import Mapping
from typing import Protocol

from ptmo_secure.hybrid.links import Links, host_tail, is_link
from ptmo_secure.hybrid.telling import in_strings
from tee_sim.client import Unmasker

_MAX_RUN, _KEPT = 4096, 512  # characters kept back of what has no blank, and of a longer one
_RUN = re.compile(r"[!-~]+|[^!-~]+")
_BLANK = re.compile(r"[ \t\n\r\f\v]")  # alone end a link: other blanks are a part of it
_PLACEHOLDER = re.compile(
    r"\[[A-Z_]{2,24}_[0-9]{1,6}[a-z]{0,3}\]|<[A-Z_]{2,24}_[0-9]{1,6}[a-z]{0,3}>"
)
_MAX_KNOWN = 4096


class Unmasking(Protocol):
    """Fills in placeholders; a `Vault` or a `Filler` of `tee_sim.client` is one."""

    def unmask(self, text: str) -> str:
        """Return a text with its values."""

    def unmasker(self) -> Unmasker:
        """Return what unmasks a text that comes piece by piece."""


class Restorer:
    """Restores an answer that comes in pieces, wherever these are cut.

    Keeps back what may become a placeholder or a link: the run of ASCII letters and marks at the
    end, until a blank comes. What stands before a link in its run is not filled in either.

    Args:
        vault: that masked what was asked, or a `Filler` of the placeholders in it.

    Security: only placeholders that this fills in are filled, and none inside a link. The
        brackets of what is filled in are gone, so they begin no link; others count as they stand.
    """

    def __init__(self, vault: Unmasking) -> None:
        self._vault, self._unmasker = vault, vault.unmasker()
        self._known: dict[str, bool] = {}
        self._begin()

    def _begin(self) -> None:
        self._run, self._links = "", Links()
        self._before = ""  # letters that the run continues: they may be the name of a host
        self._in_link = False  # until a blank comes

    def feed(self, piece: str) -> str:
        """Take the next piece; return what is ready."""
        ready: list[str] = []
        plain = ""  # plain text is unmasked at once: each call of the guard takes time
        for part in _RUN.findall(piece):
            if not "!" <= part[0] <= "~" and is_link(self._before + self._run + part[0]):
                ready += [self._filled(plain), self._kept(self._run)]
                plain, self._run, self._in_link = "", "", True
            if self._in_link:
                blank = _BLANK.search(part)
                end = len(part) if blank is None else blank.start()
                ready.append(self._kept(part[:end]))
                part, self._in_link = part[end:], blank is None
            if part and "!" <= part[0] <= "~":
                self._run += part
                if is_link(self._before + self._run):
                    ready += [self._filled(plain), self._kept(self._run)]
                    plain, self._run, self._in_link = "", "", True
                elif len(self._run) > _MAX_RUN:
                    plain, self._run = plain + self._run[:-_KEPT], self._run[-_KEPT:]
                    self._before = ""
            else:
                self._before = host_tail(self._before + self._run + part)
                plain, self._run = plain + self._run + part, ""
        return "".join([*ready, self._filled(plain)])

    def finish(self) -> str:
        """Return what was kept back. It may be used anew."""
        rest = self._filled(self._run) + self._unmasker.finish()
        self._begin()
        return rest

    def _kept(self, text: str) -> str:
        """Return a text as it is, with what was kept back before it."""
        for char in text:
            self._links.take(char)
        return self._unmasker.finish() + text if text else ""

    def _filled(self, text: str) -> str:
        """Return a text with its values where no link is open."""
        links, ready, at, begun = self._links, [], 0, 0
        while at < len(text):
            was_open, before = links.is_open, at
            at = links.plain(text, at)
            if at > before:
                continue
            stands_alone = not was_open and links.last not in ("<", "]")
            placeholder = _PLACEHOLDER.match(text, at) if stands_alone else None
            if placeholder is not None and self._fills(placeholder[0]):
                links.pass_filled()
                at = placeholder.end()
                continue
            links.take(text[at])
            at += 1
            if links.is_open != was_open:  # the mark that begins or ends a link belongs to it
                end = before if links.is_open else at
                said = text[begun:end]
                ready.append(said if was_open else self._unmasked(said) + self._unmasker.finish())
                begun = end
        said = text[begun:]
        return "".join([*ready, said if links.is_open else self._unmasked(said)])

    def _fills(self, placeholder: str) -> bool:
        """Whether the vault gave this out, for a value that begins no link itself."""
        known = self._known.get(placeholder)
        if known is None:
            value = self._vault.unmask(placeholder)
            known = value != placeholder and not set(value) & set("[]<")
            if len(self._known) < _MAX_KNOWN:
                self._known[placeholder] = known
        return known

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
