"""A guard's classifier out of its folder, as a model that can be trained on.

`export` stores linear layers as 8-bit integers with a scale per output, and embeddings as uint8
with one scale: the weights come back within half a step of what was trained.
"""

from pathlib import Path

import numpy as np
import onnx

from ptmo_secure.privacy.training.bert import TokenClassifier
from ptmo_secure.privacy.training.onnx_file import Array, Stored, load_model

_EMBEDDINGS = "bert.embeddings."
# Of a layer: where the exporter puts a product, and the parameter it multiplies with
_PRODUCTS = {
    "self/query": "attention.self.query",
    "self/key": "attention.self.key",
    "self/value": "attention.self.value",
    "output/dense": "attention.output.dense",
    "dense": "intermediate.dense",
    "output/dense_1": "output.dense",
}


def load(path: Path) -> TokenClassifier:
    """Return the model of a guard's folder.

    Args:
        path: its `model.onnx`.

    Raises:
        InputError: the file is missing or not one that `export` wrote.
    """
    return load_model(path, _weights, "a model of the guard's")


def _weights(graph: onnx.GraphProto) -> dict[str, Array]:
    stored = Stored(graph)
    weights: dict[str, Array] = {
        name: stored.array(name).copy()
        for name in stored.names
        if name.endswith((".bias", "m.weight"))
    }
    for table in ("word_embeddings", "position_embeddings"):
        weights[f"{_EMBEDDINGS}{table}.weight"] = stored.in_float(f"{_EMBEDDINGS}{table}.weight")
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            name = node.input[1].removesuffix("_quantized")
            weights[_parameter_of(node.name)] = np.ascontiguousarray(stored.in_float(name).T)
    # Of the two types of a token the guard has one, which the exporter keeps as a constant
    (kind,) = (stored.array(name) for name in stored.names if name.startswith("onnx::Add_"))
    weights[f"{_EMBEDDINGS}token_type_embeddings.weight"] = np.stack((kind, np.zeros_like(kind)))
    return weights


def _parameter_of(node: str) -> str:
    """Turn "/layer.0/self/query/MatMul_quant" into the parameter's name."""
    layer, _, product = node.strip("/").rpartition("/")[0].partition("/")
    if layer == "classifier":
        return "classifier.weight"
    return f"bert.encoder.{layer}.{_PRODUCTS[product]}.weight"
