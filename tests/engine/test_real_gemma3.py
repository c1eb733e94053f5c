"""Gemma-3-270M: the engine against transformers on the weights that the importer delivers.

The text is longer than the sliding window of 512 tokens; the logits of its last rows are compared.
"""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

from ptmo_secure.engine import registry
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.engine.tensors import Int4Tensor, Int8Tensor
from ptmo_secure.errors import InputError
from tests.references import divergence, log_softmax, quantize_int4_reference
from tests.tiny_models import _names, load_importer_weights

MODEL = "gemma3-270m"
TEXT = (Path(__file__).parents[1] / "data" / "mixed_text.txt").read_text(encoding="utf-8")
TOKENS, ROWS = 640, 256


@pytest.fixture(scope="module")
def source():
    try:
        path = registry.resolve(MODEL)
    except InputError:
        pytest.skip(f"{MODEL} is not pulled (ptmo model pull {MODEL})")
    with ModelSource(path) as opened:
        yield opened


def load(**fields):
    return Engine.load(MODEL, context_tokens=1024, **{"shield": "none", "threads": 2, **fields})


def last_logits(engine, ids):
    session = engine.start_session()
    session.feed(ids[:-ROWS])
    return session.feed(ids[-ROWS:], all_logits=True)


@pytest.fixture(scope="module")
def plain(source):
    """Token ids of the text, and the engine's last logits without a shield."""
    with load(threads=1) as engine:
        ids = engine.tokenizer.encode(TEXT, add_bos=True)[:TOKENS]
        return ids, last_logits(engine, ids)


@pytest.fixture(scope="module")
def model(source):
    """transformers' model with the weights that the importer delivers."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    c = source.config
    config = Gemma3TextConfig(
        hidden_size=c.d_model,
        intermediate_size=c.d_ff,
        num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads,
        head_dim=c.head_dim,
        query_pre_attn_scalar=c.head_dim,
        vocab_size=c.vocab_size,
        rms_norm_eps=c.rms_eps,
        sliding_window=c.sliding_window,
        max_position_embeddings=c.context_length,
        tie_word_embeddings=c.tied_head,
    )
    return load_importer_weights(Gemma3ForCausalLM(config).float().eval(), source)


def transformers_logits(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids]), logits_to_keep=ROWS).logits[0].numpy()


@pytest.fixture(scope="module")
def expected(model, plain):
    return transformers_logits(model, plain[0])


def test_the_importer_keeps_the_files_codes_and_its_window(source):
    assert isinstance(source.tensor("layers.0.q"), Int8Tensor)  # Q5_0: exact
    assert isinstance(source.tensor("layers.0.o"), Int4Tensor)  # Q4_K: codes kept
    assert isinstance(source.tensor("layers.0.down"), Int8Tensor)  # Q6_K
    assert source.config.sliding_window == 512
    assert [i for i in range(18) if not source.config.is_local(i)] == [5, 11, 17]


def test_reference_path_equals_transformers_past_the_sliding_window(plain, expected):
    with load(activations="fp32", kv_dtype="fp32") as engine:
        got = last_logits(engine, plain[0])
    assert np.abs(got - expected).max() < 2e-4 * np.abs(expected).max()
    assert np.array_equal(got.argmax(axis=-1), expected.argmax(axis=-1))


def test_fast_path_stays_within_the_quality_bounds(plain, expected, capsys):
    ids, logits = plain
    wanted, got = log_softmax(expected), log_softmax(logits)
    kl = float(divergence(wanted, got).mean())
    top1 = float((wanted.argmax(axis=-1) == got.argmax(axis=-1)).mean())
    at, following = np.arange(ROWS - 1), ids[-ROWS + 1 :]
    ratio = float(np.exp((wanted[at, following] - got[at, following]).mean()))
    with capsys.disabled():
        print(f"\n  {MODEL}: KL {kl:.5f} nats, top-1 {top1:.4f}, perplexity x {ratio:.5f}")
    assert kl < 0.01
    # Flatter than SmolLM2: its two best tokens are often a near-tie; only near-ties may part.
    assert top1 >= 0.94
    top2 = np.sort(wanted, axis=-1)[:, -2:]
    parted = wanted.argmax(axis=-1) != got.argmax(axis=-1)
    assert np.all((top2[:, 1] - top2[:, 0])[parted] < 0.5)  # nats
    assert abs(ratio - 1.0) < 0.02


@pytest.mark.parametrize(
    ("shield", "restore"), [("permute", "folded"), ("permute", "tee"), ("seal", "folded")]
)
def test_shields_and_threads_change_no_bit_of_the_logits(plain, shield, restore):
    ids, logits = plain
    with load(shield=shield, restore=restore) as engine:
        session = engine.start_session()
        assert np.array_equal(session.feed(ids)[0], logits[-1])


def test_a_prompt_is_continued_and_a_chat_uses_gemmas_turns(source):
    with load() as engine:
        prompt = engine.render("What is the capital of France?")
        assert engine.chat_template.origin == "gemma"
        assert prompt.ids[:3] == (2, 105, 2364)  # <bos><start_of_turn>user
        session = engine.start_session()
        ids = engine.tokenizer.encode("1, 2, 3, 4, 5, 6, 7,", add_bos=True)
        made = []
        logits = session.feed(ids)
        for _ in range(4):
            made.append(int(logits[-1].argmax()))
            logits = session.feed(made[-1:])
        assert engine.tokenizer.decode(made).startswith(" 8")


@pytest.mark.slow
def test_the_import_costs_no_perplexity_beside_the_files_own_weights(
    source, model, plain, expected, capsys
):
    import torch

    tensors = {tensor.name: tensor for tensor in GGUFReader(source.path).tensors}
    blocks = {name: t for name, t in tensors.items() if t.tensor_type.name[0] == "Q"}
    state, names = model.state_dict(), _names(model.config)
    ids = plain[0]

    def perplexity(logits):
        at = np.arange(ROWS - 1)
        return float(np.exp(-log_softmax(logits)[at, ids[-ROWS + 1 :]].mean()))

    def with_matrices(change):
        with torch.no_grad():
            for name, tensor in blocks.items():
                own = dequantize(tensor.data, tensor.tensor_type)
                state[names[name]].copy_(torch.from_numpy(change(tensor.tensor_type.name, own)))
        return perplexity(transformers_logits(model, ids))

    def to_int4(kind, own):
        if kind == "Q8_0":
            return own
        return Int4Tensor(*quantize_int4_reference(own, 32), 32).dequantize()

    of_file = with_matrices(lambda kind, own: own)
    delivered, int4 = perplexity(expected), with_matrices(to_int4)
    with capsys.disabled():
        print(f"\n  perplexity: file {of_file:.3f}, as delivered {delivered:.3f}, ", end="")
        print(f"all re-quantised to INT4 {int4:.3f}, engine {perplexity(plain[1]):.3f}")
    assert delivered / of_file < 1.002
    assert int4 / of_file > 1.05  # what keeping the codes of Q5_0 and Q4_K is for
