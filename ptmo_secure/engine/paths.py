"""Paths as users give them, checked before the file system is asked."""

import os

from ptmo_secure.errors import InputError


def path_text(what: str, path: object, wanted: str = "a path") -> str:
    """Return a path as text.

    Args:
        what: what the path is of, for the message.
        path: a str, or a PathLike of one; not blank, without null characters.
        wanted: what it should be, for the message.

    Raises:
        InputError: it is something else.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InputError(f"{what} {text!a} is not {wanted}")
    return text
