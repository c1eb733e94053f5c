"""`ptmo ask --cloud` and `ptmo chat --cloud`: what they print, what leaves, what they refuse."""

import io
import json
import sys

import pytest
from worlds import LentGuard, ScriptedEngine

from ptmo_secure import cli
from ptmo_secure.cli import options
from ptmo_secure.cloud.caps import SpendCaps
from ptmo_secure.cloud.paths import caps_path
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
    ("option", "seconds", "said"),
    [("--hedge", "0.1", '"step": "hedge"'), ("--cloud-timeout", "0.3", '"failed": "CloudError:')],
)
def test_a_silent_cloud_is_not_waited_for_where_the_command_line_says_so(
    option, seconds, said, server, capsys
):
    server.script = [hostile.silent(30)]
    told = ["--cloud", server.url, "--cloud-model=m", option, seconds, "--json"]
    code, out, _ = run(capsys, "ask", "What is Python?", *told)
    told = json.loads(out)
    assert (code, told["answer"], told["route"]) == (0, "from the device", "local")
    assert said in out


@pytest.mark.usefixtures("engine")
def test_a_chat_keeps_the_clouds_answers_where_the_command_line_says_so(
    server, capsys, monkeypatch
):
    lines = "What is Python?\n/reset\nWhat is Python?\n"
    server.script = []
    for cache, asked in (("exact", 1), ("off", 2)):
        server.forget()
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        told = ["--cloud", server.url, "--cloud-model=m", "--cache", cache, "--json"]
        assert run(capsys, "chat", *told)[0] == 0
        assert len([r for r in server.requests if r.body]) == asked


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("cache", "said"), [("near", "unknown cache 'near'"), ("exact", "--cache needs --cloud")]
)
def test_a_cache_that_makes_no_sense_is_refused(cache, said, capsys):
    code, _, err = run(capsys, "chat", "--cache", cache)
    assert code == 2 and said in err


@pytest.mark.usefixtures("engine")
def test_a_cap_that_is_reached_leaves_the_device_to_answer_and_the_trace_says_so(
    server, capsys, tmp_path
):
    caps = SpendCaps(caps_path(tmp_path / "state"))
    asked = ["ask", "What is Python?", "--cloud", server.url, "--cloud-model=m", "--json"]
    server.script = []
    for most, route, code in ((None, "cloud", None), (0.0, "local", "SpendCapError:cap")):
        caps.set_limit("day", "seconds", most)
        told = json.loads(run(capsys, *asked)[1])
        facts = next(step for step in told["trace"] if step["step"] == "cloud.answer")
        assert (told["route"], facts.get("failed")) == (route, code)
    assert len([r for r in server.requests if r.body]) == 1


@pytest.mark.usefixtures("engine")
def test_a_provider_of_ones_own_is_asked_by_its_name(server, capsys, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(f'[mine]\nbase_url = "{server.url}"\ndefault_model = "own"\n')
    server.script = []
    code, out, _ = run(
        capsys, "ask", "What is Python?", "--cloud", "mine", "--providers", str(file), "--json"
    )
    assert (code, json.loads(out)["route"]) == (0, "cloud")
    assert server.requests[-1].json["model"] == "own"


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cloud", "https://models.example/v1"], "--cloud-model"),
        (["--cloud", "https://models.example/v1", "--cloud-model", "m"], "no price is noted"),
        (["--cloud", "openai", "--cloud-model", "gpt-9"], "no price is noted"),
        (["--cloud", "ollama", "--providers", "/nowhere.toml"], "/nowhere.toml: No such file"),
        (["--cloud", "ollama", "--cloud-timeout", "0"], "deadline_s is 0"),
        (["--providers", "x.toml"], "--providers needs --cloud"),
        (["--cloud-timeout", "3"], "--cloud-timeout needs --cloud"),
        (["--cloud", "nowhere"], "unknown cloud 'nowhere'"),
        (["--cloud", "http://models.example/v1"], "http"),
        (["--cloud", "openai"], "OPENAI_API_KEY"),
        (["--cloud", "ollama", "--policy", "greedy"], "unknown policy 'greedy'"),
        (["--cloud", "ollama", "--cascade", "1"], "cascade threshold"),
        (["--cascade", "-1"], "--cloud"),
        (["--cloud-model", "m"], "--cloud"),
        (["--delegate"], "--delegate needs --cloud"),
        (["--hedge", "1"], "--hedge needs --cloud"),
        (["--fuse"], "--fuse needs --cloud"),
        (["--cloud", "ollama", "--fuse"], "ollama returns no log-probabilities"),
        (["--cloud", "vllm", "--fuse", "--cascade", "-1"], "fusion goes with neither"),
        (["--cloud", "ollama", "--hedge", "-1"], "hedge_s"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(arguments, said, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, out, err = run(capsys, "ask", "What is Python?", *arguments)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1
