"""What the endpoints take, field by field, as in the OpenAI API."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_CHOICES = 8
MAX_STOPS = 16
MAX_MESSAGES = 2048
MAX_TOOLS = 128
MAX_INPUTS = 256  # of one request for embeddings
_MEANT = ("xptmo", "ptmo")  # a field so called, in any spelling, is meant to be `x_ptmo`

Name = Annotated[str, Field(min_length=1, max_length=128)]
FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
ShortText = Annotated[str, Field(min_length=1, max_length=1024)]


class _Body(BaseModel):
    """Fields that no endpoint knows are left alone, as the API's own growth demands."""

    model_config = ConfigDict(extra="ignore", strict=False)


class _Request(_Body):
    """A whole body."""

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value  # refused by what follows
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError):
            raise ValueError("a text in it is not valid Unicode, or it nests too deep") from None
        for name in value:
            if name != "x_ptmo" and name.lower().replace("-", "").replace("_", "") in _MEANT:
                raise ValueError("options of this server stand in the field x_ptmo")
        return value


class TextPart(_Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class FunctionCall(_Body):
    """The function that the assistant called."""

    name: FunctionName
    arguments: str


class ToolCallBody(_Body):
    """A call in an assistant's message."""

    id: Name
    type: Literal["function"] = "function"
    function: FunctionCall


class MessageBody(_Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[ToolCallBody] | None = Field(None, max_length=MAX_TOOLS)
    tool_call_id: Name | None = None
    name: Name | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "MessageBody":
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("content is missing; only an assistant's tool_calls may stand alone")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a tool message needs tool_call_id")
        return self

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class FunctionBody(_Body):
    """A function that may be called."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolBody(_Body):
    """A tool; functions are the kind there is."""

    type: Literal["function"]
    function: FunctionBody


class NamedFunction(_Body):
    """The function that has to be called."""

    name: FunctionName


class NamedTool(_Body):
    """A tool_choice that names a function."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(_Body):
    """What a stream tells besides."""

    include_usage: bool = False


class ResponseFormat(_Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]

    @field_validator("type")
    @classmethod
    def _supported(cls, value: str) -> str:
        if value == "json_schema":
            raise ValueError("json_schema is not supported here; use json_object")
        return value


class PtmoOptions(_Body):
    """What only this server knows, in the field `x_ptmo` of a request.

    Security: an option that it does not know is refused: a misspelt one would keep nothing here.
    """

    model_config = ConfigDict(extra="forbid")

    session: Name | None = None
    adapters: Annotated[list[Name], Field(max_length=8)] | None = None
    route: Literal["auto", "local"] = "auto"
    keep_local: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list, max_length=256)
    keep_messages: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list, max_length=MAX_MESSAGES
    )


class _Sampled(_Request):
    """What chat and completions have in common."""

    model: Name
    max_tokens: int | None = Field(None, ge=1, strict=True)
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=MAX_CHOICES, strict=True)
    stop: ShortText | list[ShortText] | None = Field(None)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, strict=True)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Name | None = None
    x_ptmo: PtmoOptions = PtmoOptions()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and len(value) > MAX_STOPS:
            raise ValueError(f"at most {MAX_STOPS} stop strings are taken")
        return value

    @field_validator("presence_penalty", "frequency_penalty")
    @classmethod
    def _no_penalty(cls, value: float | None) -> float | None:
        if value:
            raise ValueError("is not supported here; leave it out or 0")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _no_bias(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value:
            raise ValueError("is not supported here; leave it out")
        return value

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> "_Sampled":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for stream=true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatBody(_Sampled):
    """POST /v1/chat/completions."""

    messages: list[MessageBody] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, strict=True)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20, strict=True)
    tools: list[ToolBody] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: ResponseFormat | None = None
    continue_final_message: bool = False  # as vLLM has it: the last message is a partial answer
    add_generation_prompt: bool = True
    functions: None = None
    function_call: None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "ChatBody":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        named = {tool.function.name for tool in self.tools or ()}
        if len(named) != len(self.tools or ()):
            raise ValueError("tools: a function is named twice")
        if isinstance(self.tool_choice, NamedTool):
            if self.tool_choice.function.name not in named:
                raise ValueError("tool_choice: names a function that is not in tools")
        elif self.tool_choice in ("auto", "required") and not named:
            raise ValueError("tool_choice: is only for requests with tools")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message: the last message is not the assistant's")
        if not self.add_generation_prompt and not self.continue_final_message:
            raise ValueError("add_generation_prompt: false is only for continue_final_message")
        return self

    @property
    def wanted_logprobs(self) -> int | None:
        """How many alternatives a token is told with; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(_Sampled):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=20, strict=True)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _supported(self) -> "CompletionBody":
        if self.echo:
            raise ValueError("echo: is not supported here")
        if self.suffix:
            raise ValueError("suffix: is not supported here")
        if self.best_of is not None and self.best_of != self.n:
            raise ValueError("best_of: is not supported here; use n")
        if len(self.prompts) > MAX_CHOICES or not self.prompts:
            raise ValueError(f"prompt: 1 to {MAX_CHOICES} prompts are taken")
        return self

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """Each prompt: text, or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(part, int) for part in self.prompt):
            return [tuple(part for part in self.prompt if isinstance(part, int))]
        return [
            p if isinstance(p, str) else tuple(p) for p in self.prompt if not isinstance(p, int)
        ]


class EmbeddingBody(_Request):
    """POST /v1/embeddings."""

    model: Name
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, strict=True)

    @model_validator(mode="after")
    def _few_texts(self) -> "EmbeddingBody":
        given = [self.input] if isinstance(self.input, str) else self.input
        if not 1 <= len(given) <= MAX_INPUTS:
            raise ValueError(f"input: 1 to {MAX_INPUTS} texts are taken")
        if not all(isinstance(text, str) for text in given):
            raise ValueError("input: token ids mean nothing to this encoder; send the text")
        return self

    @property
    def texts(self) -> list[str]:
        """The texts, in order."""
        given = [self.input] if isinstance(self.input, str) else self.input
        return [text for text in given if isinstance(text, str)]


class PreviewBody(_Request):
    """POST /x-ptmo/preview; without `model` it is the server's first."""

    model: Name | None = None
    messages: list[MessageBody] = Field(min_length=1, max_length=MAX_MESSAGES)
    tools: list[ToolBody] | None = Field(None, max_length=MAX_TOOLS)
    user: Name | None = None
    x_ptmo: PtmoOptions = PtmoOptions()
