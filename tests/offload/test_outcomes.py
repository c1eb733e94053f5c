"""Outcome tables are read as they are, and a bad one is refused in one line that helps."""

import gzip
import json

import numpy as np
import pytest

from ptmo_secure.errors import InputError
from ptmo_secure.offload import outcomes, synthetic

MODELS = ("llama-3.1-8b-instruct", "llama-3.1-nemotron-51b-instruct")


def entry(question="What is 2 + 2?", task="math", scores=(0.0, 1.0)):
    return {"task": task, "question": question, "scores": dict(zip(MODELS, scores, strict=True))}


def write_table(folder, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "llmrouter_outcomes.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def write_mmlu(folder, text):
    (folder / "routellm_mmlu_outcomes.csv.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def turn(**changes):
    made = {"question": "q", "task_cat": "t", "action": 1, "image_index": [2, 0], "answer": "Yes."}
    return {**made, "score": 1.25, "interaction_time": 2.0, "usage_cost": 0.01, **changes}


def talk(*turns):
    return [{"interactions": list(turns), "association_score": [[0.1, 0.2, 0.3]] * len(turns)}]


def test_m4a1_has_the_conversations_of_february_2025(m4a1):
    turns = [turn for conversation in m4a1 for turn in conversation]
    assert (len(m4a1), len(turns)) == (100, 352)
    assert len({turn.question for turn in turns}) == 20
    assert sum(not turn.cloud for turn in turns) == 170
    assert max(turn.score for turn in turns) == 9.0
    assert sum(turn.score == 0 for turn in turns) >= 50  # refusals count as 0


@pytest.mark.parametrize(
    ("name", "rows", "local", "cloud", "groups"),
    [("llmrouter", 5_489, 0.5646, 0.6248, 14), ("mmlu", 10_646, 0.6737, 0.8143, 47)],
)
def test_a_question_table_is_read_whole(data, name, rows, local, cloud, groups):
    table = outcomes.load_table(name, data)
    assert len(table.questions) == pytest.approx(rows, abs=25)  # a repeated question counts once
    assert table.scores.mean(axis=0) == pytest.approx([local, cloud], abs=0.003)
    assert len(set(table.groups)) == groups


def test_a_small_table_is_read(tmp_path):
    table = outcomes.load_table("llmrouter", write_table(tmp_path, entry(), entry("Why?", "qa")))
    assert table.questions == ("What is 2 + 2?", "Why?")
    assert table.groups == ("math", "qa")
    assert table.scores.tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert table.take(np.array([1])).questions == ("Why?",)


def test_of_a_repeated_question_the_first_row_counts(tmp_path):
    folder = write_table(tmp_path, entry(scores=(0.0, 1.0)), entry(scores=(1.0, 0.0)))
    assert outcomes.load_table("llmrouter", folder).scores.tolist() == [[0.0, 1.0]]


def test_a_line_separator_inside_a_question_ends_no_row(tmp_path):
    raw = json.dumps(entry("one\u2028two"), ensure_ascii=False)
    assert outcomes.load_table("llmrouter", write_table(tmp_path, raw)).questions == (
        "one\u2028two",
    )
    text = 'prompt,mixtral-8x7b,gpt-4-1106,domain\n"one\u2028two",True,False,law\n'
    assert outcomes.load_table("mmlu", write_mmlu(tmp_path, text)).questions == ("one\u2028two",)


def test_a_question_of_several_lines_is_one_row_of_mmlu(tmp_path):
    text = 'prompt,mixtral-8x7b,gpt-4-1106,domain\n"Which?\nA. 1\nB. 2",True,False,law\n'
    table = outcomes.load_table("mmlu", write_mmlu(tmp_path, text))
    assert table.questions == ("Which?\nA. 1\nB. 2",)
    assert table.scores.tolist() == [[1.0, 0.0]]


def test_a_logged_turn_keeps_its_images_and_score():
    (turns,) = outcomes.parse_m4a1(talk(turn(), turn(action=0, image_index=None)), "here")
    assert turns[0].images == (0, 2) and turns[0].cloud and turns[0].score == 1.25
    assert turns[1].images == () and not turns[1].cloud
    assert turns[0].association == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("words", ["I am sorry, no.", "I don't have it.", "I can't see."])
def test_a_refusal_scores_nothing_as_in_tmo(words):
    (turns,) = outcomes.parse_m4a1(talk(turn(answer=words)), "here")
    assert turns[0].score == 0


@pytest.mark.parametrize("name", ["m4a1", "llmrouter", "mmlu"])
def test_a_missing_table_says_how_to_get_it(tmp_path, name):
    for folder in (None, tmp_path):
        with pytest.raises(InputError, match=r"TMO|LLMRouter|RouteLLM") as caught:
            outcomes.table_file(name, folder)
        assert "\n" not in str(caught.value)
        assert ("PTMO_DATA" if folder is None else str(tmp_path)) in str(caught.value)


def test_the_folder_comes_from_the_option_then_the_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("PTMO_DATA", raising=False)
    assert outcomes.data_folder(None) is None
    monkeypatch.setenv("PTMO_DATA", str(tmp_path))
    assert outcomes.data_folder(None) == tmp_path
    with pytest.raises(InputError, match=r"--data .*nowhere: no such folder"):
        outcomes.data_folder(tmp_path / "nowhere")
    monkeypatch.setenv("PTMO_DATA", str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"PTMO_DATA .*gone: no such folder"):
        outcomes.data_folder(None)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["{"], "line 1: not JSON"),
        (["[" * 100_000], "line 1: not JSON"),
        ([{"task": "a", "question": "b"}], "line 1 lacks"),
        ([entry(scores=(0.5, None))], "line 1 lacks"),
        ([entry(scores=(0.5, 1.5))], r"not in \[0, 1\]"),
        ([entry(scores=(float("nan"), 1.0))], r"not in \[0, 1\]"),
        ([], "holds no row"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, lines, words):
    with pytest.raises(InputError, match=words):
        outcomes.load_table("llmrouter", write_table(tmp_path, *lines))


def test_a_file_that_is_no_gzip_file_is_refused(tmp_path):
    path = write_table(tmp_path, entry()) / "llmrouter_outcomes.jsonl.gz"
    whole = path.read_bytes()
    for damaged in (b"plain", whole[:-9], whole[:20]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="not a whole gzip file"):
            outcomes.load_table("llmrouter", tmp_path)
    path.write_bytes(gzip.compress(b"\xff\xfe"))
    with pytest.raises(InputError, match="not UTF-8 at byte 0"):
        outcomes.load_table("llmrouter", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        talk(),
        talk(turn(action=2)),
        talk(turn(image_index=[3])),
        talk(turn(score="much")),
        [{"interactions": [turn()], "association_score": []}],
        [{"interactions": [turn()], "association_score": [[1, 2]]}],
        [7],
    ],
)
def test_conversations_of_another_form_are_refused(content):
    with pytest.raises(InputError, match="here: "):
        outcomes.parse_m4a1(content, "here")


def test_a_table_that_does_not_fit_itself_is_refused():
    with pytest.raises(InputError, match="do not fit"):
        outcomes.OutcomeTable("t", ("a",), ("g",), np.zeros((2, 2)), ("s", "l"))
    with pytest.raises(InputError, match="twice"):
        outcomes.OutcomeTable("t", ("a", "a"), ("g", "g"), np.zeros((2, 2)), ("s", "l"))


def test_the_synthetic_tables_are_the_same_every_time_and_leave_something_to_learn():
    table = synthetic.question_table()
    again = synthetic.question_table()
    assert table.questions == again.questions and (table.scores == again.scores).all()
    local, cloud = table.scores.mean(axis=0)
    oracle = table.scores.max(axis=1).mean()
    assert local + 0.1 < cloud < oracle - 0.05
    talks = synthetic.conversations()
    assert talks == synthetic.conversations()
    assert {len(turns) for turns in talks} == {2, 3, 4, 5}


def test_tokens_are_words_and_marks_and_a_third_more():
    assert outcomes.count_tokens("") == 1
    assert outcomes.count_tokens("What is Python?") == round(1.3 * 4)
