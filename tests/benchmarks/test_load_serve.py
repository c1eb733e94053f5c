"""The load of clients finds errors and answers that are another's, and passes a sound server."""

import itertools
import json
import os

import load_serve
import pytest

from ptmo_secure.errors import CapacityError, InputError
from ptmo_secure.serve.routing import Outcome, Piece
from tests.serve.serving import FakeRouter, serving, serving_model
from tests.tiny_models import make_tiny_model

DONE = Outcome("stop", prompt_tokens=3, completion_tokens=1)


def load(url, capsys, clients=3):
    arguments = ["--url", url, "--clients", str(clients), "--seconds", "0.5", "--tokens", "6"]
    code = load_serve.main([*arguments, "--json"])
    (result,) = json.loads(capsys.readouterr().out)["results"]
    return code, result


class Echo(FakeRouter):
    """Answers with what the conversation's first message says; at times with another's."""

    def __init__(self, wrong_every=0, fails_every=0):
        super().__init__()
        self.asked = itertools.count(1)
        self.wrong_every, self.fails_every = wrong_every, fails_every

    async def answer(self, request, routing):
        number = next(self.asked)
        if request.session and self.fails_every and number % self.fails_every == 0:
            raise CapacityError("full")
        text = request.messages[0]["content"]
        wrong = request.session and self.wrong_every and number % self.wrong_every == 0
        yield Piece("somebody else's" if wrong else text)
        yield DONE


def test_a_sound_server_passes(tmp_path, capsys):
    model = make_tiny_model(tmp_path, context_length=2048).path
    with serving_model(model) as served:
        code, result = load(served.url, capsys)
    assert (code, result["error_kinds"], result["crosstalk"]) == (0, [], 0)
    assert result["answers"] >= 6 and result["distinct_expected"] == 3
    assert 0 < result["first_token_ms"]["p50"] <= result["first_token_ms"]["p95"]


def test_an_answer_that_is_another_clients_is_counted_and_fails(capsys):
    with serving(Echo(wrong_every=7), requests_per_minute=None) as served:
        code, result = load(served.url, capsys)
    assert code == 1 and result["errors"] == 0
    assert 0 < result["crosstalk"] <= result["answers"] // 5


def test_refusals_and_error_events_are_counted_and_fail(capsys):
    with serving(Echo(fails_every=5), requests_per_minute=None) as served:
        code, result = load(served.url, capsys)
    assert code == 1 and result["crosstalk"] == 0
    assert result["errors"] > 0 and result["error_kinds"] == ["status 503"]


def test_the_memory_of_a_process_and_its_children_is_read():
    assert load_serve.resident_bytes(os.getpid()) > 10 << 20
    assert load_serve._growth([5 << 20] * 3) == {"rss_mib": None, "rss_growth_mib": None}
    told = load_serve._growth([n << 20 for n in range(16)])
    assert told == {"rss_mib": 13.5, "rss_growth_mib": 8.0}


@pytest.mark.parametrize("wrong", [["--clients", "0"], ["--seconds", "0"], ["--url", "ftp://x"]])
def test_wrong_options_are_told(wrong):
    with pytest.raises(InputError):
        load_serve.main(wrong)
