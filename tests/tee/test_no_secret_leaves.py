"""Looks for keys and permutations where they must not be: the socket, and the host's memory.

The scan reads a separate host process from this one: a needle held by the scanned process itself
would always be found. Planted needles prove each time that the scanner finds what is there.
"""

import array
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from memory_scan import scan_process
from tee_helpers import ROLES, ROOT_KEY, SMOL, Arena, permutations, seal_key

from tee_sim import keys
from tee_sim.client import Algorithm, TeeClient
from tee_sim.permutation import expand_pairs, invert
from tee_sim.protocol import TA_STORE

CHECKOUT = Path(__file__).resolve().parents[2]
WIDTHS = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}


def key_needles(epoch, layers):
    """Every key of a model's epoch: {name: bytes}."""
    key = keys.epoch_key(ROOT_KEY, epoch)
    needles = {"epoch key": key}
    for layer in layers:
        for head in range(SMOL.n_kv_heads):
            needles[f"pair key {layer}.{head}"] = keys.pair_permutation_key(key, layer, head)
            needles[f"value key {layer}.{head}"] = keys.value_permutation_key(key, layer, head)
    return needles


def permutation_needles(epoch, layers):
    """Every permutation of a model's epoch in every form the host could hold: {name: list}."""
    needles = {}
    for layer in layers:
        for head, (pairs, values) in enumerate(permutations(SMOL, epoch, layer)):
            at = f"{layer}.{head}"
            needles[f"pairs {at}"] = pairs
            needles[f"values {at}"] = values
            needles[f"pairs inverted {at}"] = invert(pairs)
            needles[f"values inverted {at}"] = invert(values)
            needles[f"elements inverted {at}"] = invert(expand_pairs(pairs))
    return needles


def renamed(needles):
    return {f"first {name}": needle for name, needle in needles.items()}


def moving_needles(old, new, layer=0):
    """The maps from one epoch's order of the values to the next's."""
    heads = zip(permutations(SMOL, old, layer), permutations(SMOL, new, layer), strict=True)
    return {
        f"moved values {head}": [invert(before)[row] for row in after]
        for head, ((_, before), (_, after)) in enumerate(heads)
    }


def tree_needles():
    return {
        "SSK": keys.storage_key(ROOT_KEY),
        "TSK": keys.application_key(ROOT_KEY, (0x1F0A6C1E3D5B4C57, 0x9B1E7A42C0D85E31)),
        "saved session key": keys.saved_session_key(ROOT_KEY, bytes(32), bytes(16)),
        **identity_needles(ROOT_KEY),
    }


def identity_needles(root):
    """The private identity keys, the scalar in both byte orders."""
    scalar = keys.identity_scalar(root)
    return {
        "Ed25519 private key": keys.identity_seed(root),
        "P-256 private key": scalar.to_bytes(32, "big"),
        "P-256 private key, little-endian": scalar.to_bytes(32, "little"),
    }


class Recorder:
    """Stands between the client and its socket and keeps every byte, both ways."""

    def __init__(self, real):
        self._real = real
        self.seen = bytearray()

    def send(self, data):
        self.seen += data
        return self._real.send(data)

    def sendmsg(self, buffers, ancillary=(), *rest):
        self.seen += b"".join(buffers)
        return self._real.sendmsg(buffers, ancillary, *rest)

    def recv(self, *args):
        data = self._real.recv(*args)
        self.seen += data
        return data

    def __getattr__(self, name):
        return getattr(self._real, name)


def use_everything(tee, arena):
    """Make every command carry something; return what was handed out."""
    model = tee.open_model(SMOL)
    for role in ROLES:
        n = {"q": 576, "o": 576, "k": 192, "v": 192, "freq": 96}[role]
        tee.permute_weights(model, 0, role, os.urandom(4 * n), 4)
    shared = tee.register_memory(576 * 4)
    shared.buffer[:] = os.urandom(576 * 4)
    tee.unpermute(model, 0, shared, 1)
    arena_id = tee.register_fd(arena.fd, arena.size)
    sessions = [tee.new_epoch(arena_id, 16 * i) for i in range(4)]
    tee.storage_key(arena_id, 64, bytes(32), bytes(16))
    tee.reorder_rows(model, 0, "k", shared, 0, 4, to="model")
    tee.rotate_keys()
    sessions[1] = tee.new_epoch(arena_id, 16, sessions[1][0])
    tee.rotate_model(model)
    tee.reorder_rows(model, 0, "v", shared, 0, 4, to="epoch")
    tee.end_rotation(model)
    tee.drop_epoch(sessions[0][0])
    for algorithm in Algorithm:
        tee.evidence(bytes(32), algorithm)
    tee.stats()
    tee.audit_tail()
    tee.status()
    return model, sessions


def test_the_seal_key_reaches_the_arena_and_the_socket_carries_no_secret(arena):
    with TeeClient.launch() as probe:  # the recorder itself works
        probe._channel._socket = recorder = Recorder(probe._channel._socket)
        probe.open_model(SMOL)
        assert b"PMTE" in recorder.seen and len(recorder.seen) == 2 * 96
    with TeeClient.launch(debug_root_key=ROOT_KEY) as tee:
        tee._channel._socket = recorder = Recorder(tee._channel._socket)
        model, sessions = use_everything(tee, arena)
        epoch = tee.model_epoch(model)
    seal_keys = {f"seal key {s}": seal_key(e, s) for s, e in sessions}
    for i, key in enumerate(seal_keys.values()):
        assert arena.map[16 * i : 16 * i + 16] == key
    needles = {**tree_needles(), **seal_keys, **key_needles(epoch, (0,))}
    for name, perm in permutation_needles(epoch, (0,)).items():
        for width, code in WIDTHS.items():
            needles[f"{name} {width}"] = array.array(code, perm[:16]).tobytes()
    seen = bytes(recorder.seen)
    for name, needle in needles.items():
        forms = [needle, needle[::-1], needle.hex().encode()]
        if "key" in name:
            forms += [needle[at : at + 8] for at in range(0, len(needle), 8)]
        for form in forms:
            assert form not in seen, f"{name} crossed the socket"


HOST_PROGRAM = """
import ctypes, hashlib, mmap, os, random, sys
from tee_sim.client import Algorithm, KvLayout, TeeClient
root = bytes.fromhex(sys.stdin.readline())
tee = TeeClient.launch(debug_root_key=root)
layout = KvLayout(30, 9, 3, 64, 64, 32)
model = tee.open_model(layout)
kept = []
for layer in range(30):
    for role, n in (("q", 576), ("k", 192), ("v", 192), ("o", 576), ("freq", 96)):
        kept.append(tee.permute_weights(model, layer, role, os.urandom(4 * n), 4))
shared = tee.register_memory(576 * 4)
shared.buffer[:] = os.urandom(576 * 4)
for layer in range(30):
    tee.unpermute(model, layer, shared, 1)
size = 4096
fd = os.memfd_create("ptmo-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
os.ftruncate(fd, size)
import fcntl
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
arena = mmap.mmap(fd, size)
arena_id = tee.register_fd(fd, size)
session, first_epoch = tee.new_epoch(arena_id, 32)
session, epoch = tee.new_epoch(arena_id, 0, session)
arena[32:48] = bytes(16)
first_model_epoch = tee.model_epoch(model)
tee.rotate_model(model)
tee.reorder_rows(model, 0, "v", shared, 0, 4, to="epoch")
planted = list(range(64))
random.Random("plant").shuffle(planted)
import array
controls = [array.array(c, planted) for c in "BHIQ"]
secret = hashlib.sha256(b"planted key").digest()
tee.storage_key(tee.register_fd(fd, size), 64, bytes(32), bytes(16))
log = tee.audit_tail(1024)
tokens = [tee.evidence(bytes(32), algorithm) for algorithm in Algorithm]
print(tee.pid, tee.model_epoch(model), session, epoch, first_model_epoch, first_epoch, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def host():
    """A host process that used everything a TEE offers: (process, facts it printed)."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOST_PROGRAM],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(ROOT_KEY.hex() + "\n")
    process.stdin.flush()
    facts = process.stdout.readline().split()
    assert len(facts) == 6, "the host process failed to start"
    yield process, [int(fact) for fact in facts]
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


def test_the_hosts_memory_holds_no_permutation_and_no_key(host):
    process, (_, model_epoch, session, epoch, first_model_epoch, first_epoch) = host
    planted = list(range(64))
    random.Random("plant").shuffle(planted)
    layers = range(SMOL.n_layers)
    found = scan_process(
        process.pid,
        keys={
            "control key": hashlib.sha256(b"planted key").digest(),
            **tree_needles(),
            **key_needles(model_epoch, layers),
            **renamed(key_needles(first_model_epoch, layers)),
            "first session epoch key": keys.epoch_key(ROOT_KEY, first_epoch),
            "first seal key": seal_key(first_epoch, session),
            "session epoch key": keys.epoch_key(ROOT_KEY, epoch),
            "seal key": seal_key(epoch, session),
        },
        permutations={
            "control": planted,
            **permutation_needles(model_epoch, layers),
            **renamed(permutation_needles(first_model_epoch, layers)),
            **moving_needles(first_model_epoch, model_epoch),
        },
    )
    for key in ("seal key", "saved session key"):
        assert found.pop(key) == ["/memfd:ptmo-arena (deleted)"]  # in the arena, once
    controls = {"control key", *(f"control {width}" for width in WIDTHS)}
    assert controls <= set(found), "the scanner misses what is there"
    assert set(found) == controls


STORING_HOST = """
import hashlib, io, pathlib, sys
from ptmo_secure.sealed.chunks import SealedFile, SealedKind, seal
from ptmo_secure.sealed.store import SealedStore
from tee_sim.client import Algorithm
file = pathlib.Path(sys.argv[1] + ".sealed")
secret = hashlib.sha256(b"planted key").digest()
with SealedStore.open(sys.argv[1]) as store:
    store.put("object", b"content " * 1000)
    store.put("object", b"content " * 2000)
    store.get("object")
    store.put("gone", b"")
    store.remove("gone")
    seal(store, SealedKind.MODEL, [io.BytesIO(bytes(3 << 20))], 3 << 20, file)
    pieces = SealedFile(file, store).chunks()
    next(pieces)  # two more to come: the key is in use
    tokens = [store.tee.evidence(bytes(32), algorithm) for algorithm in Algorithm]
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_a_host_that_keeps_sealed_objects_holds_no_key_of_the_device(tmp_path):
    folder = tmp_path / "device"
    process = subprocess.Popen(
        [sys.executable, "-c", STORING_HOST, str(folder)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    root, sealed_file = (folder / "fuses").read_bytes()[8:40], tmp_path / "device.sealed"
    needles = {
        "root key": root,
        "SSK": keys.storage_key(root),
        "TSK": keys.application_key(root, TA_STORE),
        "objects' key": keys.sealed_objects_key(root, TA_STORE),
        "counter's key": keys.counter_key(root),
        "file's key": keys.sealed_file_key(root, TA_STORE, sealed_file.read_bytes()[24:40]),
        **identity_needles(root),
    }
    control = {"control key": hashlib.sha256(b"planted key").digest()}
    found = scan_process(process.pid, keys={**control, **needles}, permutations={})
    in_use = found.pop("file's key", [])  # its key schedule begins with it
    assert in_use in ([], ["/memfd:ptmo-secret-arena (deleted)"])  # none to be read in memfd_secret
    assert set(found) == set(control)
    for path in (folder / "counter", folder / "objects" / "object.sealed"):
        assert [name for name, key in needles.items() if key in path.read_bytes()] == []
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


def test_a_secret_arena_can_not_be_read_from_another_process(host):
    arena = Arena()
    if not os.readlink(f"/proc/self/fd/{arena.fd}").startswith("/secretmem"):
        pytest.skip("this kernel has no memfd_secret")
    with TeeClient.launch(debug_root_key=ROOT_KEY) as tee:
        session, epoch = tee.new_epoch(tee.register_fd(arena.fd, arena.size), 0)
        key = seal_key(epoch, session)
        assert arena.map[:16] == key
        program = (
            "import os, sys; pid, address = map(int, sys.argv[1:])\n"
            "fd = os.open(f'/proc/{pid}/mem', os.O_RDONLY)\n"
            "try: print('read', len(os.pread(fd, 16, address)))\n"
            "except OSError as error: print('refused', error.errno)\n"
        )
        with open("/proc/self/maps") as maps:
            address = int(next(line for line in maps if "secretmem" in line).split("-")[0], 16)
        out = subprocess.run(
            [sys.executable, "-c", program, str(os.getpid()), str(address)],
            capture_output=True,
            text=True,
            check=True,
        )
    assert out.stdout.startswith("refused")
    arena.close()


def test_a_tee_holds_no_file_open_but_its_socket_and_what_was_registered(arena):
    """So nothing is written to disk, whatever others do in /dev/shm meanwhile."""
    with TeeClient.launch() as tee:
        use_everything(tee, arena)
        links = {os.readlink(link) for link in Path(f"/proc/{tee.pid}/fd").iterdir()}
    files = {link for link in links if not link.startswith(("socket:", "anon_inode:[pidfd]"))}
    assert {link for link in files if "secretmem" not in link and "memfd:" not in link} == {
        "/dev/null"
    }
