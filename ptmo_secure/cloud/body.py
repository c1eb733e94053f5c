"""Every text in the body of a request, wherever it stands."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_DEPTH = 32
_LONG_NUMBER = 7  # digits from which a number is read as text
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
    """

    place: str
    text: str


class _Pairs(list[tuple[str, object]]):
    """A JSON object with every pair of it: of two with one key, a dict would hide the first."""


def texts_of(body: bytes) -> list[Text]:
    """Return every string of a JSON body, keys and JSON inside strings too, in order.

    Words of the protocol are left out; numbers of 7 digits and more are texts as well.

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
            if key == "type" and inner in _UNREADABLE:
                raise BodyError("unreadable")
            known = key in KEYS
            if not known:
                yield Text(f"{place}.*", key)
            yield from _walk(f"{place}.{key if known else '*'}".lstrip("."), inner, depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(f"{place}[{index}]", inner, depth + 1)
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


def _number(digits: str) -> object:
    return digits if sum(map(str.isdigit, digits)) >= _LONG_NUMBER else 0
