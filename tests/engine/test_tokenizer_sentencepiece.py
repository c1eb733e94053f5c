"""Tokenizer model "llama" gives SentencePiece's own ids."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.engine.tokenizer import Tokenizer
from ptmo_secure.errors import ModelFormatError

sentencepiece = pytest.importorskip("sentencepiece")

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "What is Python? Python is a programming language.",
    "She sells sea shells by the sea shore, and they sell well.",
    "    indented code:\n\treturn x + 1",
    "Numbers like 12, 123 and 2026 are split into pieces.",
    "Ünïcödé and café au lait, naïve façade.",
)


def _train() -> Any:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.98,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def _metadata(processor: Any) -> dict[str, object]:
    size = processor.get_piece_size()
    kinds = []
    for index in range(size):
        kind = 1
        if processor.is_unknown(index):
            kind = 2
        elif processor.is_control(index):
            kind = 3
        elif processor.is_byte(index):
            kind = 6
        kinds.append(kind)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(index) for index in range(size)],
        "tokenizer.ggml.scores": np.array(
            [processor.get_score(index) for index in range(size)], np.float32
        ),
        "tokenizer.ggml.token_type": np.array(kinds, dtype=np.int32),
        "tokenizer.ggml.bos_token_id": processor.bos_id(),
        "tokenizer.ggml.eos_token_id": processor.eos_id(),
        "tokenizer.ggml.unknown_token_id": processor.unk_id(),
    }


PROCESSOR = _train()
METADATA = _metadata(PROCESSOR)
TOKENIZER = Tokenizer(METADATA)
WORDS = [word for sentence in SENTENCES for word in sentence.split(" ")]
TEXT = st.one_of(
    st.lists(st.sampled_from([*WORDS, "", "sell", "sss", "你好", "\n", "😀"]), max_size=12).map(
        " ".join
    ),
    st.text(alphabet="aehlnorst Spé,.1\n", max_size=40),
    st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0▁")),
)


@given(text=TEXT)
@settings(max_examples=400, deadline=None)
def test_ids_equal_sentencepiece_and_text_round_trips(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert ids == PROCESSOR.encode(text)
    assert TOKENIZER.decode(ids) == text


def test_characters_outside_the_vocabulary_become_their_bytes() -> None:
    ids = TOKENIZER.encode("😀")
    assert b"".join(TOKENIZER.token_bytes(index) for index in ids) == b" \xf0\x9f\x98\x80"


def test_names_of_control_tokens_in_text_stay_text() -> None:
    ids = TOKENIZER.encode("a</s>b")
    assert not any(TOKENIZER.is_control(index) for index in ids)
    assert TOKENIZER.encode_with_special("a</s>")[-1] == PROCESSOR.eos_id()
    assert TOKENIZER.stop_ids == {PROCESSOR.eos_id()}


def test_bos_is_the_default_and_the_space_prefix_is_obeyed() -> None:
    assert TOKENIZER.add_bos_token
    assert TOKENIZER.encode("The", add_bos=True)[0] == PROCESSOR.bos_id()
    bare = Tokenizer({**METADATA, "tokenizer.ggml.add_space_prefix": False})
    assert bare.decode(bare.encode("The fox")) == "The fox"
    assert bare.encode("The fox") != TOKENIZER.encode("The fox")
    assert TOKENIZER.encode("") == []


def test_long_text_takes_no_quadratic_time() -> None:
    text = "the sea shells " * 8000
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_missing_scores_and_malformed_byte_tokens_are_refused() -> None:
    without = {key: value for key, value in METADATA.items() if not key.endswith("scores")}
    with pytest.raises(ModelFormatError, match="scores: missing"):
        Tokenizer(without)
    tokens = ["<0xZZ>" if t == "<0x41>" else t for t in METADATA["tokenizer.ggml.tokens"]]  # type: ignore[attr-defined]
    with pytest.raises(ModelFormatError, match="'<0xZZ>' is not a byte token"):
        Tokenizer({**METADATA, "tokenizer.ggml.tokens": tokens})
