"""`ptmo ask` and `ptmo chat` over a fake engine."""

import io
import json
import sys
from collections.abc import Iterator

import pytest
from fakes import FakeEngine, FakeGuard

from ptmo_secure import cli
from ptmo_secure.cli import options
from ptmo_secure.errors import EngineError, InputError
from ptmo_secure.hybrid import guarding

ASK_KEYS = [
    *("answer", "route", "level", "score", "trace"),
    *("tokens", "ttft_ms", "decode_tps", "shield", "masked", "usd"),
]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """The engine that every command of a test opens; its guard finds a secret."""
    fake = FakeEngine()
    monkeypatch.setattr(options, "load_engine", lambda *_: fake)
    monkeypatch.setattr(guarding, "_launch", lambda: FakeGuard("PRIVATE", 0.9))
    yield fake
    assert fake.closed


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_ask_streams_the_answer_and_nothing_else_to_stdout(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ask", "What is Python?"]) == 0
    streams = capsys.readouterr()
    assert (streams.out, streams.err) == ("Hello world\n", "")
    assert engine.prompts == [[{"role": "user", "content": "What is Python?"}]]


def test_ask_prints_one_json_object(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "What is Python?", "--json"]) == 0
    streams = capsys.readouterr()
    value = json.loads(streams.out)
    assert streams.out.count("\n") == 1
    assert list(value) == ASK_KEYS
    assert (value["answer"], value["route"], value["level"]) == ("Hello world", "local", "PRIVATE")
    assert value["trace"][1]["spans"] == {"SECRET": 1}
    assert "What is Python?" not in streams.out


def test_ask_explains_itself_on_stderr(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ask", "Hi", "--explain"]) == 0
    streams = capsys.readouterr()
    assert streams.out == "Hello world\n"
    for part in ("PRIVATE", "guard.scan", "gate", "engine.generate", "wall"):
        assert part in streams.err


def test_ask_reads_the_query_from_stdin(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, "a query\nof two lines\n")
    assert cli.main(["ask", "-"]) == 0
    assert engine.prompts[0][0]["content"] == "a query\nof two lines\n"


def test_ask_hands_every_option_on(engine: FakeEngine) -> None:
    given = "--max-tokens 9 --temperature 0.5 --top-k 4 --top-p 0.9 --repetition-penalty 1.1"
    more = ["--seed", "7", "--stop", "END", "--stop", "\n\n", "--system", "Be brief."]
    assert cli.main(["ask", "Hi", *given.split(), *more]) == 0
    ((max_tokens, sampling, stop),) = engine.calls
    assert (max_tokens, stop) == (9, ("END", "\n\n"))
    assert sampling is not None
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 4, 0.9)
    assert (sampling.repetition_penalty, sampling.seed) == (1.1, 7)
    assert engine.prompts[0][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("command", [["ask", "Hi"], ["chat"]])
def test_adapters_are_loaded_and_used_in_order(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    type_in(monkeypatch, "Hi\n")
    more = ["--adapter", "mine=some/folder", "--adapter", "ours=a=b"]
    assert cli.main([*command, *more]) == 0
    assert engine.adapters == {"mine": "some/folder", "ours": "a=b"}
    assert engine.used_adapters == [("mine", "ours")]


@pytest.mark.parametrize("given", ["mine", "=path", "mine=", ""])
def test_an_adapter_is_a_name_and_a_path(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ask", "Hi", "--adapter", given]) == 2
    assert "is not NAME=PATH" in capsys.readouterr().err


def test_the_engine_is_opened_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, dict[str, object]]] = []

    def load(model: str, fields: dict[str, object]) -> FakeEngine:
        seen.append((model, fields))
        return FakeEngine()

    monkeypatch.setattr(options, "load_engine", load)
    command = "ask Hi --model m.gguf --shield permute+seal --restore tee --kv-dtype fp16"
    assert cli.main([*command.split(), "--threads", "3", "--device", "cuda"]) == 0
    fields = {"shield": "permute+seal", "restore": "tee", "kv_dtype": "fp16", "threads": 3}
    assert seen == [("m.gguf", {**fields, "device": "cuda"})]


def test_chat_remembers_the_conversation(
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    type_in(monkeypatch, "My name is Ada.\n\nWhat is my name?\n")
    assert cli.main(["chat"]) == 0
    assert capsys.readouterr().out == "Hello world\nHello world\n"
    assert [message["content"] for message in engine.prompts[1]] == [
        "My name is Ada.",
        "Hello world",
        "What is my name?",
    ]


def test_chat_reset_forgets_text_and_cache(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_in(monkeypatch, "one\n/reset\ntwo\n/quit\nthree\n")
    assert cli.main(["chat"]) == 0
    assert [len(prompt) for prompt in engine.prompts] == [1, 1]
    assert engine.resets == 1


def test_chat_answers_text_that_only_looks_like_a_command(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["/etc/passwd holds what?", "/quit now", "/reset?"]
    type_in(monkeypatch, "\n".join([*lines, "/quit", "three", ""]))
    assert cli.main(["chat"]) == 0
    assert [prompt[-1]["content"] for prompt in engine.prompts] == lines
    assert engine.resets == 0


def test_chat_prints_its_turns_as_one_json_object(
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    type_in(monkeypatch, "one\ntwo\n")
    assert cli.main(["chat", "--json"]) == 0
    turns = json.loads(capsys.readouterr().out)["turns"]
    assert [list(turn) for turn in turns] == [ASK_KEYS, ASK_KEYS]


@pytest.mark.parametrize(
    ("failure", "code"), [(InputError("too long"), 2), (EngineError("the TEE is gone"), 1)]
)
def test_a_piped_chat_ends_with_the_code_of_its_error(
    failure: Exception, code: int, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.fails = failure
    type_in(monkeypatch, "one\ntwo\n")
    assert cli.main(["chat"]) == code
    assert len(engine.prompts) == 1
