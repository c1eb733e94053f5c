"""What stands in the engine's memory, read from another process through /proc/PID/mem."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from ptmo_secure import _native
from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.gguf_file import GgufFile
from tee_sim import keys
from tee_sim.client import KvLayout
from tee_sim.permutation import invert, layer_permutations
from tests.tee.memory_scan import Needles, narrowed
from tests.tiny_models import make_tiny_model

IDS = [int(i) for i in np.random.default_rng(11).integers(0, 250, 45)]
ROOT = Path(__file__).parents[2]

VICTIM = """
import json, sys
sys.path.insert(0, {root!r})
from ptmo_secure.engine.engine import Engine
path, fields, ids, fail = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
root = bytes.fromhex(sys.argv[5]) or None
engine = Engine.load(path, threads=2, tee_debug_root_key=root, **fields)
planted = bytes(range(1, 17)) if root else b""
session = engine.start_session()
session.feed(ids)
if fail == "exception":
    try:
        session.feed([1, 2, 10**6])
    except ValueError:
        pass
if fail == "closed":
    engine.reset()
if fail == "forked":
    fork = session.fork()
    fork.feed(ids[:5])
    session.close()
if fail.startswith("/"):
    session.save(fail)
    session = engine.resume(fail)
dump = engine.dump_device_memory()
print(json.dumps({{"addresses": dump.layout.addresses, "page_bytes": dump.layout.page_bytes,
                  "pages": dump.pages.hex()}}), flush=True)
sys.stdin.readline()
"""


class Victim:
    """An engine in a process of its own, paused between two tokens."""

    def __init__(self, path, fields, fail="no", root_key=b""):
        arguments = [str(path), json.dumps(fields), json.dumps(IDS), fail, root_key.hex()]
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
        """How many of the needles (16 bytes or more) occur anywhere in the writable memory."""
        named = Needles(dict(enumerate(needles)))
        return len({name for block in self.writable_memory() for name, _ in named.find(block)})


def kv_codes(path, **fields):
    """The K and V rows an engine of this configuration writes for IDS, as bytes in a page."""
    with Engine.load(path, shield="none", **fields) as engine:
        engine.forward(IDS)
        dump = engine.dump_device_memory()
    width = dump.layout.tile_bytes // dump.layout.rows_per_page
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


@pytest.mark.parametrize("kv_dtype", ["int8", "int4", "fp16", "fp32"])
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


def aes128_round_keys(key):
    box = aes_sbox()
    words = [key[i : i + 4] for i in range(0, 16, 4)]
    rcon = 1
    while len(words) < 44:
        last = words[-1]
        if len(words) % 4 == 0:
            last = bytes(box[b] for b in last[1:] + last[:1])
            last = bytes([last[0] ^ rcon]) + last[1:]
            rcon = (rcon << 1) ^ (0x11B if rcon & 0x80 else 0)
        words.append(bytes(a ^ b for a, b in zip(last, words[-4], strict=True)))
    return [b"".join(words[i : i + 4]) for i in range(0, 44, 4)]


def aes_sbox():
    box, p, q = [0] * 256, 1, 1
    while True:
        p ^= (p << 1) ^ (0x11B if p & 0x80 else 0)
        p &= 0xFF
        for shift in (1, 2, 4):
            q ^= q << shift & 0xFF
        q ^= 0x09 if q & 0x80 else 0
        turned = [(q << n | q >> (8 - n)) & 0xFF for n in range(5)]
        box[p] = turned[0] ^ turned[1] ^ turned[2] ^ turned[3] ^ turned[4] ^ 0x63
        if p == 1:
            box[0] = 0x63
            return box


@pytest.mark.parametrize("fail", ["no", "exception"])
def test_seal_key_and_round_keys_stand_nowhere_but_in_the_arena(model, fail):
    root = bytes(range(32))
    # The first epoch a fresh TEE draws is 1, and the engine's first sealed session is its first.
    candidates = [
        keys.seal_key(keys.epoch_key(root, epoch), session)
        for epoch in range(8)
        for session in range(8)
    ]
    needles = [part for key in candidates for part in aes128_round_keys(key)]
    with Victim(model, {"shield": "seal"}, fail, root) as victim:
        found = victim.count(needles)
        assert victim.count([bytes(range(1, 17))]) == 1  # the scanner sees what is there
        dump = bytes.fromhex(victim.said["pages"])
        layout = _native.PageLayout(2, 2, 32, 32, _native.KvType.int8)
        row = dump[layout.data_offset : layout.data_offset + 32]
        start = modes.CTR(bytes(16))  # sequence number, layer, stream and block 0
        opened = [Cipher(algorithms.AES(key), start).decryptor().update(row) for key in candidates]
    plain = kv_codes(model)[0]
    assert plain in opened  # one of the needles is the very key in use
    assert found == 0


def aes256_round_keys(key):
    box = aes_sbox()
    words = [key[i : i + 4] for i in range(0, 32, 4)]
    rcon = 1
    while len(words) < 60:
        last = words[-1]
        if len(words) % 8 == 0:
            last = bytes(box[b] for b in last[1:] + last[:1])
            last = bytes([last[0] ^ rcon]) + last[1:]
            rcon <<= 1
        elif len(words) % 8 == 4:
            last = bytes(box[b] for b in last)
        words.append(bytes(a ^ b for a, b in zip(last, words[-8], strict=True)))
    return [b"".join(words[i : i + 4]) for i in range(0, 60, 4)]


def message_keys(key, record):
    """The keys of one GCM-SIV message (RFC 8452, section 4), expanded."""
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    nonce = record.to_bytes(12, "little")
    halves = [cipher.update(i.to_bytes(4, "little") + nonce)[:8] for i in range(6)]
    return [b"".join(halves[:2]), *aes256_round_keys(b"".join(halves[2:]))]


def test_after_a_save_and_a_resume_no_storage_key_and_no_row_is_left(model, tmp_path):
    root, path = bytes(range(32)), tmp_path / "session"
    rows = kv_codes(model)
    with Victim(model, {"shield": "seal"}, str(path), root) as victim:
        header = path.read_bytes()[:56]
        key = keys.saved_session_key(root, header[24:56], header[8:24])
        fips_197 = aes256_round_keys(bytes(range(32)))[14]  # appendix C.3
        assert fips_197.hex() == "24fc79ccbf0979e9371ac23c6d68de36"
        needles = [*aes256_round_keys(key), *message_keys(key, 0), *message_keys(key, 1)]
        sealed = path.read_bytes()[96 : 96 + 4 * 46 + 16]
        opened = AESGCMSIV(key).decrypt(bytes(12), sealed, path.read_bytes()[:96])
        assert opened[4:] == np.array(IDS, "<u4").tobytes()  # it is the key in use
        assert victim.count(needles) == 0
        assert victim.count(rows) == 0
        assert victim.count([bytes(range(1, 17))]) == 1


@pytest.mark.parametrize("shield", ["none", "seal"])
def test_no_row_stands_beside_the_pages_of_a_fork(model, shield):
    rows = kv_codes(model)
    with Victim(model, {"shield": shield}, "forked") as victim:
        found = victim.count(rows)
    assert found == (len(rows) if shield == "none" else 0)


@pytest.mark.parametrize("restore", ["folded", "tee"])
def test_no_permutation_stands_in_the_engine_process(model, restore):
    root = bytes(range(32))
    block = 32  # head_dim of this model, and of a quantisation block
    layout = KvLayout(2, 4, 2, 32, 32, block)
    permutations = {
        (epoch, layer, head, kind, turned): invert(perm) if turned else perm
        for epoch in range(4)
        for layer in range(2)
        for head, drawn in enumerate(layer_permutations(keys.epoch_key(root, epoch), layout, layer))
        for kind, perm in (("pairs", list(drawn.pairs)), ("values", list(drawn.values)))
        for turned in (False, True)
    }
    with Victim(model, {"shield": "permute", "restore": restore}, "no", root) as victim:
        blocks = list(victim.writable_memory())
    needles = Needles({name: bytes(perm) for name, perm in permutations.items()})
    found = {name for block in blocks for name, _ in needles.find(block)}
    found |= {
        name
        for block in blocks
        for _, narrow in narrowed(block)
        for name, _ in needles.find(narrow)
    }
    assert found == set()
    stored = b"".join(np.array(perm, "<u4").tobytes() for perm in permutations.values())
    assert any(list(needles.find(narrow)) for _, narrow in narrowed(stored))  # the scan can see one


def _resident_bytes(path: Path) -> int:
    """Bytes of a file's mappings that are in this process's memory (/proc/self/smaps)."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):
            inside = line.endswith(str(path))
        elif inside and first == "Rss:":
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.parametrize("shield", ["none", "permute"])
def test_a_loaded_model_is_in_memory_once(shield: str, tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path).path
    with GgufFile(path) as file:
        tensors = {name: file.data(name).sum() for name in file.tensors}
        assert _resident_bytes(path) >= path.stat().st_size - 4096  # the measure works
        view = file.data("token_embd.weight")
        file.release()
        assert _resident_bytes(path) == 0
        assert view.sum() == tensors["token_embd.weight"]
        del view  # it would keep the mapping
    with Engine.load(path, shield=shield) as engine:
        assert _resident_bytes(path) < path.stat().st_size / 4
        assert np.isfinite(engine.forward([1, 2, 3])).all()
