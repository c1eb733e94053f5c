"""A provider that fails in every way: one kind of error each, in time, no word of the server's."""

import random
import time

import pytest

from ptmo_secure.cloud.breaker import BreakerState, CircuitBreaker
from ptmo_secure.cloud.caps import SpendCaps
from ptmo_secure.cloud.providers import provider_at
from ptmo_secure.cloud.retries import RetryPolicy
from ptmo_secure.errors import CloudError, SpendCapError
from tests.cloud import hostile_server as hostile
from tests.cloud.conftest import asking

SECRET_OF_SERVERS = "a word that only the server says"
pytestmark = pytest.mark.usefixtures("cleared")


def failing(call):
    with pytest.raises(CloudError) as failed:
        call()
    assert "\n" not in str(failed.value) and SECRET_OF_SERVERS not in str(failed.value)
    return failed.value.code


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((400, "rejected"), (401, "rejected"), (403, "rejected"), (404, "rejected")),
        *((422, "rejected"), (408, "server"), (429, "rate_limited"), (500, "server")),
        *((502, "server"), (503, "server"), (307, "rejected"), (204, "malformed")),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_status_becomes_one_kind_of_error(make, server, code, expected, streamed):
    server.script = [hostile.status(code, said=SECRET_OF_SERVERS)]
    client = make()
    call = (
        (lambda: list(client.stream(asking()))) if streamed else lambda: client.complete(asking())
    )
    found = failing(call)
    assert found == expected or (code == 204 and found == "connection")


@pytest.mark.parametrize("name", sorted(hostile.MALFORMED))
def test_an_answer_that_makes_no_sense_is_malformed(make, server, name):
    server.script = [hostile.body(hostile.MALFORMED[name])]
    assert failing(lambda: make().complete(asking())) == "malformed"


@pytest.mark.parametrize("name", sorted(set(hostile.MALFORMED) - {"empty"}))
def test_a_chunk_that_makes_no_sense_is_malformed(make, server, name):
    data = hostile.MALFORMED[name].replace(b'"message"', b'"delta"')
    server.script = [hostile.events([b"data: " + data + b"\n\n"])]
    assert failing(lambda: list(make().stream(asking()))) in ("malformed", "connection")


@pytest.mark.parametrize("name", sorted(hostile.WRONG_LOGPROBS))
def test_log_probabilities_that_cannot_be_are_malformed(make, server, name):
    server.script = [hostile.chat("a", logprobs=hostile.WRONG_LOGPROBS[name])]
    assert failing(lambda: make().complete(asking(top_logprobs=20))) == "malformed"


def test_a_stream_that_breaks_off_is_an_error_after_what_came(make, server):
    server.script = [
        hostile.half_closed(),
        hostile.events([hostile.event({"content": "half of an"})], done=False),
        hostile.events([hostile.event({"content": "half of an"})], done=True),
    ]
    for _ in range(3):
        stream = make(retry=RetryPolicy(attempts=3)).stream(asking())
        assert next(stream).text == "half of an"
        assert failing(lambda stream=stream: next(stream)) in ("connection", "malformed")
        assert list(stream) == []
    assert len(server.requests) == 3  # what was shown cannot be taken back by another attempt


@pytest.mark.parametrize("behaviour", [hostile.hang_up(), hostile.cut_short()])
def test_a_connection_that_breaks_is_tried_again(make, server, behaviour):
    server.script = [behaviour, hostile.chat("well")]
    assert make(retry=RetryPolicy(attempts=2)).complete(asking()).text == "well"


def test_an_answer_of_fifty_megabytes_ends_at_four(make, server):
    for declared in (True, False):
        server.script = [hostile.huge(declared=declared)]
        before = time.monotonic()
        assert failing(lambda: make().complete(asking())) == "too_large"
        assert time.monotonic() - before < 30
    server.script = [hostile.chat("x" * 1000)]
    assert failing(lambda: make(max_response_bytes=1000).complete(asking())) == "too_large"


def test_an_endless_stream_ends_at_the_limit(make, server):
    server.script = [hostile.stream(["x" * 1000] * 200)]
    stream = make(max_response_bytes=100_000).stream(asking(max_tokens=100_000))
    assert failing(lambda: list(stream)) == "too_large"


def test_an_answer_that_is_nested_deep_is_never_parsed(make, server):
    server.script = [hostile.deep()]
    assert failing(lambda: make().complete(asking())) == "malformed"


def test_a_compressed_answer_is_not_unpacked(make, server):
    server.script = [hostile.bomb()]
    assert failing(lambda: make().complete(asking())) == "malformed"
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_a_redirect_is_not_followed(make, server):
    with hostile.HostileServer() as other:
        server.script = [hostile.redirect(other.url + "/chat/completions")]
        assert failing(lambda: make().complete(asking())) == "rejected"
        assert other.received == b""


def test_proxies_of_the_environment_are_not_asked(make, server, monkeypatch):
    with hostile.HostileServer() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert make().complete(asking()).text == "ok"
        assert proxy.received == b""


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("behaviour", [hostile.silent(), hostile.drip()])
def test_the_deadline_holds_for_silence_and_for_a_byte_now_and_then(
    make, server, behaviour, streamed
):
    server.script = [behaviour]
    client, before = make(retry=RetryPolicy(attempts=3)), time.monotonic()
    if streamed:
        code = failing(lambda: list(client.stream(asking(), deadline_s=0.5)))
    else:
        code = failing(lambda: client.complete(asking(), deadline_s=0.5))
    assert code == "timeout" and time.monotonic() - before < 5
    assert len(server.requests) == 1


def test_nobody_listening_is_a_connection_error(make, server):
    with hostile.HostileServer() as gone:
        url = gone.url
    client = make(provider_at(url))
    assert failing(lambda: client.complete(asking())) == "connection"


def test_a_placeholder_or_a_wish_for_the_vault_in_an_answer_is_text_and_no_more(
    make, server, vault
):
    masked = vault.mask("My password is hunter22-Xy and my name is Ann Lee.")
    for said in ("[SECRET_1] [PERSON_1] [SECRET_999]", hostile.INJECTION):
        server.script = [hostile.chat(said)]
        assert make().complete(asking(masked.text)).text == said
    assert b"hunter22" not in server.received


# ---------------------------------------------------------------- retries


def test_failures_that_may_pass_are_tried_again(make, server):
    server.script = [hostile.status(500), hostile.status(429), hostile.chat("at last")]
    client = make(retry=RetryPolicy(attempts=3, base_s=0.25, longest_s=8))
    assert client.complete(asking()).text == "at last"
    assert len(client.waits) == 2 and 0 <= client.waits[0] <= 0.25 and client.waits[1] <= 0.5


def test_failures_that_will_not_pass_are_not(make, server):
    server.script = [hostile.status(401), hostile.chat("not asked for")]
    client = make(retry=RetryPolicy(attempts=3))
    assert failing(lambda: client.complete(asking())) == "rejected"
    assert len(server.requests) == 1 and client.waits == []


def test_a_stream_is_tried_again_until_its_first_chunk(make, server):
    server.script = [hostile.status(503), hostile.stream(["good"])]
    stream = make(retry=RetryPolicy(attempts=2)).stream(asking())
    assert "".join(delta.text for delta in stream) == "good"
    assert stream.reply.text == "good"


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [("7", 7, 7.25), ("2.5", 2.5, 2.75), ("soon", 0, 0.25), ("-3", 0, 0.25), ("inf", 0, 0.25)],
)
def test_a_server_is_given_the_time_it_asks_for(make, server, header, least, most):
    server.script = [hostile.status(429, retry_after=header), hostile.chat()]
    client = make(retry=RetryPolicy(attempts=2, base_s=0.25))
    client.complete(asking())
    assert least <= client.waits[0] <= most


def test_a_date_in_retry_after_is_a_time_from_now(make, server):
    server.script = [
        hostile.status(503, retry_after="Wed, 21 Oct 2015 07:28:10 GMT"),
        hostile.chat(),
    ]
    client = make(retry=RetryPolicy(attempts=2, base_s=0), now=lambda: 1445412480.0)
    client.complete(asking())
    assert client.waits == [10.0]


def test_a_wait_beyond_the_deadline_is_not_begun(make, server):
    server.script = [hostile.status(429, retry_after="100")]
    client = make(retry=RetryPolicy(attempts=5))
    assert failing(lambda: client.complete(asking(), deadline_s=20)) == "rate_limited"
    assert client.waits == [] and len(server.requests) == 1


def test_waits_have_full_jitter():
    draw, policy = random.Random(1), RetryPolicy(attempts=9, base_s=1.0, longest_s=4.0)
    for retry, most in ((0, 1), (1, 2), (2, 4), (3, 4), (50, 4)):
        waits = [policy.wait_s(retry, None, draw) for _ in range(2000)]
        assert 0 <= min(waits) < 0.01 * most and 0.99 * most < max(waits) <= most
        assert sum(waits) / len(waits) == pytest.approx(most / 2, rel=0.05)


# ---------------------------------------------------------------- breaker and caps


def test_a_provider_that_keeps_failing_is_left_alone_and_tried_again_later(make, server):
    now = [0.0]
    breaker = CircuitBreaker(failures=2, open_s=10, longest_open_s=15, clock=lambda: now[0])
    client = make(breaker=breaker)
    server.script = [hostile.status(500)] * 3
    for _ in range(2):
        assert failing(lambda: client.complete(asking())) == "server"
    assert breaker.state is BreakerState.OPEN
    assert failing(lambda: client.complete(asking())) == "circuit_open"
    assert len(server.requests) == 2
    now[0] = 10.0
    assert breaker.state is BreakerState.HALF_OPEN
    assert failing(lambda: client.complete(asking())) == "server"
    now[0] = 24.9  # open for longer this time
    assert failing(lambda: client.complete(asking())) == "circuit_open"
    now[0] = 25.0
    assert client.complete(asking()).text == "ok"
    assert breaker.state is BreakerState.CLOSED and len(server.requests) == 4


def test_one_call_at_a_time_tries_a_provider_that_failed():
    now = [0.0]
    breaker = CircuitBreaker(failures=1, open_s=1, clock=lambda: now[0])
    breaker.enter().failed()
    now[0] = 1.0
    probe = breaker.enter()
    with pytest.raises(CloudError):
        breaker.enter()
    probe.drop()  # no verdict: the next one may try
    breaker.enter().succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_success_forgets_the_failures_before_it():
    breaker = CircuitBreaker(failures=2)
    for _ in range(5):
        breaker.enter().failed()
        breaker.enter().succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_what_is_the_callers_fault_does_not_open_the_breaker(make, server):
    client = make(breaker=CircuitBreaker(failures=1))
    server.script = [hostile.status(400), hostile.status(429)]
    assert failing(lambda: client.complete(asking())) == "rejected"
    assert failing(lambda: client.complete(asking())) == "rate_limited"
    assert client.complete(asking()).text == "ok"


def test_a_cap_stops_a_call_before_anything_is_sent(make, server):
    caps = SpendCaps()
    caps.set_limit("request", "seconds", 0.9)
    client = make(caps=caps)
    with pytest.raises(SpendCapError, match=r"0\.9 seconds a request"):
        client.complete(asking(), deadline_s=30)
    assert server.received == b""
    client.complete(asking(), deadline_s=0.8)
    caps.set_limit("request", "seconds", None)
    client.complete(asking(), deadline_s=30)


def spent(caps, name="usd"):
    return caps.status()["day"][name]


def test_calls_are_settled_at_what_they_did_cost(make, server):
    from datetime import date

    from ptmo_secure.cloud.providers import ModelPrice, Provider

    model = ModelPrice("m", 1e6, 1e6, date(2026, 4, 1))  # a dollar a token
    provider, caps = Provider("p", server.url, models={"m": model}), SpendCaps()
    client = make(provider, "m", caps=caps)
    server.script = [
        hostile.chat(usage=(7, 3)),
        hostile.status(500),
        hostile.status(400),
        hostile.silent(),
        hostile.stream(["a"], usage=(5, 1)),
    ]
    client.complete(asking())
    assert spent(caps) == 10
    for _ in range(2):
        failing(lambda: client.complete(asking()))
    assert spent(caps) == 10  # these were not worked on
    failing(lambda: client.complete(asking(max_tokens=9), deadline_s=0.3))
    late = spent(caps) - 10
    assert late > len("What is Python?") + 9  # this one may be billed: at its bounds
    list(client.stream(asking()))
    assert spent(caps) == pytest.approx(16 + late)
    assert 0 < spent(caps, "joules") == pytest.approx(1.5 * spent(caps, "seconds"))
    assert spent(caps, "calls") == 5


def test_a_refused_or_closed_call_costs_nothing_beyond_what_was_sent(make, server):
    caps = SpendCaps()
    client = make(caps=caps)
    client.stream(asking()).close()
    assert spent(caps, "calls") == 0


def test_calls_that_are_withdrawn_are_no_failures_of_the_provider(make, server):
    server.default = hostile.endless({"content": "word "})
    client = make()
    for _ in range(9):  # five failures open the breaker
        stream = client.stream(asking(max_tokens=100_000))
        next(stream)
        stream.withdraw()
        with pytest.raises(CloudError):
            list(stream)
    assert client.breaker.state is BreakerState.CLOSED
    server.default = hostile.chat("fine")
    assert client.complete(asking()).text == "fine"


def test_a_cap_on_seconds_below_the_timeout_shortens_the_deadline(make, server):
    caps = SpendCaps()
    caps.set_limit("request", "seconds", 1.5)
    client = make(caps=caps)  # its timeout is longer
    assert client.provider.timeout_s > 1.5
    server.default = hostile.chat("fine")
    assert client.complete(asking()).text == "fine"
    server.default = hostile.silent()
    failing(lambda: client.complete(asking()))
    assert 0 < spent(caps, "seconds") < 3
    caps.set_limit("request", "seconds", 0.5)
    with pytest.raises(SpendCapError):
        client.complete(asking())
