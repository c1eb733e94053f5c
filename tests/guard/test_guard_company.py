"""A doubtful word counts in company: beside a sure one, or beside what the rules found."""

import functools
import json

import numpy as np
import pytest

from tee_sim.guard.detect import find_spans
from tee_sim.guard.ner import MODEL, TokenClassifier, read_checked
from tee_sim.guard.normalise.view import View
from tee_sim.guard.reading import model_spans

# What counts, whatever the shipped model's numbers are
NUMBERS = {"alone": 0.55, "small": 0.8, "small_alone": 0.9, "capital": 0.05, "capital_alone": 0.3}


@pytest.fixture(scope="module")
def classifier():
    files = read_checked(MODEL)
    settings = json.loads(files["labels.json"]) | NUMBERS
    settings["thresholds"]["PERSON"] = 0.1
    return TokenClassifier({**files, "labels.json": json.dumps(settings).encode()})


def names_found(classifier, monkeypatch, sure, text="ann met bob", **known):
    """What is found of three words when the model gives them these probabilities."""
    kind = classifier._kinds.index("PERSON")
    column = int(np.flatnonzero(classifier._by_kind[:, kind])[0])  # B-PERSON
    probabilities = np.zeros((3, len(classifier._begins)), dtype=np.float32)
    probabilities[:, column] = sure
    probabilities[:, 0] = 1 - probabilities[:, column]
    monkeypatch.setattr(classifier, "_probabilities", lambda _: probabilities)
    return [text[found.start : found.end] for found in classifier.find(text, **known)]


def test_a_doubtful_word_counts_beside_a_sure_one_and_not_alone(classifier, monkeypatch):
    found = functools.partial(names_found, classifier, monkeypatch)
    assert found([0.3, 0.0, 0.0]) == []
    assert found([0.3, 0.0, 0.3]) == []
    assert found([0.3, 0.0, 0.6]) == ["ann", "bob"]
    assert found([0.3, 0.0, 0.0], accompanied=True) == ["ann"]
    assert found([0.01, 0.0, 0.9]) == ["bob"]


def test_what_the_rules_found_is_company_for_a_doubtful_word():
    asked = []

    class Listens:
        def find(self, text, *, accompanied=False):
            asked.append(accompanied)
            return []

    text = "Bob, phone: 555-123-4567"
    for known in ((), find_spans(text)):
        model_spans(Listens(), [View.identity(text)], known)
    assert asked == [False, True]


def test_in_a_text_that_writes_names_with_capitals_a_small_word_must_be_surer(
    classifier, monkeypatch
):
    found = functools.partial(names_found, classifier, monkeypatch, accompanied=True)
    doubtful = [0.3, 0.0, 0.3]
    assert found(doubtful) == ["ann", "bob"]
    assert found(doubtful, "Ann met bob") == ["Ann"]
    assert found([0.3, 0.0, 0.97], "Ann met bob") == ["Ann", "bob"]
    assert found(doubtful, "ANN MET BOB") == ["ANN", "BOB"]


def test_a_capital_within_a_sentence_needs_less_and_one_that_begins_it_no_less(
    classifier, monkeypatch
):
    found = functools.partial(names_found, classifier, monkeypatch)
    assert found([0.0, 0.0, 0.07], "Ann met Bob", accompanied=True) == ["Bob"]
    assert found([0.07, 0.0, 0.0], "Ann met Bob", accompanied=True) == []
    assert found([0.0, 0.0, 0.07], "ann met Bob", accompanied=True) == []
    assert found([0.0, 0.0, 0.4], "Ann met Bob") == ["Bob"]
    assert found([0.4, 0.0, 0.0], "Ann met Bob") == []
    assert found([0.0, 0.0, 0.7], "Ann met bob") == []
