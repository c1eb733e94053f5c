"""`ptmo offload train`: policies with real constraints, one file a seed."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ptmo_secure.cli import options, output
from ptmo_secure.cli.offload import (
    Budgets,
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

Report = Callable[[int, int, str], None]


def train(
    env: Annotated[
        str, typer.Option("--env", metavar="E", help="m4a1, m4a1-device or sessions.")
    ] = "sessions",
    algo: Annotated[
        str, typer.Option("--algo", metavar="A", help="rc-ppo, rc-a2c or rc-dqn.")
    ] = "rc-ppo",
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Seeds 1 to N.")] = 1,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Turns [default: 30000].")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="2,000 turns; shows that it runs.")
    ] = False,
    budgets: Budgets = None,
    limit: Limits = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of policies and checkpoints.")
    ] = Path("out/offload/policies"),
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", metavar="DIR", help="Write event files.")
    ] = None,
    data: Data = None,
    table: Questions = "llmrouter",
    sessions: Sessions = 200,
    json: options.Json = False,
) -> None:
    """Train a policy that keeps privacy rules, hard budgets, and limits of long-run averages.

    \b
    Examples:
      ptmo offload train --env m4a1 --algo rc-ppo --seeds 1 --quick
      ptmo offload train --env sessions --algo rc-dqn --seeds 5 --data tables
      ptmo offload train --env sessions --limit usd=0.003 --limit risk=0.02
      ptmo offload train --env sessions --budgets 0.5:0.02,1:0.1
      ptmo offload eval --policies rc-ppo,greedy --trained out/offload/policies

    Budgets are hard, of an episode, and as in `ptmo offload eval`: seconds:dollars (m4a1), with
    :risk (m4a1-device), or share of all-cloud dollars:risk (sessions). One policy learns those that
    are given and all between; without the option, the environment's own. A limit is of the mean
    episode, and risk counts the private values that are expected to leave readable.

    A killed training goes on from its last checkpoint when the same command is given again; that of
    another training, a quick one say, has to be deleted first. See docs/offload.md.
    """
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: at least one is needed")
    with missing_extra():
        from ptmo_secure.offload.compare import check_limits, environments, listed, parse_budgets
        from ptmo_secure.offload.outcomes import data_folder
        from ptmo_secure.offload.rl.advice import advice_for
        from ptmo_secure.offload.rl.lagrangian import limits_of
        from ptmo_secure.offload.rl.training import QUICK_STEPS, STEPS, Plan
        from ptmo_secure.offload.rl.training import train as learn
        from ptmo_secure.offload.rl.worded import Worded
        from ptmo_secure.results import envelope, to_json

        folder = data_folder(data)
        count = steps if steps is not None else QUICK_STEPS if quick else STEPS
        named = named_limits(limit)
        check_limits(env, named)
        hard, limits = () if budgets is None else parse_budgets(env, budgets), limits_of(named)
        about = {"env": env, "table": used_table(env, table, folder), "sessions": sessions}
        plans = [Plan(algo, seed, count, hard, limits, about) for seed in range(1, seeds + 1)]
        make = environments(env, table, sessions, folder)
        data_note(env, table, folder)
        rows: list[dict[str, object]] = []
        with output.json_only(json) as emit:
            for plan in plans:
                path = out / f"{env}-{algo}-{plan.seed}.npz"
                school = make("train", plan.seed)
                advice = advice_for(school, plan.seed)
                with output.progress(f"{algo}, seed {plan.seed}") as report:

                    def told(done: int, total: int, report: Report = report) -> None:
                        report(done, total, "turns")

                    board = None if tensorboard is None else tensorboard / path.stem
                    found = learn(school, advice, plan, told, path.with_suffix(".ckpt"), board)
                found.network.card |= {"env": env, "table": table, "data": folder is not None}
                found.network.card["command"] = output.command()
                if isinstance(advice, Worded):
                    found.network.card["dollar_price"] = advice.price
                    advice.model.save(path.with_name(f"{path.stem}-words.npz"))
                found.network.save(path)
                trace = {"multipliers": found.trace, "trials": found.trials}
                path.with_suffix(".json").write_text(to_json(trace) + "\n", encoding="utf-8")
                rows.append(
                    {
                        "env": env,
                        "algo": algo,
                        "seed": plan.seed,
                        "policy": str(path),
                        "bytes": path.stat().st_size,
                        "trials": found.trials,
                        "multipliers": found.trace,
                    }
                )
            config = {"env": env, "algo": algo, "seeds": seeds, "steps": count, "limits": named}
            config |= {"budgets": listed(hard or school.budgets)}
            emit(envelope(output.command(), {**config, "table": table}, rows))
    if not json:
        for row in rows:
            print(f"{row['policy']}  {row['bytes']} bytes")


COMMANDS = (train,)
