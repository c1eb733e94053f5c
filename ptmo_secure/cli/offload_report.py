"""`ptmo offload report`, `calibrate` and `shadow`: what to show, what to expect, what would be."""

import json as _json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.cli.offload import (
    Data,
    Limits,
    Questions,
    Sessions,
    data_note,
    missing_extra,
    named_limits,
    used_table,
)
from ptmo_secure.errors import InputError

if TYPE_CHECKING:
    from ptmo_secure.offload.evaluate import Row

POLICIES = "random,local-only,rule,threshold,greedy,tfidf,knn,groups,advice,rc-ppo"
POLICIES += ",query-oracle,constrained-oracle"


def report(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the report.")] = Path(
        "out/offload"
    ),
    envs: Annotated[
        str, typer.Option("--envs", metavar="LIST", help="Environments, with commas.")
    ] = "m4a1,sessions",
    policies: Annotated[
        str, typer.Option("--policies", metavar="LIST", help="Names with commas, or all.")
    ] = POLICIES,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Seeds 1 to N.")] = 2,
    trained: Annotated[
        Path | None,
        typer.Option("--trained", metavar="DIR", help="Policies that `train` wrote; else: train."),
    ] = None,
    limit: Limits = None,
    data: Data = None,
    table: Questions = "llmrouter",
    sessions: Sessions = 200,
    json: options.Json = False,
) -> None:
    """Write tables, paired tests, Pareto plots and multiplier traces, with their JSON beside.

    Given again after it was stopped, it goes on behind the last policy and seed that were done.
    What --trained does not bring is trained on the way, 30,000 turns each seed. Multipliers exist
    where an average has a --limit. Without a data folder a small synthetic table stands in, and the
    report says so.

    \b
    Examples:
      ptmo offload report --out out/offload
      ptmo offload report --envs sessions --policies greedy,advice,rc-dqn --limit usd=0.003
      ptmo offload report --out out/offload --data tables --seeds 5 --trained out/offload/policies
    """
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: at least one is needed")
    with missing_extra(), output.json_only(json) as emit:
        import matplotlib  # noqa: F401 - asked for before hours of work, not after

        from ptmo_secure.offload.compare import Comparison, parse_budgets
        from ptmo_secure.offload.kept import KeptRows, measured
        from ptmo_secure.offload.outcomes import data_folder
        from ptmo_secure.offload.policies import chosen
        from ptmo_secure.offload.report import write_report
        from ptmo_secure.results import envelope

        folder, limits = data_folder(data), named_limits(limit)
        jobs = []
        for env in envs.split(","):
            budgets, numbers = parse_budgets(env, None), tuple(range(1, seeds + 1))
            names = chosen(policies, env)
            jobs.append(Comparison(env, names, numbers, budgets, table, sessions, trained, limits))
        rows: list[Row] = []
        traces = {} if trained is None else _traces(trained)
        for job in jobs:
            data_note(job.env, table, folder)
            kept = KeptRows(out / f"rows-{job.env}.jsonl", measured(job, folder))
            with output.progress(f"evaluating in {job.env}") as told:
                rows += job.run(folder, told, kept)
            traces |= kept.traces()
        config = {"envs": envs, "policies": policies, "seeds": seeds, "table": table}
        config |= {"sessions": sessions, "data": None if folder is None else str(folder)}
        config |= {"tables": {job.env: used_table(job.env, table, folder) for job in jobs}}
        config |= {"limits": limits, "trained": None if trained is None else str(trained)}
        result = envelope(output.command(), config, [row.as_json() for row in rows])
        files = write_report(out, result, rows, traces)
        emit({**result, "files": [str(path) for path in files]})
    if not json:
        for path in files:
            print(path)


def _traces(folder: Path) -> dict[str, Any]:
    """Multiplier traces that `train` wrote beside its policies, of trainings that had limits."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            trace = _json.loads(path.read_text(encoding="utf-8"))["multipliers"]
            if any(any(entry["multipliers"]) for entry in trace):
                found[path.stem] = trace
        except (OSError, KeyError, TypeError, ValueError):
            raise InputError(f"{path}: not a trace of ptmo offload train") from None
    return found


def calibrate(
    data: Data = None,
    table: Questions = "llmrouter",
    router: Annotated[
        str, typer.Option("--router", metavar="R", help="groups, shaped, tfidf, knn or matrix.")
    ] = "groups",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the folds.")] = 1,
    json: options.Json = False,
) -> None:
    """Print what quality costs: threshold, predicted and measured score, dollars.

    \b
    Examples:
      ptmo offload calibrate --data tables
      ptmo offload calibrate --table mmlu --data tables --router tfidf --json

    Every question is predicted by a router that has not seen it.
    """
    with missing_extra(), output.json_only(json) as emit:
        from ptmo_secure.offload.calibrate import curve
        from ptmo_secure.offload.compare import read_table
        from ptmo_secure.offload.outcomes import data_folder
        from ptmo_secure.offload.routing import ROUTERS
        from ptmo_secure.results import envelope

        if router not in ROUTERS:
            raise InputError(f"unknown router {router!r}: expected one of {', '.join(ROUTERS)}")
        folder = data_folder(data)
        data_note("sessions", table, folder)
        points = curve(read_table(table, folder), ROUTERS[router], seed)
        config = {"table": table, "router": router, "seed": seed}
        emit(envelope(output.command(), config, [point.as_json() for point in points]))
    if not json:
        from rich.table import Table

        shown = Table(title=f"The curve of {router} on {table}")
        for heading in ("to the cloud", "threshold", "predicted", "measured", "$ per 1,000"):
            shown.add_column(heading, justify="right")
        for point in points:
            shown.add_row(
                f"{100 * point.share:.0f} %",
                f"{point.threshold:.3f}",
                f"{point.predicted:.3f}",
                f"{point.measured:.3f}",
                f"{point.usd_per_1000:.3f}",
            )
        output.console().print(shown)


def shadow(
    log: Annotated[
        Path,
        typer.Argument(
            metavar="LOG.jsonl", help="Lines of text, action (local, cloud), propensity, reward."
        ),
    ],
    share: Annotated[
        float, typer.Option("--share", metavar="X", help="Of the turns, to the cloud.")
    ] = 0.5,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the folds.")] = 1,
    json: options.Json = False,
) -> None:
    """Estimate from your own log what the package's router would have earned; nothing is sent.

    \b
    Examples:
      ptmo offload shadow log.jsonl
      ptmo offload shadow log.jsonl --share 0.25 --json

    IPS, SNIPS and doubly robust, with 95 % intervals. The propensity is the probability with which
    the logged action was drawn; without some randomness in the log nothing can be estimated.
    """
    with missing_extra(), output.json_only(json) as emit:
        from ptmo_secure.offload.shadow import read_log
        from ptmo_secure.offload.shadow import shadow as estimate
        from ptmo_secure.offload.shipped import shipped_words
        from ptmo_secure.results import envelope

        texts, logged = read_log(log)
        found = estimate(texts, logged, shipped_words(), share, seed)
        config = {"log": str(log), "turns": len(texts), "share": share, "seed": seed}
        emit(envelope(output.command(), config, [found.as_json()]))
    if not json:
        print(f"to the cloud {100 * found.share:.0f} %, as logged {100 * found.agreement:.0f} %")
        print(f"logged reward {found.logged:.4f}")
        for one in found.estimates:
            print(f"{one.method:6} {one.value:.4f}  ({one.low:.4f} to {one.high:.4f})")


COMMANDS = (report, calibrate, shadow)
