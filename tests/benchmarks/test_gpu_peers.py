"""Peers of a GPU's benchmark that are not there, that break, and our engine beside them."""

import builtins
from types import ModuleType, SimpleNamespace
from typing import Any

import bench_gpu
import pytest
from gpu import device as gpu_device
from gpu import measures, peers

from ptmo_secure.errors import EngineError, InputError


class OutOfMemoryError(RuntimeError):
    """torch's, by its name."""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OutOfMemoryError("CUDA out of memory.\nTried"), "torch has too little of the device's"),
        (AttributeError("no _weight_int4pack_mm"), "torch has no such kernel here: no _weight"),
        (TypeError("takes 3 arguments"), "torch has no such kernel here: takes 3 arguments"),
        (RuntimeError(""), "torch does not run it here: RuntimeError"),
    ],
)
def test_a_peer_that_cannot_be_made_says_why(error: Exception, text: str) -> None:
    assert peers.why_not(error).startswith(text)
    assert "\n" not in peers.why_not(error)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ModuleNotFoundError("No module named 'torch'"), peers.NO_TORCH),
        (OSError("libcudart.so.13: cannot open\nmore"), "torch does not load: libcudart.so.13: c"),
        (ImportError("libcupti.so.13"), "torch does not load: libcupti.so.13"),
    ],
)
def test_a_torch_that_does_not_load_is_no_peer(
    monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> ModuleType:
        if name == "torch":
            raise error
        module: ModuleType = real(name, *rest)
        return module

    monkeypatch.setattr(builtins, "__import__", refuse)
    found = peers.find_torch()
    assert isinstance(found, str)
    assert found.startswith(text)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> gpu_device.Device:
    """A device with torch and transformers, and the model where it belongs."""
    monkeypatch.setattr(measures, "resolve", lambda _: None)
    monkeypatch.setattr(
        measures, "EagerDecoder", lambda *_: SimpleNamespace(seconds_per_token=lambda _: 2e-3)
    )
    return gpu_device.Device(ModuleType("_cuda"), peers.TorchPeers(None))


def figure(device: gpu_device.Device) -> object:
    return bench_gpu._figure(device, "smollm2_decode", "batch 1")


def test_a_model_that_was_not_pulled_is_not_measured(
    device: gpu_device.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: str) -> None:
        raise InputError("model 'm' is not here yet: run `ptmo model pull m`")

    monkeypatch.setattr(measures, "resolve", missing)
    assert figure(device) == "model 'm' is not here yet: run `ptmo model pull m`"


@pytest.mark.parametrize("kind", [EngineError, InputError])
def test_an_engine_of_ours_that_breaks_has_failed(
    device: gpu_device.Device, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise kind("the device is gone")

    monkeypatch.setattr(measures, "open_engine", broken)
    assert figure(device) == bench_gpu.Failed("the device is gone")


def test_without_transformers_the_engine_is_not_started(
    device: gpu_device.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> None:
        raise ImportError("transformers")

    monkeypatch.setattr(measures, "EagerDecoder", absent)
    monkeypatch.setattr(measures, "open_engine", lambda *_, **__: pytest.fail("it was started"))
    assert figure(device) == "no transformers"
