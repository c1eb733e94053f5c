"""SmolLM2-135M-Instruct on a device: quality against the reference, text against the CPU's."""

import numpy as np
import pytest

from ptmo_secure.engine.adapters import random_adapter
from ptmo_secure.engine.engine import Engine
from tests.engine.test_real_model import (  # noqa: F401 - two of these are fixtures
    MODEL,
    PROMPTS,
    TEXT,
    hf,
    quality,
    windows,
)

# The processor's own part, the longest, takes many minutes on an Orin.
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]

NEW_TOKENS = 64


@pytest.mark.parametrize("kv_dtype", ["int8", "fp16"])
def test_the_device_stays_within_the_quality_bounds(kv_dtype, windows, capsys):  # noqa: F811
    with Engine.load(MODEL, device="cuda", shield="none", kv_dtype=kv_dtype) as engine:
        kl, top1, ratio = quality(engine, windows)
    with capsys.disabled():
        print(f"\n  {kv_dtype} KV on a device: KL {kl:.5f} nats, top-1 {top1:.4f}, "
              f"perplexity x {ratio:.5f}")  # fmt: skip
    assert kl < 0.01
    assert top1 >= 0.965
    assert abs(ratio - 1.0) < 0.01


@pytest.mark.parametrize("kv_dtype", ["int8", "int4"])
@pytest.mark.parametrize(
    ("shield", "restore"),
    [("permute", "folded"), ("permute", "tee"), ("seal", "folded"), ("permute+seal", "folded")],
)
def test_shields_change_no_bit_of_the_logits(hf, shield, restore, kv_dtype):  # noqa: F811
    logits = []
    for fields in ({"shield": "none"}, {"shield": shield, "restore": restore}):
        with Engine.load(MODEL, device="cuda", kv_dtype=kv_dtype, **fields) as engine:
            logits.append(engine.forward(engine.tokenizer.encode(TEXT)[:300]))
    assert np.array_equal(*logits)


def test_greedy_text_is_the_cpu_s_but_for_near_ties(hf):  # noqa: F811
    """Along the CPU's own greedy text, the device would choose another token at near ties alone."""
    texts = []
    with Engine.load(MODEL, shield="none") as engine:
        for prompt in PROMPTS:
            session, ids = engine.start_session(), list(engine.render(prompt).ids)
            made = [int(session.feed(ids)[-1].argmax())]
            while len(made) < NEW_TOKENS:
                made.append(int(session.feed(made[-1:])[-1].argmax()))
            texts.append((ids, made))
    agreed, gaps = [], []
    with Engine.load(MODEL, device="cuda", shield="seal") as engine:
        for ids, made in texts:
            session = engine.start_session()
            rows = [session.feed(ids)[-1], *(session.feed([token])[-1] for token in made[:-1])]
            for row, token in zip(rows, made, strict=True):
                agreed.append(int(row.argmax()) == token)
                if not agreed[-1]:
                    gaps.append(float(row.max() - row[token]))
    assert np.mean(agreed) >= 0.965
    assert max(gaps, default=0.0) < 0.5  # nats


def test_a_generated_answer_is_the_same_twice_and_is_words(hf):  # noqa: F811
    answers = []
    for _ in range(2):
        with Engine.load(MODEL, device="cuda", shield="seal") as engine:
            answers.append("".join(engine.generate("Why is the sky blue?", max_tokens=48)))
    assert answers[0] == answers[1]
    assert len(answers[0].split()) >= 10


def test_three_adapters_leave_a_shield_bit_equal(hf):  # noqa: F811
    logits = []
    for shield in ("none", "permute+seal"):
        with Engine.load(MODEL, device="cuda", shield=shield, context_tokens=128) as engine:
            names = [f"a{seed}" for seed in range(3)]
            for seed, name in enumerate(names):
                engine.add_adapter(name, random_adapter(engine.model, 16, seed))
            logits.append(engine.forward(engine.tokenizer.encode(TEXT)[:96], names))
    assert np.array_equal(*logits)
