"""`ptmo guard eval`: suites, figures, floors and what the command prints."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ptmo_secure import cli
from ptmo_secure.errors import InputError
from ptmo_secure.privacy import guards, suites
from ptmo_secure.privacy.evaluate import SUITES, Evaluation, Measure, Target
from ptmo_secure.privacy.guards import GuardUnderTest, Scan, open_guard

pytest.importorskip("faker", reason="made-up data needs Faker, of the extra `train`")
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SPANS = [
    {"entity_type": "PHONE_NUMBER", "start_position": 8, "end_position": 20},
    {"entity_type": "PERSON", "start_position": 22, "end_position": 25},
]
LABELLED = [
    {"full_text": "Call me 415-555-0123, Ana.", "spans": SPANS},
    {"full_text": "Nothing here", "spans": []},
]


@dataclass
class Found:
    start: int
    end: int


@dataclass
class Answer:
    spans: Sequence[Found]
    level: str | None
    score: float | None = None


class PatternGuard:
    """Masks what a pattern matches."""

    def __init__(self, pattern: str, level: str | None = "PRIVATE") -> None:
        self.pattern, self.level, self.closed, self.texts = re.compile(pattern), level, False, 0

    def scan(self, text: str) -> Scan:
        self.texts += 1
        spans = [Found(*match.span()) for match in self.pattern.finditer(text)]
        return Answer(spans, (self.level if spans else "PUBLIC") if self.level else None)

    def close(self) -> None:
        self.closed = True


def ignore(done: int, total: int, name: str) -> None:
    """No progress bar."""


def evaluate(scanner: PatternGuard, *names: str, limit: int | None = None) -> Evaluation:
    evaluation = Evaluation(GuardUnderTest("fake", scanner, os.getpid(), 0.25), ignore, limit)
    for name in names:
        evaluation.run(name)
    return evaluation


def values(evaluation: Evaluation) -> dict[str, float]:
    return {measure.metric: measure.value for measure in evaluation.measures}


ALL, NONE = r"(?s)\S(.*\S)?", r"(?!)"


def test_a_guard_that_masks_all_leaks_nothing_and_flags_everything() -> None:
    found = evaluate(PatternGuard(ALL), "synthetic", "harmless", "frames", "korean", limit=30)
    figures = values(found)
    assert figures["leak_recall"] == 1.0
    assert figures["flag_rate"] == 1.0
    assert (figures["private_frame"], figures["public_frame"]) == (1.0, 1.0)
    by_name = {(m.suite, m.metric): m for m in found.measures}
    assert by_name["synthetic", "leak_recall"].ok is True
    assert by_name["harmless", "flag_rate"].ok is False
    assert by_name["synthetic", "char_precision"].value < 0.93
    assert {miss.kind for miss in found.misses} == {"FLAGGED"}


def test_a_guard_that_masks_nothing_leaks_everything_and_flags_nothing() -> None:
    found = evaluate(PatternGuard(NONE), "synthetic", "harmless", "frames", "obfuscation", limit=20)
    figures = values(found)
    assert figures["leak_recall"] == 0.0
    assert figures["flag_rate"] == 0.0
    assert "char_precision" not in figures  # nothing was masked: there is no such share
    assert figures["leak_recall_mean"] == figures["leak_recall_worst"] == 0.0
    assert not any(miss.kind == "FLAGGED" for miss in found.misses)


def test_the_mean_is_over_obfuscations_and_only_changed_values_count() -> None:
    found = evaluate(PatternGuard(r"[A-Za-z0-9@.\- ()+]+"), "obfuscation")
    figures = values(found)
    each = {
        name.removeprefix("leak_recall_"): value
        for name, value in figures.items()
        if name not in ("leak_recall_mean", "leak_recall_worst", "leak_recall_none")
    }
    assert len(each) == 17
    assert figures["leak_recall_mean"] == pytest.approx(sum(each.values()) / 17)
    assert figures["leak_recall_worst"] == min(each.values()) == 0.0
    assert each["hex"] == each["base64"] == 1.0
    assert each["fullwidth"] == each["math_bold"] == 0.0
    trials = {m.metric: m.n for m in found.measures}
    assert trials["leak_recall_none"] == 100
    assert trials["leak_recall_base64"] == 100
    assert trials["leak_recall_spelled_out"] < 100  # names have no digits


def test_levels_are_scored_against_the_labelled_chats() -> None:
    found = evaluate(PatternGuard(ALL), "levels")
    figures = values(found)
    private = sum(chat.level == "PRIVATE" for chat in suites.chats())
    total = len(suites.chats())
    assert figures["f1_PRIVATE"] == pytest.approx(2 * private / (private + total))
    assert figures["macro_f1"] == pytest.approx(figures["f1_PRIVATE"] / 3)
    assert figures["private_as_public"] == 0.0
    assert values(evaluate(PatternGuard(NONE), "levels"))["private_as_public"] == 1.0
    assert evaluate(PatternGuard(ALL, level=None), "levels").measures == []


def test_speed_memory_and_load_are_reported_with_their_floors() -> None:
    scanner = PatternGuard(NONE)
    found = evaluate(scanner, "speed", limit=5)
    figures = values(found)
    assert scanner.texts == 2 * (20 + 5)
    assert {m.n for m in found.measures if m.metric.startswith("latency")} == {5}  # no warm-up
    assert 0 < figures["latency_p50_100_tokens_ms"] <= figures["latency_p95_100_tokens_ms"]
    assert figures["load_s"] == 0.25
    assert figures["resident_mb"] > 1
    assert {m.metric: m.target and m.target.floor for m in found.measures}["resident_mb"] == 200


def test_timed_texts_have_exactly_the_length_that_is_asked_for() -> None:
    for text in suites.timed_texts(5, tokens=100):
        assert len(re.findall(r"\w+|[^\w\s]", text)) == 100
    assert [len(text) for text in suites.timed_texts(5, characters=2000)] == [2000] * 5


def test_a_floor_is_met_from_the_right_side() -> None:
    assert Target(0.9, 0.95).met(0.9)
    assert not Target(0.9, 0.95).met(0.899)
    assert Target(0.08, 0.03, high=False).met(0.08)
    assert not Target(0.08, 0.03, high=False).met(0.081)
    assert Measure("s", "m", 1.0, 1).ok is None


def test_suites_are_the_same_each_time_and_gold_lies_where_it_says() -> None:
    assert suites.private_texts() == suites.private_texts()
    assert suites.carried_values() == suites.carried_values()
    for item in [*suites.carried_values(), *(text for pair in suites.frames() for text in pair)]:
        start, end, _ = item.gold[0]
        assert item.text[start:end].strip() == item.text[start:end]
        assert end > start
    for private, public in suites.frames():
        one, other = private.gold[0], public.gold[0]
        assert private.text[one[0] : one[1]] == public.text[other[0] : other[1]]


def test_a_task_stands_before_each_story_and_moves_its_names() -> None:
    stories, behind = suites.behind_tasks().values()
    assert len(behind) == len(stories) * len(suites.TASKS)
    for at, item in enumerate(behind):
        story, task = stories[at % len(stories)], suites.TASKS[at // len(stories)]
        assert item.text == task + story.text and story.gold
        names = [[one.text[start:end] for start, end, _ in one.gold] for one in (story, item)]
        assert names[0] == names[1]


def test_names_that_only_a_task_hides_are_counted_behind_tasks() -> None:
    class Fooled(PatternGuard):
        def scan(self, text: str) -> Scan:
            return PatternGuard(NONE if text.startswith(suites.TASKS) else ALL).scan(text)

    found = evaluate(Fooled(ALL), "tasks", limit=200)
    figures = values(found)
    assert all(len(miss.text) == miss.length < 40 for miss in found.misses)
    assert (figures["leak_recall_alone"], figures["leak_recall_behind_tasks"]) == (1.0, 0.0)
    assert (figures["public_alone"], figures["public_behind_tasks"]) == (0.0, 1.0)


def test_the_labelled_chats_are_balanced_distinct_and_a_tenth_korean() -> None:
    chats = suites.chats()
    assert len(chats) >= 320
    assert len({chat.text for chat in chats}) == len(chats)
    for level in suites.LEVELS:
        share = sum(chat.level == level for chat in chats) / len(chats)
        assert 0.3 < share < 0.37
        tags = {chat.tag for chat in chats if chat.level == level}
        assert len(tags) >= 10
    korean = [chat for chat in chats if chat.language == "ko"]
    assert 0.09 < len(korean) / len(chats) < 0.12
    assert all(re.search("[가-힣]", chat.text) for chat in korean)


def test_our_own_guard_answers_in_its_own_process() -> None:
    with open_guard() as guard:
        scan = guard.scan("My SSN is 472-81-0094.")
        assert [(span.start, span.end) for span in scan.spans] == [(10, 21)]
        assert scan.level == "PRIVATE"
        assert guard.load_s > 0
        assert (guard.resident_bytes() or 0) > 1 << 20


def test_an_unknown_or_missing_peer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unknown peer 'x': expected one of presidio, ptmo"):
        open_guard("x")
    monkeypatch.setattr(guards, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs presidio-analyzer"):
        open_guard("presidio")


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(LABELLED), encoding="utf-8")
    return path


@pytest.fixture
def pattern_guard(monkeypatch: pytest.MonkeyPatch) -> PatternGuard:
    """A guard of four words' length; `open_guard` gives it."""
    scanner = PatternGuard(r"\d[\d-]+|Nothing")
    monkeypatch.setattr(
        guards, "open_guard", lambda name: GuardUnderTest(name, scanner, os.getpid(), 0.1)
    )
    return scanner


def test_the_command_measures_a_file_and_prints_one_object(
    labelled: Path, pattern_guard: PatternGuard, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["guard", "eval", "--data", str(labelled), "--json", "--show-misses", "5"]
    assert cli.main(command) == 0
    value = json.loads(capsys.readouterr().out)
    assert list(value) == ["command", "commit", "machine", "config", "results", "misses"]
    assert value["config"]["suites"] == []
    rows = {row["metric"]: row for row in value["results"]}
    assert list(rows["leak_recall"]) == [
        *("suite", "metric", "value", "n", "ci95", "floor", "goal", "ok")
    ]
    recall = rows["leak_recall"]
    assert (recall["suite"], recall["value"], recall["n"]) == ("tiny", 0.5, 2)
    assert (recall["floor"], recall["goal"], recall["ok"]) == (0.95, 0.98, False)
    assert recall["ci95"] == pytest.approx([0.0126, 0.9874], abs=1e-4)
    assert rows["char_precision"]["value"] == pytest.approx(10 / 17)
    assert rows["leak_recall_PHONE_NUMBER"]["value"] == 1.0
    assert value["misses"] == [{"suite": "tiny", "entry": 0, "kind": "PERSON", "length": 3}]
    assert pattern_guard.closed


def test_misses_show_their_text_only_on_demand(
    labelled: Path, pattern_guard: PatternGuard, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["guard", "eval", "--data", str(labelled), "--show-misses", "1"]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "kind='PERSON' length=3" in shown
    assert "Ana" not in shown
    assert "leak_recall" in shown
    assert cli.main([*command, "--show-text"]) == 0
    assert "text='Ana'" in capsys.readouterr().out


def test_harmless_files_and_a_limit_and_suites_go_together(
    tmp_path: Path, pattern_guard: PatternGuard, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "harmless.jsonl"
    path.write_text('{"text": "Nothing"}\n{"text": "fine"}\n{"text": "fine"}\n', encoding="utf-8")
    command = ["guard", "eval", "--data", str(path), "--suite", "frames", "--limit", "2", "--json"]
    assert cli.main(command) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [(row["suite"], row["metric"], row["n"]) for row in rows] == [
        ("harmless", "flag_rate", 2),
        ("frames", "private_frame", 2),
        ("frames", "public_frame", 2),
    ]
    assert rows[0]["value"] == 0.5
    command = ["guard", "eval", "--suite", "harmless", "--show-misses", "2", "--json"]
    pattern_guard.pattern = re.compile(ALL)
    assert cli.main([*command, "--limit", "9"]) == 0
    assert [miss["entry"] for miss in json.loads(capsys.readouterr().out)["misses"]] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "no.json"], "no.json: No such file"),
        (["--suite", "nope"], "unknown suite 'nope'"),
        (["--limit", "0"], "--limit 0"),
        (["--show-misses", "-1"], "--show-misses -1"),
        (["--suite", "frames", "--peer", "clippy"], "unknown peer 'clippy'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_two(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["guard", "eval", *arguments]) == 2
    streams = capsys.readouterr()
    assert said in streams.err
    assert streams.err.count("\n") == 1
    assert streams.out == ""


def test_the_whole_command_runs_on_the_real_guard(
    labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["guard", "eval", "--data", str(labelled), "--json"]) == 0
    rows = {row["metric"]: row for row in json.loads(capsys.readouterr().out)["results"]}
    assert rows["leak_recall_PHONE_NUMBER"]["value"] == 1.0
    assert rows["leak_recall"]["n"] == 2


def test_the_suites_are_those_the_help_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["guard", "eval", "--help"]) == 0
    words = set(re.findall(r"[a-z]+", capsys.readouterr().out))
    assert set(SUITES) <= words


def test_public_data_is_read_whole() -> None:
    if not DATA.is_dir():
        pytest.skip("the shared data folder is absent")
    from ptmo_secure.privacy.datafiles import load

    texts, labelled = load(DATA / "presidio_synth.json")
    assert labelled
    assert (len(texts), sum(len(text.gold) for text in texts)) == (1500, 2863)
    for name in ("public_efficientqa.jsonl", "public_gsm8k_500.jsonl", "public_seed_tasks.jsonl"):
        assert len(load(DATA / name)[0]) >= 175
    assert len(load(DATA / "wnut17_train.conll")[0]) > 1000
