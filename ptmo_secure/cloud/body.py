"""Every text in the body of a request, wherever it stands."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_DEPTH = 32
_LONG_NUMBER = 7  # digits from which a number is read as text
_LEAST_NUMBER = 3  # digits of the shortest that may be a value: a card's check code
# What the protocol itself says. Such a word as a whole value, or as a key, tells nothing.
KEYS = frozenset(
    (
        "messages model role content name tools tool_choice tool_calls tool_call_id type function "
        "arguments description parameters properties required items enum strict "
        "additionalProperties anyOf oneOf allOf default format minimum maximum title $ref $defs "
        "max_tokens max_completion_tokens temperature top_p stop seed n stream stream_options "
        "include_usage logprobs top_logprobs prompt suffix echo user id text index refusal "
        "response_format json_schema schema parallel_tool_calls frequency_penalty "
        "presence_penalty continue_final_message add_generation_prompt input dimensions "
        "encoding_format"
    ).split()
)
WORDS = frozenset(
    (
        "system user assistant tool developer function text auto none required object string "
        "number integer boolean array null json_object json_schema float base64"
    ).split()
)
_UNREADABLE = frozenset(  # types of parts that no text can be taken from
    ("image_url", "input_image", "input_audio", "audio", "file", "input_file", "video_url")
)
_NAME = re.compile(r"[\w.-]*[^\W\d_][\w.-]*")
_JOINTS = re.compile(  # between words of a name: marks, a capital, the edge of a number
    r"[_.-]+|(?<=[^\W_])(?=[A-Z][a-z])|(?<=[a-z\d])(?=[A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])"
)
_DATA = re.compile(r"\s*data:[^,]{0,200};base64,", re.IGNORECASE)


class BodyError(Exception):
    """The body cannot be read whole; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Text(NamedTuple):
    """A text of a body.

    Args:
        place: where, by keys of the protocol alone: "messages[1].content".
        text: what stands there.
        is_key: whether it is a key and no value.
        is_number: whether it is a number of few digits, which alone tells nothing to a guard.
    """

    place: str
    text: str
    is_key: bool = False
    is_number: bool = False

    @property
    def words(self) -> str | None:
        """The words of a name, apart: "call Bob" for "call_Bob" and "callBob".

        None for what is no name of a function or property, or is one word.
        """
        in_tools = self.place.startswith("tools[")
        called = self.place.endswith(".function.name") and "(json)" not in self.place
        if not (self.is_key or in_tools or called) or not _NAME.fullmatch(self.text):
            return None
        words = _JOINTS.sub(" ", self.text).strip()
        return words if " " in words else None


class _Short(str):
    """A number of 3 to 6 digits."""


class _Pairs(list[tuple[str, object]]):
    """A JSON object with every pair of it: of two with one key, a dict would hide the first."""


def texts_of(body: bytes) -> list[Text]:
    """Return every string of a JSON body, keys and JSON inside strings too, in order.

    Words of the protocol are left out; numbers of 7 digits and more are texts as well, and those of
    3 to 6 where the protocol does not ask for one: in tools, and in JSON inside strings.

    Args:
        body: UTF-8.

    Raises:
        BodyError: "not_json", "too_deep", or "unreadable" for images, sound and files.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise BodyError("not_json") from None
    return list(_walk("", _parse(text), 0))


def _parse(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_Pairs, parse_int=_number, parse_float=_number)
    except RecursionError:
        raise BodyError("too_deep") from None
    except ValueError:
        raise BodyError("not_json") from None


def _walk(place: str, value: object, depth: int) -> Iterator[Text]:
    if depth > MAX_DEPTH:
        raise BodyError("too_deep")
    if isinstance(value, _Pairs):
        for key, inner in value:
            if key == "type" and isinstance(inner, str) and inner in _UNREADABLE:
                raise BodyError("unreadable")
            known = key in KEYS
            if not known:
                yield Text(f"{place}.*", key, is_key=True)
            yield from _walk(f"{place}.{key if known else '*'}".lstrip("."), inner, depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(f"{place}[{index}]", inner, depth + 1)
    elif isinstance(value, _Short):
        yield from _number_of(place, value)
    elif isinstance(value, str) and value not in WORDS and value:
        if _DATA.match(value):
            raise BodyError("unreadable")
        yield Text(place, value)
        if value.lstrip()[:1] in ("{", "["):
            yield from _nested(place, value, depth)


def _nested(place: str, value: str, depth: int) -> Iterator[Text]:
    """Yield the texts of JSON in a string, as arguments of tools have it."""
    try:
        inner = _parse(value)
    except BodyError as error:
        if error.code == "too_deep":
            raise
        return  # a text that only begins like JSON
    yield from _walk(f"{place}(json)", inner, depth + 1)


def _number_of(place: str, digits: str) -> Iterator[Text]:
    if place.startswith("tools[") or "(json)" in place:
        yield Text(place, str(digits), is_number=True)


def _number(digits: str) -> object:
    count = sum(map(str.isdigit, digits))
    if count >= _LONG_NUMBER:
        return digits
    return _Short(digits) if count >= _LEAST_NUMBER else 0
