"""Definitions of tools, and calls of them, in the form in which a cloud may see them.

A cloud has to call a function by a name and fill its arguments by theirs, so these cannot be masked
like a text. A name that egress would refuse, since it holds a value of the vault or the guard takes
it for somebody's, goes under another one (`aliases`) and comes back in the cloud's calls. What is
private in a description or title is cut out of it. Other words of a definition (an `enum`, a
default, an example) are left out with their keyword. Whatever is none of these is refused by egress
as before.
"""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ptmo_secure.cloud.body import BodyError, Text, texts_of
from ptmo_secure.cloud.egress import Egress
from ptmo_secure.hybrid.aliases import Aliases, Named, is_alias
from ptmo_secure.hybrid.memory import Recent, keyed
from ptmo_secure.hybrid.telling import Message, Told, cut_message
from ptmo_secure.hybrid.tool_forms import ToolWriter, as_name, names_of, renamed
from tee_sim.client import Vault

_MAX_REFUSED = 8192


@dataclass(frozen=True, slots=True)
class Disguise:
    """Tools and messages as they go, and the way back.

    Args:
        tools, messages: as a cloud may see them.
        functions, arguments: the user's names by those that the cloud is told.
    """

    tools: tuple[Message, ...] = ()
    messages: tuple[Message, ...] = ()
    functions: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)

    def undone(self, call: Message) -> Message:
        """Return a call of the cloud's, whole, by the user's names."""
        return renamed(call, self.functions, self.arguments)


class Disguiser:
    """Makes tools fit to go. Thread-safe.

    Args:
        egress: says what is fit.

    Security: decides nothing: egress checks what this makes of tools as it checks all.
    """

    def __init__(self, egress: Egress) -> None:
        self._egress, self._aliases = egress, Aliases()
        self._salt = secrets.token_bytes(32)
        self._refused: Recent[bool] = Recent(_MAX_REFUSED)

    def disguise(self, vault: Vault, tools: Sequence[Message], told: Sequence[Told]) -> Disguise:
        """Return tools, and messages with calls of tools, in a form that is fit to go.

        Args:
            vault: of the session.
            tools: definitions as in the OpenAI API.
            told: messages, masked, with the user's own names.

        Raises:
            TeeError: the guard failed; nothing may go.
            InputError: there are too many names.
        """
        messages = tuple(message for one in told for message in one.messages)
        plain = Disguise(tuple(tools), messages)
        try:
            defined = texts_of(json.dumps({"tools": tools}).encode())
        except (BodyError, ValueError, TypeError):
            return plain  # egress cannot read it either
        names, keys = names_of(tools, told)
        unfit = self._unfit(vault, [*defined, *map(as_name, (*names, *keys))])
        functions, arguments = self._given(vault, names, keys, unfit)
        if not (unfit or functions or arguments):
            return plain
        given = [as_name(alias) for alias in (*functions.values(), *arguments.values())]
        self._egress.know(vault, (part for one in given for part in (one.text, one.words or "")))
        write = ToolWriter(functions, arguments, unfit, lambda text: self._cut(vault, text))
        return Disguise(
            tuple(write.tool(tool) for tool in tools),
            tuple(
                write.message(message, heard=one.heard) for one in told for message in one.messages
            ),
            {alias: name for name, alias in functions.items()},
            {alias: name for name, alias in arguments.items()},
        )

    def _given(
        self, vault: Vault, names: Iterable[str], keys: Iterable[str], unfit: set[str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return the aliases of those functions and arguments that need one."""

        def of(kind: Named, some: Iterable[str]) -> dict[str, str]:
            need = (name for name in some if name in unfit or is_alias(name))
            return {name: self._aliases.of(vault.number, kind, name) for name in need}

        return of("tool", names), of("input", keys)

    def _unfit(self, vault: Vault, texts: Sequence[Text]) -> set[str]:
        """Return which texts would be refused; what was refused once is not read again."""
        keys = {text: keyed(self._salt, vault.number, text.text) for text in texts}
        known = {text.text for text in texts if self._refused.get(keys[text])}
        found = self._egress.unfit(vault, [text for text in texts if text.text not in known])
        for text in texts:
            if text.text in found:
                self._refused.put(keys[text], True)
        return known | found

    def _cut(self, vault: Vault, text: str) -> str | None:
        """Return a text without what is private in it; None where nothing fit is left."""
        if not self._unfit(vault, [Text("", text)]):
            return text
        cut = cut_message(vault, text, self._egress.guard.scan, [])
        return cut if cut is not None and cut.strip(" .") else None
