"""Plain NumPy statements of what tests compare with; slow, short, obviously right."""

import numpy as np


def quantize_int4_reference(
    weights: np.ndarray,  # [N, K] float32
    group: int,
    symmetric: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantise rows to 4 bits: w ~ scale * code + min, min-max range per group (GGUF Q4_1's rule).

    symmetric: min = -8 * scale, scale from the entry of the largest magnitude (Q4_0's rule).

    Returns:
        codes [N, K/2] uint8 (byte j of 16: element j low, element j + 16 high), scales and mins
        [N, K/group] float16.
    """
    rows, columns = weights.shape
    groups = weights.astype(np.float64).reshape(rows, columns // group, group)
    low, high = groups.min(axis=2), groups.max(axis=2)
    if symmetric:
        scales = (np.where(-low > high, low, high) / -8).astype(np.float16)
        mins = (scales * np.float16(-8)).astype(np.float16)
    else:
        scales, mins = ((high - low) / 15).astype(np.float16), low.astype(np.float16)
    step = scales.astype(np.float64)[:, :, None]
    shifted = groups - mins.astype(np.float64)[:, :, None]
    ratio = np.divide(shifted, step, out=np.zeros_like(shifted), where=step != 0)
    codes = np.floor(ratio + 0.5).clip(0, 15).astype(np.uint8)
    blocks = codes.reshape(rows, columns // 32, 2, 16)
    packed = (blocks[:, :, 0] | blocks[:, :, 1] << 4).reshape(rows, columns // 2)
    return packed, scales, mins


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities over the last axis, in float64: tests take differences of them.

    Row by row: temporaries of a whole window of a real vocabulary cost ten times the arithmetic.
    """
    x = logits.astype(np.float64)
    for row in x.reshape(-1, x.shape[-1]):
        row -= row.max()
        row -= np.log(np.exp(row).sum())
    return x


def divergence(expected: np.ndarray, got: np.ndarray) -> np.ndarray:
    """KL(expected || got) in nats of each row of log probabilities, [T, vocab] -> [T]."""
    pairs = zip(expected.astype(np.float64), got, strict=True)
    return np.array([(np.exp(p) * (p - q)).sum() for p, q in pairs])
