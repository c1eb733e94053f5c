"""The importer delivers exactly the weights of the file, in the engine's order."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from ptmo_secure.engine.ggml_blocks import requantize, unpack_blocks
from ptmo_secure.engine.gguf_import import ModelSource, half_split_rows
from ptmo_secure.engine.registry import resolve
from ptmo_secure.engine.tensors import FloatTensor, Int4Tensor, Int8Tensor
from ptmo_secure.errors import EngineError, InputError, ModelFormatError
from tests.gguf_packing import pack, random_blocks
from tests.references import quantize_int4_reference
from tests.tiny_models import make_tiny_model

EXPECTED_TYPE = {
    "Q4_0": Int4Tensor,
    "Q4_1": Int4Tensor,
    "Q5_0": Int8Tensor,
    "Q8_0": Int8Tensor,
    "F16": FloatTensor,
    "BF16": FloatTensor,
    "F32": FloatTensor,
}


@pytest.mark.parametrize("quant", EXPECTED_TYPE)
def test_every_tensor_equals_the_dequantised_file_bit_for_bit(quant: str, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path, quant=quant)
    state = model.hf.state_dict()
    with ModelSource(model.path) as source:
        assert isinstance(source.tensor("layers.1.down"), EXPECTED_TYPE[quant])
        for name, hf_name in _hf_names(source).items():
            delivered = source.tensor(name)
            assert delivered.shape == source.shape(name)
            assert np.array_equal(delivered.dequantize(), state[hf_name].numpy()), name


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("head_dim", [16, 32, 64])
def test_query_and_key_rows_come_in_half_split_order(
    family: str, head_dim: int, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path, quant="F32", family=family, head_dim=head_dim, n_layers=1)
    state = model.hf.state_dict()
    with ModelSource(model.path) as source:
        assert source.config.qkv_bias == (family == "qwen2")
        assert source.config.head_dim == head_dim
        for role in "qk":
            expected = state[f"model.layers.0.self_attn.{role}_proj.weight"].numpy()
            assert np.array_equal(source.tensor(f"layers.0.{role}").dequantize(), expected)
            if family == "qwen2":
                bias = state[f"model.layers.0.self_attn.{role}_proj.bias"].numpy()
                assert np.array_equal(source.tensor(f"layers.0.{role}_bias").dequantize(), bias)


def test_half_split_rows_is_a_permutation_that_undoes_interleaving() -> None:
    rows = half_split_rows(2, 4)
    assert rows.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_biases_of_a_llama_file_are_reordered_with_their_rows(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path, quant="F32", n_layers=1)
    biases = {
        "attn_q.bias": np.arange(64, dtype=np.float32),
        "attn_k.bias": np.arange(32, dtype=np.float32),
        "attn_v.bias": np.arange(32, dtype=np.float32),
    }
    path = _rewrite(model.path, extra={f"blk.0.{name}": data for name, data in biases.items()})
    with ModelSource(path) as source:
        assert source.config.qkv_bias
        assert (
            source.tensor("layers.0.q_bias").dequantize().tolist()
            == half_split_rows(4, 16).tolist()
        )
        assert source.tensor("layers.0.k_bias").dequantize()[:3].tolist() == [0, 2, 4]
        assert source.tensor("layers.0.v_bias").dequantize()[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", [Kind.Q5_1, Kind.Q5_K, Kind.Q6_K])
def test_kinds_of_more_than_four_bits_become_int8(kind: Kind) -> None:
    blocks = random_blocks(kind, 6, 512, seed=1)
    exact = dequantize(blocks, kind)
    tensor = requantize(blocks.reshape(-1), kind, (6, 512), to_int8=False, quantize_int4=None)
    assert isinstance(tensor, Int8Tensor)
    error = np.abs(tensor.dequantize() - exact).reshape(-1, 32)
    # Half a step of 1/127 of the group's peak, and the float16 of the scale.
    assert (
        error <= np.abs(exact).reshape(-1, 32).max(axis=1, keepdims=True) * (0.5 / 127 + 1e-3)
    ).all()


@pytest.mark.parametrize("kind", [Kind.Q2_K, Kind.Q3_K])
def test_kinds_of_fewer_bits_become_int4(kind: Kind) -> None:
    blocks = random_blocks(kind, 6, 512, seed=2)
    exact = dequantize(blocks, kind)
    tensor = requantize(
        blocks.reshape(-1), kind, (6, 512), to_int8=False, quantize_int4=quantize_int4_reference
    )
    assert isinstance(tensor, Int4Tensor)
    groups = exact.reshape(-1, 32)
    spread = groups.max(axis=1) - groups.min(axis=1)
    error = np.abs(tensor.dequantize() - exact).reshape(-1, 32).max(axis=1)
    # Half a step of 1/15 of the group's range, and the float16 of scale and minimum.
    assert (error <= spread * (0.5 / 15) + 2e-3 * np.abs(exact).max()).all()
    as_head = requantize(blocks.reshape(-1), kind, (6, 512), to_int8=True, quantize_int4=None)
    assert isinstance(as_head, Int8Tensor)


def test_q5_0_blocks_are_int8_weights_bit_for_bit() -> None:
    blocks = random_blocks(Kind.Q5_0, 6, 512, seed=3)
    tensor = unpack_blocks(blocks.reshape(-1), Kind.Q5_0, (6, 512))
    assert isinstance(tensor, Int8Tensor)
    assert set(np.unique(tensor.codes)) == set(range(-16, 16))
    assert np.array_equal(tensor.dequantize(), dequantize(blocks, Kind.Q5_0))


def test_q4_k_blocks_keep_their_codes_and_round_their_scales_to_float16() -> None:
    blocks = random_blocks(Kind.Q4_K, 6, 768, seed=4)
    exact = dequantize(blocks, Kind.Q4_K)
    tensor = unpack_blocks(blocks.reshape(-1), Kind.Q4_K, (6, 768))
    assert isinstance(tensor, Int4Tensor)
    assert tensor.group == 32
    size = 15 * np.abs(tensor.scales.astype(np.float32)) + np.abs(tensor.mins.astype(np.float32))
    error = np.abs(tensor.dequantize() - exact).reshape(6, -1, 32).max(axis=2)
    assert (error <= size * 2.0**-11 * 1.01).all()


@pytest.mark.parametrize("quant", ["Q5_0", "Q4_K"])
def test_a_file_of_these_kinds_is_read_row_by_row_as_written(quant: str, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path, quant=quant, d_model=256, d_ff=256, head_dim=64, n_layers=1)
    state = model.hf.state_dict()
    with ModelSource(model.path) as source:
        for name, hf_name in _hf_names(source).items():
            exact = state[hf_name].numpy()
            error = np.abs(source.tensor(name).dequantize() - exact).max()
            assert error <= (0 if quant == "Q5_0" else 2e-3 * np.abs(exact).max()), name


def test_embeddings_of_other_kinds_become_int8(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path, quant="F16", embed_quant="Q5_1", n_layers=1)
    exact = model.hf.state_dict()["model.embed_tokens.weight"].numpy()
    with ModelSource(model.path) as source:
        for name in ("embed", "head"):
            assert isinstance(source.tensor(name), Int8Tensor)
        error = np.abs(source.tensor("embed").dequantize() - exact).reshape(-1, 2, 32)
        peaks = np.abs(exact).reshape(-1, 2, 32).max(axis=2, keepdims=True)
        assert (error <= peaks * (0.5 / 127 + 1e-3)).all()


def test_q4_0_minimum_is_minus_eight_scales_exactly() -> None:
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(5, 64)).astype(np.float32)
    packed, exact = pack(weights, Kind.Q4_0)
    tensor = unpack_blocks(packed.reshape(-1), Kind.Q4_0, (5, 64))
    assert isinstance(tensor, Int4Tensor)
    assert np.array_equal(tensor.mins, tensor.scales * np.float16(-8))
    assert np.array_equal(tensor.dequantize(), exact)


@pytest.mark.parametrize("scaling", [None, "linear", "llama3"])
def test_inverse_frequencies_equal_those_of_transformers(
    scaling: str | None, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path, quant="F32", rope_scaling=scaling, head_dim=32, n_layers=1)
    expected = model.hf.model.rotary_emb.inv_freq.numpy()
    with ModelSource(model.path) as source:
        assert source.inv_freq.dtype == np.float32
        np.testing.assert_allclose(source.inv_freq, expected, rtol=3e-7)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_model_has_no_head(tied: bool, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path, quant="Q8_0", tied=tied, n_layers=1)
    with ModelSource(model.path) as source:
        assert source.config.tied_head == tied
        assert ("head" in source.tensor_names()) == (not tied)
        with pytest.raises(EngineError, match=r"no tensor 'layers\.9\.q'"):
            source.tensor("layers.9.q")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gpt_neox"}, r"architecture: 'gpt_neox' is not supported"),
        ({"llama.block_count": 3}, r"tensor 'blk\.2\.attn_norm\.weight' is missing"),
        ({"llama.block_count": 1}, r"'blk\.1\..*' is not part of a model"),
        ({"llama.block_count": None}, "block_count: missing"),
        ({"llama.block_count": 2.0}, "block_count: not a single integer"),
        ({"llama.embedding_length": 96}, r"has shape \[320, 64\], .* ask for \[320, 96\]"),
        ({"llama.embedding_length": 63}, "embedding length 63 is no multiple of 32"),
        ({"llama.attention.head_count_kv": 3}, "4 heads are no multiple of 3"),
        ({"llama.attention.head_count_kv": 0}, "0 is not in 1"),
        ({"llama.attention.key_length": 17}, "value_length: 16 differs from the head dimension 17"),
        ({"llama.rope.dimension_count": 8}, "dimension_count: 8 differs from the head dimension"),
        ({"llama.rope.scaling.type": "yarn"}, "scaling.type: 'yarn' is not supported"),
        ({"llama.rope.freq_base": float("nan")}, "freq_base: nan is not in"),
        ({"llama.expert_count": 8}, "mixture-of-experts"),
        ({"llama.context_length": 0}, "context_length: 0 is not in"),
        ({"llama.vocab_size": 7}, "vocab_size: 7 is not in"),
    ],
)
def test_unsupported_settings_are_refused_by_name(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = _rewrite(make_tiny_model(tmp_path, quant="Q8_0").path, changes=changes)
    with pytest.raises(ModelFormatError, match=message) as caught:
        ModelSource(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_wrong_shape_missing_and_foreign_tensors_are_refused(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path, quant="F32", n_layers=1).path
    wrong = _rewrite(path, extra={"blk.0.ffn_down.weight": np.zeros((64, 32), np.float32)})
    with pytest.raises(ModelFormatError, match=r"ffn_down.*\[64, 32\].*\[64, 96\]"):
        ModelSource(wrong)
    missing = _rewrite(path, drop="blk.0.attn_v.weight")
    with pytest.raises(ModelFormatError, match=r"'blk\.0\.attn_v\.weight' is missing"):
        ModelSource(missing)
    foreign = _rewrite(path, extra={"blk.0.attn_q_norm.weight": np.ones(16, np.float32)})
    with pytest.raises(ModelFormatError, match=r"attn_q_norm.* is not part of"):
        ModelSource(foreign)


def test_a_sliding_window_caps_the_context(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path, quant="F32", n_layers=1).path
    with ModelSource(_rewrite(path, changes={"llama.attention.sliding_window": 100})) as source:
        assert source.config.context_length == 100
        assert not any(source.config.local_layers)


def test_weights_that_are_not_finite_are_refused_when_read(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path, quant="F32", n_layers=1).path
    bad = np.ones((64, 96), np.float32)
    bad[3, 5] = np.inf
    with ModelSource(_rewrite(path, extra={"blk.0.ffn_down.weight": bad})) as source:
        with pytest.raises(ModelFormatError, match=r"ffn_down.*not finite"):
            source.tensor("layers.0.down")


def test_the_real_model_imports_losslessly() -> None:
    try:
        path = resolve("smollm2-135m")
    except InputError as error:
        pytest.skip(str(error))
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    with ModelSource(path) as source:
        assert source.config.n_layers == 30
        assert source.config.tied_head
        assert not source.config.qkv_bias
        for name, file_name, heads in (
            ("embed", "token_embd.weight", 0),
            ("layers.0.q", "blk.0.attn_q.weight", 9),
            ("layers.29.k", "blk.29.attn_k.weight", 3),
            ("layers.7.down", "blk.7.ffn_down.weight", 0),
        ):
            exact = dequantize(stored[file_name].data, stored[file_name].tensor_type)
            if heads:
                exact = exact[half_split_rows(heads, 64)]
            assert np.array_equal(source.tensor(name).dequantize(), exact)


def _hf_names(source: ModelSource) -> dict[str, str]:
    from tests.tiny_models import _LAYER_NAMES, _gguf_name

    names = {"embed": "model.embed_tokens.weight", "final_norm": "model.norm.weight"}
    for name in source.tensor_names():
        if name == "head":
            names[name] = "lm_head.weight"
        elif name.startswith("layers."):
            _, layer, rest = _gguf_name(name).split(".", 2)
            names[name] = f"model.layers.{layer}.{_LAYER_NAMES[rest]}"
    return names


def _rewrite(
    path: Path,
    changes: dict[str, object] | None = None,
    extra: dict[str, np.ndarray] | None = None,
    drop: str = "",
) -> Path:
    """Copy a GGUF file with some metadata replaced (None: dropped) and tensors added."""
    reader = gguf.GGUFReader(path)
    changes, extra = changes or {}, extra or {}
    arch = changes.get("general.architecture", "llama")
    target = path.with_name(f"changed-{len(list(path.parent.iterdir()))}.gguf")
    writer = gguf.GGUFWriter(target, str(arch))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in changes:
            continue
        sub_type = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    for key, value in changes.items():
        if key == "general.architecture" or value is None:
            continue
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, int(value))  # type: ignore[call-overload]
    for tensor in reader.tensors:
        if tensor.name not in extra and tensor.name != drop:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    for name, data in extra.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
