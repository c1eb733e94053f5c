"""A question under way: what came before a failure is given, whenever it is read."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from ptmo_secure.cloud.types import CloudDelta, CloudRequest
from ptmo_secure.errors import CloudError
from ptmo_secure.hybrid.exchange import Exchange

REQUEST = CloudRequest(({"role": "user", "content": "Hi"},))


class Cloud:
    """Says two words and breaks off."""

    egress = SimpleNamespace(clearance=lambda *_: nullcontext())

    def stream(self, request, *, deadline_s=None):
        yield CloudDelta("half ")
        yield CloudDelta("of ")
        raise CloudError("it broke off", "connection")


def test_text_that_came_before_a_failure_is_given_though_it_was_read_after_it():
    with Exchange(Cloud(), REQUEST, None, "test", "ann", "s") as call:
        call.wait_begun(10)
        over = []
        call.when_over(lambda: over.append(1))
        call._thread.join()
        assert over == [1] and call.failed
        pieces = call.pieces()
        assert next(pieces) == "half of "
        with pytest.raises(CloudError, match="broke off"):
            next(pieces)


def test_whoever_asks_late_is_told_of_the_end_at_once():
    with Exchange(Cloud(), REQUEST, None, "test", "ann", "s") as call:
        call._thread.join()
        over = []
        call.when_over(lambda: over.append(1))
        assert over == [1]
