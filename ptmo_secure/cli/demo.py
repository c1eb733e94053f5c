"""`ptmo demo`: the main job on a real model, then the attack on its KV cache."""

import time
from typing import TYPE_CHECKING, Any

from ptmo_secure.cli import attack, options, output
from ptmo_secure.cli.ask import show_trace
from ptmo_secure.cli.model import pull_with_progress
from ptmo_secure.config import BenchConfig, GenerationConfig

if TYPE_CHECKING:
    from rich.table import Table

    from ptmo_secure.attacks.kv.matrix import ResultRow
    from ptmo_secure.bench import BenchmarkResult
    from ptmo_secure.types import Answer

QUERIES = (
    "What is Python?",
    "My password is secret123. What is Python?",
)
SHIELDS = ("none", "permute", "seal")


def demo(
    model: options.Model = options.DEFAULT_MODEL,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    json: options.Json = False,
) -> None:
    """Answer two queries, then steal the KV cache.

    \b
    Examples:
      ptmo demo
      ptmo demo --threads 2 --json
      ptmo demo --device cuda

    Fetches the model first if it is not here. Takes less than three minutes on two cores.
    """
    options.check_open(model)
    fields = options.engine_fields("seal", "folded", "int8", threads, device)
    started = time.perf_counter()
    say = output.note if json else _say
    with output.json_only(json) as emit:
        say(f"1. The model: {model}, fetched once, checked against its SHA-256.")
        pull_with_progress(model)

        say("2. Two queries, answered on this device, the KV cache sealed.")
        answers = _answer(model, fields, quiet=json)

        say("3. The speed of three shields: nothing, KV-Shield's permutation, sealing.")
        count = options.thread_count(threads)
        with output.progress("measuring") as report:
            from ptmo_secure.bench import run_bench

            config = BenchConfig(
                *(model, SHIELDS, ("folded",), ("int8",), (128,), (count,)),
                decode_tokens=32,
                rounds=2,
                device=device,
            )
            speeds = run_bench(config, report)

        say("4. The attack: read the bytes of the KV pages, look tokens up in the public model.")
        rows = attack.run(model, SHIELDS, ("folded",), ("int8",), threads, device)
        best = {row.shield: row for row in rows if row.best}

        seconds = time.perf_counter() - started
        settings = {"model": model, "threads": count, "device": device, "shields": SHIELDS}
        emit(_result(settings, seconds, answers, speeds, rows))
        if not json:
            _show(speeds, best)
            say(f"Done in {seconds:.0f} s. Next: ptmo ask --help, ptmo attack kv, ptmo bench.")


def _say(text: str) -> None:
    output.console().print(f"\n[bold]{text}[/bold]")


def _answer(model: str, fields: dict[str, Any], *, quiet: bool) -> "list[Answer]":
    from ptmo_secure.pipeline import HybridInferenceEngine

    answers = []
    with options.load_engine(model, fields) as engine, HybridInferenceEngine(engine) as pipeline:
        for query in QUERIES:
            if not quiet:
                output.write(f"\n> {query}\n")
            answer = pipeline.answer(
                query, GenerationConfig(max_tokens=64), None if quiet else output.write
            )
            answers.append(answer)
            if not quiet:
                output.write("\n")
                show_trace(answer)
    return answers


def _show(speeds: "list[BenchmarkResult]", best: "dict[str, ResultRow]") -> None:
    """Print what the attack read, and the table that sums up."""
    from ptmo_secure.attacks.kv import report

    screen = output.console()
    screen.print(report.excerpts(list(best.values())))
    screen.print(_table(speeds, best))


def _table(speeds: "list[BenchmarkResult]", best: "dict[str, ResultRow]") -> "Table":
    from rich.table import Table

    table = Table(title="What each shield costs, and what it hides")
    table.add_column("shield")
    for heading in ("decode t/s", "crossings/token", "tokens recovered", "95 % interval"):
        table.add_column(heading, justify="right")
    for speed in speeds:
        row = best[speed.shield]
        low, high = row.ci95
        table.add_row(
            speed.shield,
            f"{speed.decode_tps:.1f}",
            f"{speed.tee_crossings_per_token:.1f}",
            f"{100 * row.top1:.1f} %",
            f"{100 * low:.2f} - {100 * high:.2f} %",
        )
    return table


def _result(
    config: dict[str, object],
    seconds: float,
    answers: "list[Answer]",
    speeds: "list[BenchmarkResult]",
    rows: "list[ResultRow]",
) -> dict[str, Any]:
    from ptmo_secure.results import envelope

    return {
        **envelope(output.command(), config, [row.as_json() for row in rows]),
        "answers": [answer.as_json() for answer in answers],
        "speeds": [speed.as_json() for speed in speeds],
        "seconds": round(seconds, 1),
    }
