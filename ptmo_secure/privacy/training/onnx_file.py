"""What two kinds of ONNX file of a token classifier have in common: how they become a model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from ptmo_secure.errors import InputError
from ptmo_secure.privacy.training.bert import BertShape, TokenClassifier

Array = npt.NDArray[np.float32]


class Stored:
    """The constants of a graph by their names.

    Args:
        graph: of an ONNX file.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.names = tuple(self._tensors)

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return a constant, of its own shape and type.

        Raises:
            KeyError: there is none of this name.
        """
        values: npt.NDArray[Any] = numpy_helper.to_array(self._tensors[name])
        return values

    def in_float(self, name: str) -> Array:
        """Return (codes - zero point) x scale of a matrix that is stored in 8 bits, float32.

        Raises:
            KeyError: there is none of this name.
        """
        codes = self.array(f"{name}_quantized").astype(np.int32)
        zero = self.array(f"{name}_zero_point").astype(np.int32)
        values: Array = ((codes - zero) * self.array(f"{name}_scale")).astype(np.float32)
        return values


def load_model(
    path: Path, read_weights: Callable[[onnx.GraphProto], Mapping[str, Array]], what: str
) -> TokenClassifier:
    """Return the model of a file.

    Args:
        path: the file.
        read_weights: parameters of a graph by their names in transformers'
            `BertForTokenClassification`.
        what: it is, for the error: "Rampart's 4-bit model".

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
        raise InputError(f"{path}: not {what}: {error}") from None
    return model


def _shape_of(weights: Mapping[str, Array]) -> BertShape:
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
