"""What the cloud is told: the public context, and as much of the answer as may be public."""

from collections.abc import Callable
from dataclasses import dataclass

from ptmo_secure.cloud.types import CloudRequest, Message
from ptmo_secure.errors import InputError

Publish = Callable[[str], str | None]


def as_it_is(answer: str) -> str:
    """Publish the answer unchanged: for contexts in which the device knows nothing private."""
    return answer


def never(answer: str) -> None:
    """Publish none of the answer: the cloud is asked once, and not again once it is left."""
    return None


@dataclass(frozen=True, slots=True)
class PublicView:
    """A conversation as a cloud may see it.

    Args:
        publish: what the cloud may see of an answer so far, None for nothing. The device chooses
            its tokens knowing the private context, so an answer may hold what the public context
            does not: give the guard's masking here. There is no default, on purpose.
        messages: the masked conversation, without the answer; or
        prompt: masked text to go on with.

    Security: the answer's bytes leave through `publish` alone, in `request`; the egress checks them
    once more. What the cloud can infer from a published prefix: docs/fusion.md.
    """

    publish: Publish
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise InputError("a public view needs messages or a prompt, and not both")

    def publishable(self, answer: bytes) -> str:
        """Return the part of an answer that a request can stand behind.

        A character cut in two stays out. So does white space at the end of a partial message:
        chat templates take it away, and the path has to come through it again.
        """
        text = _whole_characters(answer)
        return text if self.messages is None else text.rstrip()

    def request(self, answer: str, max_tokens: int, top_logprobs: int) -> CloudRequest | None:
        """Return the question how the answer goes on; None where it may not be published.

        Args:
            answer: what `publishable` gave.
            max_tokens, top_logprobs: as in `CloudRequest`.
        """
        public = self.publish(answer) if answer else ""
        if public is None:
            return None
        messages, prompt, partial = self.messages, self.prompt, False
        if messages is None:
            prompt = f"{prompt}{public}"
        elif public:
            messages, partial = (*messages, {"role": "assistant", "content": public}), True
        return CloudRequest(
            messages,
            prompt,
            max_tokens=max_tokens,
            top_logprobs=top_logprobs,
            continue_final=partial,
        )


def _whole_characters(answer: bytes) -> str:
    """Decode up to the last whole character; bytes that can never be one end the text."""
    try:
        return answer.decode()
    except UnicodeDecodeError as error:
        return answer[: error.start].decode()
