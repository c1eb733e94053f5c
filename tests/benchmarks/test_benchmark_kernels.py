"""What the kernel suites report about a measured call, and the shapes they use."""

from pathlib import Path

import kernel_timing
import pytest
from shapes import HEADS, LINEARS, MODELS

CACHES = {"L1": 48 << 10, "L2": 1 << 20, "L3": 32 << 20}


class FakeBench:
    """A bench that takes no time."""

    call_bytes = 1000
    working_set_bytes = 10_500

    def __init__(self) -> None:
        self.calls: list[int] = []

    def run(self, repeats: int) -> None:
        self.calls.append(repeats)


def test_the_fraction_is_bytes_over_time_over_the_machines() -> None:
    found = kernel_timing.figures(FakeBench(), 2, 11, 1e-6, 4e9, 5000)
    assert (found.gbps, found.read_gbps, found.fraction) == (1.0, 4.0, 0.25)
    assert found.call_us == pytest.approx(1)
    assert found.gmacs == pytest.approx(5)


def test_only_matrices_count_multiply_adds() -> None:
    assert kernel_timing.figures(FakeBench(), 1, 1, 1e-6, 1e9, 0).gmacs is None


def test_a_round_goes_round_the_whole_working_set_and_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 0.004, 1.0, 1.009, 2.0, 2.02])
    monkeypatch.setattr(kernel_timing.time, "perf_counter", lambda: next(clock))
    bench = FakeBench()
    assert kernel_timing.rounds_repeats(bench) == 44
    assert bench.calls == [11, 22, 44]


@pytest.mark.parametrize(
    ("share", "name"),
    [(48 << 10, "L1"), (49 << 10, "L2"), (2 << 20, "L3"), (33 << 20, "memory")],
)
def test_a_working_set_lies_in_the_smallest_cache_that_holds_it(share: int, name: str) -> None:
    assert kernel_timing.resident(share, CACHES) == name


def test_cache_sizes_are_read_from_the_system(tmp_path: Path) -> None:
    facts = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K")]
    for i, values in enumerate(facts):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, value in zip(("level", "type", "size"), values, strict=True):
            (folder / name).write_text(value + "\n")
    assert kernel_timing.cache_bytes(tmp_path) == {"L1": 48 << 10, "L2": 1 << 20}


def test_an_unknown_cache_is_memory(tmp_path: Path) -> None:
    assert kernel_timing.cache_bytes(tmp_path) == {}
    assert kernel_timing.resident(1, {}) == "memory"


def test_the_linear_layers_of_a_model_add_up_to_its_parameters() -> None:
    per_layer = {"q": 1, "q-o": 2, "o": 1, "kv": 2, "gate-up": 2, "down": 1}
    weights = {
        model.name: model.n_layers
        * sum(per_layer[layer] * rows * cols for layer, (rows, cols) in model.linears.items())
        for model in MODELS
    }
    assert weights["smollm2-135m"] == 106_168_320
    assert weights["llama-3.2-1b"] == 973_078_528
    assert weights["qwen2.5-1.5b"] == 1_310_195_712


def test_every_shape_can_be_packed_in_groups_of_32() -> None:
    assert {shape.cols % 32 for shape in (*LINEARS, *HEADS)} == {0}
    assert len({str(shape) for shape in LINEARS}) == len(LINEARS)
