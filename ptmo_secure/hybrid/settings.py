"""How a pipeline uses its cloud."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ptmo_secure.errors import InputError
from ptmo_secure.hybrid.cache import ResponseCache
from ptmo_secure.hybrid.cascade import Cascade

if TYPE_CHECKING:
    from ptmo_secure.cloud.fusion.config import FusionConfig


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
        hedge_s: seconds after which the device begins an answer of its own where the cloud has not
            begun; the one that is whole first is given. None: it waits for the cloud.
        fusion: a query that may go whole is answered by both models together, token by token; in
            the place of cascade, delegation and hedging, so not beside them.
        deadline_s: seconds for a cloud's whole answer; None: the provider's own limit.
    """

    delegate: bool = False
    cascade: Cascade | None = None
    cache: ResponseCache | None = None
    rewrite_tokens: int = 0
    hedge_s: float | None = None
    fusion: "FusionConfig | None" = None
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.rewrite_tokens < 0:
            raise InputError(f"rewrite_tokens is {self.rewrite_tokens}; it must be 0 or more")
        others = self.delegate or self.cascade is not None or self.hedge_s is not None
        if self.fusion is not None and others:
            raise InputError("fusion goes with neither cascade nor delegation nor hedging")
        if self.hedge_s is not None and not 0 <= self.hedge_s < math.inf:
            raise InputError(f"hedge_s is {self.hedge_s}; it must be 0 or more")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise InputError(f"deadline_s is {self.deadline_s}; it must be above 0")
