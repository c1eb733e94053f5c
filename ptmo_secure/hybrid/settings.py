"""How a pipeline uses its cloud."""

from dataclasses import dataclass

from ptmo_secure.errors import InputError
from ptmo_secure.hybrid.cache import ResponseCache
from ptmo_secure.hybrid.cascade import Cascade


@dataclass(frozen=True, slots=True)
class HybridSettings:
    """What is done with a cloud beyond sending it what may go. All of it is off by default.

    Args:
        delegate: a SEMI_SENSITIVE turn goes as a general question that the device's model writes,
            and the device's model makes the answer of what comes back.
        cascade: the device answers first, and a cloud is asked only where that answer is doubted.
        cache: keeps a cloud's answers.
        rewrite_tokens: the device's model rewrites what two parts gave, in at most so many tokens;
            0 leaves them beside each other.
        deadline_s: seconds for a cloud's whole answer; None: the provider's own limit.
    """

    delegate: bool = False
    cascade: Cascade | None = None
    cache: ResponseCache | None = None
    rewrite_tokens: int = 0
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.rewrite_tokens < 0:
            raise InputError(f"rewrite_tokens is {self.rewrite_tokens}; it must be 0 or more")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise InputError(f"deadline_s is {self.deadline_s}; it must be above 0")
