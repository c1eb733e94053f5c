"""Data files: what is read, and how damaged or hostile ones are refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.errors import InputError
from ptmo_secure.privacy.datafiles import LabelledText, load

GOOD = {
    "full_text": "Ana is 4.",
    "spans": [
        {"entity_type": "AGE", "start_position": 7, "end_position": 8, "entity_value": "4"},
        {"entity_type": "PERSON", "start_position": 0, "end_position": 3},
    ],
    "template_id": 3,
}


def write(folder: Path, name: str, value: object) -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def span(**fields: object) -> dict[str, object]:
    first = {"entity_type": "X", "start_position": 0, "end_position": 3}
    return {"full_text": "Ana", "spans": [{**first, **fields}]}


def test_presidios_format_is_read_with_spans_in_order(tmp_path: Path) -> None:
    texts, labelled = load(write(tmp_path, "a.json", [GOOD, {"full_text": "Hi", "spans": []}]))
    assert labelled
    assert texts == [
        LabelledText("Ana is 4.", ((0, 3, "PERSON"), (7, 8, "AGE"))),
        LabelledText("Hi", ()),
    ]


def test_harmless_lines_are_read_under_any_of_the_usual_names(tmp_path: Path) -> None:
    lines = '{"question": "why?"}\n\n{"id": 1, "instruction": "Go\u2028on."}\n{"text": "x"}\n'
    texts, labelled = load(write(tmp_path, "q.jsonl", lines))
    assert not labelled
    assert [text.text for text in texts] == ["why?", "Go\u2028on.", "x"]


def test_sentences_with_an_entity_are_left_out_of_a_conll_file(tmp_path: Path) -> None:
    rows = "It\tO\nrains\tO\n\nIn\tO\nRome\tB-location\n\t\nYes\tO\r\n\r\nOk\tO\n"
    texts, labelled = load(write(tmp_path, "t.conll", rows))
    assert not labelled
    assert [text.text for text in texts] == ["It rains", "Yes", "Ok"]


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ({"full_text": "x"}, "not a list"),
        ([1], "entry 0: not an object"),
        ([GOOD, {"spans": []}], "entry 1: no text under 'full_text'"),
        ([{"full_text": 5, "spans": []}], "entry 0: no text"),
        ([{"full_text": "x"}], "entry 0: 'spans' is not a list"),
        ([{"full_text": "x", "spans": [7]}], "entry 0, span 0: not an object"),
        ([span(start_position="0")], "entry 0, span 0: start_position"),
        ([span(end_position=True)], "not both integers"),
        ([span(end_position=4)], r"0\.\.4 is not in its text of 3"),
        ([span(start_position=3)], r"3\.\.3"),
        ([span(start_position=-1)], r"-1\.\.3"),
        ([span(entity_type=None)], "'entity_type' is not a name"),
        ([span(entity_type="")], "'entity_type' is not a name"),
        ([], "holds no text"),
        ([{"full_text": "\ud800", "spans": []}], "lone surrogate"),
        ("[1, 2", "line 1"),
        ("", "line 1"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5_000, "not JSON"),
    ],
)
def test_a_damaged_entry_is_named_in_one_line(entries: object, where: str, tmp_path: Path) -> None:
    path = write(tmp_path, "bad.json", entries)
    with pytest.raises(InputError, match=where) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 120


def test_lines_that_are_no_objects_with_a_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2: not an object"):
        load(write(tmp_path, "a.jsonl", '{"text": "a"}\n[]\n'))
    with pytest.raises(InputError, match="line 1: not JSON"):
        load(write(tmp_path, "a.jsonl", "{nope\n"))
    with pytest.raises(InputError, match="no tab"):
        load(write(tmp_path, "a.conll", "It O\n"))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"ends in \.json"):
        load(write(tmp_path, "a.csv", "x"))
    with pytest.raises(InputError, match="holds no text"):
        load(write(tmp_path, "a.jsonl", "\n"))
    (tmp_path / "b.json").write_bytes(b'["\xff"]')
    with pytest.raises(InputError, match="not UTF-8 at byte 2"):
        load(tmp_path / "b.json")
    (tmp_path / "d.json").mkdir()
    with pytest.raises(InputError, match="directory"):
        load(tmp_path / "d.json")


def test_no_error_quotes_the_text(tmp_path: Path) -> None:
    secret = "hunter2-secret"
    for entry in (
        {"full_text": secret, "spans": [{"entity_type": secret, "start_position": 99}]},
        {"full_text": secret, "spans": secret},
        {"text": secret},
    ):
        with pytest.raises(InputError) as caught:
            load(write(tmp_path, "x.json", [entry]))
        assert secret not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["full_text", "spans", "start_position", "end_position", "x"]),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_read_or_refused_by_an_input_error(
    value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.getbasetemp(), "any.json", value)
    try:
        texts, _ = load(path)
    except InputError:
        return
    assert all(0 <= s < e <= len(t.text) for t in texts for s, e, _ in t.gold)
