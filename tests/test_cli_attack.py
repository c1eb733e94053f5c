"""`ptmo attack kv` and `ptmo demo` over an attack whose outcome is known."""

import json
from pathlib import Path

import pytest
from fakes import FakeEngine, FakeGuard

from ptmo_secure import bench, cli
from ptmo_secure.attacks.kv.matrix import ResultRow
from ptmo_secure.bench import BenchmarkResult
from ptmo_secure.cli import attack, demo, options
from ptmo_secure.config import BenchConfig
from ptmo_secure.hybrid import guarding

KEYS = [
    *("shield", "restore", "kv_dtype", "attack", "attacker", "layer", "tokens", "top1"),
    *("ci95", "control_top1", "chance", "seconds", "reconstructed"),
]


def row(shield: str, top1: float, ci95: tuple[float, float], *, best: bool = True) -> ResultRow:
    return ResultRow(
        shield=shield,
        restore="folded" if shield == "permute" else None,
        kv_dtype="int8",
        attack="dictionary",
        attacker="A0",
        layer=0,
        tokens=1000,
        top1=top1,
        ci95=ci95,
        control_top1=0.001,
        chance=0.002,
        seconds=1.5,
        reconstructed=f"what {shield} gives away",
        true_text="what was said",
        distinct_ids=500,
        top1_positions=top1,
        ids_anywhere=top1,
        prompts=20,
        vocab_size=49152,
        best=best,
    )


ROWS = [
    row("none", 1.0, (0.9926, 1.0)),
    row("permute", 0.2, (0.15, 0.25), best=False),
    row("permute", 0.998, (0.98, 1.0)),
    row("seal", 0.002, (0.0, 0.0074)),
]
Call = tuple[object, ...]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Arguments of the attacks that ran."""
    seen: list[Call] = []

    def run(*arguments: object) -> list[ResultRow]:
        seen.append(arguments)
        return ROWS

    monkeypatch.setattr(attack, "run", run)
    return seen


def test_the_json_has_the_documented_keys_first(
    calls: list[Call], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["attack", "kv", "--shields", "none,permute,seal", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert list(value) == ["command", "commit", "machine", "config", "results"]
    assert value["command"] == "ptmo attack kv --shields none,permute,seal --json"
    assert [list(r)[: len(KEYS)] for r in value["results"]] == [KEYS] * 4
    assert value["results"][0]["ci95"] == [0.9926, 1.0]


def test_lists_are_split_and_repeats_dropped(calls: list[Call]) -> None:
    command = ["attack", "kv", "--shields", "seal, none,seal", "--restore", "tee"]
    assert cli.main([*command, "--kv-dtype", "fp16,int8", "--threads", "2"]) == 0
    assert calls == [("smollm2-135m", ("seal", "none"), ("tee",), ("fp16", "int8"), 2, "cpu")]


def test_the_report_shows_the_text_that_came_back(
    calls: list[Call], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["attack", "kv"]) == 0
    text = capsys.readouterr().out
    for part in ("what was said", "what none gives away", "what seal gives away", "100.0 %"):
        assert part in text


def test_the_plot_is_written(calls: list[Call], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "leak.svg"
    assert cli.main(["attack", "kv", "--plot", str(target), "--json"]) == 0
    assert "<svg" in target.read_text(encoding="utf-8")


@pytest.fixture
def staged(calls: list[Call], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A demo without a model; yields the models it pulled."""
    pulled: list[str] = []
    monkeypatch.setattr(demo, "pull_with_progress", pulled.append)
    monkeypatch.setattr(options, "load_engine", lambda *_: FakeEngine())
    monkeypatch.setattr(guarding, "_launch", FakeGuard)
    speeds = [
        BenchmarkResult(
            *(shield, restore, "int8", 2, 0, 128, 32, 400.0, 80.25, 12240, 10**8, 0.0),
            *(0.0, 0.0, 10**8, 40.0, 0.2),
        )
        for shield, restore in (("none", None), ("permute", "folded"), ("seal", None))
    ]
    monkeypatch.setattr(bench, "run_bench", lambda *_: speeds)
    return pulled


def test_the_demo_answers_attacks_and_ends_with_a_table(
    staged: list[str], calls: list[Call], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--threads", "2"]) == 0
    text = capsys.readouterr().out
    assert staged == ["smollm2-135m"]
    shields = ("none", "permute", "seal")
    assert calls == [("smollm2-135m", shields, ("folded",), ("int8",), 2, "cpu")]
    positions = [text.index(f"{step}. The ") for step in (1, 3, 4)]
    assert positions == sorted(positions)
    assert text.count("Hello world") == len(demo.QUERIES)
    table = text[text.index("What each shield costs") :]
    for part in ("permute", "80.2", "99.8 %", "98.00 - 100.00 %", "0.00 - 0.74 %"):
        assert part in table


def test_every_part_of_the_demo_runs_on_the_device_named(
    staged: list[str],
    calls: list[Call],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    used: list[object] = []
    speeds = bench.run_bench(BenchConfig())

    def load_engine(model: str, fields: dict[str, object]) -> FakeEngine:
        used.append(fields["device"])
        return FakeEngine()

    def run_bench(config: BenchConfig, _: object) -> list[BenchmarkResult]:
        used.append(config.device)
        return speeds

    monkeypatch.setattr(options, "load_engine", load_engine)
    monkeypatch.setattr(bench, "run_bench", run_bench)
    assert cli.main(["demo", "--device", "cuda", "--json"]) == 0
    assert [*used, calls[0][-1]] == ["cuda"] * 3
    assert json.loads(capsys.readouterr().out)["config"]["device"] == "cuda"


def test_the_demo_as_json_is_one_object(
    staged: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--json"]) == 0
    streams = capsys.readouterr()
    value = json.loads(streams.out)
    assert [answer["answer"] for answer in value["answers"]] == ["Hello world"] * 2
    assert [speed["shield"] for speed in value["speeds"]] == ["none", "permute", "seal"]
    assert len(value["results"]) == len(ROWS)
    assert "1. The model" in streams.err
