"""Token ids equal llama.cpp's, text round-trips, and no text yields a control token."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.engine.gguf_file import GgufFile
from ptmo_secure.engine.pretokenizers import PRE_TOKENIZERS
from ptmo_secure.engine.registry import resolve
from ptmo_secure.engine.tokenizer import Tokenizer
from ptmo_secure.errors import InputError, ModelFormatError
from tests.tiny_models import tokenizer_metadata

VECTORS = Path(__file__).parent.parent / "vectors"
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    return _read_vectors("smollm2_token_ids.json")


def _read_vectors(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / name).read_text(encoding="utf-8"))
    return loaded


def _metadata_of(model: str) -> dict[str, object]:
    try:
        path = resolve(model)
    except InputError as error:
        pytest.skip(str(error))
    with GgufFile(path) as file:
        return file.metadata


@pytest.fixture(scope="module")
def real_metadata() -> dict[str, object]:
    return _metadata_of("smollm2-135m")


@pytest.fixture(scope="module")
def gemma3() -> Tokenizer:
    return Tokenizer(_metadata_of("gemma3-270m"), "gemma3-270m")


@pytest.fixture(scope="module")
def smollm2(real_metadata: dict[str, object]) -> Tokenizer:
    return Tokenizer(real_metadata, "smollm2-135m")


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return Tokenizer(tokenizer_metadata())


def test_smollm2_ids_equal_llama_cpp(smollm2: Tokenizer, vectors: dict[str, Any]) -> None:
    assert len(vectors["cases"]) >= 60
    for case in vectors["cases"]:
        text = case["text"]
        assert smollm2.encode(text) == case["plain"], text
        assert smollm2.encode_with_special(text) == case.get("special", case["plain"]), text


def test_gemma3_ids_equal_llama_cpp(gemma3: Tokenizer) -> None:
    cases = _read_vectors("gemma3_token_ids.json")["cases"]
    assert len(cases) >= 80
    for case in cases:
        text = case["text"]
        assert gemma3.encode(text) == case["plain"], text
        assert gemma3.encode_with_special(text) == case.get("special", case["plain"]), text
        assert gemma3.decode(case["plain"]) == text.replace("\u2581", " ")


def test_gemma3_special_ids_are_the_files_own(gemma3: Tokenizer) -> None:
    assert (gemma3.bos_id, gemma3.eos_id, gemma3.eot_id, gemma3.unknown_id) == (2, 1, 106, 3)
    assert gemma3.stop_ids == {1, 106}
    assert gemma3.vocab_size == 262144
    assert gemma3.encode("hi", add_bos=True) == [2, *gemma3.encode("hi")]
    assert not gemma3.missing_bytes


@pytest.mark.parametrize("pre", ["default", "gpt-2", "llama-bpe", "qwen2"])
def test_other_splits_equal_llama_cpp_over_the_same_vocabulary(
    pre: str, real_metadata: dict[str, object], vectors: dict[str, Any]
) -> None:
    tokenizer = Tokenizer({**real_metadata, "tokenizer.ggml.pre": pre}, pre)
    expected = vectors["other_pre"][pre]
    for case, ids in zip(vectors["cases"], expected, strict=True):
        assert tokenizer.encode(case["text"]) == ids, case["text"]


def test_the_digit_step_of_smollm_is_kept(smollm2: Tokenizer) -> None:
    assert smollm2.encode("\n\n1.") == [1116, 33, 30]
    assert [smollm2.token_text(i) for i in smollm2.encode("2026")] == ["2", "0", "2", "6"]


def test_smollm2_special_ids_are_the_files_own(smollm2: Tokenizer) -> None:
    assert (smollm2.bos_id, smollm2.eos_id, smollm2.eot_id, smollm2.unknown_id) == (1, 2, 2, 0)
    assert smollm2.stop_ids == {0, 2}
    assert smollm2.token_text(1) == "<|im_start|>"
    assert not smollm2.add_bos_token
    assert smollm2.encode("hi", add_bos=True) == smollm2.encode("hi")
    # Six control characters and the lead bytes of unassigned planes have no token at all.
    assert {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D} < smollm2.missing_bytes


@given(text=TEXT)
@settings(max_examples=300, deadline=None)
def test_byte_level_text_round_trips(tiny: Tokenizer, text: str) -> None:
    assert tiny.decode(tiny.encode(text)) == text


@pytest.mark.parametrize("pre", ["default", "gpt-2", "llama-bpe", "qwen2", "stablelm2"])
@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_every_split_keeps_every_character(pre: str, text: str) -> None:
    tokenizer = _TINY.setdefault(pre, Tokenizer(tokenizer_metadata(pre)))
    assert tokenizer.decode(tokenizer.encode(text)) == text


_TINY: dict[str, Tokenizer] = {}


@given(
    text=st.lists(
        st.sampled_from(["<|im_end|>", "<|im_start|>", "<|", "im_end", "|>", "a", "\n"]),
        max_size=8,
    ).map("".join)
)
@settings(max_examples=200, deadline=None)
def test_plain_text_never_yields_a_control_token(tiny: Tokenizer, text: str) -> None:
    ids = tiny.encode(text)
    assert not any(tiny.is_control(index) for index in ids)
    assert tiny.decode(ids) == text


def test_control_token_names_become_tokens_only_on_request(tiny: Tokenizer) -> None:
    text = "<|im_start|>user\nhi<|im_end|>"
    ids = tiny.encode_with_special(text)
    assert ids[0] == 1
    assert ids[-1] == 2
    assert tiny.decode(ids) == "user\nhi"
    assert tiny.decode(ids, skip_special=False) == text


def test_offsets_cover_the_text_in_order(tiny: Tokenizer) -> None:
    text = "hello the 你好 <|im_end|>!"
    ids, offsets = tiny.encode_offsets(text, special=True)
    assert len(ids) == len(offsets)
    assert offsets[0][0] == 0
    assert offsets[-1][1] == len(text)
    end = text.index("<|im_end|>") + len("<|im_end|>")
    assert (text.index("<|im_end|>"), end) == offsets[ids.index(2)]
    covered = {char for begin, stop in offsets for char in range(begin, stop)}
    assert covered == set(range(len(text)))


def test_token_bytes_of_a_split_character_join_to_it(tiny: Tokenizer) -> None:
    ids = tiny.encode("é")
    assert [tiny.token_bytes(index) for index in ids] == [b"\xc3", b"\xa9"]
    assert tiny.token_bytes(2) == b""
    assert tiny.token_bytes(2, special=True) == b"<|im_end|>"


def test_bos_comes_first_where_the_model_wants_it() -> None:
    tokenizer = Tokenizer(tokenizer_metadata(**{"tokenizer.ggml.add_bos_token": True}))
    assert tokenizer.encode("a", add_bos=True) == [1, *tokenizer.encode("a")]
    assert tokenizer.encode_with_special("a", add_bos=True)[0] == 1
    llama3 = Tokenizer(tokenizer_metadata("llama-bpe", **{"tokenizer.ggml.add_bos_token": None}))
    assert llama3.add_bos_token


def test_user_defined_tokens_are_found_in_plain_text() -> None:
    metadata = tokenizer_metadata()
    kinds = np.array(metadata["tokenizer.ggml.token_type"])
    tokens = list(metadata["tokenizer.ggml.tokens"])  # type: ignore[call-overload]
    tokens[-1], kinds[-1] = "<think>", 4
    changed = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
    tokenizer = Tokenizer({**metadata, **changed})
    ids = tokenizer.encode("a<think>b")
    assert ids[1] == len(tokens) - 1
    assert tokenizer.decode(ids) == "a<think>b"


@pytest.mark.parametrize("bad", [-1, 320, 10**30, 1.5, "1", None])
def test_ids_outside_the_vocabulary_are_refused(tiny: Tokenizer, bad: Any) -> None:
    with pytest.raises(InputError, match=r"token id .* is not (in 0\.\.319|an integer)"):
        tiny.decode([bad])


def test_text_that_is_no_unicode_is_refused(tiny: Tokenizer) -> None:
    with pytest.raises(InputError, match="lone surrogate at position 2"):
        tiny.encode("ab\ud800")
    with pytest.raises(InputError, match="must be a string"):
        tiny.encode(b"ab")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.pre": "mystery"}, "pre-tokenizer 'mystery' is not supported"),
        ({"tokenizer.ggml.model": "bert"}, "'bert' is not supported"),
        ({"tokenizer.ggml.model": None}, "model: missing"),
        ({"tokenizer.ggml.tokens": None}, "tokens: missing"),
        ({"tokenizer.ggml.tokens": []}, "0 tokens"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "token_type: has 320 entries, not 2"),
        ({"tokenizer.ggml.merges": ["ab"]}, "'ab' is not a pair"),
        ({"tokenizer.ggml.merges": 7}, "not an array of strings"),
        ({"tokenizer.ggml.eos_token_id": 320}, "320 is not in 0..319"),
        ({"tokenizer.ggml.add_bos_token": 1}, "not a boolean"),
        (
            {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None},
            "bos_token_id: missing",
        ),
    ],
)
def test_bad_metadata_is_refused_by_key(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelFormatError, match=message) as caught:
        Tokenizer(tokenizer_metadata(**changes), "model.gguf")
    assert str(caught.value).startswith("model.gguf: tokenizer.ggml.")


def test_a_token_named_twice_is_refused() -> None:
    metadata = tokenizer_metadata()
    tokens = list(metadata["tokenizer.ggml.tokens"])  # type: ignore[call-overload]
    tokens[-1] = tokens[-2]
    with pytest.raises(ModelFormatError, match="a token appears twice"):
        Tokenizer({**metadata, "tokenizer.ggml.tokens": tokens})


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("smollm", ["It", "'s", " ", "2", "0", "2", "6", "!!", "\n\n", " x"]),
        ("gpt-2", ["It", "'s", " 2026", "!!", "\n\n", " x"]),
        ("llama-bpe", ["It", "'s", " ", "202", "6", "!!\n\n", " x"]),
        ("qwen2", ["It", "'s", " ", "2", "0", "2", "6", "!!\n\n", " x"]),
        ("default", ["It", "'", "s", " ", "202", "6", "!!", "\n\n", " x"]),
    ],
)
def test_text_is_cut_where_the_named_split_cuts(pre: str, pieces: list[str]) -> None:
    text = "It's 2026!!\n\n x"
    cut = PRE_TOKENIZERS[pre].build().pre_tokenize_str(text)
    assert [text[begin:end] for _, (begin, end) in cut] == pieces
