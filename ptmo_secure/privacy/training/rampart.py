"""Rampart's weights out of its 4-bit ONNX file, exactly.

Rampart (National Design Studio, CC BY 4.0) is a BERT token classifier for personal data: MiniLM-L6
with a vocabulary of 19,730. Its file holds linear layers as MatMulNBits (ONNX Runtime: 4 bits, one
scale per block of 32 along the input, zero point 8) and embeddings as uint8 with one scale.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from ptmo_secure.errors import InputError
from ptmo_secure.privacy.training.bert import BertShape, TokenClassifier

Array = npt.NDArray[np.float32]

_BITS = 4
_ZERO_POINT = 8
_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")


def load(path: Path) -> TokenClassifier:
    """Return Rampart as a model that can be trained.

    Args:
        path: its `model_q4.onnx`.

    Raises:
        InputError: the file is missing or not of this form.
    """
    try:
        graph = onnx.load(str(path)).graph
    except (OSError, ValueError, DecodeError) as error:
        raise InputError(f"{path}: not an ONNX model: {error}") from None
    try:
        weights = read_weights(graph)
        model = TokenClassifier(_shape_of(weights))
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"{path}: not Rampart's 4-bit model: {error}") from None
    return model


def read_weights(graph: onnx.GraphProto) -> dict[str, Array]:
    """Return the parameters by their names in transformers' `BertForTokenClassification`."""
    stored = {tensor.name: tensor for tensor in graph.initializer}

    def array(name: str) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = numpy_helper.to_array(stored[name])
        return values

    weights: dict[str, Array] = {
        name: array(name).astype(np.float32)
        for name in stored
        if name.endswith((".bias", "LayerNorm.weight"))
    }
    for table in _EMBEDDINGS:
        name = f"bert.embeddings.{table}.weight"
        codes = array(f"{name}_quantized").astype(np.int32)
        zero = int(array(f"{name}_zero_point"))
        weights[name] = ((codes - zero) * array(f"{name}_scale")).astype(np.float32)
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            weights[_parameter_of(node.name)] = _unpack(
                {a.name: helper.get_attribute_value(a) for a in node.attribute},
                array(node.input[1]).astype(np.uint8),
                array(node.input[2]).astype(np.float32),
            )
    return weights


def _parameter_of(node: str) -> str:
    """Turn "/bert/encoder/layer.0/attention/self/query/MatMul_Q4" into the parameter's name."""
    return node.strip("/").rpartition("/")[0].replace("/", ".") + ".weight"


def _unpack(
    attributes: dict[str, int],
    packed: npt.NDArray[np.uint8],  # [N, blocks, block / 2], low four bits first
    scales: Array,  # [N, blocks]
) -> Array:
    """Return float32 [N, K]."""
    if attributes["bits"] != _BITS:
        raise ValueError(f"{attributes['bits']} bits a weight, expected {_BITS}")
    rows, columns = attributes["N"], attributes["K"]
    codes = np.stack((packed & 15, packed >> 4), axis=-1).reshape(*packed.shape[:2], -1)
    values = (codes.astype(np.float32) - _ZERO_POINT) * scales.reshape(rows, -1, 1)
    return values.reshape(rows, -1)[:, :columns]


def _shape_of(weights: dict[str, Array]) -> BertShape:
    vocabulary, width = weights["bert.embeddings.word_embeddings.weight"].shape
    layers = {name.split(".")[3] for name in weights if name.startswith("bert.encoder.layer.")}
    return BertShape(
        vocabulary=vocabulary,
        positions=weights["bert.embeddings.position_embeddings.weight"].shape[0],
        width=width,
        heads=width // 32,
        layers=len(layers),
        inner=weights["bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
        labels=weights["classifier.weight"].shape[0],
    )
