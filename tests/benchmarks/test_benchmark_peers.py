"""The worker protocol, with a peer that only says it has measured; the comparison above it."""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import compare_llamacpp
import pytest
from compare_llamacpp import Options, Pair
from peers import install, models
from peers.worker import Worker

from ptmo_secure.errors import EngineError, InputError

PEERS = Path(models.__file__).parent

FAKE = f"""
import os, sys
sys.path.insert(0, {str(PEERS)!r})
from json_lines import serve

def load(request):
    print("chatter that is no reply")
    os.write(1, b"and some from a C library\\n")
    return {{"version": "fake 1", "variants": ["slow", "fast"]}}

def measure(request):
    if request["variant"] == "broken":
        raise RuntimeError("no such context")
    if request["variant"] == "dead":
        os._exit(3)
    seconds = {{"slow": 2.0, "fast": 1.0}}[request["variant"]]
    tokens = list(range(request["decode_tokens"]))
    return {{"prefill_s": seconds, "decode_s": 4 * seconds, "tokens": tokens}}

serve({{"load": load, "measure": measure}})
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    path = tmp_path / "fake_worker.py"
    path.write_text(textwrap.dedent(FAKE))
    return path


@pytest.fixture
def worker(fake: Path) -> Iterator[Worker]:
    with Worker("fake", sys.executable, fake) as started:
        started.load(Path("model.gguf"), threads=1, context_tokens=64, kv_dtype="fp16")
        yield started


def test_a_worker_tells_its_version_and_variants_whatever_else_it_prints(worker: Worker) -> None:
    assert (worker.version, worker.variants) == ("fake 1", ("slow", "fast"))


def test_a_measurement_carries_the_prompt_and_comes_back(worker: Worker) -> None:
    assert worker.measure([1, 2], 3, "fast") == {
        "ok": True,
        "prefill_s": 1.0,
        "decode_s": 4.0,
        "tokens": [0, 1, 2],
    }


def test_a_failure_is_reported_and_the_worker_goes_on(worker: Worker) -> None:
    with pytest.raises(EngineError, match="fake: RuntimeError: no such context"):
        worker.measure([1], 1, "broken")
    assert worker.measure([1], 1, "slow")["prefill_s"] == 2.0


def test_an_unknown_request_is_a_failure(worker: Worker) -> None:
    with pytest.raises(EngineError, match="KeyError: 'sing'"):
        worker.request(do="sing")


def test_a_worker_that_dies_is_an_error_with_its_exit_code(worker: Worker) -> None:
    with pytest.raises(EngineError, match="fake: the worker ended with code 3"):
        worker.measure([1], 1, "dead")


def test_a_workers_processor_time_is_the_kernels_figure(worker: Worker) -> None:
    assert 0 < worker.cpu_seconds() < 60  # starting the interpreter takes some


def test_an_interpreter_that_is_not_there_is_named(fake: Path) -> None:
    with pytest.raises(EngineError, match=r"no-python cannot be run"):
        Worker("fake", fake.parent / "no-python", fake)


def test_a_closed_worker_has_ended(fake: Path) -> None:
    worker = Worker("fake", sys.executable, fake)
    worker.close()
    worker.close()
    with pytest.raises(EngineError, match="ended with code 0"):
        worker.request(do="load")


class TimedWorker:
    """A worker whose speed is given; writes down whose turn it was."""

    def __init__(self, name: str, order: list[str], seconds: dict[str, float]) -> None:
        self.name, self.order, self.seconds = name, order, seconds
        self.variants = tuple(seconds)
        self.version = name
        self.asked: list[tuple[int, int]] = []
        self.idle = 0.0

    def __enter__(self) -> "TimedWorker":
        return self

    def __exit__(self, *_: object) -> None: ...

    def load(self, *_: object, **__: object) -> None: ...

    def measure(self, ids: list[int], decode_tokens: int, variant: str) -> dict[str, object]:
        self.order.append(f"{self.name}:{variant}")
        self.asked.append((len(ids), decode_tokens))
        seconds = self.seconds[variant]
        tokens = [7] * decode_tokens if self.name == "ours" else [7] * 5 + [8] * decode_tokens
        return {"prefill_s": seconds, "decode_s": seconds, "tokens": tokens[:decode_tokens]}

    def cpu_seconds(self) -> float:
        self.idle += 0.1
        return self.idle


def options(**fields: object) -> Options:
    return Options(peer_python=Path("python"), **fields)


def pair(order: list[str]) -> Pair:
    ours = TimedWorker("ours", order, {"only": 1.0})
    peer = TimedWorker("peer", order, {"flash-off": 2.0, "flash-on": 4.0})
    return Pair(ours, peer, options(rounds=3), [1, 2, 3])


def test_rounds_go_from_one_engine_to_the_other() -> None:
    order: list[str] = []
    found = pair(order).compare("decode", "flash-off")
    assert order == ["ours:only", "peer:flash-off"] * 3
    assert found.ratio == 2.0
    assert found.a == (128.0,) * 3


def test_the_peer_runs_the_faster_of_its_variants() -> None:
    assert pair([]).faster_variant("decode") == "flash-off"


def test_prefill_runs_the_prompt_alone_and_decoding_a_short_one_first() -> None:
    both = pair([])
    both.rate(both.ours, "prefill", "only")
    both.rate(both.ours, "decode", "only")
    assert both.ours.asked == [(512, 0), (16, 128)]


def test_what_the_waiting_engine_computes_is_noticed() -> None:
    both = pair([])
    both.rate(both.ours, "decode", "only")
    assert both.idle_cpu_share == pytest.approx(0.1 / 2)


def test_equal_tokens_are_counted_up_to_the_first_difference() -> None:
    assert pair([]).equal_tokens() == 5


def test_a_comparison_has_a_row_for_every_file_metric_and_thread_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(name: str, *_: object) -> TimedWorker:
        ours = name == "this engine"
        return TimedWorker("ours" if ours else "peer", [], {"only": 1.0 if ours else 3.0})

    files = (Path("m.gguf"), {"q4_1": Path("m.gguf"), "q4_0": Path("n.gguf")})
    monkeypatch.setattr(compare_llamacpp, "Worker", start)
    monkeypatch.setattr(compare_llamacpp, "model_files", lambda *_: files)
    monkeypatch.setattr(compare_llamacpp, "sample_ids", lambda _: [1])
    monkeypatch.setattr(compare_llamacpp, "context_limit", lambda _: 512)
    found = compare_llamacpp.compare_all(options(threads=(1, 2)), lambda _: None)
    assert [(row.metric, row.threads) for row in found.rows] == [
        *(("decode_q4_1", 1), ("prefill_q4_1", 1), ("decode_q4_1", 2), ("prefill_q4_1", 2)),
        *(("decode_q4_0", 1), ("prefill_q4_0", 1), ("decode_q4_0", 2), ("prefill_q4_0", 2)),
    ]
    assert {row.ratio for row in found.rows} == {3.0}
    with pytest.raises(InputError, match=r"prefill-tokens 513 and .* context of 768, the model"):
        compare_llamacpp.compare_all(options(prefill_tokens=513), lambda _: None)


def test_without_the_peer_the_script_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_llamacpp, "peer_python", lambda _: None)
    with pytest.raises(InputError, match="make bench-peers"):
        compare_llamacpp.main([])


def test_the_help_says_what_each_option_takes_and_what_the_exit_codes_mean(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        compare_llamacpp.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "--model NAME|FILE a registry name or a GGUF file [default: smollm2-135m]",
        "--kinds LIST any of q4_1,q4_0",
        "--threads LIST thread counts, 1 to 256 [default: 1,2]",
        "one of int8, fp16, fp32 [default: fp16]",
        "--rounds N interleaved rounds, 1 or more; medians count [default: 5]",
        "--decode-tokens N tokens decoded after a prompt of 16, 1 or more [default: 128]",
        "--prefill-tokens N tokens of the prefilled prompt, 1 or more [default: 512]",
        "llama.cpp comes from make bench-peers. Exits 0 when all was measured",
        "1 when the run failed, 2 on bad input",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "1,99999"], "threads is 99999; it must be 256 or less"),
        (["--threads", "0"], "threads is 0; it must be 1 or more"),
        (["--prefill-tokens", "0"], "prefill-tokens is 0; it must be 1 or more"),
        (["--decode-tokens", "0"], "decode-tokens is 0; it must be 1 or more"),
        (["--rounds", "0"], "rounds is 0; it must be 1 or more"),
        (["--rounds", "some"], "argument --rounds: invalid int value: 'some'"),
        (["--kv-dtype", "int4"], "unknown kv-dtype 'int4': choose from int8, fp16, fp32"),
    ],
)
def test_bad_input_is_told_in_one_line_before_anything_is_looked_for(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_llamacpp, "peer_python", lambda _: None)
    with pytest.raises(InputError) as error:
        compare_llamacpp.main(arguments)
    assert str(error.value) == message


def test_a_peer_python_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTMO_PEERS_PYTHON", "no/python")
    with pytest.raises(InputError, match="no/python: no such file"):
        models.peer_python(None)


@pytest.fixture
def peer_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of every Python's modules, with stand-ins for those of the peer."""
    for name in ("llama_cpp", "numpy"):
        (tmp_path / f"{name}.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_peer_python_that_has_the_peer_is_taken(peer_modules: Path) -> None:
    assert models.peer_python(sys.executable) == Path(sys.executable)


@pytest.mark.parametrize("module", ["llama_cpp", "numpy"])
def test_a_peer_python_without_the_peer_is_told_in_one_line(
    module: str, peer_modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (peer_modules / f"{module}.py").write_text("raise ImportError")
    with pytest.raises(InputError) as error:
        compare_llamacpp.main(["--peer-python", sys.executable])
    assert str(error.value) == (
        f"peer-python {sys.executable} cannot import llama_cpp and numpy: "
        "run make bench-peers, or name a Python that can"
    )
    default = peer_modules / ".venv-peers" / "bin" / "python"  # a build that was cut short
    default.parent.mkdir(parents=True)
    default.symlink_to(sys.executable)
    monkeypatch.setattr(models, "ROOT", peer_modules)
    monkeypatch.delenv("PTMO_PEERS_PYTHON", raising=False)
    assert models.peer_python(None) is None


def test_a_peer_python_that_does_not_run_is_told_alike(fake: Path) -> None:
    with pytest.raises(InputError, match="run make bench-peers"):
        models.peer_python(str(fake))


def test_the_build_shows_the_compilers_steps() -> None:
    lines = ["  Building wheel\n", "  [1/90] Building C object\n", "[90/90] Linking\n", "done\n"]
    assert list(install.build_steps(lines)) == [(1, 90), (90, 90)]


def test_a_finished_build_is_not_done_again(tmp_path: Path) -> None:
    install.stamp(tmp_path).touch()
    assert install.install(tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == [".llama-cpp-python[server]==0.3.36"]
