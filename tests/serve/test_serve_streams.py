"""Clients that leave, sixteen at once, and a server that is told to end."""

import asyncio
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import openai
import pytest

from ptmo_secure.serve.routing import Piece
from tests.serve.serving import (
    DONE,
    HELLO,
    MODEL,
    FakeRouter,
    ServeProcess,
    run_curl,
    serving,
    serving_model,
    text_of,
)

CHAT = "/v1/chat/completions"


def until(true, seconds=20.0):
    """Wait until something is true; whether it came."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.01)
    return False


def begin(url, stream, **fields):
    """Send a request and return its connection, the response not read."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    body = json.dumps({"model": MODEL, "messages": HELLO, "stream": stream, **fields})
    connection.request("POST", CHAT, body, {"content-type": "application/json"})
    return connection


async def slowly():
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_request(stream):
    router = FakeRouter([Piece("x")] * 100_000, pause=slowly)
    with serving(router) as served:
        connection = begin(served.url, stream)
        assert until(lambda: router.running == 1)
        if stream:
            response = connection.getresponse()
            assert b"data: " in response.readline()
            response.close()
        connection.close()
        assert until(lambda: router.running == 0)
        assert until(lambda: "ptmo_disconnects_total 1.0" in served.get("/metrics")[1])
        assert served.service.concurrency.now == 0


def test_a_client_that_leaves_while_its_request_waits_costs_no_step(model):
    with serving_model(model, max_batch=1, max_tokens=2000) as served:
        for _ in range(6):  # the first may end before the second is seen to wait: then again
            first = begin(served.url, True, max_tokens=1900, temperature=0)
            until(lambda: figure(served, "ptmo_running") == 1, 2.0)
            waiting = begin(served.url, False, max_tokens=400)
            if until(lambda: figure(served, "ptmo_waiting") == 1, 2.0):
                break
            first.close()
            waiting.close()
            assert until(lambda: figure(served, "ptmo_running") == 0)
        assert figure(served, "ptmo_waiting") == 1
        waiting.close()
        assert until(lambda: figure(served, "ptmo_waiting") == 0)
        first.close()
        assert until(lambda: figure(served, "ptmo_running") == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_its_request_is_submitted_cancels_it(model, stream):
    with serving_model(model) as served:
        scheduler, submitted = served.service.router._scheduler, []
        submit, reached, go = scheduler.submit, threading.Event(), threading.Event()

        def slowly(*args, **kwargs):
            reached.set()
            assert go.wait(20)
            submitted.append(submit(*args, **kwargs))
            return submitted[0]

        scheduler.submit = slowly
        connection = begin(served.url, stream, max_tokens=900)
        assert reached.wait(20)
        connection.close()
        time.sleep(0.3)  # the server sees that it left
        go.set()
        assert until(lambda: submitted and submitted[0].cancelled)


def test_a_stream_that_the_client_closes_ends_in_the_engine(model):
    with serving_model(model) as served, served.client() as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, max_tokens=450, temperature=0
        )
        next(iter(stream))
        stream.close()
        assert until(lambda: figure(served, "ptmo_running") == 0)
        assert figure(served, 'ptmo_tokens_total{kind="completion"}') is None  # it never ended


def figure(served, name):
    for line in served.get("/metrics")[1].splitlines():
        if line.startswith(f"{name} "):
            return float(line.rsplit(" ", 1)[1])
    return None


def test_sixteen_clients_at_once_get_each_their_own_answer(model):
    prompts = [[{"role": "user", "content": f"hello number {n} " * (n % 5 + 1)}] for n in range(16)]
    with serving_model(model) as served:
        expected = []
        for prompt in prompts:
            served.engine.reset()
            expected.append("".join(served.engine.generate(prompt, 24)))
        assert len(set(expected)) == 16
        served.engine.reset()
        wrong = []

        def talk(number):
            with served.client(timeout=120) as client:
                for turn in range(3):
                    given = {"model": MODEL, "messages": prompts[number], "max_tokens": 24}
                    stream = client.chat.completions.create(
                        temperature=0, stream=True, user=f"user-{number}", **given
                    )
                    text = text_of(stream)
                    if text != expected[number]:
                        wrong.append((number, turn, text))

        threads = [threading.Thread(target=talk, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
        assert wrong == []
        assert (
            figure(served, 'ptmo_requests_total{endpoint="/v1/chat/completions",status="200"}')
            == 48
        )


def test_curl_gets_the_events_of_a_stream(served):
    body = json.dumps({"model": MODEL, "messages": HELLO, "stream": True, "max_tokens": 5})
    raw = run_curl(
        f"{served.url}{CHAT}", "-H", "content-type: application/json", "--data-binary", body
    )
    head, _, events = raw.partition(b"\r\n\r\n")
    assert b"content-type: text/event-stream" in head.lower()
    assert events.endswith(b"data: [DONE]\n\n")
    assert all(line.startswith(b"data: ") for line in events.split(b"\n\n")[:-1])


def test_answers_still_under_way_when_the_grace_time_is_over_end_with_an_error():
    router = FakeRouter([Piece("x")] * 100_000, pause=slowly)
    seen, failures = [], []

    def read(served):
        with served.client() as client:
            try:
                for chunk in client.chat.completions.create(
                    model=MODEL, messages=HELLO, stream=True
                ):
                    seen.append(chunk)
            except openai.APIError as error:
                failures.append(str(error))

    with serving(router, grace_s=0.3) as served:
        thread = threading.Thread(target=read, args=(served,))
        thread.start()
        assert until(lambda: len(seen) > 3)
    thread.join(20)
    assert failures == ["the server is shutting down"]
    assert router.closed and router.running == 0


def test_answers_that_end_within_the_grace_time_end_well():
    router = FakeRouter([*[Piece("x")] * 40, DONE], pause=slowly)
    told = []
    with serving(router, grace_s=20) as served:
        thread = threading.Thread(
            target=lambda: told.append(served.post(CHAT, {"model": MODEL, "messages": HELLO}))
        )
        thread.start()
        assert until(lambda: router.running == 1)
    thread.join(30)
    ((status, answer, _),) = told
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "x" * 40)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_process_answers_and_ends_quietly(model, tmp_path, number):
    arguments = ["--model", str(model), "--threads", "1"]
    with ServeProcess(tmp_path, *arguments) as process:
        name = process.told["model"]
        assert process.told["keys"] is False
        with process.served.client() as client:
            answer = client.chat.completions.create(model=name, messages=HELLO, max_tokens=4)
        assert answer.usage.completion_tokens <= 4
        code, errors = process.end(number)
    assert (code, errors) == (0, "")


def test_a_server_tells_its_address_and_with_verbose_each_request_without_text(model, tmp_path):
    command = [sys.executable, "-m", "ptmo_secure", "serve", "--port", "0", "--verbose"]
    process = subprocess.Popen(
        [*command, "--model", str(model), "--threads", "1", "--state", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        found = re.search(
            r"at (http://127\.0\.0\.1:\d+)/v1 .*Ctrl-C ends it", process.stderr.readline()
        )
        assert found
        body = json.dumps({"model": "cana-ry7", "messages": HELLO})
        given = ["-H", "content-type: application/json", "--data-binary", body]
        run_curl(f"{found[1]}{CHAT}?q=cana-ry7", *given)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert re.fullmatch(r"\S+ \S+ POST /v1/chat/completions 404 [\d.]+ ms \d+ bytes\n", errors)
