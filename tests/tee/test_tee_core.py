"""How large the core is, and what it is made of: few lines, and few packages of others."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tee_sim import spawn
from tee_sim.client import TeeClient
from tests.code_lines import code_lines

TEE_SIM = Path(spawn.__file__).resolve().parent
GATHER = TEE_SIM / "gather.cpp"
MOST_LINES = 3000
PACKAGES = {
    "cryptography",
    "_openssl",
    "_cffi_backend",
    "cbor2",
    "_cbor2",
}  # beyond the standard library
GUARD_PACKAGES = {"numpy", "onnxruntime", "tokenizers", "cryptography", "_openssl", "_cffi_backend"}
# What a host imports to reach a TEE. None of it is of use inside one.
HOST_SIDE = {"client", "caller", "channel", "spawn", "ledger", "shared_memory", "verify"}

LOADED = """
import sys
sys.path.extend(sys.argv[2:])
from tee_sim import daemon
daemon._loader(sys.argv[1], "")
print(*sorted(sys.modules))
"""


def core_files():
    """Of `tee_sim` what is not the guard, nor its call and its result (`scan_*`)."""
    named = {path: str(path.relative_to(TEE_SIM)) for path in TEE_SIM.rglob("*.py")}
    return [path for path, name in named.items() if "guard" not in name and "scan" not in name]


def test_what_runs_in_the_core_process_has_at_most_three_thousand_lines():
    own = {name.partition(".")[2] for name in loaded("core") if name.startswith("tee_sim.")}
    files = {name: TEE_SIM / f"{name.replace('.', '/')}.py" for name in own - {"ta", "_gather"}}
    counted = {name: code_lines(path) for name, path in files.items()}
    counted["_gather"] = len([line for line in GATHER.read_text().splitlines() if line.strip()])
    assert len(counted) > 25 and min(counted.values()) > 0
    assert 2000 < sum(counted.values()) <= MOST_LINES


def test_the_guards_own_modules_have_at_most_three_thousand_lines():
    files = [*(TEE_SIM / "guard").rglob("*.py"), TEE_SIM / "ta" / "guard.py"]
    assert 2500 < sum(map(code_lines, files)) <= MOST_LINES


def test_lines_are_counted_without_blanks_comments_and_docstrings(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(
        '"""Module.\n\nMore.\n"""\n\nimport os  # why\n\n# comment\n\n\n'
        'class A:\n    """Doc."""\n\n    name = """two\nlines"""\n\n'
        '    def f(self):\n        """Doc."""\n        return (\n            os.name\n        )\n'
    )
    assert code_lines(path) == 1 + 1 + 2 + 1 + 3


def test_its_files_import_the_standard_library_and_two_packages():
    for path in core_files():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                names = [node.module]
            roots = {name.partition(".")[0] for name in names}
            assert roots <= {"tee_sim", "cryptography", "cbor2", *sys.stdlib_module_names}, path


def loaded(role):
    """The modules in a process that has loaded a role, as its own launch starts it."""
    command = [sys.executable, "-I", "-S", "-c", LOADED, role, *spawn._search_path(role)]
    done = subprocess.run(command, env={}, cwd="/", capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("role", ["core", "guard"])
def test_a_process_holds_no_module_that_it_does_not_need(role):
    modules = loaded(role)
    roots = {name.partition(".")[0] for name in modules}
    allowed = {"tee_sim", *sys.stdlib_module_names, "__main__"}
    assert roots <= (allowed | PACKAGES if role == "core" else allowed | GUARD_PACKAGES)
    own = {name.partition(".")[2] for name in modules if name.startswith("tee_sim.")}
    assert {name for name in own if name in HOST_SIDE or name.endswith("_calls")} == set()
    unneeded = {"guard", "scan_result"} if role == "core" else {"keys", "device", "storage"}
    assert {"daemon", "dispatch"} <= own and not unneeded & own
    if role == "core":  # numpy and onnxruntime load some of these
        assert not {"socketserver", "http", "asyncio", "multiprocessing", "pickle"} & roots
        assert not (GUARD_PACKAGES - PACKAGES) & roots


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look into a process not dumpable")
@pytest.mark.parametrize("role", ["core", "guard"])
def test_a_running_process_maps_libraries_of_these_packages_alone(role):
    with TeeClient.launch(role) as tee:
        maps = Path(f"/proc/{tee.pid}/maps").read_text()
    foreign = {name.partition(".")[0] for name in re.findall(r"site-packages/([\w.]+)", maps)}
    assert foreign <= (PACKAGES if role == "core" else GUARD_PACKAGES)
    assert "cryptography" in foreign and ("onnxruntime" in foreign) == (role == "guard")
