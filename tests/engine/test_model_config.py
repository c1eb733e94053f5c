"""Where Qwen3 and Gemma 3 depart from Llama, as their files say it."""

import math
from pathlib import Path

import numpy as np
import pytest

from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.engine.model_config import LlamaConfig, read_config
from ptmo_secure.errors import ModelFormatError
from tests.tiny_models import make_tiny_model

SHAPES = {"token_embd.weight": (320, 64)}


def gemma3(**changes: object) -> dict[str, object]:
    """The settings of a Gemma 3 file; None drops one."""
    settings: dict[str, object] = {
        "block_count": 12,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "context_length": 4096,
        "attention.head_count": 4,
        "attention.head_count_kv": 1,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 100,
        "rope.freq_base": 1e6,
    }
    settings.update(changes)
    named = {f"gemma3.{key}": value for key, value in settings.items() if value is not None}
    return {"general.architecture": "gemma3", **named}


def config(**changes: object) -> LlamaConfig:
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return read_config(gemma3(**keys), SHAPES, "file")


def test_gemma3_departs_from_llama_in_all_its_ways() -> None:
    read = config()
    assert read.qk_norm
    assert read.post_norms
    assert read.activation == "gelu_tanh"
    assert read.embed_scale == 8.0
    assert read.attention_scale == pytest.approx(32**-0.5)
    assert (read.rope_theta, read.rope_theta_local) == (1e6, 1e4)
    assert read.tied_head
    assert not read.qkv_bias


def test_every_sixth_gemma3_layer_is_global_and_the_window_caps_no_context() -> None:
    read = config()
    assert [layer for layer in range(12) if not read.is_local(layer)] == [5, 11]
    assert read.sliding_window == 100
    assert read.context_length == 4096


def test_the_file_may_say_which_layers_are_local() -> None:
    by_period = config(attention__sliding_window_pattern=3)
    assert [layer for layer in range(12) if not by_period.is_local(layer)] == [2, 5, 8, 11]
    listed = np.arange(12) % 4 == 0
    assert config(attention__sliding_window_pattern=listed).local_layers == tuple(listed.tolist())
    assert not any(config(attention__sliding_window_pattern=1).local_layers)
    assert config(attention__sliding_window=None).local_layers == ()
    assert config(rope__freq_base_swa=5e4).rope_theta_local == 5e4


def test_the_27b_model_scales_scores_by_its_width_per_head() -> None:
    assert config(block_count=62).attention_scale == pytest.approx(math.sqrt(4 / 64))
    assert config(attention__scale=0.3).attention_scale == 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope__freq_base": None}, "gemma3.rope.freq_base: missing"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping: soft-capped"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping: soft-capped"),
        ({"attention__sliding_window_pattern": 0}, "sliding_window_pattern: 0 is not in 1"),
        (
            {"attention__sliding_window_pattern": np.ones(5, np.bool_)},
            "sliding_window_pattern: not an array of 12 booleans",
        ),
        ({"attention__sliding_window": -1}, "sliding_window: -1 is not in 0"),
        ({"attention__scale": 0.0}, "attention.scale: 0.0 is not in"),
    ],
)
def test_what_is_not_implemented_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        config(**changes)


def test_local_layers_of_other_architectures_are_refused() -> None:
    renamed = {key.replace("gemma3", "qwen3"): value for key, value in gemma3().items()}
    renamed["general.architecture"] = "qwen3"
    read = read_config(renamed, SHAPES, "file")
    assert read.qk_norm
    assert not read.post_norms
    assert read.embed_scale == 1.0
    assert read.context_length == 100  # a window of every layer caps it
    with pytest.raises(ModelFormatError, match="local layers are not supported in qwen3"):
        read_config({**renamed, "qwen3.attention.sliding_window_pattern": 6}, SHAPES, "file")


def test_local_layers_turn_by_their_own_frequencies(tmp_path: Path) -> None:
    shape = {"family": "gemma3", "n_layers": 3, "sliding_period": 3, "rope_theta": 1e6}
    model = make_tiny_model(tmp_path, quant="F32", rope_scaling="linear", **shape)
    rotary = model.hf.model.rotary_emb
    with ModelSource(model.path) as source:
        for layer, kind in enumerate(["sliding_attention", "sliding_attention", "full_attention"]):
            expected = getattr(rotary, f"{kind}_inv_freq").numpy()
            np.testing.assert_allclose(source.layer_inv_freq(layer), expected, rtol=3e-7)
        assert not np.array_equal(source.layer_inv_freq(0), source.layer_inv_freq(2))


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_norms_of_the_new_families_are_delivered_as_the_model_applies_them(
    family: str, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path, quant="Q8_0", family=family, head_dim=32)
    state = model.hf.state_dict()
    offset = np.float32(1.0 if family == "gemma3" else 0.0)
    names = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
    if family == "gemma3":
        names["attn_post_norm"] = "post_attention_layernorm"
        names["ffn_post_norm"] = "post_feedforward_layernorm"
    with ModelSource(model.path) as source:
        for name, hf_name in names.items():
            exact = state[f"model.layers.1.{hf_name}.weight"].numpy() + offset
            np.testing.assert_allclose(
                source.tensor(f"layers.1.{name}").dequantize(), exact, rtol=0, atol=2e-7
            )
