"""`ptmo bench`: speed of the engine under each shield."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.cli.attack import ALL_RESTORES, ALL_SHIELDS, KvDtypes, Restores, Shields
from ptmo_secure.config import (
    KV_DTYPES,
    MAX_ADAPTERS,
    RESTORES,
    SHIELDS,
    BenchConfig,
    choices,
    whole_numbers,
)
from ptmo_secure.tee_cost import DEFAULT_COST_MODEL, PRESETS
from ptmo_secure.tee_cost import cost_model as cost_model_of

HEADINGS: tuple[str, ...] = (
    "shield",
    "kv",
    "threads",
    "adapters",
    "prompt + decode",
    "prefill t/s",
    "decode t/s",
    "wall ms per token",
    "TEE ms per token",
    "sim TEE ms per token",
    "crossings per token",
    "KV B/token",
    "weights",
    "of bandwidth",
)


def bench(
    shields: Shields = ALL_SHIELDS,
    restore: Restores = ALL_RESTORES,
    kv_dtype: KvDtypes = "int8",
    contexts: Annotated[
        str, typer.Option("--contexts", metavar="LIST", help="Prompt lengths in tokens.")
    ] = "128,512",
    threads: Annotated[str, typer.Option("--threads", metavar="LIST", help="Thread counts.")] = "2",
    decode_tokens: Annotated[
        int, typer.Option("--decode-tokens", metavar="N", help="Tokens decoded after a prompt.")
    ] = 64,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", help="Interleaved rounds; medians count.")
    ] = 3,
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch",
            metavar="LIST",
            help="Decode so many requests together instead; not with --adapters.",
        ),
    ] = None,
    adapters: Annotated[
        str,
        typer.Option(
            "--adapters",
            metavar="LIST",
            help=f"Random rank-16 LoRA adapters stacked, 0 to {MAX_ADAPTERS}; not with --batch.",
        ),
    ] = "0",
    cost_model: Annotated[
        str,
        typer.Option(
            "--cost-model",
            metavar="NAME|FILE",
            help=f"Prices of TEE calls: {', '.join(PRESETS)}, or a .toml file of your own.",
        ),
    ] = DEFAULT_COST_MODEL,
    inject_cost: Annotated[
        bool,
        typer.Option("--inject-cost", help="Spend the simulated time as well; not with --batch."),
    ] = False,
    model: options.Model = options.DEFAULT_MODEL,
    device: options.Device = "cpu",
    json: options.Json = False,
) -> None:
    """Measure speed, bytes and TEE crossings per shield.

    \b
    Examples:
      ptmo bench
      ptmo bench --shields none,seal --contexts 64,1024 --threads 1,2
      ptmo bench --shields none,seal --contexts 128 --batch 1,2,4,8
      ptmo bench --adapters 0,1,3
      ptmo bench --shields permute,seal --restore tee --cost-model pessimistic --json
      ptmo bench --rounds 5 --json > bench.json
      ptmo bench --device cuda --contexts 128,4096

    The rounds are interleaved, so that a machine that slows down slows every shield alike. "Of
    bandwidth" is what decoding reads a second over what the same cores read from a plain buffer, or
    over what a CUDA device moves in a copy.
    "Sim TEE" is what the crossings and their bytes would take on a real TEE by the cost model; it
    is no part of the wall time unless injected.
    """
    config = BenchConfig(
        model=model,
        shields=choices("shield", shields, SHIELDS),
        restores=choices("restore", restore, RESTORES),
        kv_dtypes=choices("kv-dtype", kv_dtype, KV_DTYPES),
        contexts=whole_numbers("contexts", contexts),
        threads=whole_numbers("threads", threads),
        decode_tokens=decode_tokens,
        rounds=rounds,
        batches=whole_numbers("batch", batch) if batch is not None else (),
        adapters=whole_numbers("adapters", adapters, low=0),
        cost_model=cost_model_of(cost_model),
        inject_cost=inject_cost,
        device=device,
    )
    for element in config.kv_dtypes:
        options.engine_fields("none", "folded", element, config.threads[0], device)
    title = f"{model} on {device}: medians of {rounds} interleaved rounds"
    with output.json_only(json) as emit:
        from ptmo_secure.engine import registry

        options.check_open(model)
        registry.resolve(model)
        from ptmo_secure import bench as single
        from ptmo_secure import bench_batch
        from ptmo_secure.results import envelope

        results: Sequence[single.BenchmarkResult | bench_batch.BatchResult]
        with output.progress("measuring") as report:
            if config.batches:
                results = batched = bench_batch.run_batch_bench(config, report)
                headings, rows = bench_batch.HEADINGS, bench_batch.iterate_rows(batched)
            else:
                results = alone = single.run_bench(config, report)
                headings, rows = HEADINGS, single.iterate_rows(alone)
                title += f"; TEE simulated by {config.cost_model.name}"
        emit(envelope(output.command(), asdict(config), [row.as_json() for row in results]))
    if json:
        return
    from rich.table import Table

    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("shield", "kv") else "right")
    for cells in rows:
        table.add_row(*cells)
    output.console().print(table)
