"""Evaluates a guard: runs the suites, counts, and holds the figures against floors and goals."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ptmo_secure.privacy import suites
from ptmo_secure.privacy.calibration import (
    NOT_PUBLIC,
    cross_fitted,
    expected_calibration_error,
)
from ptmo_secure.privacy.datafiles import LabelledText
from ptmo_secure.privacy.guards import GuardUnderTest
from ptmo_secure.privacy.metrics import (
    MASKED_SHARE,
    Count,
    LevelCount,
    MaskCount,
    covered,
    masked_share,
    percentile,
)
from ptmo_secure.privacy.obfuscate import OBFUSCATIONS

Item = TypeVar("Item")
Progress = Callable[[int, int, str], None]
_TIMED_TEXTS, _TIMED_RUNS, _WARM_UP = 40, 200, 20


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should reach.

    Args:
        floor: the least that is acceptable.
        goal: what is wished for.
        high: whether more is better.
    """

    floor: float
    goal: float
    high: bool = True

    def met(self, value: float) -> bool:
        """Whether the floor is kept."""
        return value >= self.floor if self.high else value <= self.floor


RECALL, PRECISION = Target(0.95, 0.98), Target(0.93, 0.97)
FLAGS = Target(0.08, 0.03, high=False)
_KOREAN_RECALL = Target(0.90, 0.95)
_MEAN, _WORST = Target(0.92, 0.97), Target(0.75, 0.88)
_FAST, _FAST_LONG = Target(25, 8, high=False), Target(100, 40, high=False)


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure.

    Args:
        suite: name of the suite or data file.
        metric: what was measured.
        value: the figure; a rate, or in the unit that the metric's name ends with.
        n: trials behind it.
        ci95: exact interval of a rate.
        target: floor and goal, where it has any.
    """

    suite: str
    metric: str
    value: float
    n: int
    ci95: tuple[float, float] | None = None
    target: Target | None = None

    @property
    def ok(self) -> bool | None:
        """Whether the floor is kept; None without one."""
        return None if self.target is None else self.target.met(self.value)

    def as_json(self) -> dict[str, object]:
        """A JSON object."""
        return {
            "suite": self.suite,
            "metric": self.metric,
            "value": self.value,
            "n": self.n,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "floor": None if self.target is None else self.target.floor,
            "goal": None if self.target is None else self.target.goal,
            "ok": self.ok,
        }


@dataclass(frozen=True, slots=True)
class Miss:
    """A gold span that leaks, or a harmless text that is flagged (kind "FLAGGED")."""

    suite: str
    entry: int
    kind: str
    length: int
    text: str

    def as_json(self, *, with_text: bool) -> dict[str, object]:
        """A JSON object; the text only on demand."""
        shown: dict[str, object] = {"text": self.text} if with_text else {}
        return {
            "suite": self.suite,
            "entry": self.entry,
            "kind": self.kind,
            "length": self.length,
            **shown,
        }


class Evaluation:
    """Runs suites on one guard and collects figures and misses.

    Args:
        guard: a running guard.
        progress: told how far a suite is (done, total, name).
        limit: texts of each suite at most; None: all.
    """

    def __init__(self, guard: GuardUnderTest, progress: Progress, limit: int | None = None) -> None:
        self.measures: list[Measure] = []
        self.misses: list[Miss] = []
        self._guard, self._progress, self._limit = guard, progress, limit

    def run(self, suite: str) -> None:
        """Run a built-in suite.

        Raises:
            KeyError: there is no such suite.
        """
        SUITES[suite](self, suite)

    def leaks(
        self,
        suite: str,
        texts: Sequence[LabelledText],
        recall: Target | None = RECALL,
        precision: Target | None = PRECISION,
    ) -> None:
        """Measure leak recall, overall and by kind, and character precision."""
        count = MaskCount()
        for entry, item in self._each(suite, texts):
            missed = count.add(item.text, item.gold, self._ranges(item.text))
            self.misses += [
                Miss(suite, entry, kind, end - start, item.text[start:end])
                for start, end, kind in missed
            ]
        self._rate(suite, "leak_recall", count.spans, recall)
        self._rate(suite, "char_precision", count.characters, precision)
        for kind in sorted(count.by_kind):
            self._rate(suite, f"leak_recall_{kind}", count.by_kind[kind])

    def flags(self, suite: str, texts: Sequence[LabelledText]) -> None:
        """Measure how many harmless texts are flagged."""
        count = Count()
        for entry, item in self._each(suite, texts):
            flagged = bool(self._ranges(item.text))
            count.add(flagged)
            if flagged:
                self.misses.append(Miss(suite, entry, "FLAGGED", len(item.text), item.text))
        self._rate(suite, "flag_rate", count, FLAGS)

    def frames(self, suite: str) -> None:
        """Measure how often a name is masked in a private frame, and how often in a public one."""
        private, public = Count(), Count()
        for _, pair in self._each(suite, suites.frames()):
            private.add(self._masked(pair[0]))
            public.add(self._masked(pair[1]))
        self._rate(suite, "private_frame", private, Target(0.90, 0.95))
        self._rate(suite, "public_frame", public, Target(0.20, 0.08, high=False))

    def obfuscations(self, suite: str) -> None:
        """Measure leak recall under each obfuscation, over the values that it changes."""
        counts = {name: Count() for name in ("none", *OBFUSCATIONS)}
        for _, item in self._each(suite, suites.carried_values()):
            counts["none"].add(self._masked(item))
            start, end, kind = item.gold[0]
            for name, apply in OBFUSCATIONS.items():
                text, span = apply(item.text, (start, end))
                if text != item.text:
                    counts[name].add(self._masked(LabelledText(text, ((*span, kind),))))
        rates = {name: count.rate for name, count in counts.items() if name != "none"}
        trials = sum(count.trials for name, count in counts.items() if name != "none")
        mean = sum(rates.values()) / len(rates)
        self.measures += [
            Measure(suite, "leak_recall_mean", mean, trials, None, _MEAN),
            Measure(suite, "leak_recall_worst", min(rates.values()), trials, None, _WORST),
        ]
        for name, count in counts.items():
            self._rate(suite, f"leak_recall_{name}", count)

    def tasks(self, suite: str) -> None:
        """Measure what a task before a story hides of it: its names, and that it is private."""
        for behind, stories in suites.behind_tasks().items():
            where = "behind_tasks" if behind else "alone"
            names, public = Count(), Count()
            for entry, item in self._each(suite, stories):
                scan = self._guard.scan(item.text)
                masked = covered(len(item.text), [(span.start, span.end) for span in scan.spans])
                for start, end, kind in item.gold:
                    kept = masked_share(item.text, start, end, masked) >= MASKED_SHARE
                    names.add(kept)
                    if not kept:
                        missed = item.text[start:end]
                        self.misses.append(Miss(suite, entry, kind, end - start, missed))
                if scan.level is not None:
                    public.add(scan.level == "PUBLIC")
            self._rate(suite, f"leak_recall_{where}", names)
            self._rate(suite, f"public_{where}", public)

    def levels(self, suite: str) -> None:
        """Measure the three levels on the labelled chats; nothing for a guard without levels."""
        count = LevelCount(suites.LEVELS)
        scores, private = [], []
        for entry, chat in self._each(suite, suites.chats()):
            scan = self._guard.scan(chat.text)
            said = scan.level
            if said is None:
                return
            count.add(chat.level, said)
            scores.append(scan.score or 0.0)
            private.append(chat.level != "PUBLIC")
            if said != chat.level:
                kind = f"{chat.level}_AS_{said}"
                self.misses.append(Miss(suite, entry, kind, len(chat.text), chat.text))
        wrong = count.share("PRIVATE", "PUBLIC")
        self.measures.append(
            Measure(suite, "macro_f1", count.macro_f1, count.total, target=Target(0.85, 0.92))
        )
        self._rate(suite, "private_as_public", wrong, Target(0.01, 0.0, high=False))
        for level in suites.LEVELS:
            self.measures.append(Measure(suite, f"f1_{level}", count.f1(level), count.total))
        for name, probabilities in (
            ("calibration_error", [NOT_PUBLIC(score) for score in scores]),
            ("calibration_error_cross_fitted", cross_fitted(scores, private)),
        ):
            error = expected_calibration_error(probabilities, private)
            self.measures.append(Measure(suite, name, error, count.total))

    def speed(self, suite: str) -> None:
        """Measure latency at two lengths, resident memory and the time to start."""
        for label, texts, targets in (
            ("100_tokens", suites.timed_texts(_TIMED_TEXTS, tokens=100), _FAST),
            ("2000_chars", suites.timed_texts(_TIMED_TEXTS, characters=2000), _FAST_LONG),
        ):
            seconds = self._time(f"{suite} {label}", texts)
            for share, target in ((0.5, None), (0.95, targets)):
                name = f"latency_p{share * 100:.0f}_{label}_ms"
                value = 1e3 * percentile(seconds, share)
                self.measures.append(Measure(suite, name, value, len(seconds), None, target))
        resident = self._guard.resident_bytes()
        if resident is not None:
            megabytes = Target(200, 120, high=False)
            self.measures.append(Measure(suite, "resident_mb", resident / 1e6, 1, None, megabytes))
        self.measures.append(
            Measure(suite, "load_s", self._guard.load_s, 1, None, Target(2, 0.5, high=False))
        )

    def _time(self, name: str, texts: Sequence[str]) -> list[float]:
        runs = _TIMED_RUNS if self._limit is None else min(_TIMED_RUNS, self._limit)
        seconds = []
        for index in range(_WARM_UP + runs):
            started = time.perf_counter()
            self._guard.scan(texts[index % len(texts)])
            seconds.append(time.perf_counter() - started)
            self._progress(index + 1, _WARM_UP + runs, name)
        return seconds[_WARM_UP:]

    def _each(self, suite: str, items: Sequence[Item]) -> Iterator[tuple[int, Item]]:
        chosen = items if self._limit is None else items[: self._limit]
        for entry, item in enumerate(chosen):
            yield entry, item
            self._progress(entry + 1, len(chosen), suite)

    def _masked(self, item: LabelledText) -> bool:
        start, end, _ = item.gold[0]
        masked = covered(len(item.text), self._ranges(item.text))
        return masked_share(item.text, start, end, masked) >= MASKED_SHARE

    def _ranges(self, text: str) -> list[tuple[int, int]]:
        return [(span.start, span.end) for span in self._guard.scan(text).spans]

    def _rate(self, suite: str, metric: str, count: Count, target: Target | None = None) -> None:
        if count.trials:
            self.measures.append(
                Measure(suite, metric, count.rate, count.trials, count.ci95, target)
            )


def _synthetic(evaluation: Evaluation, suite: str) -> None:
    evaluation.leaks(suite, suites.private_texts())


def _harmless(evaluation: Evaluation, suite: str) -> None:
    evaluation.flags(suite, suites.harmless_texts())


def _korean(evaluation: Evaluation, suite: str) -> None:
    evaluation.leaks(suite, suites.korean_texts(), _KOREAN_RECALL, None)
    evaluation.flags(suite, suites.korean_harmless_texts())


SUITES: Mapping[str, Callable[[Evaluation, str], None]] = {
    "synthetic": _synthetic,
    "harmless": _harmless,
    "frames": Evaluation.frames,
    "obfuscation": Evaluation.obfuscations,
    "tasks": Evaluation.tasks,
    "levels": Evaluation.levels,
    "korean": _korean,
    "speed": Evaluation.speed,
}
