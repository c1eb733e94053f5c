"""Long texts: refused before the guard reads them, read one at a time, given up with clients."""

import asyncio
import json
import socket
import threading
import time

import pytest

from ptmo_secure.serve import guard_queue
from ptmo_secure.serve.guard_queue import LARGE_CHARACTERS, GuardQueue
from tests.serve.serving import HELLO, MODEL

CHAT = "/v1/chat/completions"
LONG = [{"role": "user", "content": "a@b.c " * 20_000}]


@pytest.mark.parametrize("path", [CHAT, "/x-ptmo/preview"])
def test_a_prompt_beyond_the_context_never_reaches_the_guard(served, path, monkeypatch):
    read = []
    classifier = served.service.router._classifier
    monkeypatch.setattr(classifier, "classify", read.append)
    body = {"model": MODEL, "messages": LONG} if path == CHAT else {"messages": LONG}
    status, told, _ = served.post(path, body)
    assert status == 400 and "the context holds" in told["error"]["message"] and read == []


def test_small_texts_go_between_large_ones_and_those_who_left_are_not_read():
    read, held, begun = [], threading.Event(), threading.Event()

    def hold():
        begun.set()
        held.wait(30)
        read.append("first")

    async def run():
        queue = GuardQueue()
        large = LARGE_CHARACTERS + 1
        first = asyncio.create_task(queue.run(large, hold))
        await asyncio.to_thread(begun.wait, 30)
        left = [
            asyncio.create_task(queue.run(large, lambda: read.append("left"))) for _ in range(8)
        ]
        last = asyncio.create_task(queue.run(large, lambda: read.append("last")))
        await asyncio.sleep(0)
        await asyncio.wait_for(queue.run(LARGE_CHARACTERS, lambda: read.append("small")), 30)
        first.cancel()  # it has begun: its thread is still its own
        for task in left:
            task.cancel()
        await asyncio.gather(first, *left, return_exceptions=True)
        held.set()
        await asyncio.wait_for(last, 30)
        queue.close()

    asyncio.run(run())
    assert read == ["small", "first", "last"]


def test_a_client_that_leaves_while_it_waits_for_the_guard_is_not_read(served, monkeypatch):
    read, held, begun = [], threading.Event(), threading.Event()
    router = served.service.router
    classify = router._classifier.classify

    def slow(text):
        read.append(text)
        begun.set()
        held.wait(30)
        return classify(text)

    monkeypatch.setattr(router._classifier, "classify", slow)
    monkeypatch.setattr(guard_queue, "LARGE_CHARACTERS", 10)
    text = [f"hello there {number}" for number in range(3)]
    host, port = served.url.removeprefix("http://").split(":")
    clients = []
    for each in text:
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": each}]})
        client = socket.create_connection((host, int(port)), 30)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        clients.append(client)
        assert begun.wait(30)
    end = time.monotonic() + 30
    metrics = served.service.metrics
    while metrics.in_flight._value.get() < 3 and time.monotonic() < end:
        time.sleep(0.01)
    before = metrics.disconnects._value.get()
    for client in clients:
        client.close()
    while metrics.disconnects._value.get() < before + 3 and time.monotonic() < end:
        time.sleep(0.01)
    held.set()
    assert served.post(CHAT, {"model": MODEL, "messages": HELLO, "max_tokens": 1})[0] == 200
    assert read == [text[0], HELLO[0]["content"]]
