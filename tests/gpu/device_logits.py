"""Logits on a device, and the same ones elsewhere."""

import functools

import numpy as np
import pytest

from tests.engine.test_shields_bit_equal import SHAPES, logits


def sampled(cases, sample):
    """Cases for a GPU, of which the emulator runs a sample alone in the plain suite."""
    return [c if c in sample else pytest.param(c, marks=pytest.mark.slow) for c in cases]


SAMPLED_SHAPES = sampled(SHAPES, ("llama", "head-dim-64", "gemma3-one-kv-head"))


def on_device(path, **fields):
    return logits(path, device="cuda", **fields)


@functools.cache
def plain(path, **fields):
    """Logits without a shield, computed once for all shields that are compared with them."""
    return on_device(path, **{"shield": "none", **fields})


def check_that_the_cpu_agrees(path, device, **fields):
    """Sums in another order move an activation's code by one at most here and there."""
    cpu = logits(path, **fields)
    assert np.sqrt(np.mean((cpu - device) ** 2)) < 0.02 * cpu.std()
