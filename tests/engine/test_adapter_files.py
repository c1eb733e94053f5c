"""Adapters in PEFT's format: what is taken, and that everything else is refused by name."""

import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.engine.adapters import read_adapter
from ptmo_secure.errors import InputError, ModelFormatError
from ptmo_secure.sealed.bundle import SETTINGS_NAME, WEIGHTS_NAME
from tests.peft_files import MODULES, SETTINGS, some_adapter, tensors_of, write_adapter

MODEL = SimpleNamespace(n_layers=3, n_heads=4, n_kv_heads=2, head_dim=16, d_model=64, d_ff=96)
Q_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def same(got, want, scale):
    assert got.pairs.keys() == want.pairs.keys()
    for name, pair in got.pairs.items():
        assert np.array_equal(pair.a, want.pairs[name].a)
        assert np.array_equal(pair.b, want.pairs[name].b)
        assert pair.scale == pytest.approx(scale, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 8, 64])
@pytest.mark.parametrize("roles", [("q", "v"), tuple(MODULES), ("down",)], ids=str)
def test_ranks_and_targets_are_read_as_they_stand(tmp_path, rank, roles):
    weights = some_adapter(MODEL, rank, roles=roles)
    write_adapter(tmp_path, weights, lora_alpha=2.5 * rank)
    got = read_adapter(tmp_path, MODEL)
    same(got, weights, 2.5)
    assert got.rank == rank
    assert got.roles == tuple(role for role in MODULES if role in roles)


def test_rslora_divides_alpha_by_the_root_of_the_rank(tmp_path):
    weights = some_adapter(MODEL, 16)
    write_adapter(tmp_path, weights, lora_alpha=8, use_rslora=True)
    same(read_adapter(tmp_path, MODEL), weights, 2.0)


def test_half_precision_is_widened_exactly(tmp_path):
    weights = some_adapter(MODEL, 8)
    halves = {key: array.astype(np.float16) for key, array in tensors_of(weights).items()}
    write_adapter(tmp_path, weights, halves)
    got = read_adapter(tmp_path, MODEL)
    assert np.array_equal(got.pairs["layers.0.q"].a, halves[Q_A].astype(np.float32))


def test_bfloat16_is_widened_exactly(tmp_path):
    import torch
    from safetensors.torch import save_file

    weights = some_adapter(MODEL, 8)
    write_adapter(tmp_path, weights)
    tensors = {k: torch.from_numpy(a).bfloat16() for k, a in tensors_of(weights).items()}
    save_file(tensors, tmp_path / WEIGHTS_NAME)
    got = read_adapter(tmp_path, MODEL)
    assert np.array_equal(got.pairs["layers.0.q"].a, tensors[Q_A].float().numpy())


def test_single_layers_and_full_module_paths_are_taken(tmp_path):
    weights = some_adapter(MODEL, 4, layers=[0, 2])
    write_adapter(tmp_path / "a", weights, layers_to_transform=[0, 2], layers_pattern="layers")
    same(read_adapter(tmp_path / "a", MODEL), weights, 1.0)
    one = some_adapter(MODEL, 4, roles=("q",), layers=[1])
    write_adapter(tmp_path / "b", one, target_modules=["model.layers.1.self_attn.q_proj"])
    same(read_adapter(tmp_path / "b", MODEL), one, 1.0)


def test_settings_without_effect_on_the_result_are_taken(tmp_path):
    weights = some_adapter(MODEL, 4)
    write_adapter(
        tmp_path,
        weights,
        lora_dropout=0.3,
        task_type=None,
        init_lora_weights="gaussian",
        base_model_name_or_path="elsewhere",
        a_setting_of_the_future=None,
        another_one=False,
    )
    same(read_adapter(tmp_path, MODEL), weights, 1.0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "lora_only"}, "biases"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"use_qalora": True}, "use_qalora"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"exclude_modules": ["q_proj"]}, "exclude_modules"),
        ({"a_setting_of_the_future": 1}, "a_setting_of_the_future"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"init_lora_weights": 1}, "init_lora_weights"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": None}, "peft_type"),
        ({"r": 65, "lora_alpha": 65}, "1..64"),
        ({"r": 0}, "1..64"),
        ({"r": True}, "1..64"),
        ({"r": 8.0}, "1..64"),
        ({"r": "8"}, "1..64"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": True}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": float("inf")}, "lora_alpha"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"target_modules": None}, "target_modules"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": ".*_proj"}, "target_modules"),
        ({"target_modules": ["q_proj", 3]}, "target_modules"),
        ({"target_modules": ["q_proj", "lm_head"]}, "'lm_head'"),
        ({"target_modules": ["embed_tokens"]}, "'embed_tokens'"),
        ({"target_modules": ["block_sparse_moe.q_proj"]}, "changes no linear layer|not among"),
        ({"layers_to_transform": [-1]}, "layers_to_transform"),
        ({"layers_to_transform": "all"}, "layers_to_transform"),
        ({"layers_to_transform": [7]}, "changes no linear layer|not among"),
        ({"layers_pattern": "blocks"}, "layers_pattern"),
    ],
    ids=str,
)
def test_settings_the_engine_does_not_compute_are_refused_by_name(tmp_path, settings, reason):
    write_adapter(tmp_path, some_adapter(MODEL, 8), **settings)
    with pytest.raises(ModelFormatError, match=reason) as error:
        read_adapter(tmp_path, MODEL)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"', "[" * 100_000, "\x00"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path, text):
    write_adapter(tmp_path, some_adapter(MODEL, 8))
    (tmp_path / SETTINGS_NAME).write_text(text)
    with pytest.raises(ModelFormatError, match="JSON"):
        read_adapter(tmp_path, MODEL)


def test_a_config_of_many_megabytes_is_not_parsed(tmp_path):
    write_adapter(tmp_path, some_adapter(MODEL, 8), auto_mapping="x" * (2 << 20))
    with pytest.raises(ModelFormatError, match="larger than"):
        read_adapter(tmp_path, MODEL)


def changed(**changes):
    """Return tensors with some replaced, or left out where None."""

    def change(tensors):
        out = tensors | {k: v for k, v in changes.items() if v is not None}
        return {k: v for k, v in out.items() if changes.get(k, v) is not None}

    return change


BAD_TENSORS = {
    "half of a pair": (changed(**{Q_A: None}), "lora_A of layers.0.q is missing"),
    "wrong columns": (changed(**{Q_A: np.ones((8, 65), np.float32)}), r"\[8, 65\].*\[8, 64\]"),
    "wrong rank": (changed(**{Q_A: np.ones((9, 64), np.float32)}), r"\[9, 64\]"),
    "transposed": (changed(**{Q_A: np.ones((64, 8), np.float32)}), r"\[64, 8\]"),
    "one dimension": (changed(**{Q_A: np.ones(512, np.float32)}), r"\[512\]"),
    "NaN": (changed(**{Q_A: np.full((8, 64), np.nan, np.float32)}), "not finite"),
    "infinity": (changed(**{Q_A: np.full((8, 64), -np.inf, np.float16)}), "not finite"),
    "integers": (changed(**{Q_A: np.ones((8, 64), np.int8)}), "I8"),
    "doubles": (changed(**{Q_A: np.ones((8, 64))}), "F64"),
    "a layer too many": (
        changed(**{Q_A.replace(".0.", ".3."): np.ones((8, 64), np.float32)}),
        "not among",
    ),
    "a module not named": (
        changed(**{Q_A.replace("q_proj", "k_proj"): np.ones((8, 64), np.float32)}),
        "not among",
    ),
    "an unknown module": (
        changed(**{Q_A.replace("q_proj", "qkv_proj"): np.ones((8, 64), np.float32)}),
        "not a LoRA weight",
    ),
    "an embedding": (
        changed(**{"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((8, 9))}),
        "F64|not a LoRA weight",
    ),
    "a DoRA vector": (
        changed(**{Q_A.replace("lora_A.weight", "lora_magnitude_vector"): np.ones(64, "f4")}),
        "not a LoRA weight",
    ),
    "a bias": (
        changed(**{Q_A.replace("lora_A.weight", "lora_B.bias"): np.ones(64, np.float32)}),
        "not a LoRA weight",
    ),
    "a number with leading zeros": (
        changed(**{Q_A: None, Q_A.replace(".0.", ".00."): np.ones((8, 64), np.float32)}),
        "not a LoRA weight",
    ),
    "line breaks in a name": (changed(**{"a\nb": np.ones(1, np.float32)}), r"'a\\nb'"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_do_not_belong_are_refused_by_name(tmp_path, case):
    change, reason = BAD_TENSORS[case]
    weights = some_adapter(MODEL, 8)
    write_adapter(tmp_path, weights, change(tensors_of(weights)))
    with pytest.raises(ModelFormatError, match=reason) as error:
        read_adapter(tmp_path, MODEL)
    assert "\n" not in str(error.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        read_adapter(tmp_path / "nowhere", MODEL)
    write_adapter(tmp_path, some_adapter(MODEL, 8))
    (tmp_path / WEIGHTS_NAME).unlink()
    with pytest.raises(InputError, match=WEIGHTS_NAME):
        read_adapter(tmp_path, MODEL)
    (tmp_path / SETTINGS_NAME).unlink()
    with pytest.raises(InputError, match=SETTINGS_NAME):
        read_adapter(tmp_path, MODEL)
    with pytest.raises(InputError, match="is not a folder"):
        read_adapter(__file__, MODEL)


def test_a_weights_file_larger_than_any_adapter_is_not_parsed(tmp_path):
    write_adapter(tmp_path, some_adapter(MODEL, 8))
    with (tmp_path / WEIGHTS_NAME).open("r+b") as file:
        file.truncate(1 << 30)  # sparse
    with pytest.raises(ModelFormatError, match="larger than any adapter"):
        read_adapter(tmp_path, MODEL)


def test_headers_that_lie_are_refused(tmp_path):
    write_adapter(tmp_path, some_adapter(MODEL, 8))

    def refused(data):
        (tmp_path / WEIGHTS_NAME).write_bytes(data)
        with pytest.raises(ModelFormatError):
            read_adapter(tmp_path, MODEL)

    def with_header(header, body=b""):
        raw = json.dumps(header).encode()
        return struct.pack("<Q", len(raw)) + raw + body

    refused(b"")
    refused(b"\xff" * 8)
    refused(struct.pack("<Q", 1 << 62) + b"{}")
    refused(with_header({}))
    refused(with_header({Q_A: {"dtype": "F32", "shape": [8, 64], "data_offsets": [0, 4]}}))
    refused(with_header({Q_A: {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 4]}}))
    refused(with_header({Q_A: {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)))
    refused(with_header({Q_A: {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)))
    refused(with_header({Q_A: {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_give_one_line_and_nothing_worse(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("adapter")
    write_adapter(folder, some_adapter(MODEL, 2))
    file = folder / data.draw(st.sampled_from([SETTINGS_NAME, WEIGHTS_NAME]))
    raw = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(raw), 4096) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    file.write_bytes(
        raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    )
    try:
        weights = read_adapter(folder, MODEL)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        for pair in weights.pairs.values():
            assert np.isfinite(pair.a).all() and np.isfinite(pair.b).all()


def test_the_settings_of_these_tests_are_taken_as_they_are(tmp_path):
    weights = some_adapter(MODEL, SETTINGS["r"])
    write_adapter(tmp_path, weights, lora_alpha=SETTINGS["lora_alpha"])
    same(read_adapter(tmp_path, MODEL), weights, 2.0)
