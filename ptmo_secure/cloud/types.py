"""What is asked of a cloud model, and what it answers."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from ptmo_secure.errors import InputError

MAX_TOP_LOGPROBS = 20  # of the OpenAI API
MAX_STOPS = 16
Message = Mapping[str, object]
"""As in the OpenAI chat API: "role" and "content", "tool_calls", "tool_call_id"."""


@dataclass(frozen=True, slots=True)
class CloudRequest:
    """One question to a cloud model. Its texts are masked already; egress checks that they are.

    Args:
        messages: a conversation; None with a `prompt`.
        prompt: text to go on with, for the legacy /completions; None with `messages`.
        max_tokens: longest answer, 1 or more.
        temperature: 0 is greedy.
        top_p: probability mass kept, in (0, 1].
        stop: texts that end the answer, at most 16.
        seed: of the provider's sampler, where it has one.
        tools: definitions as in the OpenAI API.
        top_logprobs: alternatives per token to return, 0 (no log-probabilities) to 20.
        continue_final: whether the last message is a partial answer of the assistant's, to be
            continued.
    """

    messages: tuple[Message, ...] | None
    prompt: str | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: tuple[Mapping[str, object], ...] = ()
    top_logprobs: int = 0
    continue_final: bool = False

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise InputError("a cloud request needs messages or a prompt, and not both")
        if self.messages is not None:
            _check_messages(self.messages, self.continue_final)
        elif self.tools or self.continue_final:
            raise InputError("a prompt takes neither tools nor continue_final")
        if not _is_whole(self.max_tokens) or self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens!a}; it must be 1 or more")
        if not _is_whole(self.top_logprobs) or not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS:
            raise InputError(
                f"top_logprobs is {self.top_logprobs!a}; it must be 0 to {MAX_TOP_LOGPROBS}"
            )
        if not math.isfinite(self.temperature) or not 0 <= self.temperature <= 2:
            raise InputError(f"temperature is {self.temperature}; it must be 0 to 2")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it must be above 0, at most 1")
        if len(self.stop) > MAX_STOPS:
            raise InputError(f"{len(self.stop)} stop strings; at most {MAX_STOPS} are taken")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and how likely the model held it.

    Args:
        token: as text; a token that is part of a character is U+FFFD there.
        bytes: its bytes, exact where the provider sends them, else the text's UTF-8.
        logprob: natural logarithm, at most 0.
    """

    token: str
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Position:
    """One token of an answer.

    Args:
        chosen: the token.
        top: the likeliest ones, likeliest first; `chosen` need not be among them.
    """

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class CloudReply:
    """A whole answer.

    Args:
        text: "" when there are tool calls alone.
        finish_reason: "stop", "length", "tool_calls" or what the provider says.
        tool_calls: as in the OpenAI API: {"id", "type", "function": {"name", "arguments"}}.
        positions: one per token when log-probabilities were asked for, else empty.
        prompt_tokens, completion_tokens: as the provider counts them, else estimated.
        usd: what it cost by the noted prices.
        seconds: from the call to the last byte.
        provider, model: who answered.
    """

    text: str
    finish_reason: str
    tool_calls: tuple[Mapping[str, object], ...]
    positions: tuple[Position, ...]
    prompt_tokens: int
    completion_tokens: int
    usd: float
    seconds: float
    provider: str
    model: str


@dataclass(frozen=True, slots=True)
class CloudDelta:
    """One chunk of a streamed answer.

    Args:
        text: what to append; may be "".
        tool_calls: pieces with an "index" each, as in the OpenAI API; `arguments` is appended.
        finish_reason: None until the last chunk with a choice.
        positions: of the tokens in this chunk.
    """

    text: str
    tool_calls: tuple[Mapping[str, object], ...] = ()
    finish_reason: str | None = None
    positions: tuple[Position, ...] = ()


class Cloud(Protocol):
    """A cloud model. Thread-safe.

    Both methods raise `CloudError` when the provider fails, `EgressRefusedError` when the request
    may not leave (nothing was sent), and `InputError` for a request that the provider cannot take.
    """

    def complete(self, request: CloudRequest, *, deadline_s: float | None = None) -> CloudReply:
        """Return the whole answer.

        Args:
            request: what is asked.
            deadline_s: seconds after which `CloudError` is raised, retries included; None: the
                provider's own limit.
        """

    def stream(
        self, request: CloudRequest, *, deadline_s: float | None = None
    ) -> Iterator[CloudDelta]:
        """Yield the answer chunk by chunk; closing the iterator ends the request."""


def _check_messages(messages: tuple[Message, ...], continue_final: bool) -> None:
    if not messages:
        raise InputError("a cloud request needs a message")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError("every message is an object with a role")
    if continue_final and messages[-1]["role"] != "assistant":
        raise InputError("continue_final needs a last message of the assistant's")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
