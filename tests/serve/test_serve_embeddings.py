"""Vectors of sentences by the unmodified client: made here, in turns, by a pulled encoder."""

import base64
import logging
import threading
from pathlib import Path

import numpy as np
import openai
import pytest

from ptmo_secure.engine import registry
from ptmo_secure.engine.sentence_encoder import MAX_TOKENS, SentenceEncoder
from ptmo_secure.errors import InputError
from ptmo_secure.serve.embedder import MODEL_ID, Embedder
from ptmo_secure.serve.users import KeyFile
from tests.serve.serving import HELLO, MODEL, FakeRouter, serving

PATH = "/v1/embeddings"


class CountingEncoder:
    """Two numbers: how many words a text has, and how many characters; scaled to length 1.

    Args:
        gate: waited for before each vector.
    """

    width = 2

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate, self.encoded, self.threads = gate, [], set()

    def tokens(self, text):
        return len(text.split()) + 2

    def encode(self, text):
        self.encoded.append(text)
        self.threads.add(threading.current_thread().name)
        if self.gate is not None:
            assert self.gate.wait(30)
        vector = np.array([len(text.split()), len(text)], dtype=np.float32)
        return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def served():
    made = Embedder(is_here=lambda: True, load=CountingEncoder)
    with serving(FakeRouter(), embedder=made) as served:
        yield served


@pytest.fixture
def client(served):
    with served.client() as client:
        yield client


@pytest.mark.parametrize("form", ["base64", "float", None])
def test_a_text_has_the_encoders_vector_in_each_form(client, form):
    # Unless told the client asks for base64 and reads it itself
    given = {} if form is None else {"encoding_format": form}
    answer = client.embeddings.create(model=MODEL_ID, input=["a bc", "defg"], **given)
    assert [row.index for row in answer.data] == [0, 1]
    for row, text in zip(answer.data, ["a bc", "defg"], strict=True):
        numbers = row.embedding
        if form == "base64":
            numbers = np.frombuffer(base64.b64decode(numbers), dtype="<f4")
        np.testing.assert_array_equal(
            np.array(numbers, dtype=np.float32), CountingEncoder().encode(text)
        )
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == (MODEL_ID, 7, 7)


def test_one_text_is_a_list_of_one_and_the_encoder_is_listed_last(client):
    (row,) = client.embeddings.create(model=MODEL_ID, input="abc", dimensions=2).data
    assert row.index == 0 and len(row.embedding) == 2
    assert [each.id for each in client.models.list()] == [MODEL, MODEL_ID]
    assert client.models.retrieve(MODEL_ID).id == MODEL_ID


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"input": ""}, 400, "input[0]: there is nothing in it"),
        ({"input": ["a", "  "]}, 400, "input[1]: there is nothing in it"),
        ({"input": []}, 400, "1 to 256 texts"),
        ({"input": ["a"] * 257}, 400, "1 to 256 texts"),
        ({"input": [1, 2, 3]}, 400, "token ids"),
        ({"input": [[1, 2], [3]]}, 400, "token ids"),
        ({"input": ["a", "b " * MAX_TOKENS]}, 400, "input[1]: it has 258 tokens"),
        ({"dimensions": 3}, 400, "the vectors have 2 numbers"),
        ({"dimensions": 0}, 400, "dimensions"),
        ({"encoding_format": "int8"}, 400, "encoding_format"),
        ({"model": MODEL}, 404, f"embeddings are made by {MODEL_ID} alone"),
        ({"X-PTMO": {"route": "local"}}, 400, "x_ptmo"),
    ],
)
def test_what_has_no_vector_of_its_own_is_refused_and_not_cut(served, fields, status, said):
    got, told, _ = served.post(PATH, {"model": MODEL_ID, "input": "a", **fields})
    assert got == status and said in told["error"]["message"]


def test_nothing_is_encoded_when_one_of_the_texts_is_refused():
    encoder = CountingEncoder()
    made = Embedder(is_here=lambda: True, load=lambda: encoder)
    with serving(FakeRouter(), embedder=made) as served:
        assert served.post(PATH, {"model": MODEL_ID, "input": ["good", ""]})[0] == 400
        assert encoder.encoded == []
        assert served.post(PATH, {"model": MODEL_ID, "input": ["good"]})[0] == 200
    assert encoder.encoded == ["good"] and encoder.threads == {"ptmo-embed_0"}


def test_other_requests_are_answered_while_a_vector_is_made_and_a_client_that_left_makes_no_more():
    gate = threading.Event()
    encoder = CountingEncoder(gate)
    made = Embedder(is_here=lambda: True, load=lambda: encoder)
    with serving(FakeRouter(), embedder=made) as served, served.client(timeout=0.5) as hasty:
        with pytest.raises(openai.APITimeoutError):
            hasty.embeddings.create(model=MODEL_ID, input=[f"text {n}" for n in range(9)])
        with served.client() as client:  # the one thread is still held
            client.chat.completions.create(model=MODEL, messages=HELLO)
            gate.set()
            client.embeddings.create(model=MODEL_ID, input="after")
    assert encoder.encoded == ["text 0", "after"]


def test_without_the_encoder_the_error_names_the_command_and_no_path():
    with serving(FakeRouter()) as served:
        status, told, _ = served.post(PATH, {"model": MODEL_ID, "input": "a"})
        assert status == 404 and "`ptmo model pull minilm`" in told["error"]["message"]

    def damaged():
        raise InputError("/folder/x.safetensors: no sentence encoder")

    made = Embedder(is_here=lambda: True, load=damaged)
    with serving(FakeRouter(), embedder=made) as served:
        status, told, _ = served.post(PATH, {"model": MODEL_ID, "input": "a"})
    assert status == 503 and told["error"]["code"] == "model_unusable"
    assert "pull minilm`" in told["error"]["message"] and "/folder" not in str(told)


def test_keys_and_limits_hold_and_no_text_is_logged(tmp_path, caplog):
    path, made = tmp_path / "keys.json", Embedder(is_here=lambda: True, load=CountingEncoder)
    _, secret = KeyFile(path).add("ann")
    given = {"keys": path, "requests_per_minute": 1.0, "burst": 2}
    with (
        caplog.at_level(logging.DEBUG),
        serving(FakeRouter(), embedder=made, **given) as served,
        served.client(secret) as client,
    ):
        assert served.post(PATH, {"model": MODEL_ID, "input": "xyzzy"})[0] == 401
        client.embeddings.create(model=MODEL_ID, input="xyzzy plugh")
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model=MODEL_ID, input="xyzzy " * 300)
        with pytest.raises(openai.RateLimitError):
            client.embeddings.create(model=MODEL_ID, input="xyzzy")
        figures = served.service.metrics.text().decode()
    assert 'ptmo_tokens_total{kind="embedded"} 4.0' in figures
    own = [record.getMessage() for record in caplog.records if record.name.startswith("ptmo")]
    assert len([line for line in own if PATH in line]) == 4
    assert "xyzzy" not in "".join(own) + figures


def test_sentences_that_mean_the_same_are_nearer_than_others():
    try:
        files = [registry.resolve(name) for name in ("minilm", "minilm-tokenizer")]
    except InputError as missing:
        pytest.skip(str(missing))
    assert all(isinstance(file, Path) for file in files)
    with serving(FakeRouter(), embedder=Embedder()) as served, served.client() as client:
        texts = ["How do I bake bread?", "What is the way to make a loaf?", "The bank is closed."]
        rows = client.embeddings.create(model=MODEL_ID, input=texts, dimensions=384).data
        one, like, unlike = (np.array(row.embedding, dtype=np.float32) for row in rows)
    np.testing.assert_allclose([x @ x for x in (one, like, unlike)], 1, atol=1e-5)
    np.testing.assert_array_equal(one, SentenceEncoder(*files).encode(texts[0]))
    assert one @ like > 0.6 and one @ unlike < 0.2
