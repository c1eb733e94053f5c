"""Measures what the pipeline adds to a query of 100 words: guard, gate, policy, mask, unmask.

    python benchmarks/pipeline_overhead.py --rounds 200 --json

No model answers and nothing is sent. Each kind of query is measured by itself, kinds interleaved;
every query is another one, so that nothing is remembered. "guard" is the reading of the query
(one pass, which masks and rates it), "decompose" the rating of its parts, "mask" what of a mixed
query goes, "unmask" an answer of 100 words with placeholders; "stream" the same answer in pieces of
one word. "gate" has the privacy rules, the budget (in memory) and the policy.

Wall times, and the CPU time of this thread and the guard together: on a machine that does other
things too, the first holds its waits for a core as well. Exits 1 when a bound on wall time is
passed at the 99th percentile: 45 ms for guard + gate + unmask of any kind, 5 ms for gate + unmask.
"""

import random
import time
from collections.abc import Sequence

import numpy as np
from script import ArgumentParser, command_line, run

from ptmo_secure.cli import output
from ptmo_secure.config import at_least
from ptmo_secure.hybrid.consulting import is_plain
from ptmo_secure.hybrid.deciding import affordable, decide, permitted
from ptmo_secure.hybrid.guarding import SharedGuard
from ptmo_secure.hybrid.planning import POLICIES, Planner
from ptmo_secure.hybrid.restoring import Restorer, restore
from ptmo_secure.privacy.budget import BudgetLimits, PrivacyBudget
from ptmo_secure.privacy.manager import PrivacyManager
from ptmo_secure.privacy.sensitivity import SensitivityClassifier
from ptmo_secure.results import envelope, read_lines, to_json
from tee_sim.client import TeeClient

WORDS = 100
BOUND_MS, REST_MS = 45.0, 5.0
TOPICS = ("rivers", "bread", "chess", "stars", "bees", "trains", "salt", "maps", "tea", "glass")
VERBS = ("Explain", "Compare", "Describe", "Summarise", "Discuss")
NAMES = ("Andre Novak", "Ada Lindqvist", "Mira Holmberg", "Yuki Tanabe", "Kwame Mensah")
PREFIX = {
    "public": "",
    "mixed": "My password is hunter{n}-Xy. ",
    "carries": "Write an email to {name} at user{n}@mail-{n}.org about all of this: ",
    "private": "My card number is 4111 1111 1111 1111 and I have diabetes. ",
}
STEPS = ("guard", "decompose", "gate", "mask", "unmask", "stream")


def query(kind: str, draw: random.Random) -> str:
    """Return a query of 100 words of a kind, one that did not come before."""
    text = PREFIX[kind].format(n=draw.randrange(10**6), name=draw.choice(NAMES))
    end = "," if kind == "carries" else "?"
    while len(text.split()) < WORDS:
        verb, topic, other = draw.choice(VERBS), draw.choice(TOPICS), draw.choice(TOPICS)
        text += f"{verb} how {topic} and {other} changed in the year {draw.randrange(1500, 2000)}"
        text += f" and what that meant for towns and trade{end} "
    return " ".join(text.split()[:WORDS]) + ("?" if end == "?" else ".")


def answer(draw: random.Random, placeholders: Sequence[str]) -> list[str]:
    """Return an answer of 100 words, word by word, with placeholders among them."""
    some = [*TOPICS, *placeholders]
    return [f"{draw.choice(some)} " for _ in range(WORDS)]


class Meter:
    """Runs the steps of a query before and after the models, and times each.

    Args:
        policy: name of it.
    """

    def __init__(self, policy: str) -> None:
        client = TeeClient.launch("guard", poll_us=0)
        self._pid = client.pid
        self._guard = SharedGuard(lambda: client)
        classifier = SensitivityClassifier(self._guard)
        self._manager = PrivacyManager(classifier, PrivacyBudget(BudgetLimits(1e9, 1e9)))
        self._planner = Planner(self._guard, classifier, self._manager, policy)

    def measure(self, text: str, draw: random.Random) -> list[tuple[float, float]]:
        """Return wall and CPU milliseconds of each of `STEPS`."""
        marks = [self._now()]
        messages = [{"role": "user", "content": text}]
        turn = self._planner.read(messages, "ann", "s", stays=False)
        marks.append(self._now())
        case = self._planner.divide(turn, 256)
        marks.append(self._now())
        allowed = permitted(case)
        left = self._planner.left(turn, allowed)
        allowed = affordable(allowed, case.proposed.cost, left)
        policy = self._planner.policy
        decide(case, allowed, policy.view(case, left), policy.choose)
        marks.append(self._now())
        vault = self._guard.vault("ann", "s")
        going = case.divided.going
        if going and going != turn.query and not is_plain(case):
            vault.mask(going)
        marks.append(self._now())
        told = answer(draw, ["[SECRET_1]", "[PERSON_1]"])
        restore(vault, "".join(told))
        marks.append(self._now())
        restorer = Restorer(vault)
        for piece in told:
            restorer.feed(piece)
        restorer.finish()
        marks.append(self._now())
        spent = 1e3 * np.diff(np.asarray(marks), axis=0)
        return [(float(wall), float(cpu)) for wall, cpu in spent]

    def _now(self) -> tuple[float, float]:
        """Seconds of the wall, and of the CPU in this thread and the guard's."""
        of_guard = int(read_lines(f"/proc/{self._pid}/schedstat")[0].split()[0]) / 1e9
        return time.perf_counter(), time.thread_time() + of_guard

    def close(self) -> None:
        """End the guard."""
        self._manager.close()
        self._guard.close()


def rows_of(times: dict[str, list[list[tuple[float, float]]]]) -> list[dict[str, object]]:
    """Return figures per kind: each step, what the bounds speak of, and the guard's share."""
    rows: list[dict[str, object]] = []
    for kind, runs in times.items():
        row: dict[str, object] = {"kind": kind, "rounds": len(runs)}
        spent = np.asarray(runs)  # [rounds, steps, wall and CPU] ms
        for place, clock in enumerate(("ms", "cpu_ms")):
            parts = dict(zip(STEPS, spent[:, :, place].T, strict=True))
            parts["gate_unmask"] = parts["gate"] + parts["unmask"]
            parts["guard_gate_unmask"] = parts["guard"] + parts["gate_unmask"]
            stages = ("guard", "decompose", "gate", "mask", "unmask")
            parts["all"] = np.sum([parts[name] for name in stages], axis=0)
            for name, ms in parts.items():
                row[f"{name}_p50_{clock}"] = round(float(np.percentile(ms, 50)), 3)
                row[f"{name}_p99_{clock}"] = round(float(np.percentile(ms, 99)), 3)
            row[f"guard_share_{clock}"] = round(
                float(parts["guard"].sum() / parts["guard_gate_unmask"].sum()), 4
            )
        rows.append(row)
    return rows


def shown(row: dict[str, object]) -> str:
    """Return a row as lines of text."""
    lines = [f"{row['kind']}, {row['rounds']} queries: p50 / p99, wall ms (CPU ms)"]
    for name in (*STEPS, "gate_unmask", "guard_gate_unmask", "all"):
        wall = f"{row[f'{name}_p50_ms']} / {row[f'{name}_p99_ms']}"
        cpu = f"{row[f'{name}_p50_cpu_ms']} / {row[f'{name}_p99_cpu_ms']}"
        lines.append(f"  {name:18} {wall:20} ({cpu})")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and say by the exit code whether the bounds hold."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200, help="queries of each kind")
    parser.add_argument("--policy", choices=POLICIES, default="rule")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    at_least("rounds", given.rounds, 2)
    draw, meter = random.Random(given.seed), Meter(given.policy)
    times: dict[str, list[list[tuple[float, float]]]] = {kind: [] for kind in PREFIX}
    try:
        for number in range(given.rounds + 5):
            for kind in times:
                spent = meter.measure(query(kind, draw), draw)
                if number >= 5:  # the first ones warm up
                    times[kind].append(spent)
    finally:
        meter.close()
    rows = rows_of(times)
    config = {"words": WORDS, "policy": given.policy, "rounds": given.rounds, "seed": given.seed}
    if given.json:
        print(to_json(envelope(command_line(__file__, arguments), config, rows)))
    else:
        for row in rows:
            print(shown(row))
    late = [
        str(row["kind"])
        for row in rows
        if float(str(row["guard_gate_unmask_p99_ms"])) > BOUND_MS
        or float(str(row["gate_unmask_p99_ms"])) > REST_MS
    ]
    if late:
        output.note(f"over its bound: {', '.join(late)}")
    return 1 if late else 0


if __name__ == "__main__":
    run(main)
