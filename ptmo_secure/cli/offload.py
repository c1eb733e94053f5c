"""`ptmo offload`: policies that choose between the device and a cloud, measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.errors import InputError, not_installed

if TYPE_CHECKING:
    from rich.table import Table

    from ptmo_secure.offload.compare import Comparison, Summary
    from ptmo_secure.offload.routing import RoutingRow

_ROUTING = "routing"
_EXTRA = ("gymnasium", "matplotlib", "sb3_contrib", "sklearn", "stable_baselines3", "torch")


Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Outcome tables [default: $PTMO_DATA]."),
]
Questions = Annotated[
    str, typer.Option("--table", metavar="T", help="Of questions: llmrouter, mmlu or synthetic.")
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=X",
        help="Of the mean use of an episode: latency_s, usd, energy_j or risk (eps); repeatable.",
    ),
]
Budgets = Annotated[
    str | None,
    typer.Option("--budgets", metavar="LIST", help="Of an episode, e.g. 30:0.05,inf:0.03."),
]
Sessions = Annotated[int, typer.Option("--sessions", metavar="N", help="Sessions of each split.")]


@contextmanager
def missing_extra() -> Iterator[None]:
    """Say which extra is missing, in place of a module's name.

    Raises:
        InputError: a module of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        if missing.name in _EXTRA:
            raise not_installed("ptmo offload", "rl") from None
        raise


def eval(
    env: Annotated[
        str,
        typer.Option("--env", metavar="E", help="m4a1, m4a1-device, sessions or routing."),
    ] = "sessions",
    policies: Annotated[
        str, typer.Option("--policies", metavar="LIST", help="Names with commas, or all.")
    ] = "all",
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Seeds 1 to N.")] = 1,
    budgets: Budgets = None,
    data: Data = None,
    table: Questions = "llmrouter",
    sessions: Sessions = 200,
    trained: Annotated[
        Path | None,
        typer.Option("--trained", metavar="DIR", help="Policies that `train` wrote; else: train."),
    ] = None,
    limit: Limits = None,
    eps: Annotated[
        float | None,
        typer.Option(
            "--eps", metavar="X", help="Of risk, in all episodes of a seed together; a hard budget."
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="FILE", help="Of rows that are done; goes on behind them."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Compare policies on the same episodes, behind the same gate.

    \b
    Examples:
      ptmo offload eval --policies random,greedy,tfidf,constrained-oracle
      ptmo offload eval --env m4a1 --data tables --seeds 5 --json
      ptmo offload eval --env sessions --budgets 0.25:0.1,0.5:0.1
      ptmo offload eval --env routing --table mmlu --policies tfidf,random,oracle
      ptmo offload eval --policies rc-dqn,greedy --budgets 1:0.1 --limit usd=0.003
      ptmo offload eval --policies rl,greedy --budgets 1:0.02 --limit risk=0.01 --eps 1.5

    Without a data folder a small synthetic table stands in: it runs everything, and says nothing
    about any model. A budget is seconds:dollars (m4a1), with :risk (m4a1-device), or
    share of an all-cloud session's dollars:risk (sessions). A limit is of the mean episode: the
    learners rc-* hold it, and every policy's mean is compared with it. Risk counts the private
    values that are expected to leave readable: the third number of a budget bounds an episode's,
    --limit risk=X the mean episode's, --eps all of them, composed as in differential privacy.
    "p99 ms" is the CPU time
    of a decision, 99th percentile, of the worst seed. See docs/offload.md.
    """
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: at least one is needed")
    if sessions < 1:
        raise InputError(f"--sessions {sessions}: at least one is needed")
    if eps is not None and not 0 < eps < float("inf"):
        raise InputError(f"--eps {eps:g}: finite and above 0")
    from ptmo_secure.offload.outcomes import data_folder

    folder, limits = data_folder(data), named_limits(limit)
    with missing_extra(), output.json_only(json) as emit:
        if env == _ROUTING:
            if limits or eps is not None:
                named = "--limit" if limits else "--eps"
                raise InputError(f"{named}: routing has no episodes, and so no use of one")
            result, shown = _routing(policies, seeds, folder, table)
        else:
            from ptmo_secure.offload.compare import Comparison, parse_budgets
            from ptmo_secure.offload.policies import chosen

            parsed, numbers = parse_budgets(env, budgets), tuple(range(1, seeds + 1))
            names = chosen(policies, env)
            job = Comparison(env, names, numbers, parsed, table, sessions, trained, limits, eps)
            result, shown = _compare(job, folder, keep)
        emit(result)
    if not json:
        output.console().print(shown)


def _compare(
    job: "Comparison", folder: Path | None, keep: Path | None
) -> "tuple[dict[str, object], Table]":
    from ptmo_secure.offload.compare import listed, summarise
    from ptmo_secure.offload.kept import KeptRows, measured
    from ptmo_secure.results import envelope

    data_note(job.env, job.table, folder)
    kept = None if keep is None else KeptRows(keep, measured(job, folder))
    with output.progress("evaluating") as report:
        rows = job.run(folder, report, kept)
    summaries = summarise(rows)
    config: dict[str, object] = {
        "env": job.env,
        "policies": list(job.policies),
        "seeds": len(job.seeds),
        "budgets": listed(job.budgets),
        "data": None if folder is None else str(folder),
        "table": used_table(job.env, job.table, folder),
        "sessions": job.sessions,
        "limits": job.limits,
        "eps": job.epsilon,
    }
    result = envelope(output.command(), config, [row.as_json() for row in rows])
    return {**result, "summary": [s.as_json() for s in summaries]}, _table(job, summaries)


def _routing(
    policies: str, seeds: int, folder: Path | None, table: str
) -> "tuple[dict[str, object], Table]":
    from ptmo_secure.offload.compare import read_table
    from ptmo_secure.offload.routing import REFERENCES, ROUTERS, SPLITS, evaluate_routers
    from ptmo_secure.results import envelope

    known = [*ROUTERS, *REFERENCES]
    names = known if policies == "all" else policies.split(",")
    _say_what_is_missing(table, folder)
    read = read_table(table, folder)
    rows: list[RoutingRow] = []
    total = len(SPLITS) * seeds * len(names)
    with output.progress("routing") as report:
        for split in SPLITS:
            for seed in range(1, seeds + 1):
                for name in names:
                    report(len(rows), total, f"{name}, {split}, seed {seed}")
                    rows += evaluate_routers(read, [name], split, seed)
    config: dict[str, object] = {
        "env": _ROUTING,
        "policies": names,
        "seeds": seeds,
        "data": None if folder is None else str(folder),
        "table": read.name,
        "models": list(read.models),
    }
    result = envelope(output.command(), config, [row.as_json() for row in rows])
    return result, _routing_table(rows)


def named_limits(words: list[str] | None) -> dict[str, float]:
    """Return the values of `--limit`, by name.

    Raises:
        InputError: a word is not NAME=X, or a name comes twice.
    """
    found: dict[str, float] = {}
    for word in words or ():
        name, _, number = word.partition("=")
        if name in found:
            raise InputError(f"--limit {word!r}: {name} has a limit already, {found[name]:g}")
        try:
            found[name] = float(number)
        except ValueError:
            raise InputError(f"--limit {word!r} is not NAME=X, with a number") from None
    return found


def used_table(env: str, table: str, folder: Path | None) -> str:
    """Return the name of the table that an environment is made of."""
    from ptmo_secure.offload.compare import SYNTHETIC

    if folder is None:
        return SYNTHETIC
    return table if env == "sessions" else "m4a1"


def data_note(env: str, table: str, folder: Path | None) -> None:
    """Without a data folder, say that a synthetic table stands in for an environment's data."""
    _say_what_is_missing("m4a1" if env.startswith("m4a1") else table, folder)


def _say_what_is_missing(table: str, folder: Path | None) -> None:
    """Without a data folder, name the data set that is wanted, and where it comes from.

    Raises:
        InputError: there is no such table.
    """
    from ptmo_secure.offload.outcomes import TABLES, table_file

    if table not in (*TABLES, "m4a1", "synthetic"):
        raise InputError(f"unknown table {table!r}: expected {', '.join(TABLES)} or synthetic")
    if folder is None and table != "synthetic":
        try:
            table_file(table, None)
        except InputError as missing:
            output.note(f"a synthetic table stands in: {missing}")


def _table(job: "Comparison", summaries: "list[Summary]") -> "Table":
    from rich.table import Table

    shown = Table(
        title=f"Policies in {job.env}: mean over seeds, and the 95 % interval of the reward"
    )
    limited, whole = list(job.limits), job.epsilon is not None
    for heading in ("budget", "policy"):
        shown.add_column(heading)
    for heading in (
        *("reward", "95 % interval", "oracle gain", "quality", "seconds", "dollars", "leakage"),
        "over budget",
        "p99 ms",
        *(f"{name} to its limit" for name in limited),
        *(["eps"] * whole),
    ):
        shown.add_column(heading, justify="right")
    for row in summaries:
        mean, low, high = row.reward
        shown.add_row(
            row.budget,
            row.policy,
            f"{mean:.3f}",
            f"{low:.3f} - {high:.3f}" if row.seeds > 1 else "one seed",
            "" if row.gain_share is None else f"{100 * row.gain_share:.0f} %",
            f"{row.quality:.3f}",
            f"{row.latency_s:.1f}",
            f"{row.usd:.5f}",
            f"{row.leakage:.3f}",
            f"{100 * row.violations:.0f} %",
            f"{row.decision_ms['p99']:.2f}",
            *(f"{100 * row.limit_errors[name]:+.1f} %" for name in limited),
            *([f"{row.epsilon:.3f}"] * whole),
        )
    return shown


def _routing_table(rows: "list[RoutingRow]") -> "Table":
    from rich.table import Table

    from ptmo_secure.offload.evaluate import mean_interval

    shown = Table(title="Routers: held-out questions, and held-out domains")
    for heading in ("table", "split", "router"):
        shown.add_column(heading)
    for heading in ("APGR", "95 % interval", "CPT50", "CPT80"):
        shown.add_column(heading, justify="right")
    groups: dict[tuple[str, str, str], list[RoutingRow]] = {}
    for row in rows:
        groups.setdefault((row.table, row.split, row.router), []).append(row)
    for key, group in groups.items():
        mean, low, high = mean_interval([row.apgr for row in group])
        calls = [sum(getattr(row, name) for row in group) / len(group) for name in _CALLS]
        interval = f"{low:.3f} - {high:.3f}" if len(group) > 1 else "one seed"
        shown.add_row(*key, f"{mean:.3f}", interval, *(f"{100 * call:.0f} %" for call in calls))
    return shown


_CALLS = ("cpt50", "cpt80")
COMMANDS = (eval,)
