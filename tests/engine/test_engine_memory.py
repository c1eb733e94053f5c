"""What stands in the engine's memory, read from another process through /proc/PID/mem."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ptmo_secure.engine.engine import Engine
from tests.tiny_models import make_tiny_model

IDS = [int(i) for i in np.random.default_rng(11).integers(0, 250, 45)]
ROOT = Path(__file__).parents[2]

VICTIM = """
import json, sys
sys.path.insert(0, {root!r})
from ptmo_secure.engine.engine import Engine
path, fields, ids, fail = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
engine = Engine.load(path, threads=2, **fields)
session = engine.start_session()
session.feed(ids)
if fail == "exception":
    try:
        session.feed([1, 2, 10**6])
    except ValueError:
        pass
if fail == "closed":
    engine.reset()
dump = engine.dump_device_memory()
print(json.dumps({{"addresses": dump.layout.addresses, "page_bytes": dump.layout.page_bytes,
                  "pages": dump.pages.hex()}}), flush=True)
sys.stdin.readline()
"""


class Victim:
    """An engine in a process of its own, paused between two tokens."""

    def __init__(self, path, fields, fail="no"):
        arguments = [str(path), json.dumps(fields), json.dumps(IDS), fail]
        self.process = subprocess.Popen(
            [sys.executable, "-c", VICTIM.format(root=str(ROOT)), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line, "the victim did not start"
        self.said = json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate("\n", timeout=30)

    def read(self, address, size):
        with open(f"/proc/{self.process.pid}/mem", "rb", 0) as memory:
            memory.seek(address)
            return memory.read(size)

    def writable_memory(self):
        """Every readable and writable mapping's bytes."""
        maps = Path(f"/proc/{self.process.pid}/maps").read_text().splitlines()
        for line in maps:
            span, rights = line.split()[:2]
            if rights.startswith("rw"):
                start, end = (int(x, 16) for x in span.split("-"))
                try:
                    yield self.read(start, end - start)
                except OSError:
                    continue  # memfd_secret and special mappings refuse to be read

    def count(self, needles):
        """How many of the needles occur anywhere in the writable memory."""
        found = set()
        for block in self.writable_memory():
            found |= {i for i, needle in enumerate(needles) if needle in block}
        return len(found)


def kv_codes(path, **fields):
    """The K and V rows an engine of this configuration writes for IDS, as bytes in a page."""
    with Engine.load(path, shield="none", **fields) as engine:
        engine.forward(IDS)
        dump = engine.dump_device_memory()
    width = dump.layout.head_dim * {"int8": 1, "fp16": 2, "fp32": 4}[dump.layout.kv_dtype]
    pages = np.frombuffer(dump.pages, np.uint8).reshape(-1, dump.layout.page_bytes)
    rows = []
    for page, header in zip(pages, dump.headers(), strict=True):
        for head in range(dump.layout.n_layers * dump.layout.n_kv_heads):
            at = dump.layout.data_offset + head * dump.layout.head_bytes
            for start in (at, at + dump.layout.tile_bytes):
                for row in range(int(header["length"])):
                    rows.append(page[start + row * width : start + (row + 1) * width].tobytes())
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1", head_dim=32).path


@pytest.mark.parametrize("shield", ["none", "seal"])
def test_dump_is_what_another_process_reads_at_the_pages_addresses(model, shield):
    with Victim(model, {"shield": shield}) as victim:
        pages = b"".join(
            victim.read(address, victim.said["page_bytes"]) for address in victim.said["addresses"]
        )
    assert len(pages) > 0
    assert pages.hex() == victim.said["pages"]


@pytest.mark.parametrize("kv_dtype", ["int8", "fp16", "fp32"])
@pytest.mark.parametrize("fail", ["no", "exception"])
def test_sealed_engine_holds_no_plain_row_between_tokens(model, kv_dtype, fail):
    rows = kv_codes(model, kv_dtype=kv_dtype)
    with Victim(model, {"shield": "seal", "kv_dtype": kv_dtype}, fail) as victim:
        assert victim.count(rows) == 0


def test_scan_finds_the_rows_of_an_unshielded_engine(model):
    rows = kv_codes(model)
    with Victim(model, {"shield": "none"}) as victim:
        assert victim.count(rows) == len(rows)


def test_no_row_survives_a_reset(model):
    rows = kv_codes(model)
    with Victim(model, {"shield": "none"}, "closed") as victim:
        assert victim.said["pages"] == ""
        assert victim.count(rows) == 0


def test_scratch_of_the_last_chunk_is_wiped(model):
    """Float K and V of the last layer's chunk would stand in fp32 rows' bytes elsewhere."""
    rows = kv_codes(model, kv_dtype="fp32", activations="int8")
    with Victim(model, {"shield": "seal", "kv_dtype": "int8"}) as victim:
        assert victim.count(rows) == 0
