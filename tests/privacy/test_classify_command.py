"""`ptmo classify` as a user types it."""

import io
import json
import sys

import pytest

from ptmo_secure.cli import main

EXAMPLE = "My password is secret123. What is Python?"


def test_json_is_one_object_with_level_score_and_spans(capsys):
    assert main(["classify", EXAMPLE, "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert (found["level"], found["score"]) == ("SEMI_SENSITIVE", 0.75)
    assert found["spans"] == [
        {"start": 15, "end": 24, "kind": "SECRET", "severity": 0.75, "source": "rule"}
    ]
    assert (found["reason"], found["error"]) == ("request_stands_alone", None)
    assert "secret123" not in shown.out + shown.err


def test_the_explanation_says_why_and_quotes_nothing(capsys):
    assert main(["classify", EXAMPLE, "--explain"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == "SEMI_SENSITIVE  score 0.75"
    assert "SECRET at 15-24, by rule, severity 0.75" in shown
    assert "a request is left" in shown
    assert "secret123" not in shown


def test_a_dash_reads_stdin(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("My password is secret123."))
    assert main(["classify", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["level"] == "PRIVATE"


@pytest.mark.parametrize("text", ["", "  \n", "\udcff"], ids=["empty", "blank", "not UTF-8"])
def test_bad_input_is_one_line_and_exit_code_two(text, capsys):
    assert main(["classify", text]) == 2
    assert capsys.readouterr().err.startswith("error: the prompt is")


def test_a_text_that_the_guard_refuses_is_private_with_exit_code_one(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("x " * 600_000))
    assert main(["classify", "-", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["level"], found["score"], found["error"]) == ("PRIVATE", 1.0, "TeeError")
