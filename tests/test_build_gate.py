"""What the gate of the CUDA kernels reads of ptxas, and of the table; no compiler needed."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
REPORT = """\
ptxas info    : Compiling entry function '_ZN4ptmo4cuda3aKeILi{n}EEEvv' for 'sm_87'
ptxas info    : Function properties for _ZN4ptmo4cuda3aKeILi{n}EEEvv
    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, {shared} bytes smem, 368 bytes cmem[0]
"""
WAITS = "cp.async.commit_group;\n\tcp.async.wait_group 0;"
COPIES = (
    "cp.async.cg.shared.global [%r1], [%rd2], 16, %r3;",
    "cp.async.ca.shared.global [%r1], 8;",
)


@pytest.fixture(scope="module")
def gate() -> ModuleType:
    """kernels/cuda/build_gate.py."""
    path = ROOT / "kernels" / "cuda" / "build_gate.py"
    spec = importlib.util.spec_from_file_location("build_gate", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(path.parent))
        patched.setitem(sys.modules, "build_gate", module)  # where dataclasses look
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def report(gate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two instantiations of a kernel: one with a stack, one that spills."""
    monkeypatch.setattr(gate, "kernel_name", lambda _: "split_rows")
    return REPORT.format(n=1, stack=16, stores=0, loads=0, registers=40, shared=128) + (
        REPORT.format(n=2, stack=8, stores=4, loads=12, registers=64, shared=64)
    )


def test_the_largest_of_a_kernels_instantiations_counts(gate: ModuleType, report: str) -> None:
    taken = gate.Resources(registers=64, shared=128, spilled=16, stack=16)
    assert gate.read_report(report) == {"split_rows": taken}


def test_a_stack_and_a_spill_fail_the_gate_and_stand_in_its_table(
    gate: ModuleType, report: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels = gate.read_report(report)
    limits = {"split_rows": gate.Row(128, 64, 128)}
    assert gate.problems("87", kernels, limits) == [
        "sm_87: split_rows spills 16 bytes",
        "sm_87: split_rows has a stack of 16 bytes",
    ]
    gate.print_table("87", kernels, limits)
    assert "| `split_rows` | 128 | 64 | 128 | 16 | 16 | 66 % |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("taken", "problem"),
    [
        ({"registers": 65}, "takes 65 registers, 64 allowed"),
        ({"registers": 64, "shared": 129}, "takes 129 B shared, 128 allowed"),
    ],
)
def test_more_than_the_row_allows_fails(
    gate: ModuleType, taken: dict[str, int], problem: str
) -> None:
    assert gate.excesses("87", gate.Resources(**taken), gate.Row(128, 64, 128)) == [problem]


def test_less_occupancy_than_the_row_claims_fails(gate: ModuleType) -> None:
    row = gate.Row(128, 64, 128, occupancy={"87": 67})
    said = "has an occupancy of 66 %, 67 % in the table"
    assert gate.excesses("87", gate.Resources(registers=64), row) == [said]


def test_kernels_without_a_row_and_rows_without_a_kernel_fail(gate: ModuleType) -> None:
    found = gate.problems("87", {"new": gate.Resources()}, {"old": gate.Row()})
    assert found == [
        "sm_87: old stands in the table and in no source",
        "sm_87: new has no row in the table",
    ]


def ptx(**bodies: str) -> str:
    """A PTX text of these kernels."""
    entries = [
        f".visible .entry {name}(\n\t.param .u64 p\n)\n{{\n\t{body}\n\tret;\n}}\n"
        for name, body in bodies.items()
    ]
    return ".version 9.0\n.target sm_87\n" + "".join(entries)


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_a_kernels_own_and_waits_are_none(gate: ModuleType, copy: str) -> None:
    text = ptx(copying=f"{copy}\n\t{WAITS}", waiting=WAITS, noted=f"// {copy}", plain="")
    blocking = {name: taken.blocking for name, taken in gate.read_ptx(text).items()}
    assert blocking == {"copying": 0, "waiting": 1, "noted": 1, "plain": 1}
    function = f".func helper()\n{{\n\t{copy}\n\tret;\n}}\n"
    assert gate.read_ptx(ptx(plain="") + function)["plain"].blocking == 1


def test_the_threads_are_those_of_the_launch_bounds(gate: ModuleType) -> None:
    bounded = ptx(plain="").replace("\n{", "\n.maxntid 128, 1, 1\n{")
    assert gate.read_ptx(bounded)["plain"].threads == 128
    assert gate.read_ptx(ptx(plain=""))["plain"].threads == 0
    said = "has blocks of 128 threads, 256 in the table"
    assert gate.excesses("87", gate.Resources(threads=128), gate.Row(256)) == [said]


def test_one_instantiation_without_copies_is_enough_to_fail(
    gate: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "kernel_name", lambda mangled: mangled.rstrip("0123456789"))
    names = ("matmul_many", "split_rows", "attention_block")
    sound = {f"{name}{n}": f"{COPIES[0]} {WAITS}" for name in names for n in (1, 2)}
    assert gate.blocking("87", gate.read_ptx(ptx(**sound, matmul_few1=""))) == []
    said = "sm_87: split_rows has no asynchronous copies, or an instantiation without"
    kernels = gate.read_ptx(ptx(**{**sound, "split_rows2": WAITS}))
    assert gate.blocking("87", kernels) == [said]
    del kernels["split_rows"]  # under another name nobody would look at it
    assert gate.blocking("87", kernels) == [said]


def test_a_kernel_name_in_two_files_counts_with_the_larger(gate: ModuleType) -> None:
    first = {"a": gate.Resources(registers=64, stack=8), "b": gate.Resources(registers=1)}
    second = {"a": gate.Resources(registers=32, shared=128)}
    assert gate.together([first, second]) == {
        "a": gate.Resources(registers=64, shared=128, stack=8),
        "b": gate.Resources(registers=1),
    }


def test_the_compiler_is_found_off_path_and_named_with_its_release(
    gate: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.6, V12.6.68'\n")
    nvcc.chmod(0o755)
    used = []
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(gate, "SOURCES", [Path("a.cu")])
    monkeypatch.setattr(gate, "compile_source", lambda nvcc, *_: used.append(nvcc) or {})
    monkeypatch.setattr(sys, "argv", ["build_gate.py", "--arch", "87"])
    assert gate.main() == 1  # no kernels
    assert used == [str(nvcc)]
    assert capsys.readouterr().out.startswith("compiled by nvcc V12.6.68\n")
    nvcc.unlink()
    monkeypatch.setattr(gate.cuda_toolkit, "TOOLKIT", tmp_path)
    with pytest.raises(SystemExit, match="error: no CUDA compiler"):
        gate.main()
    monkeypatch.setattr(sys, "argv", ["build_gate.py", "--nvcc", "no-such-compiler"])
    with pytest.raises(SystemExit, match="--nvcc no-such-compiler is no program"):
        gate.main()


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "on_87", "on_90a", "bound"),
    [
        (256, 32, 0, 100, 100, "threads"),
        (32, 40, 0, 33, 50, "blocks"),
        (256, 129, 0, 16, 12, "registers, eight at a time"),
        (128, 32, 41_216, 25, 31, "shared memory, 1 KiB of a block the system's"),
    ],
)
def test_occupancy_is_what_the_scarcest_resource_leaves(
    gate: ModuleType,
    threads: int,
    registers: int,
    shared: int,
    on_87: int,
    on_90a: int,
    bound: str,
) -> None:
    taken = gate.Resources(registers=registers, shared=shared)
    assert [gate.occupancy(taken, threads, arch) for arch in ("87", "90a")] == [on_87, on_90a], (
        bound
    )


def test_the_tables_occupancy_is_what_its_other_numbers_leave(gate: ModuleType) -> None:
    text = (ROOT / "kernels" / "README.md").read_text(encoding="utf-8")
    limits = gate.allowed(text)
    written = re.findall(r"^\| `\w+` \|", text.split(gate.TITLE, 1)[1], re.MULTILINE)
    assert len(limits) == len(written) > 0
    for name, row in limits.items():
        for arch, percent in row.occupancy.items():
            assert gate.occupancy(row, row.threads, arch) == percent, (name, arch)
