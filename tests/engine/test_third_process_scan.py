"""A third process looks for secrets in all that an engine's process leaves to be read.

The root key is known to this process and to the TEE, not to the scanned one. What is planted in
the scanned process (heap, KV page, a thread's stack) must be found every time.
"""

import base64
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tee_sim import keys
from tee_sim.client import KvLayout
from tee_sim.permutation import expand_pairs, invert, layer_permutations
from tee_sim.protocol import TA_KV, TA_STORE
from tests.engine.test_engine_memory import aes128_round_keys
from tests.tee.memory_scan import in_use, locate, readable_mappings
from tests.tiny_models import make_tiny_model

ROOT = Path(__file__).parents[2]
ROOT_KEY = hashlib.sha256(b"the key of a scanned device").digest()
PLANTED = {
    place: hashlib.sha256(f"planted in the {place}".encode()).digest()[:16]
    for place in ("heap", "page", "stack", "log")
}
ORDER = random.Random("planted").sample(range(64), 64)
LAYOUT = KvLayout(2, 4, 2, 32, 32, 32)
NUMBERS = range(1, 12)  # of epochs, and of sessions: more than the program below comes to
POLL_CALLS = ("7", "73")  # poll of x86-64, ppoll of ARM64
WIDTHS = ("u8", "u16", "u32", "u64")
PHASES = ("pass", "generated", "failed", "saved", "closed", "crashed")
ARENA = "/memfd:ptmo-secret-arena"
ENDED = ("closed", "crashed")  # no session is open: no seal key is anywhere


def seal_needles():
    """Round keys of every session there may be; the first of each is the seal key itself."""
    return {
        f"round key {i} of session {session}, epoch {epoch}": round_key
        for epoch in NUMBERS
        for session in NUMBERS
        for i, round_key in enumerate(
            aes128_round_keys(keys.seal_key(keys.epoch_key(ROOT_KEY, epoch), session))
        )
    }


def other_needles():
    """Keys that stand in the TEE alone."""
    needles = {
        "root key": ROOT_KEY,
        "SSK": keys.storage_key(ROOT_KEY),
        "TSK of kv": keys.application_key(ROOT_KEY, TA_KV),
        "objects' key": keys.sealed_objects_key(ROOT_KEY, TA_STORE),
        "counter's key": keys.counter_key(ROOT_KEY),
    }
    for epoch in NUMBERS:
        key = needles[f"epoch key {epoch}"] = keys.epoch_key(ROOT_KEY, epoch)
        for at in ((layer, head) for layer in range(2) for head in range(2)):
            needles[f"pair key {epoch} {at}"] = keys.pair_permutation_key(key, *at)
            needles[f"value key {epoch} {at}"] = keys.value_permutation_key(key, *at)
    return needles


def permutation_needles():
    found = {}
    for epoch in NUMBERS:
        for layer in range(LAYOUT.n_layers):
            drawn = layer_permutations(keys.epoch_key(ROOT_KEY, epoch), LAYOUT, layer)
            for head, heads in enumerate(drawn):
                at = f"{epoch} {layer}.{head}"
                pairs, values = list(heads.pairs), list(heads.values)
                found[f"pairs {at}"], found[f"values {at}"] = pairs, values
                found[f"pairs inverted {at}"] = invert(pairs)
                found[f"values inverted {at}"] = invert(values)
                found[f"elements inverted {at}"] = invert(expand_pairs(pairs))
    return found


def stack_pointer(pid, thread):
    """Of a thread that waits in poll(2), or is about to."""
    for _ in range(500):
        fields = Path(f"/proc/{pid}/task/{thread}/syscall").read_text().split()
        if fields[0] in POLL_CALLS:
            return int(fields[-2], 16)
        time.sleep(0.01)
    raise AssertionError("the thread does not wait")


class Victim:
    """The program of scan_victim.py under a scanner that is neither it nor its TEE."""

    def __init__(self, model, base, *, readable, shield):
        base.mkdir()
        (base / "root").write_bytes(ROOT_KEY)
        sys.path.insert(0, str(ROOT / "tests" / "tee"))
        try:
            from fault_points import program
        finally:
            sys.path.pop(0)
        self.files = {name: base / name for name in ("log", "trace", "saved", "errors")}
        settings = {
            **{name: str(path) for name, path in self.files.items()},
            "root": str(ROOT),
            "model": str(model),
            "program": program(root_file=base / "root"),
            "readable": readable,
            "planted": [needle.hex() for needle in PLANTED.values()],
            "order": ORDER,
            "fields": {"shield": shield, "restore": "tee", "threads": 2, "cache_tokens": 2048},
        }
        self.stack = None
        self.errors = self.files["errors"].open("wb")
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("scan_victim.py")), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=base,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate(timeout=30)
        self.errors.close()

    def reach(self, phase):
        """Have it go on to a phase, where it stands still; return what it says of itself."""
        self.process.stdin.write(f"{phase}\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        assert said, self.files["errors"].read_text()
        answer = json.loads(said)
        if self.stack is None:
            self.stack = stack_pointer(self.process.pid, answer["stack_thread"])
        return answer

    def scan(self, needles, permutations, said):
        """Look for secrets in all its writable memory; return where they are.

        What was planted has to be found each time, where it was planted.
        """
        planted = {f"planted {place}": needle for place, needle in PLANTED.items()}
        mappings = in_use(readable_mappings(self.process.pid, every=False))
        found = locate(mappings, {**needles, **planted}, {**permutations, "order": ORDER})
        assert found.pop("planted heap") and found.pop("planted log")
        assert said["page"] in {address for _, address in found.pop("planted page")}
        assert any(0 < address - self.stack < 1 << 16 for _, address in found.pop("planted stack"))
        for width in WIDTHS if permutations else ():
            assert found.pop(f"order {width}"), "the scanner misses an array"
        return {name: places for name, places in found.items() if not name.startswith("order")}

    def arena_content(self):
        """What may be a round key in its arena: {name: 16 bytes}."""
        (arena,) = (
            data
            for path, _, data in readable_mappings(self.process.pid, every=False)
            if path.startswith(ARENA)
        )
        blocks = {f"arena at {at}": arena[at : at + 16] for at in range(0, len(arena), 16)}
        return {f"{name} {block.hex()}": block for name, block in blocks.items() if any(block)}

    def written(self):
        """(name, content) of log, stderr, the socket's trace and the saved session."""
        for name, path in self.files.items():
            if path.exists():
                yield name, path.read_bytes()


def memory_files():
    """(path, 0, content) of every file in /dev/shm; one may go while it is looked at."""
    for path in Path("/dev/shm").rglob("*"):
        try:
            if path.is_file() and path.stat().st_size < 1 << 26:
                yield str(path), 0, path.read_bytes()
        except OSError:
            continue


def forms(needle):
    """How a key could stand in a text or a packet; its halves, too, as two u64 of a frame."""
    return (
        needle,
        needle[::-1],
        needle[:8],
        needle[8:16],
        needle.hex().encode(),
        needle.hex().upper().encode(),
        base64.b64encode(needle).rstrip(b"="),
        repr(needle)[2:-1].encode(),
        str(list(needle))[1:-1].encode(),
    )


def told(text, needles, permutations):
    """The names of the secrets that a text, a file or a trace of packets tells in any form."""
    found = {name for name, needle in needles.items() if any(f in text for f in forms(needle))}
    for name, order in permutations.items():
        written = (str(list(order))[1:-1].encode(), *(wide(order, size) for size in (1, 2, 4, 8)))
        if any(form in text for form in written):
            found.add(name)
    return found


def wide(order, size):
    return b"".join(number.to_bytes(size, "little") for number in order)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1", head_dim=32).path


@pytest.fixture(scope="module")
def secrets():
    return seal_needles(), other_needles(), permutation_needles()


def check_seal_keys(found, phase):
    """Whole key schedules, each round key once, in the arena: while a session is open."""
    owners = {}
    for name, places in found.items():
        assert [ARENA in path for path, _ in places] == [True], (phase, name, places)
        owners.setdefault(name.partition(" of ")[2], []).append(name)
    assert all(len(rounds) == 11 for rounds in owners.values()), phase
    assert len(owners) == (0 if phase in ENDED else 2), phase  # its own, and the session beside


def test_a_third_process_finds_seal_keys_in_the_arena_alone_and_no_other_secret(
    model, secrets, tmp_path
):
    """During a pass, after it, after one that failed, after a save, at the end, after a crash."""
    seal, other, permutations = secrets
    with Victim(model, tmp_path / "base", readable=True, shield="permute+seal") as victim:
        for phase in PHASES:
            said = victim.reach(phase)
            found = victim.scan({**seal, **other}, permutations, said)
            assert {name for name in found if name not in seal} == set(), phase
            check_seal_keys(found, phase)
            assert not locate(memory_files(), {**seal, **other}, {}), phase
    control = {"planted log": PLANTED["log"]}
    files = dict(victim.written())
    assert set(files) == {"log", "trace", "saved", "errors"}
    assert told(files["log"], control, {}) == set(control)
    assert files["trace"].count(b"PMTE") > 100 and files["errors"] == b""
    passed = set(re.findall(rb"<fd ([^>]*)>", files["trace"]))
    assert passed == {b"/memfd:ptmo-secret-arena (deleted)", b"/memfd:ptmo-shared (deleted)"}
    for name, content in files.items():
        assert told(content, {**seal, **other}, permutations) == set(), name


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stops", [3, pytest.param(150, marks=pytest.mark.slow)])
def test_at_whatever_moment_a_generation_is_stopped_its_key_is_in_the_arena_alone(
    model, secrets, tmp_path, stops
):
    rng, slots = random.Random(stops), {}
    with Victim(model, tmp_path / "base", readable=True, shield="seal") as victim:
        said = victim.reach("running")
        for _ in range(stops):
            time.sleep(rng.random() / 50)
            os.kill(victim.process.pid, signal.SIGSTOP)
            slots.update(victim.arena_content())
            found = victim.scan(slots, {}, said)
            os.kill(victim.process.pid, signal.SIGCONT)
            assert len(found) >= 11, "the keys in use are not among the needles"
            for name, places in found.items():
                assert {ARENA in path for path, _ in places} == {True}, name
        victim.reach("generated")
        assert victim.scan({**slots, **secrets[1]}, {}, victim.reach("closed")) == {}


def test_of_a_memfd_secret_arena_a_third_process_sees_nothing(model, secrets, tmp_path):
    seal, other, _ = secrets
    with Victim(model, tmp_path / "base", readable=False, shield="permute+seal") as victim:
        said = victim.reach("pass")
        if said["arena"] != "memfd_secret":
            pytest.skip("this kernel has no memfd_secret")
        assert victim.scan({**seal, **other}, {}, said) == {}
        maps = Path(f"/proc/{victim.process.pid}/maps").read_text()
        (span,) = re.findall(r"^(\w+)-\w+ .*/secretmem", maps, re.MULTILINE)
        with open(f"/proc/{victim.process.pid}/mem", "rb", 0) as memory:
            memory.seek(int(span, 16))
            with pytest.raises(OSError):
                memory.read(16)
        assert victim.scan({**seal, **other}, {}, victim.reach("generated")) == {}
