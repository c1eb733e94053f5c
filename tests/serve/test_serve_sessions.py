"""Users' sessions: their own, reused by the next turn, and back after a restart in mid-load."""

import contextlib
import signal
import threading
import time

import openai

from ptmo_secure.serve.users import KeyFile
from tests.serve.serving import HELLO, MODEL, ServeProcess, serving_model, text_of

GREEDY = {"temperature": 0, "max_tokens": 8}


def turn(client, messages, model=MODEL, **fields):
    """Ask; returns the answer, and the conversation with the next question."""
    answer = client.chat.completions.create(model=model, messages=messages, **GREEDY, **fields)
    said = {"role": "assistant", "content": answer.choices[0].message.content}
    return answer, [*messages, said, {"role": "user", "content": "and then?"}]


def cached(answer):
    return answer.usage.prompt_tokens_details.cached_tokens


def test_the_next_turn_of_a_user_reuses_the_rows_of_the_last(served, client):
    first, longer = turn(client, HELLO, user="ann")
    again, _ = turn(client, longer, user="ann")
    fresh, _ = turn(client, longer)
    assert cached(first) == cached(fresh) == 0
    assert cached(again) >= first.usage.prompt_tokens
    assert again.choices[0].message.content == fresh.choices[0].message.content


def test_another_users_or_sessions_rows_are_never_reused(client):
    _, longer = turn(client, HELLO, user="u1", extra_headers={"x-ptmo-session": "a"})
    for fields in (
        {"user": "u2", "extra_headers": {"x-ptmo-session": "a"}},
        {"user": "u1", "extra_headers": {"x-ptmo-session": "b"}},
        {"user": "u1"},
        {"extra_headers": {"x-ptmo-session": "a"}},
        {"user": "u1a"},
    ):
        assert cached(turn(client, longer, **fields)[0]) == 0, fields
    mine = turn(client, longer, user="u1", extra_body={"x_ptmo": {"session": "a"}})
    assert cached(mine[0]) > 0


def test_a_user_of_one_key_is_not_the_user_of_that_name_of_another(model, tmp_path):
    path = tmp_path / "keys.json"
    _, ann = KeyFile(path).add("ann")
    _, bob = KeyFile(path).add("bob")
    with serving_model(model, keys=path) as served:
        _, longer = turn(served.client(ann), HELLO, user="same")
        assert cached(turn(served.client(bob), longer, user="same")[0]) == 0
        assert cached(turn(served.client(ann), longer, user="same")[0]) > 0


def test_figures_of_sessions_are_told(model):
    with serving_model(model, keep=1) as served, served.client() as client:
        for user in ("a", "b"):
            turn(client, HELLO, user=user)
        text = served.get("/metrics")[1]
    assert "ptmo_kept_sessions 1.0" in text and "ptmo_sessions_dropped 1.0" in text


def test_sessions_outlive_a_restart_in_mid_load(model, tmp_path):
    arguments = ["--model", str(model), "--threads", "1", "--persist", "--grace", "1"]
    state = tmp_path / "state"
    asked = [[{"role": "user", "content": f"hello number {n}"}] for n in range(3)]
    with ServeProcess(state, *arguments) as process, process.served.client() as client:
        name = process.told["model"]
        longer = [
            turn(client, messages, name, user=f"user-{n}")[1] for n, messages in enumerate(asked)
        ]
        expected = [turn(client, each, name)[0].choices[0].message.content for each in longer]
        ends = []

        def load(number):
            stream = []
            with contextlib.suppress(openai.APIError):
                stream = client.chat.completions.create(
                    model=name,
                    messages=[{"role": "user", "content": f"tell a story {number}"}],
                    max_tokens=1000,
                    stream=True,
                    user=f"busy-{number}",
                    logprobs=True,
                )
                text_of(stream)
            ends.append(number)

        threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        code, errors = process.end(signal.SIGTERM)
        for thread in threads:
            thread.join(30)
        assert code == 0, errors
        assert sorted(ends) == [0, 1, 2, 3]  # nobody hangs
    files = sorted((state / "serve" / "sessions").iterdir())
    assert len(files) >= 3
    assert not any("user" in path.name for path in files)
    with ServeProcess(state, *arguments) as process, process.served.client() as client:
        for number, messages in enumerate(longer):
            answer, _ = turn(client, messages, name, user=f"user-{number}")
            assert cached(answer) > 0
            assert answer.choices[0].message.content == expected[number]
        other, _ = turn(client, longer[0], name, user="user-9")
        assert cached(other) == 0
        assert process.end()[0] == 0
