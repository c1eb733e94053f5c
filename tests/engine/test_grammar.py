"""Grammars take what is valid and nothing else, and their way out always leads out."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.engine.constraint import ByteVocabulary, Constraint
from ptmo_secure.engine.grammar import Chain, Choice, JsonObject
from ptmo_secure.engine.sampler import Sampler, SamplingParams
from ptmo_secure.engine.tokenizer import Tokenizer
from tests.tiny_models import tokenizer_metadata

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("abü"), inner), max_leaves=12
)


def take(grammar, text):
    return all(grammar.step(byte) for byte in text)


@settings(deadline=None)
@given(st.dictionaries(st.text("key é"), VALUES), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_every_object_as_it_is_usually_written_is_taken(value, separators):
    grammar = JsonObject()
    text = json.dumps(value, ensure_ascii=False, separators=separators).encode()
    assert take(grammar, text) and grammar.done and grammar.closing() == b""
    assert not grammar.step(0x20)


@pytest.mark.parametrize("seed", range(300))
def test_any_walk_can_be_closed_at_any_place_and_is_json(seed):
    walk = random.Random(seed)
    grammar, text = JsonObject(), b""
    for _ in range(walk.randrange(200)):
        allowed = [byte for byte in range(256) if grammar.copy().step(byte)]
        if not allowed:
            break
        if walk.random() < 0.6:  # seldom letters, or the walk stays within one string
            allowed = [byte for byte in allowed if chr(byte) in '{}[]",:\\tf-0.1'] or allowed
        byte = walk.choice(allowed)
        assert grammar.step(byte)
        text += bytes([byte])
    closing = grammar.closing()
    whole = text + closing
    assert isinstance(json.loads(whole.decode()), dict), whole
    assert take(grammar, closing) and grammar.done


@pytest.mark.parametrize(
    "text",
    [
        *(b"[1]", b"1", b" {}", b"{1:2}", b'{"a"  :1}', b'{"a":01}', b'{"a":.5}', b'{"a":1.}'),
        *(b'{"a":+1}', b'{"a":tru}', b'{"a":1,}', b"{,}", b'{"a":[1,]}', b'{"a":[1}', b"{}}"),
        *(b'{"a":"\n"}', b'{"a":"\x80"}', b'{"a":"\xc0\x80"}', b'{"a":"\xed\xa0\x80"}'),
        *(b'{"a":"\xf4\x90\x80\x80"}', b'{"a":"\\x"}', b'{"a":1e5}', b'{"a":NaN}', b'{"a" 1}'),
        b'{"a":' + b"[" * 20,
    ],
)
def test_what_is_no_object_is_refused_where_it_goes_wrong(text):
    assert not take(JsonObject(), text)


def test_a_refused_byte_changes_nothing():
    grammar = JsonObject()
    assert take(grammar, b'{"a":')
    assert not grammar.step(ord("x"))
    assert take(grammar, b'"b"}') and grammar.done


def test_a_choice_takes_one_of_its_texts_and_a_chain_goes_on_after_it():
    chain = Chain([Choice([b"get:", b"got:"]), JsonObject()])
    assert chain.closing() == b"get:{}"
    assert take(chain, b"go") and not chain.step(ord("e"))
    copied = chain.copy()
    assert take(chain, b"t:{}") and chain.done
    assert not copied.done and copied.closing() == b"t:{}"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("tokens", [4, 12, 60])
def test_tokens_chosen_from_noise_make_an_object_in_time(temperature, tokens):
    tokenizer = Tokenizer(tokenizer_metadata())
    vocabulary = ByteVocabulary(tokenizer)
    noise = np.random.default_rng(tokens)
    for seed in range(10):
        sampler = Sampler(SamplingParams(temperature=temperature, seed=seed))
        constraint, ids = Constraint(vocabulary, JsonObject()), []
        while not constraint.done:
            logits = (3 * noise.standard_normal(tokenizer.vocab_size)).astype(np.float32)
            before = logits.copy()
            ids.append(constraint.choose(sampler, logits, ids, tokens - len(ids)))
            assert np.array_equal(logits, before)
        assert len(ids) <= tokens
        assert isinstance(json.loads(tokenizer.decode(ids)), dict)


def test_the_likeliest_token_that_fits_is_chosen():
    tokenizer = Tokenizer(tokenizer_metadata())
    constraint = Constraint(ByteVocabulary(tokenizer), JsonObject())
    (brace,), (quote,), (letter,) = (tokenizer.encode(text) for text in '{"x')
    logits = np.full(tokenizer.vocab_size, -5, np.float32)
    logits[letter], logits[quote], logits[brace] = 9, 8, 7
    sampler = Sampler(SamplingParams())
    chosen = [constraint.choose(sampler, logits, [], 100) for _ in range(3)]
    assert chosen == [brace, quote, letter]
