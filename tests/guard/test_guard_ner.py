"""The token classifier: its files, windows and pieces, offsets, and the filter it runs under."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import types
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tee_sim
from tee_sim import spawn
from tee_sim.client import TeeClient, TeeError
from tee_sim.errors import ResultCode
from tee_sim.guard import ner
from tee_sim.guard.ner import MODEL, TokenClassifier, open_model, read_checked
from tee_sim.guard.normalise.view import View
from tee_sim.guard.normalise.views import views
from tee_sim.guard.reading import model_spans
from tee_sim.guard.scoring import scan_text
from tests.guard.inside import scanning

FRAME = "My neighbour John Smith has been ill since spring."
NAME = "John Smith"

UNDER_FILTER = """
import os, socket, sys
sys.path.extend(sys.argv[2:])
from tee_sim import hardening, seccomp
from tee_sim.guard.ner import open_model
classifier = open_model()
hardening._prctl(38, 1)
if not seccomp.confine():
    sys.exit(77)
text = "My neighbour John Smith has been ill since spring."
print([text[e.start:e.end] for e in classifier.find(text)], flush=True)
print(len(list(classifier.find(text * 500))) >= 500, flush=True)
for path in ("/etc/hostname", "/dev/shm/left-behind"):
    try:
        open(path, "a" if "shm" in path else "r")
    except PermissionError:
        print("no open", flush=True)
if sys.argv[1] == "socket":
    socket.socket()
else:
    os.execv("/bin/true", ["true"])
print("still here", flush=True)
"""


@pytest.fixture(scope="module")
def classifier():
    return open_model()


@pytest.fixture
def copied(tmp_path):
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def found(classifier, text):
    return {text[entity.start : entity.end] for entity in classifier.find(text)}


@pytest.mark.parametrize("call", ["socket", "exec"])
def test_it_works_under_the_filter_where_nothing_is_opened_and_a_socket_or_exec_kills(call):
    paths = spawn._search_path("guard")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", UNDER_FILTER, call, *paths],
        env={"OPENBLAS_NUM_THREADS": "1"},
        cwd="/",
        capture_output=True,
        text=True,
    )
    if done.returncode == 77:
        pytest.skip("this kernel refuses the filter")
    assert done.stdout.splitlines() == [f"['{NAME}']", "True", "no open", "no open"], done.stderr
    assert done.returncode == -signal.SIGSYS


def test_the_shipped_model_is_whole_small_and_named_with_its_licence():
    files = read_checked()
    assert sorted(files) == ["labels.json", "model.onnx", "tokenizer.json"]
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 20_000_000
    assert "Creative Commons Attribution 4.0" in (MODEL / "LICENSE").read_text("utf-8")
    card = (MODEL / "README.md").read_text("utf-8")
    assert "National Design Studio" in card and "modified" in card


def test_every_file_of_the_model_is_in_the_sums():
    lines = (MODEL / "SHA256SUMS").read_text("ascii").splitlines()
    assert {line[66:] for line in lines} == {p.name for p in MODEL.iterdir()} - {"SHA256SUMS"}


@pytest.mark.parametrize("name", ["labels.json", "model.onnx", "tokenizer.json"])
def test_a_model_with_one_wrong_byte_anywhere_is_refused(copied, name):
    path = copied / name
    size, rng = path.stat().st_size, random.Random(name)
    for at in (0, size - 1, *(rng.randrange(size) for _ in range(4))):
        with path.open("r+b") as file:
            file.seek(at)
            right = file.read(1)[0]
            file.seek(at)
            file.write(bytes([right ^ 1 << rng.randrange(8)]))
        with pytest.raises(ValueError, match=rf"^the guard's model: {name}: damaged$"):
            read_checked(copied)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([right]))
    assert read_checked(copied)[name] == path.read_bytes()


@pytest.mark.parametrize("name", ["SHA256SUMS", "labels.json", "model.onnx", "tokenizer.json"])
def test_a_model_with_a_missing_or_cut_file_is_refused(copied, name):
    whole = (copied / name).read_bytes()
    (copied / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        read_checked(copied)
    (copied / name).unlink()
    with pytest.raises(ValueError, match=rf"^the guard's model: {name}: No such file"):
        read_checked(copied)


@pytest.mark.parametrize(
    "files",
    [{"model.onnx": b"no model"}, {"tokenizer.json": b"{}"}, {"labels.json": b'{"labels": ["X"]}'}],
    ids=["model", "tokenizer", "labels"],
)
def test_files_with_right_sums_that_are_no_model_are_refused_in_one_line(files):
    with pytest.raises(ValueError, match=r"^the guard's model: \w+$"):
        TokenClassifier({**read_checked(), **files})


def test_labels_of_another_model_are_refused_at_the_start(tmp_path):
    folder = Path(shutil.copytree(MODEL, tmp_path / "model"))
    tables = {"thresholds": {"PERSON": 0.5}, "hangul_thresholds": {"PERSON": 0.5}}
    tables |= {"alone": 0.5, "hangul_alone": 0.5}
    text = json.dumps({"labels": ["O", "B-PERSON", "I-PERSON"], **tables})
    (folder / "labels.json").write_text(text)
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    digest = ner.hashlib.sha256(text.encode()).hexdigest()
    changed = [f"{digest}  labels.json" if line.endswith("labels.json") else line for line in sums]
    (folder / "SHA256SUMS").write_text("\n".join(changed) + "\n")
    with pytest.raises(ValueError, match="the guard's model"):
        open_model(folder)


def test_a_guard_whose_model_is_damaged_does_not_start(tmp_path):
    package = Path(tee_sim.__file__).parent
    skipped = shutil.ignore_patterns("__pycache__", "*.so", "model.onnx")
    copy = Path(shutil.copytree(package, tmp_path / "tee_sim", ignore=skipped))
    code = "import sys; sys.path.extend(sys.argv[1:]); from tee_sim.daemon import _loader; "
    command = [sys.executable, "-I", "-S", "-c", code + "_loader('guard', ''); print('up')"]
    paths = [str(tmp_path), *spawn._search_path("guard")[1:]]
    for content, reason in ((None, "No such file or directory"), (b"x" * 100, "damaged")):
        if content is not None:
            (copy / "guard" / "model" / "model.onnx").write_bytes(content)
        done = subprocess.run([*command, *paths], env={}, cwd="/", capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"the guard's model: model.onnx: {reason}\n"


@pytest.mark.parametrize("before", [*range(140, 200, 12), 350])
def test_a_name_is_found_whole_wherever_windows_meet(classifier, before):
    text = "bread " * before + FRAME + " bread" * 250
    assert NAME in found(classifier, text)


@pytest.mark.parametrize("shift", [-120, -60, -30, -8, 0])
def test_a_name_is_found_whole_wherever_pieces_meet(classifier, monkeypatch, shift):
    monkeypatch.setattr(ner, "PIECE_CHARS", 1024)
    text = ("bread " * 400)[: 1024 - 256 + shift] + " " + FRAME + " bread" * 200
    assert NAME in found(classifier, text)


def test_pieces_and_windows_see_what_a_single_text_shows(classifier):
    text = "".join(f"{FRAME} Call me at 555-013-{i:04d}. " for i in range(120))
    spans = model_spans(classifier, views(text))
    names = [span for span in spans if text[span.start : span.end] == NAME]
    assert len(names) == 120


@pytest.mark.parametrize(
    "unit",
    ["\uac01\ub620\ubf41 ", "\u0e01\u0e33\u0e25", "\U0001f600", "a.b/c-d:", "x", "\u0644\u0627 "],
)
def test_any_long_text_ends_in_an_answer(classifier, unit):
    text = unit * (3_000 // len(unit))
    for entity in classifier.find(text):
        assert 0 <= entity.start < entity.end <= len(text)


@pytest.mark.slow
def test_a_text_of_a_hundred_thousand_characters_ends_in_an_answer():
    text = (FRAME + " ") * 2000
    with TeeClient.launch("guard") as guard:
        spans = guard.scan(text).spans
    assert len([span for span in spans if text[span.start : span.end] == NAME]) == 2000


ODD = st.text(
    st.sampled_from(
        "aZ 9.@-\n\u0301\u0323\u200d\u200b\U0001f468\U0001f469\U0001f3fd\u05d0\u0627"
        "\u202e\ud55c\u3131\u0130\u00df\ufb01\U0001d400\uff21\ufeff\x00"
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(before=ODD, after=ODD)
def test_spans_are_ordered_whole_and_around_the_name_in_any_surroundings(classifier, before, after):
    text = f"{before}\n{FRAME}\n{after}"
    spans = scan_text(text, classifier=classifier).spans
    edges = [edge for span in spans for edge in (span.start, span.end)]
    assert edges == sorted(edges)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    start = text.index(NAME)
    assert any(s.start <= start and start + len(NAME) <= s.end for s in spans)


def test_the_same_text_gives_the_same_spans(classifier):
    text = f"{FRAME} \uc81c \uc774\ub984\uc740 \uae40\ubbfc\uc218\uc785\ub2c8\ub2e4. " * 9
    assert list(classifier.find(text)) == list(open_model().find(text))


class Fake:
    """Finds one word, wherever it stands as it is."""

    def __init__(self, word):
        self.word, self.read = word, []

    def find(self, text, *, accompanied=False):
        self.read.append(text)
        at = text.find(self.word)
        return [ner.Entity(at, at + len(self.word), "PERSON", 0.9)] if at >= 0 else []


@pytest.mark.parametrize(
    "hidden",
    [
        "Zo\u200blt\u200ba",
        "\uff3a\uff4f\uff4c\uff54\uff41",
        "\U0001d419\U0001d428\U0001d425\U0001d42d\U0001d41a",
        "Z\u043elt\u0430",
        "%5A%6F%6C%74%61",
        "Z.o.l.t.a",
        "Z o l t a",
    ],
    ids=["zero-width", "fullwidth", "bold", "cyrillic", "percent", "dotted", "spaced"],
)
def test_what_stands_in_disguise_is_read_and_found_where_it_stands(hidden):
    text = f"I met {hidden} there."
    spans = model_spans(Fake("Zolta"), views(text))
    assert [text[span.start : span.end].rstrip() for span in spans] == [hidden]


def test_plain_prose_is_read_once():
    fake = Fake("nothing")
    text = "It was a fine day, and the neighbours went for a walk by the river. " * 5
    model_spans(fake, views(text))
    assert fake.read == [text]


@pytest.mark.parametrize(
    "text",
    [
        "when robert asked, kate gave lily the book.",
        "Stanislava Klap\u00e1\u010dov\u00e1 wrote it.",
        "\u0412\u0430\u0441\u0438\u043b\u0438\u0439 is tall.",
    ],
    ids=["small letters", "accents", "other scripts"],
)
def test_what_the_model_would_read_the_same_is_not_read_again(text):
    fake = Fake("nothing")
    assert len(list(views(text))) > 1
    model_spans(fake, views(text))
    assert fake.read == [text]


class Finds:
    """A classifier that finds what it is told."""

    def __init__(self, *finds):
        self.finds = finds

    def find(self, text, *, accompanied=False):
        for value, kind in self.finds:
            at = text.index(value)
            yield ner.Entity(at, at + len(value), kind, 0.9)


@pytest.mark.parametrize(
    ("text", "finds", "expected"),
    [
        ("a 978-037-27 b", [("978", "IBAN"), ("-", "PHONE"), ("037-27", "US_SSN")], "978-037-27"),
        (
            "pay 41, 4111 2222 later",
            [("41,", "IBAN"), ("4111", "IBAN"), ("2222", "PHONE")],
            "41, 4111 2222",
        ),
        ("sort 329, 198, 122", [("329", "COORDINATES"), (", 198, 122", "COORDINATES")], None),
        ("at 48.85, 2.35 n", [("48.85,", "COORDINATES"), (" 2.35", "IBAN")], "48.85, 2.35"),
        ("^[a-z0-9]+@[a-z]", [("a-z0-9", "EMAIL"), ("@", "EMAIL")], None),
        ("mail ann at corp", [("ann at corp", "EMAIL")], "ann at corp"),
        ("k = os.environ['K']", [("os.environ", "SECRET")], None),
        ("k = DB_KEY", [("DB_KEY", "SECRET")], None),
        ("k = s3cr3t!", [("s3cr3t!", "SECRET")], "s3cr3t!"),
        ("met , there", [(",", "PERSON")], None),
    ],
)
def test_pieces_of_a_number_are_one_find_and_what_cannot_be_of_its_kind_is_none(
    text, finds, expected
):
    found = [text[s.start : s.end] for s in model_spans(Finds(*finds), [View.identity(text)])]
    assert found == ([] if expected is None else [expected])


def test_a_word_that_looks_like_a_full_korean_name_needs_less():
    text = "Ann \uc0ac\uacfc\ub97c \uae40\ubbfc\uc218 \uae40\ubbfc\uc218\uac00 \uc654\ub2e4"
    rows = [ner._row(text, at, cased=False) for at in (0, 4, 8, 12, 17, len(text))]
    assert rows == [0, 1, 2, 2, 1, 0]


def test_windows_cover_all_tokens_overlap_and_are_of_one_length():
    for n_tokens in (*range(1, 1200), 8_191):
        windows = ner._windows(n_tokens)
        lengths = [end - start for start, end in windows]
        assert windows[0][0] == 0 and windows[-1][1] == n_tokens
        assert max(lengths) <= ner.WINDOW_TOKENS and len(set(lengths)) == 1
        overlaps = [before[1] - after[0] for before, after in pairwise(windows)]
        assert all(overlap >= ner.OVERLAP_TOKENS for overlap in overlaps)


def test_of_a_long_text_with_one_disguise_only_its_surroundings_are_read_again():
    fake = Fake("nothing")
    text = "It was a fine day by the river. " * 50 + "p\u0430ssage " + "It was fine. " * 50
    model_spans(fake, views(text))
    assert len(fake.read) == 2
    assert "passage" in fake.read[1] and len(fake.read[1]) < 260


@pytest.mark.parametrize(
    "text,kind,found",
    [("about my test", "MEDICAL", 0), ("About The test", "ORG", 0), ("ask An today", "PERSON", 1)],
)
def test_function_words_are_no_finds_but_short_names_are(text, kind, found):
    start = text.index(" ") + 1
    entity = ner.Entity(start, text.index(" ", start), kind, 0.9)
    told = types.SimpleNamespace(find=lambda _, **__: iter([entity]))
    assert len(model_spans(told, [View.identity(text)], ())) == found


def test_a_sentences_full_stop_is_no_part_of_a_secret():
    text = "It is Xy7-hunter. Go"
    told = types.SimpleNamespace(find=lambda _, **__: iter([ner.Entity(6, 17, "SECRET", 0.9)]))
    (span,) = model_spans(told, [View.identity(text)], ())
    assert text[span.start : span.end] == "Xy7-hunter"


def test_a_failure_inside_the_classifier_is_an_error_and_never_a_harmless_result():
    class Broken:
        def find(self, text, *, accompanied=False):
            raise self.error

    for error, code in ((RuntimeError("a bug"), "TARGET_DEAD"), (MemoryError(), "OUT_OF_MEMORY")):
        broken = Broken()
        broken.error = error
        reply = scanning(broken)()
        assert reply.command == ResultCode[code] and not any(reply.values)


def test_a_guard_that_runs_says_what_its_own_model_says(classifier):
    with TeeClient.launch("guard") as guard:
        assert guard.scan(FRAME) == scan_text(FRAME, classifier=classifier)
        assert NAME in {FRAME[s.start : s.end] for s in guard.scan(FRAME).spans}
        assert guard.scan("What is the capital of France?").level == "PUBLIC"
        with pytest.raises(TeeError):
            guard.scan("x" * (1 << 18) + "y")
        assert Path(f"/proc/{guard.pid}").exists() and guard.pid != os.getpid()
