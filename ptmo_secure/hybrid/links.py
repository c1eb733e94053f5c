"""Where in a text a link may be open, as any reader of Markdown or HTML may see it.

Readers differ: in what begins code, a comment or a block, which marks are escaped, what is left
out. So a link may begin wherever its marks stand, several at once, and it ends where the last of
these readers sees its end. A list of attributes or schemes is not needed:

    <a ... >             an HTML tag, whatever its name; ended as browsers end it. One whose quoted
                         value runs over a line never ends: a reader may see other quotes there
    <style> ... </style> also script, textarea and select: their text can be sent
    ](  ... )            a destination, in <> or with brackets in it, and its title
    ![  ... ]  ][ ... ]  what an image is called: a value there would tell by which definition it is
                         found
    [x]: ...             a definition: its line, or the next where the line is blank

A word by itself is a link where `is_link` says so.
"""

import html
import re

_BLANK = " \t\n\f\r"
_ELEMENTS = frozenset(("script", "style", "textarea", "select"))
NO_TAG = frozenset(_BLANK + "0123456789=-.,;:+/!?<>$%*|)]}'\"")  # after a "<" that begins none
_PLAIN = re.compile(r"[^\[\]<!:(\n\r\\]+")
_MARKERS = " \t>*+-.)0123456789"  # before a definition, in lists and quotations

# The tokenizer of HTML (13.2.5.6 to 13.2.5.39), as far as it tells where a tag ends: for each state
# what follows on which character, and on any other; "" is the end
_NAME, _BEFORE, _ATTRIBUTE, _AFTER, _VALUE = "name", "before", "attribute", "after", "value"
_BARE, _DOUBLE, _SINGLE, _STUCK = "bare", "double", "single", "stuck"
_STEPS = {
    _NAME: ({**dict.fromkeys(_BLANK + "/", _BEFORE), ">": ""}, _NAME),
    _BEFORE: ({**dict.fromkeys(_BLANK + "/", _BEFORE), ">": ""}, _ATTRIBUTE),
    _ATTRIBUTE: (
        {**dict.fromkeys(_BLANK, _AFTER), "/": _BEFORE, "=": _VALUE, ">": ""},
        _ATTRIBUTE,
    ),
    _AFTER: (
        {**dict.fromkeys(_BLANK, _AFTER), "/": _BEFORE, "=": _VALUE, ">": ""},
        _ATTRIBUTE,
    ),
    _VALUE: ({**dict.fromkeys(_BLANK, _VALUE), '"': _DOUBLE, "'": _SINGLE, ">": ""}, _BARE),
    _BARE: ({**dict.fromkeys(_BLANK, _BEFORE), ">": ""}, _BARE),
    _DOUBLE: ({'"': _BEFORE, "\n": _STUCK, "\r": _STUCK}, _DOUBLE),
    _SINGLE: ({"'": _BEFORE, "\n": _STUCK, "\r": _STUCK}, _SINGLE),
    _STUCK: ({}, _STUCK),
}

_WORD = re.compile(
    r"[\\/]{2}|www\."
    r"|(?:https?|ftps?|wss?|file|data|blob|javascript|vbscript|mailto|xmpp|tel|sms|callto):\S"
    r"|[a-z][a-z0-9+.-]+:[^:\"'`\[\s]"  # any scheme
    r"|[\w\]-]\.(?:[^\W\d_]{2,}|xn--[\w-]+)[/?#:]"  # a host
    r"|(?<!\d)\d{1,3}(?:\.\d{1,3}){3}[/?#:]|\[[0-9a-f]*:[0-9a-f:.]+\][/?#:]"  # by number
    r"|\][\w-]*\.(?:(?=[^\x00-\x7f])[^\W\d_]|[\w-]+\.(?:[^\W\d_]{2}|xn--))"  # a value in a host
    r"|[\w\]]@[\w\[]|url\(",
    re.IGNORECASE,
)
_HOST_TAIL = re.compile(r"[\w.-]{0,64}\Z")
_ENTITY = re.compile(r"&#?\w{1,32};")


def is_link(word: str) -> bool:
    """Whether a word, without blanks, is read as a link where it stands in plain text.

    It is one as soon as a part of it is: what comes after does not undo it.
    """
    if _WORD.search(word):
        return True
    if "&" not in word and "\\" not in word:
        return False
    plain = _ENTITY.sub(lambda entity: html.unescape(entity[0]), word)
    return _WORD.search(plain) is not None or _WORD.search(plain.replace("\\", "")) is not None


def host_tail(text: str) -> str:
    """Return the end of a text that may be a host's name, of any script, or a part of one."""
    found = _HOST_TAIL.search(text)
    return found[0] if found is not None else ""


def link_word(text: str) -> re.Match[str] | None:
    """Return what first makes a word a link, as it is written; None where only escapes do."""
    return _WORD.search(text)


def closing(text: str) -> str:
    """Return marks that end the tags and elements that a text leaves open; "" where none is.

    Links of Markdown end at a blank line. A quoted value that runs over a line ends for browsers; a
    reader that sees other quotes in it may see it go on.
    """
    links = Links()
    for char in text:
        links.take(char)
    return links.closing


class Links:
    """Follows a text character by character.

    Attributes:
        last: the character before; "" at the beginning and after what was filled in.
    """

    def __init__(self) -> None:
        self.last = ""
        self._escapes = 0  # backslashes before, in a row
        self._tags: set[str] = set()  # the states of the tags that may be open
        self._element = ""  # the name after a "<", with its "/", while it comes
        self._elements: set[str] = set()
        self._depth = 0  # round brackets of destinations
        self._fresh = self._angle = False  # a destination is about to begin; is one in <>
        self._label = 0  # square brackets
        self._line = ""  # of a definition: "blank" as yet, or "begun"
        self._at_start, self._blank, self._brackets = True, False, False

    @property
    def is_open(self) -> bool:
        """Whether what comes next may stand in a link."""
        marks = self._tags or self._elements or self._depth or self._label or self._line
        return bool(marks)

    @property
    def closing(self) -> str:
        """Marks that end what HTML may be open."""
        ends = "".join(f"</{name}>" for name in sorted(self._elements))
        return ("'\">" if self._tags or self.last == "<" else "") + ends

    def plain(self, text: str, at: int) -> int:
        """Pass over what begins, ends and means nothing; return where it ends.

        Args:
            text: that is followed.
            at: the next character in it.
        """
        if self.is_open or self.last == "<":
            return at
        found = _PLAIN.match(text, at)
        if found is None:
            return at
        self._pass(found[0])
        return found.end()

    def pass_filled(self) -> None:
        """Pass over what was filled in: its brackets are gone."""
        self._pass("x")
        self.last = ""

    def take(self, char: str) -> None:
        """Go on by one character."""
        escaped = self._escapes % 2 == 1
        self._follow_tags(char)
        self._follow_destination(char, escaped)
        self._follow_label(char, escaped)
        self._follow_lines(char)
        self._escapes = self._escapes + 1 if char == "\\" else 0
        self.last = char

    def _pass(self, said: str) -> None:
        self.last, self._escapes, self._blank = said[-1], 0, self._blank and not said.strip(" \t")
        self._at_start = self._at_start and not said.strip(_MARKERS)

    def _follow_tags(self, char: str) -> None:
        quoted = {_DOUBLE, _SINGLE, _STUCK} & self._tags
        steps = (_STEPS[state] for state in self._tags)
        self._tags = {follow.get(char, other) for follow, other in steps} - {""}
        if self.last == "<" and char not in NO_TAG:
            self._tags.add(_NAME)
        if char == "<":
            self._element = "<"
        elif self._element and (char.isalnum() or (char == "/" and self._element == "<")):
            self._element = (self._element + char.lower())[:16]
        elif self._element:
            name, self._element = self._element[1:], ""
            if name in _ELEMENTS:
                self._elements.add(name)
            elif not quoted:
                self._elements.discard(name.removeprefix("/"))

    def _follow_destination(self, char: str, escaped: bool) -> None:
        if self._angle:
            self._angle = char != ">" or escaped
        elif self._fresh and char not in _BLANK:
            self._fresh, self._angle = False, char == "<"
        if char == "(" and (self._depth or self.last == "]"):
            self._depth += 1
            self._fresh = self._fresh or self.last == "]"
        elif char == ")" and self._depth and not escaped and not self._angle:
            self._depth -= 1

    def _follow_label(self, char: str, escaped: bool) -> None:
        if char == "[" and (self._label or self.last in ("!", "]")):
            self._label += 1
        elif char == "]" and self._label and not escaped:
            self._label -= 1

    def _follow_lines(self, char: str) -> None:
        if char == "\n":
            if self._blank:  # a blank line: no link of Markdown runs over it
                self._depth = self._label = 0
                self._fresh = self._angle = self._brackets = False
                self._line = ""
            self._line = "" if self._line == "begun" else self._line
            self._at_start = self._blank = True
            return
        if char == "[" and self._at_start:
            self._brackets = True
        if char == ":" and self.last == "]" and self._brackets:
            self._line = self._line or "blank"
        elif self._line and char not in " \t\r":
            self._line = "begun"
        self._blank = self._blank and char in " \t\r"
        self._at_start = (self._at_start and char in _MARKERS) or char == "\r"
