"""Prices of TEE calls: the formula, the presets' figures and sources, a file of one's own."""

import dataclasses
import re
from pathlib import Path

import pytest

from ptmo_secure import cli
from ptmo_secure.errors import InputError
from ptmo_secure.tee_cost import PRESETS, CostModel, Figure, cost_model
from tee_sim.client import Usage

PAGE = Path(__file__).resolve().parent.parent / "docs" / "measuring-optee.md"
MEASURED = """
name = "orin-nano-8gb"
[call_us]
value = 21
source = "no-op TA, 10,000 calls, median"
[copy_gbps]
value = 3.5
source = "sweep of 4 KiB to 8 MiB"
[map_us]
value = 90.5
source = "1 MiB buffer, 1,000 times, median"
"""


def test_time_is_crossings_bytes_both_ways_and_buffers_each_at_its_price() -> None:
    model = CostModel("by hand", Figure(20, "a"), Figure(4, "b"), Figure(100, "c"))
    usage = Usage(
        crossings=3, bytes_in=6_000_000, bytes_out=2_000_000, registrations=2, registered_bytes=9
    )
    assert model.milliseconds(usage) == pytest.approx(0.06 + 2.0 + 0.2)
    assert model.milliseconds(Usage()) == 0
    assert model.milliseconds(Usage(bytes_in=4_000_000)) == pytest.approx(1)
    assert model.milliseconds(Usage(bytes_out=4_000_000)) == pytest.approx(1)
    assert model.milliseconds(Usage(registered_bytes=1 << 30)) == 0  # priced by the buffer


def test_the_presets_are_the_documented_ones_and_every_figure_has_a_source() -> None:
    calls = {name: preset.call_us.value for name, preset in PRESETS.items()}
    assert calls == {"optimistic": 10, "orin_est": 25, "pessimistic": 131}
    for preset in PRESETS.values():
        assert (preset.copy_gbps.value, preset.map_us.value) == (2, 200)
        for field in dataclasses.fields(preset):
            figure = getattr(preset, field.name)
            if isinstance(figure, Figure):
                assert figure.source.split(":")[0] in ("measured", "estimated", "assumed")
                assert len(figure.source) > 40
        assert cost_model(preset.name) is preset


def test_a_file_of_ones_own_takes_the_presets_place(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MEASURED)
    model = cost_model(str(file))
    assert model.name == "orin-nano-8gb"
    assert (model.call_us.value, model.copy_gbps.value, model.map_us.value) == (21, 3.5, 90.5)
    assert model.map_us.source == "1 MiB buffer, 1,000 times, median"


def test_what_was_not_measured_comes_from_the_base_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "calls only.toml"
    file.write_text('base = "pessimistic"\n[call_us]\nvalue = 30.5\nsource = "ours"\n')
    model = cost_model(str(file))
    assert (model.name, model.call_us) == ("calls only", Figure(30.5, "ours"))
    assert model.copy_gbps is PRESETS["pessimistic"].copy_gbps
    assert model.map_us is PRESETS["pessimistic"].map_us


def test_the_page_on_measuring_shows_the_presets_and_a_file_that_works(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for field in ("call_us", "copy_gbps", "map_us"):
        row = re.search(rf"^\| `{field}` \| (\d+) \| (\d+) \| (\d+) \|", text, re.MULTILINE)
        assert row is not None, field
        presets = [PRESETS[name] for name in ("optimistic", "orin_est", "pessimistic")]
        assert [float(cell) for cell in row.groups()] == [
            getattr(preset, field).value for preset in presets
        ]
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "example.toml"
    file.write_text(example, encoding="utf-8")
    model = cost_model(str(file))
    assert (model.name, model.call_us.value, model.copy_gbps.value) == ("orin-nano-8gb", 21.5, 3.1)
    assert model.map_us is PRESETS["orin_est"].map_us


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value = 21\n", "value = 0\n", "call_us: value 0.0 is not a positive number"),
        ("value = 21\n", "value = nan\n", "call_us: value nan is not a positive number"),
        ("value = 21\n", "value = inf\n", "call_us: value inf is not a positive number"),
        ("value = 21\n", "value = -1\n", "call_us: value -1.0 is not a positive number"),
        ("value = 21\n", "value = '21'\n", "call_us: value must be a number and source a text"),
        ("value = 21\n", "value = true\n", "call_us: value must be a number and source a text"),
        ("value = 21\n", "", "call_us is not a table of value and source"),
        ('"sweep of 4 KiB to 8 MiB"', '" "', "copy_gbps: source is empty"),
        ("[map_us]", "[mapping_us]", "unknown field 'mapping_us'"),
        ("[call_us]", 'base = "fast"\n[call_us]', "unknown base 'fast'"),
        ("[call_us]", "[call_us", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name_and_field(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    assert old in MEASURED
    file.write_text(MEASURED.replace(old, new, 1))
    with pytest.raises(InputError) as refused:
        cost_model(str(file))
    assert message in str(refused.value) and str(file) in str(refused.value)


def test_a_figure_that_is_missing_without_a_base_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MEASURED.partition("[map_us]")[0])
    with pytest.raises(InputError, match="map_us is missing, and no base is named"):
        cost_model(str(file))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("fast", "unknown cost-model 'fast': choose from optimistic, orin_est, pessimistic"),
        ("no-such-file.toml", "cost-model 'no-such-file.toml': No such file"),
        ("", "cost-model '' is not a path"),
    ],
)
def test_the_command_names_a_cost_model_that_is_not_there(
    given: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "--cost-model", given]) == 2
    assert message in capsys.readouterr().err
