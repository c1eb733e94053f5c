"""The project itself: file sizes, layout, no traces of one machine, documents that are true."""

import re
import sys
from pathlib import Path

import pytest

from ptmo_secure import cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
SOURCE_FOLDERS = ("ptmo_secure", "tee_sim", "csrc", "kernels", "tests", "benchmarks", "docs", ".ci")
TOP_FILES = (
    *("README.md", "LICENSE", "CONTRIBUTING.md", "Makefile", "setup.py", "pyproject.toml"),
    *("CMakeLists.txt", "constraints.txt", ".clang-format", ".gitignore"),
)
CODE = (".py", ".pyi", ".h", ".hpp", ".cpp", ".cu", ".cuh")
TEXT = (*CODE, ".md", ".toml", ".txt", ".json", ".cfg")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def files(suffixes: tuple[str, ...]) -> list[Path]:
    """The project's own files, wherever it is checked out."""
    found = [ROOT / name for name in (*TOP_FILES, ".ci/run") if (ROOT / name).is_file()]
    for folder in SOURCE_FOLDERS:
        found += [
            path
            for path in (ROOT / folder).rglob("*")
            if path.suffix in suffixes and path.is_file() and "__pycache__" not in path.parts
        ]
    return sorted(set(found))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_search_finds_the_project() -> None:
    names = {str(path.relative_to(ROOT)) for path in files(TEXT)}
    assert {
        "setup.py",
        "ptmo_secure/pipeline.py",
        "kernels/kernels.h",
        "docs/threat-model.md",
    } <= names


def test_no_code_file_is_longer_than_its_limit() -> None:
    long = {}
    for path in files(CODE):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        limit = 600 if "kernels" in path.relative_to(ROOT).parts else 400
        if lines > limit:
            long[str(path.relative_to(ROOT))] = lines
    assert long == {}


def test_no_function_is_a_placeholder() -> None:
    sources = [path for path in files((".py",)) if "tests" not in path.relative_to(ROOT).parts]
    assert [path.name for path in sources if "NotImplemented" in path.read_text("utf-8")] == []


def test_no_file_names_a_machines_folders_or_a_registry_host() -> None:
    # Written in parts, so that this file does not find itself.
    words = ["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "/tmp/p" + "lan", "py" + "pi.org"]
    words += ["pythonho" + "sted", "index-" + "url"]
    hits = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in files(TEXT)
        for word in words
        if word in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert hits == []


def test_the_layout_is_the_one_the_readme_describes() -> None:
    for name in TOP_FILES:
        assert (ROOT / name).is_file(), name
    rows = re.findall(r"^\| `([a-z_]+)/` \|", read("README.md"), re.MULTILINE)
    folders = {"ptmo_secure", "csrc", "kernels", "tee_sim", "tests", "benchmarks", "docs"}
    assert set(rows) == folders
    for folder in rows:
        assert (ROOT / folder).is_dir(), folder


def test_the_readme_says_in_its_first_lines_what_this_is_and_is_not() -> None:
    head = "\n".join(read("README.md").splitlines()[:10])
    assert "*simulated TEE*" in head
    assert "*Jetson Orin*" in head
    assert "What it is not:" in head


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_source_file_that_a_document_names_exists(document: Path) -> None:
    pattern = (
        r"`((?:ptmo_secure|tee_sim|csrc|kernels|tests|benchmarks)/[\w./]*\.(?:py|h|cpp|toml))`"
    )
    for name in re.findall(pattern, document.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_a_document_names_exists(
    document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"\bptmo ((?:model|attack|guard|offload|tee) [a-z]+|[a-z]+)", text))
    for words in sorted(named):
        assert cli.main([*words.split(), "--help"]) == 0, words
    capsys.readouterr()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE))
    assert named <= targets


def test_every_long_option_that_the_readme_names_exists(
    capsys: pytest.CaptureFixture[str],
) -> None:
    helps = ""
    commands = [["ask"], ["chat"], ["serve"], ["audit"], ["bench"]]
    for command in [*commands, ["attack", "kv"], ["guard", "eval"]]:
        assert cli.main([*command, "--help"]) == 0
        helps += capsys.readouterr().out
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", read("README.md"))):
        assert option in helps, option


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = [line for line in read(".ci/run").splitlines() if line and not line.startswith("#")]
    assert commands[-1] == "exec make test"
    assert "    make test " in read("README.md")


def test_every_direct_dependency_is_pinned_and_documented() -> None:
    project = tomllib.loads(read("pyproject.toml"))
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    names = {re.match(r"[\w-]+", requirement).group().lower() for requirement in wanted}
    pins = set(re.findall(r"^([\w-]+)==", read("constraints.txt"), re.MULTILINE))
    assert names == pins
    documented = read("docs/dependencies.md").lower()
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", documented)] == []


def test_torch_is_pinned_to_one_version() -> None:
    assert re.findall(r"^torch==.*", read("constraints.txt"), re.MULTILINE) == ["torch==2.13.0"]


def test_the_version_is_written_once_and_the_same() -> None:
    import ptmo_secure

    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert project["version"] == ptmo_secure.__version__


def test_every_public_name_can_be_imported() -> None:
    import ptmo_secure

    for name in ptmo_secure.__all__:
        assert getattr(ptmo_secure, name) is not None, name
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = ptmo_secure.nothing_of_the_kind
