"""SmolLM2-135M-Instruct: the engine against transformers on the same dequantised weights."""

import random
from pathlib import Path

import numpy as np
import pytest

from ptmo_secure.engine import registry
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.errors import InputError
from tests.references import divergence, log_softmax
from tests.tiny_models import load_importer_weights

MODEL = "smollm2-135m"
TEXT = (Path(__file__).parents[1] / "data" / "mixed_text.txt").read_text(encoding="utf-8")
WINDOW = 512
PROMPTS = [
    "What is Python?",
    "Write a haiku about rain.",
    "List three uses for an old newspaper.",
    "What is 17 times 23?",
    "Translate to French: the cat sleeps on the chair.",
    "Why is the sky blue?",
    "def fibonacci(n):",
    "Give me a recipe for pancakes.",
    "Summarise: the meeting moved from Monday to Thursday at noon.",
    "Who wrote Romeo and Juliet?",
    "Explain recursion to a child.",
    "1, 1, 2, 3, 5, 8,",
    "What should I pack for a week in the mountains?",
    "Write an e-mail asking for a day off.",
    '{"name": "Ada", "age":',
    "Is a tomato a fruit?",
    "How do vaccines work?",
    "Name the planets in order.",
    "안녕하세요. 오늘 날씨가 어때요?",
    "SELECT name FROM users WHERE",
]

SAMPLE = random.Random("greedy").sample(PROMPTS, 4)


def pulled():
    """The model's file; skips the test where it is not there."""
    try:
        return registry.resolve(MODEL)
    except InputError:
        pytest.skip(f"{MODEL} is not pulled (ptmo model pull {MODEL})")


@pytest.fixture(scope="module")
def hf():
    path = pulled()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with ModelSource(path) as source:
        c = source.config
        config = LlamaConfig(
            hidden_size=c.d_model,
            intermediate_size=c.d_ff,
            num_hidden_layers=c.n_layers,
            num_attention_heads=c.n_heads,
            num_key_value_heads=c.n_kv_heads,
            head_dim=c.head_dim,
            vocab_size=c.vocab_size,
            rms_norm_eps=c.rms_eps,
            rope_theta=c.rope_theta,
            max_position_embeddings=c.context_length,
            tie_word_embeddings=c.tied_head,
        )
        model = load_importer_weights(LlamaForCausalLM(config).float().eval(), source)

    def logits(ids):
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].numpy()

    return logits


@pytest.fixture(scope="module")
def windows(hf):
    """(token ids, reference log-probabilities) of the text, window by window."""
    with Engine.load(MODEL, shield="none") as engine:
        ids = engine.tokenizer.encode(TEXT)
    assert len(ids) >= 2000
    parts = [ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW)]
    return [(part, log_softmax(hf(part)).astype(np.float32)) for part in parts]


@pytest.fixture(scope="module")
def reference_engine():
    with Engine.load(MODEL, shield="none", activations="fp32", kv_dtype="fp32") as engine:
        yield engine


def test_reference_path_is_within_5e_3_of_transformers(hf, reference_engine):
    ids = reference_engine.tokenizer.encode(TEXT)[:256]
    assert np.abs(reference_engine.forward(ids) - hf(ids)).max() < 5e-3


def decodes_the_same_greedy_tokens(hf, engine, prompt):
    """Greedy decoding equals transformers' if its argmax agrees at every generated position.

    The logits of each step are compared too: a fault that turns no token of a prompt shows there.
    """
    session = engine.start_session()
    ids = list(engine.render(prompt).ids)
    steps = [session.feed(ids)[-1]]
    made = [int(steps[-1].argmax())]
    while len(made) < 64:
        steps.append(session.feed(made[-1:])[-1])
        made.append(int(steps[-1].argmax()))
    expected = hf(ids + made[:-1])[len(ids) - 1 :]
    assert made == expected.argmax(axis=-1).tolist(), prompt
    assert np.abs(np.array(steps) - expected).max() < 5e-3, prompt


def test_reference_path_decodes_the_same_greedy_tokens_for_a_sample(hf, reference_engine):
    for prompt in SAMPLE:
        decodes_the_same_greedy_tokens(hf, reference_engine, prompt)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_reference_path_decodes_the_same_greedy_tokens_for_every_prompt(hf, reference_engine):
    for prompt in PROMPTS:
        decodes_the_same_greedy_tokens(hf, reference_engine, prompt)


def quality(engine, windows):
    """(KL divergence in nats, top-1 agreement, ratio of perplexities) against the reference."""
    divergences, agreements, loss, reference_loss, count = [], [], 0.0, 0.0, 0
    for ids, expected in windows:
        got = log_softmax(engine.forward(ids))
        divergences.append(divergence(expected, got))
        agreements.append(expected.argmax(axis=-1) == got.argmax(axis=-1))
        at = np.arange(len(ids) - 1)
        loss -= got[at, ids[1:]].sum()
        reference_loss -= expected[at, ids[1:]].sum(dtype=np.float64)
        count += len(ids) - 1
    kl = float(np.concatenate(divergences).mean())
    top1 = float(np.concatenate(agreements).mean())
    return kl, top1, float(np.exp((loss - reference_loss) / count))


@pytest.mark.parametrize(
    ("kv_dtype", "most_kl", "least_top1", "most_loss"),
    [
        ("int8", 0.01, 0.965, 0.01),
        ("fp16", 0.01, 0.965, 0.01),
        ("int4", 0.40, 0.60, 0.50),  # a known weakness: docs/architecture.md has its figures
    ],
)
def test_fast_path_stays_within_the_quality_bounds(
    kv_dtype, most_kl, least_top1, most_loss, windows, capsys
):
    with Engine.load(MODEL, shield="none", kv_dtype=kv_dtype) as engine:
        kl, top1, ratio = quality(engine, windows)
    with capsys.disabled():
        print(f"\n  {kv_dtype} KV: KL {kl:.5f} nats, top-1 {top1:.4f}, perplexity x {ratio:.5f}")
    assert kl < most_kl
    assert top1 >= least_top1
    assert abs(ratio - 1.0) < most_loss


@pytest.fixture(scope="module")
def plain():
    """Token ids, and the logits of one thread without a shield."""
    pulled()
    with Engine.load(MODEL, shield="none", threads=1) as engine:
        ids = engine.tokenizer.encode(TEXT)[:300]
        return ids, engine.forward(ids)


@pytest.mark.parametrize(
    ("shield", "restore"),
    [("permute", "folded"), ("permute", "tee"), ("seal", "folded"), ("permute+seal", "folded")],
)
def test_shields_and_threads_change_no_bit_of_the_logits(plain, shield, restore):
    ids, logits = plain
    with Engine.load(MODEL, shield=shield, restore=restore, threads=2) as engine:
        assert np.array_equal(logits, engine.forward(ids))


def permuting_reorders_sums_and_no_more(kv_dtype, windows, capsys):
    """With float K the dot product's order follows the permutation: close, never bit-equal."""
    logits = []
    for shield in ("none", "permute"):
        with Engine.load(MODEL, shield=shield, kv_dtype=kv_dtype) as engine:
            logits.append(np.concatenate([engine.forward(ids) for ids, _ in windows]))
    plain, permuted = (log_softmax(x) for x in logits)
    kl = float(divergence(plain, permuted).mean())
    agree = plain.argmax(axis=-1) == permuted.argmax(axis=-1)
    top2 = np.sort(plain[~agree], axis=-1)[:, -2:]
    gaps = top2[:, 1] - top2[:, 0]
    with capsys.disabled():
        print(f"\n  permute at {kv_dtype} KV: KL {kl:.2e} nats, top-1 {agree.mean():.4f}, ", end="")
        print(f"top-2 gaps where they part: {np.round(gaps, 4).tolist()}")
    assert kl < 0.01
    assert agree.mean() >= 0.965
    assert np.all(gaps < 0.5)  # nats: only near-ties may flip


@pytest.mark.parametrize("kv_dtype", ["fp16", "fp32"])
def test_permuting_a_float_cache_reorders_sums_and_no_more_in_a_window(kv_dtype, windows, capsys):
    permuting_reorders_sums_and_no_more(kv_dtype, windows[1:2], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kv_dtype", ["fp16", "fp32"])
def test_permuting_a_float_cache_reorders_sums_and_no_more_in_the_text(kv_dtype, windows, capsys):
    permuting_reorders_sums_and_no_more(kv_dtype, windows, capsys)
