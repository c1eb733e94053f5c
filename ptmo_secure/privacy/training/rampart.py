"""Rampart's weights out of its 4-bit ONNX file, exactly.

Rampart (National Design Studio, CC BY 4.0) is a BERT token classifier for personal data: MiniLM-L6
with a vocabulary of 19,730. Its file holds linear layers as MatMulNBits (ONNX Runtime: 4 bits, one
scale per block of 32 along the input, zero point 8) and embeddings as uint8 with one scale.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from ptmo_secure.privacy.training.bert import TokenClassifier
from ptmo_secure.privacy.training.onnx_file import Array, Stored, load_model

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
    return load_model(path, read_weights, "Rampart's 4-bit model")


def read_weights(graph: onnx.GraphProto) -> dict[str, Array]:
    """Return the parameters by their names in transformers' `BertForTokenClassification`."""
    stored = Stored(graph)
    weights: dict[str, Array] = {
        name: stored.array(name).astype(np.float32)
        for name in stored.names
        if name.endswith((".bias", "LayerNorm.weight"))
    }
    for table in _EMBEDDINGS:
        name = f"bert.embeddings.{table}.weight"
        weights[name] = stored.in_float(name)
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            weights[_parameter_of(node.name)] = _unpack(
                {a.name: helper.get_attribute_value(a) for a in node.attribute},
                stored.array(node.input[1]).astype(np.uint8),
                stored.array(node.input[2]).astype(np.float32),
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
