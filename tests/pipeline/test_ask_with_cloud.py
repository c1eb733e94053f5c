"""`ptmo ask --cloud` and `ptmo chat --cloud`: what they print, what leaves, what they refuse."""

import io
import json
import sys

import pytest
from worlds import LentGuard, ScriptedEngine

from ptmo_secure import cli
from ptmo_secure.cli import options
from ptmo_secure.hybrid import guarding
from tests.cloud import hostile_server as hostile

ISSUED = "My password is secret123. What is Python?"


@pytest.fixture
def server():
    answer = hostile.stream(["Python is ", "a language."])
    with hostile.HostileServer(answer) as listening:
        listening.script = [hostile.models("big")]
        yield listening


@pytest.fixture
def engine(monkeypatch, guard, tmp_path):
    fake = ScriptedEngine("from the device")
    fake.sessions = type("Sessions", (), {"tee": None})
    monkeypatch.setattr(options, "load_engine", lambda *_: fake)
    monkeypatch.setattr(guarding, "_launch", lambda: LentGuard(guard))
    monkeypatch.setenv("PTMO_STATE", str(tmp_path / "state"))
    return fake


def run(capsys, *arguments):
    code = cli.main(list(arguments))
    streams = capsys.readouterr()
    return code, streams.out, streams.err


@pytest.mark.usefixtures("engine")
def test_a_mixed_query_sends_its_public_part_and_says_so(server, capsys):
    code, out, err = run(capsys, "ask", ISSUED, "--cloud", server.url, "--explain", "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["route"], told["level"]) == ("hybrid", "SEMI_SENSITIVE")
    assert told["answer"] == "Python is a language."
    posted = [request.json for request in server.requests if request.body]
    assert [body["messages"] for body in posted] == [
        [{"role": "user", "content": "What is Python?"}]
    ]
    assert posted[0]["model"] == "big" and b"secret123" not in server.received
    assert "route hybrid" in err and "cloud.answer" in err

    code, out, _ = run(capsys, "audit", "--verify", "--json")
    records = json.loads(out)["records"]
    assert code == 0 and [r["decision"] for r in records] == ["sent", "sent"]
    code, out, _ = run(capsys, "privacy", "status", "--json")
    (user,) = json.loads(out)["users"]
    assert user["spends"] == 1 and 0 < user["spent_epsilon"] < 0.01


@pytest.mark.usefixtures("engine")
def test_a_chat_keeps_its_placeholders_until_it_is_reset(server, capsys, monkeypatch):
    server.script += [hostile.stream([f"{n}: [PERSON_1]."]) for n in "123"]
    lines = [
        "Write an email to Andre Novak about the weather.",
        "Write an email to Mira Holmberg about the weather.",
        "/reset",
        "Write an email to Mira Holmberg about the weather.",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    code, out, _ = run(capsys, "chat", "--cloud", server.url, "--json")
    assert code == 0
    answers = [turn["answer"] for turn in json.loads(out)["turns"]]
    assert answers == ["1: Andre Novak.", "2: Andre Novak.", "3: Mira Holmberg."]
    asked = [r.json["messages"][-1]["content"] for r in server.requests if r.body]
    assert asked == [f"Write an email to [PERSON_{n}] about the weather." for n in (1, 2, 1)]


def test_a_server_that_is_not_there_leaves_the_device_to_answer(engine, server, capsys):
    url = server.url
    server.__exit__()
    code, out, _ = run(
        capsys, "ask", "What is Python?", "--cloud", url, "--json", "--cloud-model=m"
    )
    assert (code, json.loads(out)["answer"], engine.closed) == (0, "from the device", True)
    assert json.loads(out)["route"] == "local"


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cloud", "nowhere"], "unknown cloud 'nowhere'"),
        (["--cloud", "http://models.example/v1"], "http"),
        (["--cloud", "openai"], "OPENAI_API_KEY"),
        (["--cloud", "ollama", "--policy", "greedy"], "unknown policy 'greedy'"),
        (["--cloud", "ollama", "--cascade", "1"], "cascade threshold"),
        (["--cascade", "-1"], "--cloud"),
        (["--cloud-model", "m"], "--cloud"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(arguments, said, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, out, err = run(capsys, "ask", "What is Python?", *arguments)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1
