"""Tokens of two vocabularies, compared by their bytes."""

import math
from pathlib import Path

import numpy as np
import pytest

from ptmo_secure.cloud.fusion.align import TokenMap, is_sound, same_spans, token_ends
from ptmo_secure.engine import registry
from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.engine.tokenizer import Tokenizer
from ptmo_secure.errors import InputError
from tests.cloud.fusion_doubles import token
from tests.tiny_models import tokenizer_metadata

TEXTS = ("public_domain.txt", "mixed_text.txt")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(tokenizer_metadata())


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return TokenMap(tokenizer)


def id_of(tokenizer, text):
    (index,) = tokenizer.encode(text)
    return index


def test_a_token_of_the_same_bytes_is_found(tokenizer, tokens):
    for text in (" the", "hello", "x", "\n\n"):
        assert tokens.token_id(text.encode()) == id_of(tokenizer, text)


def test_every_byte_is_found_also_one_that_is_no_character(tokenizer, tokens):
    for byte in range(256):
        found = tokens.token_id(bytes([byte]))
        assert tokenizer.token_bytes(found) == bytes([byte])


def test_an_unknown_token_counts_for_the_longest_token_it_begins_with(tokenizer, tokens):
    assert tokens.token_id(b" theory") == id_of(tokenizer, " the")
    assert tokens.token_id(b"helloes") == id_of(tokenizer, "hello")
    assert TokenMap(tokenizer, exact=True).token_id(b" theory") is None


@pytest.mark.parametrize("name", [b"", b"<|im_end|>", b"<|eot_id|>", b"<end_of_turn>", b"<eos>"])
def test_names_of_turn_ends_and_no_bytes_stand_for_the_end(tokenizer, tokens, name):
    assert tokens.token_id(name) == tokenizer.eot_id
    assert tokens.token_id(name) in tokenizer.stop_ids


@pytest.mark.parametrize("text", [b"</s>", b"<|", b"|>", b"<|A|>", b"<eos"])
def test_text_that_only_looks_like_markup_is_no_end(tokens, tokenizer, text):
    assert tokens.token_id(text) not in tokenizer.stop_ids


def test_a_character_that_the_server_broke_counts_for_nothing(tokens):
    assert tokens.token_id("\ufffd".encode()) is None
    assert tokens.token_id(" caf\ufffd".encode()) is None


def test_masses_of_tokens_with_the_same_id_add_up_and_the_least_listed_is_the_ceiling(
    tokens, tokenizer
):
    top = tokens.top([token(b" the", 0.4), token(b" theory", 0.2), token(b"x", 0.1)])
    assert top is not None
    masses = dict(zip(top.ids.tolist(), np.exp(top.logprobs), strict=True))
    assert masses == {
        id_of(tokenizer, " the"): pytest.approx(0.6),
        id_of(tokenizer, "x"): pytest.approx(0.1),
    }
    assert top.ceiling == pytest.approx(math.log(0.1))


def test_what_counts_for_no_token_is_left_out_and_nothing_at_all_is_none(tokens):
    broken = token("\ufffd".encode(), 0.5)
    top = tokens.top([broken, token(b"x", 0.25)])
    assert top is not None
    assert np.exp(top.logprobs).tolist() == pytest.approx([0.25])
    assert tokens.top([broken]) is None
    assert tokens.top([token(b"x", 0.0)]) is None  # -9999.0, as some servers say "never"


def test_alternatives_that_can_be_probabilities_are_sound():
    assert is_sound([token(b"a", 0.7), token(b"b", 0.3)])
    assert is_sound([token(b"a", 0.7), token(b"b", 0.0)])


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        [token(b"a", 0.7), token(b"b", 0.4)],
        [token(b"a", 2.0)],
        [token(b"a", 0.0)],
        [token(b"a" * 300, 0.5)],
        [token(b"a", 0.001)] * 65,
    ],
    ids=["none", "mass above 1", "p above 1", "no mass", "too long", "too many"],
)
def test_alternatives_that_cannot_be_probabilities_are_not(tokens):
    assert not is_sound(tokens)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.5])
def test_a_logprob_that_is_none_is_not_sound(value):
    sound = token(b"a", 0.5)
    assert not is_sound([sound, type(sound)("b", b"b", value)])


def test_spans_by_hand():
    #   |ab|cd|ef|  and  |ab|c|def|
    left, right = token_ends([b"ab", b"cd", b"ef"]), token_ends([b"ab", b"c", b"def"])
    assert (left, right) == ([2, 4, 6], [2, 3, 6])
    spans, starts = same_spans(left, right)
    assert spans == pytest.approx(1 / 3)  # ab
    assert starts == pytest.approx(2 / 3)  # ab, cd
    assert same_spans(left, left) == (1.0, 1.0)


@pytest.mark.parametrize("name", TEXTS)
def test_smollm2_and_gemma_line_up_on_at_least_94_percent_of_english_prose(name):
    made = []
    for model in ("smollm2-135m", "gemma3-270m"):
        try:
            path = registry.resolve(model)
        except InputError:
            pytest.skip(f"{model} is not pulled (ptmo model pull {model})")
        with ModelSource(path) as source:
            made.append(Tokenizer(source.metadata))
    text = (Path(__file__).parents[1] / "data" / name).read_text(encoding="utf-8")
    text = text if name == TEXTS[0] else text[: text.index("A list of")]  # the rest is no prose
    ends = [token_ends(map(t.token_bytes, t.encode(text))) for t in made]
    assert ends[0][-1] == ends[1][-1] == len(text.encode())
    spans, starts = same_spans(*ends)
    assert spans >= 0.94
    assert starts >= 0.96
