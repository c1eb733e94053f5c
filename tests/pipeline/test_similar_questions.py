"""Questions that mean the same have one answer from the cache; near ones, and other users', not."""

import json
from pathlib import Path

import numpy as np
import pytest
from worlds import CARRIES

from ptmo_secure.cloud.types import CloudRequest
from ptmo_secure.engine.sentence_encoder import MAX_TOKENS, SentenceEncoder
from ptmo_secure.errors import InputError
from ptmo_secure.hybrid.cache import CachedReply, ResponseCache
from ptmo_secure.hybrid.likeness import marks
from ptmo_secure.hybrid.settings import HybridSettings
from tests.cloud import hostile_server as hostile

PAIRS = [
    line.split("\t")
    for line in (Path(__file__).parent.parent / "data" / "question_pairs.tsv")
    .read_text(encoding="utf-8")
    .splitlines()
]
WORDS = "[PAD] [UNK] [CLS] [SEP] what is python the sky blue why ? a ##s".split()


class EverythingAlike:
    """An encoder to which all questions are one, so that the marks alone decide."""

    def encode(self, text):
        if len(text) > 500:
            raise InputError("too long")
        return np.array([1.0, 0.0], dtype=np.float32)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "What is the capital of Spain?"),
        ("Convert USD to EUR.", "Convert EUR to USD."),
        ("What is 17 times 23?", "What is 17 times 32?"),
        ("Name three fruits.", "Name five fruits."),
        ("Is it safe?", "Isn't it safe?"),
        ("How do I use `git rebase`?", "How do I use `git revert`?"),
        ('What does "go" mean?', 'What does "come" mean?'),
        ("Write to [PERSON_1].", "Write to [PERSON_2]."),
        ("What is 3 + 4?", "What is 3 * 4?"),
        ("What comes before it?", "What comes after it?"),
        ("Python is what?", "Java is what?"),
    ],
)
def test_what_tells_two_questions_apart_is_a_mark(one, other):
    assert marks(one) != marks(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is Python?", "Please describe Python."),
        ("Is it not safe?", "Isn\u2019t it safe?"),
        ("What is Ada\u2019s name for it?", "How is it called, Ada's way?"),
        ("I'd like a recipe.", "Give me a recipe."),
    ],
)
def test_what_only_words_a_question_is_none(one, other):
    assert marks(one) == marks(other)


def test_most_of_the_near_questions_are_told_apart_by_their_marks_alone():
    labels = [(label, marks(one) == marks(other)) for label, one, other in PAIRS]
    assert labels.count(("same", True)) >= 50 and labels.count(("same", False)) >= 1
    assert labels.count(("different", False)) >= 35  # the vectors tell the others apart
    assert len(PAIRS) >= 120


def alike(make, **more):
    cache = ResponseCache(encoder=EverythingAlike(), **more)
    return make(settings=HybridSettings(cache=cache))


def test_a_similar_public_question_is_answered_without_asking(make):
    here = alike(make)
    here.answer("What is Python?", user="ann")
    answer = here.answer("Please describe Python.", user="bob")
    assert answer.text == "from the cloud" and len(here.bodies()) == 1
    facts = next(step.facts for step in answer.trace if step.name == "cloud.answer")
    assert facts["cached"] is True
    here.answer("What is Java?", user="bob")
    assert len(here.bodies()) == 2


def test_a_similar_question_with_values_is_answered_to_its_session_alone(make):
    here = alike(make)
    here.says(hostile.stream(["Ok, [PERSON_1]."]))
    worded = CARRIES.replace("Write", "Draft")
    here.answer(CARRIES, user="ann", session="s")
    assert here.answer(worded, user="ann", session="s").text == "Ok, Dr. Andre Novak."
    assert len(here.bodies()) == 1
    for user, session in (("ann", "t"), ("bob", "s")):
        here.answer(worded, user=user, session=session)
    assert len(here.bodies()) == 3


def request(text, **more):
    return CloudRequest(({"role": "user", "content": text},), **more)


def test_a_question_in_another_conversation_or_of_another_length_is_another_one():
    cache = ResponseCache(encoder=EverythingAlike())
    cache.put(cache.key(request("what is it"), "m", 0, ""), CachedReply("a"))
    talk = CloudRequest(
        ({"role": "user", "content": "Hi"}, {"role": "user", "content": "tell me of it"})
    )
    others = (talk, request("tell me of it", max_tokens=7), request("tell of it " * 60))
    assert [cache.get(cache.key(other, "m", 0, "")) for other in others] == [None] * 3
    assert cache.get(cache.key(request("tell me of it"), "n", 0, "")) is None
    assert cache.get(cache.key(request("tell me of it"), "m", 0, "")).text == "a"


def test_vectors_that_are_not_near_enough_are_not_served():
    class Turned:
        def encode(self, text):
            angle = 0.3 * len(text.split())
            return np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)

    cache = ResponseCache(encoder=Turned(), least=0.9)
    cache.put(cache.key(request("a b c"), "m", 0, ""), CachedReply("three"))
    near = cache.get(cache.key(request("a b c d"), "m", 0, ""))
    assert near.text == "three" and near.likeness == pytest.approx(np.cos(0.3))
    assert cache.get(cache.key(request("a b c d e"), "m", 0, "")) is None


@pytest.mark.parametrize("least", [0, 1.1, float("nan")])
def test_an_impossible_cosine_is_refused(least):
    with pytest.raises(InputError, match="cosine"):
        ResponseCache(least=least)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small BERT of random weights, as files, and as the reference computes it."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
    )
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
    save_file(dict(model.state_dict()), folder / "model.safetensors")
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: number for number, word in enumerate(WORDS)},
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    encoder = SentenceEncoder(folder / "model.safetensors", folder / "tokenizer.json", heads=3)
    return encoder, model, torch


@pytest.mark.parametrize("text", ["What is Python?", "why", "the sky is blue the sky is blue"])
def test_a_vector_is_the_mean_of_the_references_states(tiny, text):
    encoder, model, torch = tiny
    words = text.lower().replace("?", " ?").split()
    ids = [2, *(WORDS.index(word) for word in words), 3]
    with torch.no_grad():
        states = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    expected = states.mean(axis=0) / np.linalg.norm(states.mean(axis=0))
    made = encoder.encode(text)
    assert encoder.tokens(text) == len(ids) and made.dtype == np.float32
    np.testing.assert_allclose(made, expected, atol=3e-6)  # float32 sums in another order


def test_a_text_that_is_too_long_and_files_of_something_else_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="tokens"):
        tiny[0].encode("sky " * MAX_TOKENS)
    other = tmp_path / "other"
    other.write_bytes(b"no model")
    with pytest.raises(InputError, match="no sentence encoder"):
        SentenceEncoder(other, other)
