"""The command line as a whole: exit codes, one-line errors, clean streams, help."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import FakeEngine

from ptmo_secure import cli
from ptmo_secure.cli import options, output
from ptmo_secure.errors import EngineError, InputError, SecurityError
from tee_sim.client import TeeDeadError

COMMANDS = [
    *(["ask"], ["chat"], ["demo"], ["bench"], ["doctor"], ["attack", "kv"], ["tee", "status"]),
    *(["model", name] for name in ("pull", "list", "verify", "quantize")),
]


def ptmo(*arguments: str, **extra: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ptmo_secure", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        **extra,
    )


def one_error(err: str) -> str:
    """The single line of error, without its prefix."""
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    return err.removeprefix("error: ").rstrip("\n")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PTMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PTMO_DEBUG", raising=False)
    return tmp_path


BAD_INPUT = [
    (["ask", ""], "the prompt is empty"),
    (["ask", " \n "], "the prompt is empty"),
    (["ask", "hi", "--shield", "foil"], "unknown shield 'foil': choose from none, permute, seal"),
    (["ask", "hi", "--restore", "never"], "unknown restore 'never'"),
    (["ask", "hi", "--kv-dtype", "int3"], "unknown kv_dtype 'int3'"),
    (["ask", "hi", "--threads", "0"], "threads=0"),
    (["ask", "hi", "--threads", "-3"], "threads=-3"),
    (["ask", "hi", "--threads", "many"], "'--threads'"),
    (["ask", "hi", "--max-tokens", "0"], "max-tokens is 0"),
    (["ask", "hi", "--temperature", "-1"], "temperature"),
    (["ask", "hi", "--temperature", "nan"], "temperature"),
    (["ask", "hi", "--top-k", "-1"], "top_k"),
    (["ask", "hi", "--top-p", "1.5"], "top_p"),
    (["ask", "hi", "--repetition-penalty", "0"], "repetition_penalty"),
    (["ask", "hi", "--seed", "-1"], "seed"),
    (["ask", "hi", "--stop", ""], "a stop string is empty"),
    (["ask", "hi", "--model", "missing.gguf"], "missing.gguf"),
    (["ask", "hi", "--colour"], "--colour"),
    (["ask"], "TEXT"),
    (["ask", "hi", "there"], "there"),
    (["chat", "--shield", "foil"], "unknown shield 'foil'"),
    (["attack", "kv", "--shields", "none,foil"], "unknown shield 'foil'"),
    (["attack", "kv", "--shields", ""], "no shield given"),
    (["attack", "kv", "--restore", "x"], "unknown restore 'x'"),
    (["attack", "kv", "--threads", "0"], "threads=0"),
    (["attack", "kv", "--model", "missing.gguf"], "missing.gguf"),
    (["attack", "kv", "--plot", "leak.txt"], "leak.txt"),
    (["attack", "kv", "--plot", "no-folder/leak.svg"], "no-folder"),
    (["attack"], "Missing command"),
    (["bench", "--contexts", "12,x"], "contexts 'x' is not a whole number"),
    (["bench", "--contexts", "0"], "contexts is 0"),
    (["bench", "--threads", "0"], "threads is 0"),
    (["bench", "--decode-tokens", "1"], "decode-tokens is 1"),
    (["bench", "--rounds", "0"], "rounds is 0"),
    (["model", "pull", "no-such-model"], "no-such-model"),
    (["model", "verify", "missing.gguf"], "missing.gguf"),
    (["model", "quantize", "missing.gguf", "out.gguf"], "missing.gguf"),
    (["model", "quantize", "a.gguf", "b.gguf", "--kind", "q2"], "unknown kind 'q2'"),
    (["nonsense"], "nonsense"),
]


@pytest.mark.parametrize(
    ("arguments", "named"),
    BAD_INPUT,
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_that_names_it_and_exit_code_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert named in one_error(streams.err)


@pytest.mark.parametrize("command", [["ask", "hi"], ["chat"], ["attack", "kv"], ["bench"]])
def test_a_model_not_pulled_yet_is_an_error_with_the_command_to_run(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command) == 2
    assert "ptmo model pull smollm2-135m" in one_error(capsys.readouterr().err)


def test_a_file_that_is_no_model_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "notes.gguf"
    path.write_bytes(b"GGUF" + bytes(10))
    for command in (["ask", "hi", "--model"], ["model", "verify"], ["model", "pull"]):
        assert cli.main([*command, str(path)]) == 2
        assert "notes.gguf" in one_error(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (InputError("the prompt has 9 tokens"), 2, "the prompt has 9 tokens"),
        (EngineError("the TEE process is gone"), 1, "the TEE process is gone"),
        (SecurityError("evidence is stale"), 1, "evidence is stale"),
        (TeeDeadError(), 1, "the TEE process is not running"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 1, "a.txt: No such file"),
        (MemoryError(), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ImportError("No module named 'ptmo_secure._native'"), 1, "the native module is not built"),
        (InputError("two\nlines\x1b[2J"), 2, "two lines?[2J"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_failure_is_one_line_with_its_exit_code(
    failure: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(options, "load_engine", fail)
    assert cli.main(["ask", "hi"]) == code
    assert text in one_error(capsys.readouterr().err)


def test_an_unexpected_error_shows_its_type_and_no_user_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine(fails=ZeroDivisionError("my password is secret123"), pieces=[])
    monkeypatch.setattr(options, "load_engine", lambda *_: engine)
    assert cli.main(["ask", "my password is secret123"]) == 1
    streams = capsys.readouterr()
    message = one_error(streams.err)
    assert "ZeroDivisionError" in message
    assert "PTMO_DEBUG=1" in message
    assert "secret123" not in streams.out + streams.err


def test_ptmo_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PTMO_DEBUG", "1")
    monkeypatch.setattr(options, "load_engine", lambda *_: FakeEngine(fails=ZeroDivisionError()))
    assert cli.main(["ask", "hi"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_examples_of_the_command(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:\n" in text
    assert "--json" in text
    assert f"ptmo {' '.join(command)}" in text.split("Examples:")[1]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("ask", "Engine threads [default: the cores, at most 8]"),
        ("chat", "Engine threads [default: the cores, at most 8]"),
        ("bench", "LoRA adapters stacked, 0 to 8; not with --batch"),
    ],
)
def test_help_names_the_range_of_an_option(
    command: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    assert text in " ".join(capsys.readouterr().out.split())


def test_ptmo_alone_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "Start here:" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    import ptmo_secure

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ptmo {ptmo_secure.__version__}\n"


def test_help_is_quick_and_loads_neither_numpy_nor_the_native_module() -> None:
    code = (
        "import sys; from ptmo_secure.cli import main; main(['--help']);"
        "print([m for m in ('numpy', 'rich.console', 'ptmo_secure._native', 'tee_sim.client')"
        " if m in sys.modules], file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.stderr == "[]\n"
    assert min(seconds) < 0.4 * slowness()


def slowness() -> float:
    """How much slower than a plain machine this one is just now: an empty Python takes 0.02 s."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return max(1.0, (time.perf_counter() - start) / 0.02)


def test_json_stays_alone_on_stdout_whatever_else_prints() -> None:
    code = (
        "import os\n"
        "from ptmo_secure.cli import output\n"
        "with output.json_only(True) as emit:\n"
        "    print('a print'); os.write(1, b'a native print'); emit({'a': 1})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == '{"a": 1}\n'
    assert "a print" in done.stderr
    assert "a native print" in done.stderr


def test_model_list_as_json_is_one_object_on_stdout() -> None:
    done = ptmo("model", "list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    models = {model["name"]: model["path"] for model in json.loads(done.stdout)["models"]}
    names = ("smollm2-135m", "gemma3-270m", "rampart", "rampart-tokenizer")
    assert models == dict.fromkeys((*names, "minilm", "minilm-tokenizer"))


def test_a_failing_command_prints_no_json() -> None:
    done = ptmo("ask", "hi", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "ptmo model pull" in one_error(done.stderr)


def test_an_argument_that_is_not_utf8_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ptmo_secure", "ask", b"caf\xe9"],
        capture_output=True,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert done.returncode == 2
    assert b"not valid UTF-8" in done.stderr


def test_a_reader_that_leaves_early_causes_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ptmo_secure", "model", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 1


def in_shell(redirections: str, command: str = "model list --json") -> tuple[int, str]:
    """Run a command of ptmo under a shell's redirections; its code and what reached stderr."""
    line = f'exec "$0" -m ptmo_secure {command} {redirections}'
    done = subprocess.run(
        ["/bin/sh", "-c", line, sys.executable], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", ["model list --json", "model list", "--help", "--version"])
def test_a_stdout_that_cannot_be_written_is_one_clear_line(command: str) -> None:
    full = "error: cannot write to stdout: No space left on device\n"
    assert in_shell(">/dev/full", command) == (1, full)
    assert in_shell(">&-", command) == (1, "error: stdout is closed\n")
    assert in_shell(">/dev/full 2>&-", command) == (1, "")
    assert in_shell(">&- 2>&-", command) == (1, "")


def test_a_closed_stderr_or_stdin_changes_no_result(tmp_path: Path) -> None:
    result = tmp_path / "result"
    assert in_shell(f">{result} 2>&- <&-") == (0, "")
    assert "models" in json.loads(result.read_text())
    assert in_shell(f">{result} 2>&-", "nonsense") == (2, "")
    assert result.read_text() == ""


def test_a_full_disk_elsewhere_is_not_blamed_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "model.gguf")

    monkeypatch.setattr(options, "load_engine", fail)
    assert cli.main(["ask", "hi"]) == 1
    assert one_error(capsys.readouterr().err) == "model.gguf: No space left on device"


def test_ctrl_c_ends_a_command_with_one_line_and_code_130() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "waiting\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (err, process.returncode) == ("error: interrupted\n", 130)


# A job started in the background of a shell inherits an ignored SIGINT: the child takes it back.
WAITING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from ptmo_secure import cli
from ptmo_secure.cli import options

def wait(*_):
    print("waiting", flush=True)
    time.sleep(60)

options.load_engine = wait
sys.exit(cli.main(["ask", "hi"]))
"""


def test_one_line_leaves_no_control_characters() -> None:
    assert output.one_line("a\tb\r\nc\x07\u202ed") == "a b c??d"


def test_terminal_safe_keeps_text_and_drops_escapes() -> None:
    assert (
        output.terminal_safe("naïve\n\tünï\x1b[31m 漢字 \u200d\x00")
        == "naïve\n\tünï[31m 漢字 \u200d"
    )
