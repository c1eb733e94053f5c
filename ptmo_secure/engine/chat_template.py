"""Chat messages to token ids through the model file's own Jinja template.

Text from a message can never become a control token: wherever the name of one occurs in a
message, a Unicode noncharacter is put behind its first character before the template runs, and
taken out again after the rendered text has been split at control tokens. More noncharacters
stand around each content, so that the ids that came from it are known afterwards. (A template
that asks what a content starts or ends with sees them.)

Templates run in Jinja's immutable sandbox: they reach no attribute, file or import. Bounded are
their output, their steps (loop turns, calls, filters), and what `*`, `**` and a large number given
to a call or filter may make. Not bounded are the time and memory of one step on long or nested
values (joined, replaced, doubled or formatted text): there a hostile file can still cost both.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import meta

from ptmo_secure.engine.template_sandbox import TEMPLATE_KEY, TemplateSandbox
from ptmo_secure.engine.tokenizer import Tokenizer
from ptmo_secure.errors import InputError, ModelFormatError

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Gemma has no system turn: the system text stands in front of the first user's.
_GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{% set prefix = messages[0]['content'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set prefix = '' %}{% set turns = messages %}"
    "{% endif %}{% for message in turns %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('the roles do not alternate between user and assistant') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ prefix if loop.first }}{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_PLAIN = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# Templates for vocabularies that have these control tokens, where the file has none of its own.
_FALLBACKS = (
    ("chatml", _CHATML, ("<|im_start|>", "<|im_end|>")),
    ("gemma", _GEMMA, ("<start_of_turn>", "<end_of_turn>")),
)
_ROLE = re.compile(r"[a-z][a-z_]{0,31}")
_NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))  # never assigned (Unicode 3.4)
_TOOL_KEYS = ("tool_calls", "tool_call_id", "name")
_MAX_TEMPLATE_CHARS = 1 << 20
_MAX_RENDER_FACTOR = 64  # rendered characters per character of template and messages


@dataclass(frozen=True, slots=True)
class ContentSpan:
    """The ids start..end-1 came from the content of one message; boundary tokens excluded."""

    message: int  # index into the messages
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation."""

    text: str  # what the template gave, control tokens as their names
    ids: tuple[int, ...]
    spans: tuple[ContentSpan, ...]  # in the order of the ids

    @property
    def content_mask(self) -> list[bool]:
        """True for each id that came from a message's content, False for the template's."""
        mask = [False] * len(self.ids)
        for span in self.spans:
            mask[span.start : span.end] = [True] * (span.end - span.start)
        return mask


@dataclass(frozen=True, slots=True)
class _Marks:
    """Noncharacters that occur nowhere in the messages."""

    shield: str
    open: str
    close: str
    digits: tuple[str, str]  # the message's index in binary follows `open`

    def wrap(self, index: int, content: str, control: re.Pattern[str] | None) -> str:
        """Shield control-token names and mark the content, inside its outer whitespace.

        Marks outside the whitespace would change what a template's `trim` does.
        """
        shielded = _shield(content, control, self.shield)
        body = shielded.strip()
        if not body:
            return shielded
        start = shielded.index(body)
        tag = "".join(self.digits[int(bit)] for bit in f"{index:b}")
        end = start + len(body)
        return f"{shielded[:start]}{self.open}{tag}{self.close}{body}{self.open}{shielded[end:]}"

    def shielded(self, value: object, control: re.Pattern[str] | None) -> object:
        """Return JSON data in whose strings no control token's name is left."""
        if isinstance(value, str):
            return _shield(value, control, self.shield)
        if isinstance(value, Mapping):
            pairs = value.items()
            return {self.shielded(k, control): self.shielded(v, control) for k, v in pairs}
        if isinstance(value, list | tuple):
            return [self.shielded(each, control) for each in value]
        return value


class ChatTemplate:
    """A model's chat template.

    Without a template in the file, ChatML or Gemma's turns are used where the vocabulary has the
    two control tokens of the one or the other; otherwise each message becomes a line
    "role: content".

    Args:
        metadata: metadata of the model file.
        tokenizer: the same file's tokenizer.
        source: what error messages call the file.

    Attributes:
        origin: "file", "chatml", "gemma" or "plain".
        takes_tools: whether the template asks for `tools`.

    Raises:
        ModelFormatError: the file's template is no text, too long, or no valid Jinja.
    """

    def __init__(
        self, metadata: Mapping[str, object], tokenizer: Tokenizer, source: str = "template"
    ) -> None:
        self._tokenizer = tokenizer
        text = metadata.get(TEMPLATE_KEY)
        self.origin = "file"
        if text is None:
            self.origin, text = _fallback(tokenizer)
        if not isinstance(text, str) or len(text) > _MAX_TEMPLATE_CHARS:
            raise ModelFormatError(f"{source}: {TEMPLATE_KEY}: not a text of sensible length")
        self._text = text
        self._sandbox = TemplateSandbox(source)
        try:
            self._template = self._sandbox.from_string(text)
            free = meta.find_undeclared_variables(self._sandbox.parse(text))
        except Exception as error:  # whatever a hostile file provokes
            raise self._sandbox.error(_first_line(error)) from None
        self.takes_tools = "tools" in free

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, object]] = (),
    ) -> Prompt:
        """Turn messages into the prompt's token ids.

        Args:
            messages: {"role": str, "content": str | [{"type": "text", "text": str}, ...]}; of other
                keys only those about tools are passed, to a template that takes tools.
            add_generation_prompt: end with the header of the assistant's answer.
            tools: schemas of functions, for a template that takes them.

        Returns:
            The prompt, with BOS in front if the model wants one and the template gave none.

        Raises:
            InputError: the messages are malformed, or the template refuses them.

        Security: no character of a message yields a control token, and no error quotes one.
        """
        checked = check_messages(messages)
        extras = [[message.get(key) for key in _TOOL_KEYS] for message in messages]
        contents = [content for _, content in checked]
        marks = _choose_marks([*contents, *_strings([tools, extras])], self._text)
        control = self._tokenizer.control_pattern
        wrapped: list[dict[str, object]] = [
            {"role": role, "content": marks.wrap(index, content, control)}
            for index, (role, content) in enumerate(checked)
        ]
        if self.takes_tools:
            for message, plain in zip(wrapped, messages, strict=True):
                extra = {key: plain[key] for key in _TOOL_KEYS if plain.get(key)}
                message |= {key: marks.shielded(given, control) for key, given in extra.items()}
        shown = [marks.shielded(tool, control) for tool in tools]
        rendered = self._run(wrapped, add_generation_prompt, shown if self.takes_tools else [])
        return self._encode(rendered, marks)

    def _run(
        self, messages: list[dict[str, object]], add_generation_prompt: bool, tools: list[object]
    ) -> str:
        def name(token_id: int | None) -> str:
            return "" if token_id is None else self._tokenizer.token_text(token_id)

        limit = _MAX_RENDER_FACTOR * (
            len(self._text) + sum(map(len, _strings([messages, tools]))) + 1024
        )
        pieces: list[str] = []
        length = self._sandbox.steps = 0
        try:
            for piece in self._template.generate(
                messages=messages,
                tools=tools or None,
                add_generation_prompt=add_generation_prompt,
                bos_token=name(self._tokenizer.bos_id),
                eos_token=name(self._tokenizer.eos_id),
            ):
                pieces.append(piece)
                length += len(piece)
                if length > limit:
                    raise self._sandbox.error("runs without end")
        except ModelFormatError:
            raise
        except Exception as error:  # whatever a hostile file provokes
            said = _first_line(error)  # shown only if the file says it: it may quote a message
            own = f"'{said}'" in self._text or f'"{said}"' in self._text
            reason, source = said if own else type(error).__name__, self._sandbox.source
            raise InputError(f"{source}: the chat template refused it: {reason}") from None
        return "".join(pieces)

    def _encode(self, rendered: str, marks: _Marks) -> Prompt:
        """Split at control tokens, drop the marks, encode, and find each content's ids."""
        tokenizer = self._tokenizer
        ids: list[int] = []
        spans: list[ContentSpan] = []
        clean_text = ""
        position = 0
        control = tokenizer.control_pattern
        matches = [] if control is None else list(control.finditer(rendered))
        owner: int | None = None
        for match in [*matches, None]:
            end = len(rendered) if match is None else match.start()
            text, owners, owner = _strip_marks(rendered[position:end], marks, owner)
            new_ids, offsets = tokenizer.encode_offsets(text, special=False)
            _add_spans(spans, owners, offsets, len(ids))
            ids.extend(new_ids)
            clean_text += text
            if match is not None:
                token = tokenizer.token_id(match.group())
                if token is not None:
                    ids.append(token)
                clean_text += match.group()
                position = match.end()
        bos = tokenizer.bos_id
        if tokenizer.add_bos_token and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
            spans = [ContentSpan(s.message, s.start + 1, s.end + 1) for s in spans]
        return Prompt(clean_text, tuple(ids), tuple(spans))


def _fallback(tokenizer: Tokenizer) -> tuple[str, str]:
    """Return the origin and the text of the template for a file without one."""
    for origin, text, controls in _FALLBACKS:
        ids = map(tokenizer.token_id, controls)
        if all(index is not None and tokenizer.is_control(index) for index in ids):
            return origin, text
    return "plain", _PLAIN


def _strip_marks(
    text: str, marks: _Marks, owner: int | None
) -> tuple[str, list[int | None], int | None]:
    """Remove the marks.

    Args:
        text: a piece of the rendered text between two control tokens.
        marks: the noncharacters in use.
        owner: the message whose content was open at the start of the piece.

    Returns:
        The text, the message that owns each of its characters (None: the template), and the
        message still open at the end.
    """
    digits = "".join(marks.digits)
    tag = f"{marks.open}([{digits}]+){marks.close}"
    pattern = re.compile(f"({tag})|({marks.open})|[{marks.shield}{marks.close}{digits}]")
    clean: list[str] = []
    owners: list[int | None] = []
    position = 0
    for match in [*pattern.finditer(text), None]:
        end = len(text) if match is None else match.start()
        clean.append(text[position:end])
        owners.extend([owner] * (end - position))
        if match is None:
            break
        if match.group(1):
            owner = int("".join(str(digits.index(char)) for char in match.group(2)), 2)
        elif match.group(3):
            owner = None
        position = match.end()
    return "".join(clean), owners, owner


def _add_spans(
    spans: list[ContentSpan],
    owners: list[int | None],
    offsets: list[tuple[int, int]],
    first_id: int,
) -> None:
    """Add runs of ids all of whose characters belong to one message."""
    previous: int | None = None
    for index, (begin, end) in enumerate(offsets, start=first_id):
        found = set(owners[begin:end])
        owner = found.pop() if len(found) == 1 else None
        if owner is not None and owner == previous and spans and spans[-1].end == index:
            spans[-1] = ContentSpan(owner, spans[-1].start, index + 1)
        elif owner is not None:
            spans.append(ContentSpan(owner, index, index + 1))
        previous = owner


def _shield(text: str, control: re.Pattern[str] | None, shield: str) -> str:
    """Break every control-token name in a text, overlapping ones too."""
    if control is None:
        return text
    pieces: list[str] = []
    position = 0
    while (match := control.search(text, position)) is not None:
        pieces.append(text[position : match.start() + 1])
        position = match.start() + 1
    return shield.join([*pieces, text[position:]])


def _choose_marks(contents: list[str], template: str) -> _Marks:
    used = set(template).union(*map(set, contents)) if contents else set(template)
    free = [char for char in _NONCHARACTERS if char not in used]
    if len(free) < 5:
        raise InputError("the messages use the Unicode noncharacters U+FDD0 to U+FDEF")
    return _Marks(free[0], free[1], free[2], (free[3], free[4]))


def check_messages(messages: Sequence[Mapping[str, object]]) -> list[tuple[str, str]]:
    """Return the (role, content) of each message; InputError if `render` cannot take them."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InputError(f"messages must be a list, not {type(messages).__name__}")
    if not messages:
        raise InputError("messages is empty")
    return [_check_message(index, message) for index, message in enumerate(messages)]


def _check_message(index: int, message: object) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise InputError(f"messages[{index}] must be an object, not {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or _ROLE.fullmatch(role) is None:
        raise InputError(f"messages[{index}].role must be a lower-case word like 'user'")
    content = message.get("content")
    if isinstance(content, list | tuple):
        content = "".join(
            _check_part(f"messages[{index}].content[{number}]", part)
            for number, part in enumerate(content)
        )
    if not isinstance(content, str):
        raise InputError(
            f"messages[{index}].content must be text or a list of text parts, "
            f"not {type(content).__name__}"
        )
    return role, content


def _check_part(where: str, part: object) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text":
        text = part.get("text")
        if isinstance(text, str):
            return text
    raise InputError(
        f'{where} must be {{"type": "text", "text": ...}}: other parts have no use here'
    )


def _strings(value: object) -> list[str]:
    """Return the strings in JSON data, keys and all."""
    if isinstance(value, Mapping):
        return [text for pair in value.items() for part in pair for text in _strings(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
