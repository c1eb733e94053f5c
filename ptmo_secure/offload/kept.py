"""What a comparison had measured before it was stopped, so that it can go on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptmo_secure.errors import InputError
from ptmo_secure.offload.evaluate import Row
from ptmo_secure.offload.rl.prices import Trace
from ptmo_secure.results import git_commit

if TYPE_CHECKING:
    from ptmo_secure.offload.compare import Comparison


class KeptRows:
    """A file with one line for what is measured, and one for each policy and seed that is done.

    A line has the rows, and the multipliers of a policy that was trained for them. A file of
    another measurement, or a last line that was cut off, is written anew.

    Args:
        path: of the file; its folder is made where it is missing.
        what: is measured: plain JSON, commit and data included.

    Raises:
        InputError: the file cannot be read or written.
    """

    def __init__(self, path: Path, what: dict[str, Any]) -> None:
        self._path = path
        self._done: dict[tuple[str, int], tuple[list[Row], Trace]] = {}
        first = json.dumps(what, sort_keys=True)
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            if lines[:1] == [first]:
                for line in lines[1:]:
                    rows, trace = _read(line)
                    if rows:
                        self._done[rows[0].policy, rows[0].seed] = rows, trace
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(first + "\n", encoding="utf-8")
            for rows, trace in self._done.values():
                self._write(rows, trace)
        except (OSError, UnicodeDecodeError) as failure:
            raise InputError(f"{path}: {failure}") from None

    def of(self, policy: str, seed: int) -> list[Row]:
        """Return the rows of a policy and seed; none where it is not done."""
        return self._done.get((policy, seed), ([], []))[0]

    def traces(self) -> dict[str, Trace]:
        """Return multipliers over time of the trainings that had limits, by ENV-POLICY-SEED."""
        return {
            f"{rows[0].env}-{policy}-{seed}": trace
            for (policy, seed), (rows, trace) in self._done.items()
            if trace
        }

    def keep(self, rows: list[Row], trace: Trace) -> None:
        """Add the rows of one policy and seed, all its budgets, and its multipliers over time.

        Raises:
            InputError: the file cannot be written.
        """
        self._done[rows[0].policy, rows[0].seed] = rows, trace
        try:
            self._write(rows, trace)
        except OSError as failure:
            raise InputError(f"{self._path}: {failure.strerror}") from None

    def _write(self, rows: list[Row], trace: Trace) -> None:
        line = {"rows": [row.as_json() for row in rows], "multipliers": trace}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def measured(job: "Comparison", folder: Path | None) -> dict[str, Any]:
    """Return what rows have to share to stand in one table; other policies or seeds may join them.

    Args:
        job: the comparison.
        folder: of its data.
    """
    policies = sorted(job.trained.glob("*.npz")) if job.trained else []
    return {
        "commit": git_commit(),
        "env": job.env,
        "budgets": job.budgets,
        "table": job.table,
        "sessions": job.sessions,
        "data": str(folder),
        "limits": job.limits,
        "epsilon": job.epsilon,
        "trained": [[str(path), path.stat().st_mtime_ns] for path in policies],
    }


def _read(line: str) -> tuple[list[Row], Trace]:
    """Rows and multipliers of a line; none of one that was cut off."""
    try:
        kept = json.loads(line)
        return [Row(**fields) for fields in kept["rows"]], kept["multipliers"]
    except (KeyError, TypeError, ValueError):
        return [], []
