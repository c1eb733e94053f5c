"""A trained classifier as the folder that the guard loads: ONNX with 8-bit weights."""

import hashlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from ptmo_secure.errors import EngineError
from ptmo_secure.privacy.training.bert import TokenClassifier

MAX_DIFFERENCE = 1e-3  # of the float32 ONNX model's logits from PyTorch's
_EXAMPLE_TOKENS = 48
SUMS = "SHA256SUMS"


def export(model: TokenClassifier, folder: Path) -> dict[str, float]:
    """Write `model.onnx` into `folder`.

    Args:
        model: trained.
        folder: made when it does not exist.

    Returns:
        Figures of the check: the float32 model's greatest difference of a logit, the 8-bit model's
        share of tokens with the same class, and its size in bytes.

    Raises:
        EngineError: the float32 ONNX model does not give PyTorch's logits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = model.eval()
    with tempfile.TemporaryDirectory() as scratch:
        exact = Path(scratch) / "exact.onnx"
        _export_exact(model, exact)
        difference, _ = _compare(model, exact)
        if difference > MAX_DIFFERENCE:
            raise EngineError(f"the exported model's logits are off by {difference:.2g}")
        with _without_warnings():
            quantize_dynamic(
                exact,
                folder / "model.onnx",
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["MatMul", "Gather"],
            )
    _, agreement = _compare(model, folder / "model.onnx")
    return {
        "exact_difference": difference,
        "int8_agreement": agreement,
        "bytes": float((folder / "model.onnx").stat().st_size),
    }


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep the quantiser from advising a step that changes nothing here."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS`, as sha256sum does, of every other file of a model's folder."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != SUMS
    ]
    (folder / SUMS).write_text("".join(lines), "ascii")


def _export_exact(model: TokenClassifier, path: Path) -> None:
    ids, mask = _random_input(model, np.random.default_rng(0), _EXAMPLE_TOKENS)
    torch.onnx.export(
        model,
        (ids, mask),
        str(path),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={
            name: {0: "batch", 1: "tokens"} for name in ("input_ids", "attention_mask", "logits")
        },
        opset_version=17,
        dynamo=False,
    )


def _compare(model: TokenClassifier, path: Path) -> tuple[float, float]:
    """Return (greatest difference of a logit, share of equal classes) over random inputs."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(1)
    greatest, equal, tokens = 0.0, 0, 0
    for length in (3, 17, 64, 192):
        ids, mask = _random_input(model, generator, length)
        with torch.no_grad():
            expected = model(ids, mask).numpy()
        feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        (found,) = session.run(None, feed)
        seen = mask.numpy() == 1
        greatest = max(greatest, float(np.abs(found - expected)[seen].max()))
        equal += int((found.argmax(-1) == expected.argmax(-1))[seen].sum())
        tokens += int(seen.sum())
    return greatest, equal / tokens


def _random_input(
    model: TokenClassifier, generator: np.random.Generator, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of tokens, the second one padded."""
    ids = torch.from_numpy(generator.integers(5, model.shape.vocabulary, (2, length)))
    mask = torch.ones_like(ids)
    mask[1, max(1, length - 2) :] = 0
    return ids, mask
