"""A report of a comparison: tables with intervals and paired tests, plots, and the JSON beside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_rel  # type: ignore[attr-defined,unused-ignore]  # no stubs

from ptmo_secure.errors import InputError
from ptmo_secure.offload import plots
from ptmo_secure.offload.compare import SYNTHETIC, Summary, summarise
from ptmo_secure.offload.evaluate import Row
from ptmo_secure.results import to_json

REFERENCE = "greedy"
COSTS = (("usd", "dollars of an episode"), ("latency_s", "seconds"), ("leakage", "leaked values"))


def paired(rows: Sequence[Row], policy: str, reference: str, budget: str) -> dict[str, Any] | None:
    """Compare two policies on the same seeds.

    Returns:
        Mean difference of the reward, the p of Student's paired test (None where it is not defined:
        all differences alike), seeds won and seeds; or None with fewer than two common seeds.
    """
    reward = {(row.policy, row.seed): row.reward for row in rows if row.budget == budget}
    seeds = sorted({seed for name, seed in reward if name == policy})
    both = [seed for seed in seeds if (reference, seed) in reward]
    if len(both) < 2:
        return None
    own = np.array([reward[policy, seed] for seed in both])
    other = np.array([reward[reference, seed] for seed in both])
    difference = own - other
    p = float(ttest_rel(own, other).pvalue) if np.ptp(difference) > 0 else None
    won = int((difference > 0).sum())
    return {"difference": float(difference.mean()), "p": p, "won": won, "seeds": len(both)}


def write_report(
    folder: Path, result: dict[str, Any], rows: Sequence[Row], traces: dict[str, Any]
) -> list[Path]:
    """Write report.json, report.md and the plots.

    Args:
        folder: made where it is missing.
        result: the envelope of the command; the report's JSON adds to it. Its config names the
            "data" folder, and of each environment the "tables" that were played.
        rows: what was measured, of one or several environments.
        traces: of the multipliers, by the name of the policy's file.

    Returns:
        The files.

    Raises:
        InputError: the folder cannot be written.
    """
    environments = list(dict.fromkeys(row.env for row in rows))
    parts = {env: [row for row in rows if row.env == env] for env in environments}
    tests = {env: _tests(part) for env, part in parts.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / "report.json", folder / "report.md"]
        summaries = {env: summarise(part) for env, part in parts.items()}
        listed = {env: [one.as_json() for one in found] for env, found in summaries.items()}
        content = {**result, "summary": listed, "paired": tests, "multipliers": traces}
        files[0].write_text(to_json(content) + "\n", encoding="utf-8")
        text = [f"# Offloading: {result['command']}", "", f"Commit {result['commit']}.", ""]
        for env in environments:
            text += [f"## {env}", "", _data(result["config"], env), ""]
            text += [*_table(summaries[env], tests[env]), ""]
            for cost, label in COSTS:
                path = folder / f"pareto-{env}-{cost}.png"
                if plots.pareto(summaries[env], cost, label, path):
                    files.append(path)
                    text += [f"![quality and {label}]({path.name})", ""]
        text += ["## Multipliers", ""]
        if not traces:
            text += ["None: no average had a limit (`--limit NAME=X`).", ""]
        for name, entries in traces.items():
            files.append(folder / f"multipliers-{name}.png")
            plots.trace(entries, files[-1])
            text += [f"![multipliers of {name}]({files[-1].name})", ""]
        files[1].write_text("\n".join(text), encoding="utf-8")
    except OSError as failure:
        raise InputError(f"{folder}: {failure.strerror}") from None
    return files


def _tests(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every policy against the reference, at every budget."""
    found = []
    for budget in dict.fromkeys(row.budget for row in rows):
        for policy in dict.fromkeys(row.policy for row in rows):
            test = None if policy == REFERENCE else paired(rows, policy, REFERENCE, budget)
            if test is not None:
                found.append({"budget": budget, "policy": policy, **test})
    return found


def _data(config: dict[str, Any], env: str) -> str:
    """Which data was played, for those who read nothing else."""
    table = config["tables"][env]
    if table == SYNTHETIC:
        return (
            "**Data: the synthetic table of this package, which says nothing about any model.** "
            "Real outcomes: `--data DIR` or PTMO_DATA."
        )
    return f"Data: {table}, in {config['data']}."


def _table(summaries: Sequence[Summary], tests: list[dict[str, Any]]) -> list[str]:
    by_key = {(test["budget"], test["policy"]): test for test in tests}
    limited = list(summaries[0].limit_errors)
    lines = [
        "Mean over seeds. Of the worst seed: over budget, the share of episodes; p99 ms, CPU time "
        "of a decision, 99th percentile. Difference, p and won compare the reward with "
        f"{REFERENCE}'s, seed by seed.",
        "",
        "| budget | policy | seeds | reward | 95 % | quality | seconds | dollars | leaked "
        "| over budget | p99 ms | oracle gain | difference | p | won |"
        + "".join(f" {name} to its limit |" for name in limited),
        "|" + " --- |" * (15 + len(limited)),
    ]
    for one in summaries:
        mean, low, high = one.reward
        test = by_key.get((one.budget, one.policy))
        against = ("", "", "")
        if test is not None:
            p = "" if test["p"] is None else f"{test['p']:.3f}"
            against = f"{test['difference']:+.4f}", p, f"{test['won']} of {test['seeds']}"
        gain = "" if one.gain_share is None else f"{100 * one.gain_share:.1f} %"
        cells = (
            *(one.budget, one.policy, str(one.seeds), f"{mean:.4f}"),
            f"{low:.4f} to {high:.4f}" if one.seeds > 1 else "one seed",
            *(f"{one.quality:.4f}", f"{one.latency_s:.2f}", f"{one.usd:.5f}"),
            *(f"{one.leakage:.4f}", f"{100 * one.violations:.0f} %"),
            *(f"{one.decision_ms['p99']:.2f}", gain, *against),
            *(f"{100 * one.limit_errors[name]:+.1f} %" for name in limited),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines
