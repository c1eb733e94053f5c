"""The GGUF reader loads well-formed files and names what is wrong with the others."""

import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st

from ptmo_secure.engine.chat_template import ChatTemplate
from ptmo_secure.engine.gguf_file import GgufFile
from ptmo_secure.engine.gguf_import import ModelSource
from ptmo_secure.engine.tokenizer import Tokenizer
from ptmo_secure.errors import InputError, ModelFormatError
from tests.tiny_models import make_tiny_model

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10
ONE_F32 = struct.pack("<f", 1.0)


def _string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return _string(key) + struct.pack("<I", kind) + value


def _info(name: str | bytes, dims: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    return _string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def _gguf(
    pairs: tuple[bytes, ...] = (),
    infos: tuple[bytes, ...] = (),
    data: bytes = b"",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    n_tensors, n_pairs = counts or (len(infos), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs)
    head += b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + data


def _load(tmp_path: Path, content: bytes) -> GgufFile:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    return GgufFile(path)


@pytest.mark.parametrize("version", [2, 3])
def test_every_kind_of_value_and_a_tensor_are_read(version: int, tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.float32)
    nested = struct.pack("<IQ", ARRAY, 1) + struct.pack("<IQ", STRING, 1) + _string("é")
    content = _gguf(
        (
            _pair("u32", U32, struct.pack("<I", 7)),
            _pair("f32", F32, ONE_F32),
            _pair("bool", BOOL, b"\x01"),
            _pair("u64", U64, struct.pack("<Q", 2**63)),
            _pair("text", STRING, _string("a\nb")),
            _pair("numbers", ARRAY, struct.pack("<IQ3I", U32, 3, 1, 2, 3)),
            _pair("nested", ARRAY, nested),
        ),
        (_info("t", (4, 2)),),
        values.tobytes(),
        version=version,
    )
    with _load(tmp_path, content) as file:
        numbers = file.metadata.pop("numbers")
        assert isinstance(numbers, np.ndarray)
        assert numbers.tolist() == [1, 2, 3]
        assert file.metadata == {
            "u32": 7,
            "f32": 1.0,
            "bool": True,
            "u64": 2**63,
            "text": "a\nb",
            "nested": [["é"]],
        }
        info = file.tensors["t"]
        assert (info.shape, info.type, info.nbytes) == ((2, 4), Kind.F32, 32)
        assert file.data("t").view(np.float32).tolist() == values.tolist()
        assert file.pair_bytes("u32") == _pair("u32", U32, struct.pack("<I", 7))
        with pytest.raises(ModelFormatError, match="no tensor named 'absent'"):
            file.data("absent")


BAD_FILES = {
    "the file is empty": b"",
    "magic: not a GGUF file": b"GGML" + bytes(60),
    "version: the file ends": b"GGUF\x03",
    "version: GGUF version 1": _gguf(version=1),
    "version: GGUF version 4": _gguf(version=4),
    "version: big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "metadata count: 99 items cannot": _gguf(counts=(0, 99)),
    f"metadata count: {2**63} items cannot": _gguf(counts=(0, 2**63)),
    f"tensor count: {2**40} items cannot": _gguf(counts=(2**40, 0)),
    "metadata key 0: a string of": _gguf((struct.pack("<Q", 2**62) + bytes(16),)),
    "metadata key 0: not valid UTF-8": _gguf((_pair(b"\xff\xfe", U32, bytes(4)),)),
    "metadata 'a': the key is empty or appears twice": _gguf((_pair("a", U32, bytes(4)),) * 2),
    "metadata '': the key is empty": _gguf((_pair("", U32, bytes(4)),)),
    "metadata 'a': unknown value type 13": _gguf((_pair("a", 13, bytes(8)),)),
    "metadata 'a': a boolean": _gguf((_pair("a", BOOL, b"\x02"),)),
    "metadata 'a': a string of 18446744073709551615": _gguf(
        (_pair("a", STRING, struct.pack("<Q", 2**64 - 1)),)
    ),
    "metadata 'a': 4611686018427387904 items": _gguf(
        (_pair("a", ARRAY, struct.pack("<IQ", U32, 2**62)),)
    ),
    "metadata 'a': 4611686018427387904 elements": _gguf(
        (_pair("a", ARRAY, struct.pack("<IQ", STRING, 2**62)),)
    ),
    "metadata 'a': 4000000 items": _gguf((_pair("a", ARRAY, struct.pack("<IQ", STRING, 4000000)),)),
    "metadata 'a': unknown element type 77": _gguf((_pair("a", ARRAY, struct.pack("<IQ", 77, 1)),)),
    "metadata 'a': arrays nested deeper": _gguf(
        (_pair("a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 9),)
    ),
    "general.alignment: 33 is not": _gguf(
        (_pair("general.alignment", U32, struct.pack("<I", 33)),)
    ),
    "general.alignment: not an integer": _gguf((_pair("general.alignment", F32, ONE_F32),)),
    "tensor 0 name: a string of 65 bytes": _gguf((), (_info("n" * 65),), bytes(32)),
    "tensor 't': it has 0 dimensions": _gguf((), (_info("t", ()),), bytes(32)),
    "tensor 't': it has 5 dimensions": _gguf((), (_info("t", (1,) * 5),), bytes(32)),
    "tensor 't': shape [0]": _gguf((), (_info("t", (0,)),), bytes(32)),
    "tensor 't': shape [9223372036854775808, 2]": _gguf((), (_info("t", (2**63, 2)),), bytes(32)),
    "tensor 't': unknown tensor type 4": _gguf((), (_info("t", kind=4),), bytes(32)),
    "tensor 't': rows of 8 are no multiple of Q4_1's 32": _gguf(
        (), (_info("t", kind=3),), bytes(32)
    ),
    "tensor 't': offset 7 is misaligned": _gguf((), (_info("t", offset=7),), bytes(64)),
    "tensor 't': offset 4294967296 is": _gguf((), (_info("t", offset=2**32),), bytes(64)),
    "tensor 't': its data ends at byte": _gguf((), (_info("t", (16,)),), bytes(32)),
    "tensor 't': the name appears twice": _gguf((), (_info("t"), _info("t")), bytes(64)),
    "overlaps another tensor": _gguf((), (_info("a", (16,)), _info("b", offset=32)), bytes(64)),
}


@pytest.mark.parametrize("message", BAD_FILES)
def test_a_malformed_file_is_refused_with_its_field(message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError) as caught:
        _load(tmp_path, BAD_FILES[message])
    text = str(caught.value)
    assert message in text
    assert text.startswith(str(tmp_path / "x.gguf") + ": ")
    assert "\n" not in text


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.gguf: cannot be read: No such file"):
        GgufFile(tmp_path / "absent.gguf")
    with pytest.raises(InputError, match="Is a directory"):
        GgufFile(tmp_path)


@given(content=st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_never_crash_the_reader(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + content)
    try:
        GgufFile(path).close()
    except ModelFormatError as error:
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    model = make_tiny_model(tmp_path_factory.mktemp("fuzz"), quant="Q4_1", n_layers=1)
    return model.path.read_bytes()


def test_every_truncation_is_refused(small_model: bytes, tmp_path: Path) -> None:
    with GgufFile(_written(tmp_path, small_model)) as file:
        ends = sorted(info.offset + info.nbytes for info in file.tensors.values())
    lengths = [*range(0, ends[0], max(1, ends[0] // 200)), *(end - 1 for end in ends)]
    for length in lengths:
        with pytest.raises(ModelFormatError):
            GgufFile(_written(tmp_path, small_model[:length]))


def test_400_header_mutations_load_or_are_refused(small_model: bytes, tmp_path: Path) -> None:
    loaded, refused = _fuzz(small_model, tmp_path, count=400, seed=20)
    assert loaded + refused == 400
    assert refused > 100  # the mutations do reach the checks
    assert loaded > 5


@pytest.mark.slow
def test_10000_header_mutations_load_or_are_refused(small_model: bytes, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded, refused = _fuzz(small_model, tmp_path, count=10_000, seed=2)
    assert loaded + refused == 10_000
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 256 * 1024


def _fuzz(base: bytes, tmp_path: Path, count: int, seed: int) -> tuple[int, int]:
    """Mutate the header, load all that is read from it; count clean loads and refusals."""
    path = _written(tmp_path, base)
    with GgufFile(path) as file:
        header = min(info.offset for info in file.tensors.values())
    rng = np.random.default_rng(seed)
    loaded = refused = 0
    for _ in range(count):
        path.write_bytes(_mutate(base, header, rng))
        start = time.monotonic()
        try:
            with ModelSource(path) as source:
                tokenizer = Tokenizer(source.metadata, str(path))
                tokenizer.decode(tokenizer.encode("hello 12 <|im_end|>"))
                ChatTemplate(source.metadata, tokenizer, str(path))
                for name in source.tensor_names():
                    source.tensor(name)
            loaded += 1
        except ModelFormatError as error:
            assert "\n" not in str(error)
            refused += 1
        assert time.monotonic() - start < 10
    return loaded, refused


def _mutate(base: bytes, header: int, rng: np.random.Generator) -> bytes:
    """Change a few places of the header: bits, bytes, extreme integers, cuts and copies."""
    data = bytearray(base)
    # Half of the changes go to the fixed header, the first keys and the tensor infos, where the
    # sizes stand, and not to the vocabulary that fills most of the header.
    for _ in range(int(rng.integers(1, 4))):
        zones = ((0, 24), (0, 600), (header - 1200, header), (0, header))
        low, high = zones[int(rng.integers(len(zones)))]
        at = int(rng.integers(low, high))
        match int(rng.integers(5)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.integers(256))
            case 2:
                extreme = (0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
                data[at : at + 8] = struct.pack("<Q", extreme[int(rng.integers(len(extreme)))])
            case 3:
                del data[at : at + int(rng.integers(1, 64))]
            case _:
                end = at + int(rng.integers(1, 64))
                data[at:at] = data[at:end]
    return bytes(data)


def _written(folder: Path, content: bytes) -> Path:
    path = folder / "fuzzed.gguf"
    path.write_bytes(content)
    return path
