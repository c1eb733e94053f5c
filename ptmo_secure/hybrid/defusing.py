"""Makes links inert in what the device's model writes of a cloud's text.

That model has read a stranger's words beside the user's values: told to, it writes a picture whose
address holds one, in any coding, or chooses among addresses by what it knows. So no link of its
own making stands in such an answer: a blank is put into each mark that would begin one, and into
each word that is one by itself. Nothing is left out; whoever reads it still sees what was written.
Words that the user wrote stay as they are.
"""

import re

from ptmo_secure.hybrid.links import NO_TAG, host_tail, is_link, link_word

_BLANKS = " \t\n\r\f\v"
_RUN = re.compile(r"[!-~]+|[^!-~]+")
_BLANK = re.compile(rf"[{_BLANKS}]")
_AROUND = ".,;:!?'\"()*_<>`"  # of a word, that are none of its own
_MAX_WORD = 4096  # characters of a word that are kept back


class Defuser:
    """Defuses a text that comes in pieces, wherever these are cut.

    Keeps back the word at the end, which may become a link, until a blank comes.

    Args:
        own: what the user wrote; links that stand in it are the user's.

    Security: in what it returns `Links` is never open, and no word is a link but the user's own.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._run, self._in_link = "", False
        self._last = self._tail = (
            ""  # character that was returned; letters, of a host's name perhaps
        )

    def feed(self, piece: str) -> str:
        """Take the next piece; return what is ready."""
        ready: list[str] = []
        for part in _RUN.findall(piece):
            self._in_link = self._in_link or is_link(self._glued() + part[0])
            blank = _BLANK.search(part)
            if self._in_link and blank is None:
                self._run += part
            elif self._in_link and blank is not None:
                word = self._run + part[: blank.start()]
                ready += [self._word(word), self._plain(part[blank.start() :])]
                self._run, self._in_link = "", False
            elif "!" <= part[0] <= "~":
                self._run += part
                self._in_link = is_link(self._glued())
            else:
                ready += [self._plain(self._run), self._plain(part)]
                self._run = ""
            if len(self._run) > _MAX_WORD:
                ready.append(self.finish() + " ")
                self._last, self._tail = " ", ""
        return "".join(ready)

    def finish(self) -> str:
        """Return what was kept back."""
        word, self._run, self._in_link = self._run, "", False
        return self._word(word)

    def _glued(self) -> str:
        """Return what is kept back, after the letters that it continues."""
        return self._before() + self._run

    def _before(self) -> str:
        return self._tail or ("" if self._last in _BLANKS else self._last)

    def _word(self, word: str) -> str:
        core = word.strip(_AROUND)
        glued = self._before()
        if not is_link(glued + word) or (core != "" and core in self._own):
            return self._plain(word)
        apart = " ".join(filter(None, _apart(word)))
        return self._plain(f" {apart}" if glued else apart)

    def _plain(self, text: str) -> str:
        """Return a text with a blank in each mark that would begin a link."""
        told: list[str] = []
        for char in text:
            if _begins(self._last, char):
                told.append(" ")
            told.append(char)
            self._last = char
        self._tail = host_tail(self._tail + "".join(told))
        return "".join(told)


def defused(text: str, own: str) -> str:
    """Return a whole text with its links inert, but for the user's own."""
    defuser = Defuser(own)
    return defuser.feed(text) + defuser.finish()


def _begins(last: str, char: str) -> bool:
    """Whether a link may begin with two characters beside each other; `Links` knows no others."""
    if last == "<":
        return char not in NO_TAG or char in "/!?"
    if last == "]":
        return char in "([:"
    return last == "!" and char == "["


def _apart(word: str) -> list[str]:
    """Return a word in parts none of which is a link."""
    parts, left = list[str](), [word]
    while left:
        part = left.pop()
        if not is_link(part):
            parts.append(part)
            continue
        found = link_word(part)
        if found is None:  # it is one by its escapes
            left += reversed(part.replace("&", "& ").replace("\\", "\\ ").split(" "))
            continue
        cut = max(found.start() + 1, found.end() - 1)
        left += [part[cut:], part[:cut]]
    return parts
