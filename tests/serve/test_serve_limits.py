"""Limits: size, rate, requests at once, other sites' pages; no text is logged or counted."""

import asyncio
import json
import logging
import socket
import threading

import openai
import pytest

from ptmo_secure.errors import InputError
from ptmo_secure.serve.errors import ApiError
from ptmo_secure.serve.limits import Concurrency, RateLimit
from ptmo_secure.serve.routing import Piece
from ptmo_secure.serve.server import open_socket
from ptmo_secure.serve.service import ServeSettings
from ptmo_secure.serve.users import KeyFile
from tests.fakes import FakeClock
from tests.serve.serving import DONE, HELLO, MODEL, FakeRouter, serving

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": HELLO}
OK = [Piece("ok"), DONE]


def test_a_body_beyond_the_limit_is_refused_before_it_is_read():
    router = FakeRouter(OK)
    with serving(router, max_body_bytes=2000) as served:
        long = json.dumps({**BODY, "user": "u" * 3000})
        assert served.post(CHAT, long)[0] == 413
        # Without a length: counted while it comes.
        status, told, _ = served.post(CHAT, long, "-H", "transfer-encoding: chunked")
        assert (status, told["error"]["code"]) == (413, "request_too_large")
        assert served.post(CHAT, BODY)[0] == 200
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 10) as raw:
            head = (
                f"POST {CHAT} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: 99999999\r\n\r\n"
            )
            raw.sendall(head.encode())
            assert raw.recv(1000).startswith(b"HTTP/1.1 413")
    assert len(router.requests) == 1


def test_a_bucket_fills_again_with_time():
    clock = FakeClock()
    limit = RateLimit(60, 3, clock)
    for _ in range(3):
        limit.take("a")
    with pytest.raises(ApiError) as refused:
        limit.take("a")
    assert refused.value.status == 429 and refused.value.retry_after_s == pytest.approx(1)
    limit.take("b")
    clock.sleep(1.01)
    limit.take("a")
    with pytest.raises(ApiError):
        limit.take("a")
    clock.sleep(3600)
    for _ in range(3):
        limit.take("a")
    with pytest.raises(ApiError):
        limit.take("a")


def test_no_rate_is_no_limit():
    limit = RateLimit(None, 1, FakeClock())
    for _ in range(1000):
        limit.take("a")


def test_a_key_that_asks_too_often_is_told_to_wait_and_others_are_not(tmp_path):
    path = tmp_path / "keys.json"
    _, ann = KeyFile(path).add("ann")
    _, bob = KeyFile(path).add("bob")
    with serving(FakeRouter(OK), keys=path, requests_per_minute=1.0, burst=2) as served:
        with served.client(ann) as client:
            for _ in range(2):
                client.chat.completions.create(**BODY)
            with pytest.raises(openai.RateLimitError) as refused:
                client.chat.completions.create(**BODY)
        assert refused.value.code == "rate_limit_exceeded"
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
        with served.client(bob) as client:
            client.chat.completions.create(**BODY)


def test_requests_beyond_the_limit_at_once_are_refused_and_later_ones_are_not():
    go = threading.Event()

    async def wait():
        while not go.is_set():
            await asyncio.sleep(0.01)

    router = FakeRouter(OK, pause=wait)
    with serving(router, max_concurrent=2) as served:
        told = []
        threads = [
            threading.Thread(target=lambda: told.append(served.post(CHAT, BODY)[0]))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        while router.running < 2:
            threading.Event().wait(0.01)
        status, error, headers = served.post(CHAT, BODY)
        assert (status, error["error"]["code"]) == (503, "overloaded")
        assert headers["retry-after"] == "1"
        go.set()
        for thread in threads:
            thread.join(30)
        assert told == [200, 200]
        assert served.post(CHAT, BODY)[0] == 200


def test_concurrency_counts_down_when_a_request_fails():
    most = Concurrency(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="x"), most:
            raise ValueError("x")
    assert most.now == 0


@pytest.mark.parametrize(
    "header",
    [
        "host: evil.example",
        "host: 127.0.0.1.evil.example:80",
        "host: ",
        "host: [::1",
        "host: a@b:c",
    ],
)
def test_a_name_rebound_to_this_machine_gets_nothing(header):
    with serving(FakeRouter(OK)) as served:
        for path in (CHAT, "/x-ptmo/preview"):
            status, told, _ = served.post(path, BODY, "-H", header)
            assert status in (400, 403), told
        assert served.get("/", "-H", header)[0] in (400, 403)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_site_gets_nothing(origin):
    router = FakeRouter(OK)
    with serving(router) as served:
        status, told, _ = served.post(CHAT, BODY, "-H", f"origin: {origin}")
        assert (status, told["error"]["param"]) == (403, "origin")
        assert served.post(CHAT, BODY, "-H", f"origin: {served.url}")[0] == 200
    assert len(router.requests) == 1


def test_other_names_of_the_server_are_taken_when_allowed():
    with serving(FakeRouter(OK), hosts=("box.example",)) as served:
        assert served.post(CHAT, BODY, "-H", "host: box.example:8765")[0] == 200
        assert served.post(CHAT, BODY, "-H", "host: other.example")[0] == 403


def test_logs_and_metrics_hold_nothing_that_a_client_wrote(caplog, capfd):
    word = "cana-ry7"
    caplog.set_level(logging.DEBUG)
    router = FakeRouter([Piece(word)], ValueError(word))
    with serving(router) as served:
        messages = [{"role": "user", "content": word, "name": word}]
        tool = {"type": "function", "function": {"name": word, "description": word}}
        body = {"model": MODEL, "messages": messages, "tools": [tool], "user": word, "stop": word}
        for stream in (False, True):
            served.post(CHAT, {**body, "stream": stream})
        served.post(CHAT, {**body, "model": word})
        served.post(CHAT, {**body, "temperature": word})
        served.post(f"/v1/{word}?q={word}", body, "-H", f"x-ptmo-user: {word}", "-X", "PURGE")
        served.post("/x-ptmo/preview", {"messages": messages})
        served.get(f"/v1/models/{word}", "-H", f"authorization: Bearer {word}")
        metrics = served.get("/metrics")[1]
    assert len(router.requests) == 3
    assert "POST /v1/chat/completions 500" in caplog.text
    assert word not in metrics
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "openai"))]
    assert ours and word not in "\n".join(ours) and word not in caplog.text
    streams = capfd.readouterr()
    assert word not in streams.out + streams.err


def test_an_address_in_use_or_of_no_machine_is_told_in_one_line():
    with open_socket("127.0.0.1", 0) as taken:
        with pytest.raises(InputError, match=r"--host 127\.0\.0\.1 --port"):
            open_socket("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(InputError, match="--host"):
        open_socket("203.0.113.1", 0)


@pytest.mark.parametrize(
    "field",
    [
        {"port": 65536},
        {"max_tokens": 0},
        {"max_body_bytes": 10},
        {"max_concurrent": 0},
        {"requests_per_minute": -1.0},
        {"requests_per_minute": float("nan")},
        {"burst": 0},
        {"grace_s": -1.0},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_named(field):
    with pytest.raises(InputError, match=next(iter(field)).split("_")[0]):
        ServeSettings("m", **field)
