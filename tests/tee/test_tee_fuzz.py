"""Random and mutated packets against a live TEE: one reply or a clean close each, and no leak."""

import collections
import os
import random
import select
import socket
import struct
from pathlib import Path

import pytest
from tee_helpers import SMALL, memfd, with_crc

from tee_sim.dispatch import MAX_SEQ_GAP
from tee_sim.errors import ResultCode
from tee_sim.protocol import (
    APPLICATIONS,
    FRAME_BYTES,
    GET_EVIDENCE_TYPES,
    REPLY_BIT,
    TA_ADMIN,
    TA_ATTEST,
    TA_GUARD,
    TA_KV,
    TA_STORE,
    AdminCommand,
    AttestCommand,
    GuardCommand,
    Kind,
    KvCommand,
    StoreCommand,
    decode,
    encode,
    memref,
)
from tee_sim.spawn import spawn

# What a peer plays: the process it talks to, the application, and that one's commands.
ROLES = {
    "core": ("core", TA_KV, KvCommand),
    "guard": ("guard", TA_GUARD, GuardCommand),
    "store": ("core", TA_STORE, StoreCommand),
    "attest": ("core", TA_ATTEST, AttestCommand),
}
INTERESTING = (0, 1, 2, 3, 7, 8, 16, 31, 32, 64, 255, 256, 4096, 2**31, 2**32 - 1, 2**32, 2**64 - 1)
REPLY_SECONDS = 10


class Peer:
    """A hostile host: raw packets over the socket of a real TEE process."""

    def __init__(self, role, rng):
        self.rng = rng
        process_role, self.uuid, _ = ROLES[role]
        self.process, self.socket = spawn(process_role)
        self.seq = self.taken = 0
        self.role = role
        self.session = self.admin = self.memory = self.arena = self.model = 0
        self.vault = self.saved = 0
        self.ask(Kind.INITIALIZE)
        self.prepare()

    def prepare(self):
        """Make sure a session, memory, an arena and a model exist: mutations destroy them."""
        self.saved = 0  # its memory is registered anew
        self.ask(Kind.CLOSE_SESSION, session=self.session)
        self.session = self.open(self.uuid)
        self.applications = {self.session: APPLICATIONS[self.uuid]}
        if self.role == "core":
            self.ask(Kind.CLOSE_SESSION, session=self.admin)
            self.admin = self.open(TA_ADMIN)
            self.applications[self.admin] = "admin"
        for name, size, kind in (("memory", 1 << 16, 1), ("arena", 4096, 2)):
            self.ask(Kind.RELEASE_MEMORY, 1, (getattr(self, name), *[0] * 7))
            fd = memfd(size)
            values = self.ask(Kind.REGISTER_MEMORY, 1, (size, kind, *[0] * 6), (fd,))
            setattr(self, name, values[0])
            os.close(fd)
        if self.role == "core":
            values = (2 | 4 << 32, 2 | 8 << 32, 8 | 4 << 32, *[0] * 5)
            self.model = self.invoke(KvCommand.OPEN_MODEL, 0x211, values)[4]
            rotated = (self.model, 0, *[0] * 6)  # so that there are rows to move
            self.ask(Kind.INVOKE, 0x21, rotated, session=self.admin, command=AdminCommand.ROTATE)

    def open(self, uuid):
        return self.ask(Kind.OPEN_SESSION, types=1, values=(*uuid, *[0] * 6))[0]

    def close(self):
        self.socket.close()
        self.process.wait(5)
        self.process.stderr.close()

    def frame(self, kind, types=0, values=(0,) * 8, session=0, command=0):
        self.seq += 1
        return encode(kind, session, command, types, 0, self.seq, values)

    def ask(self, kind, types=0, values=(0,) * 8, fds=(), session=0, command=0):
        """Make a request that may be refused and return the reply's values."""
        packet = self.frame(kind, types, values, session, command)
        return decode(self.exchange(packet, fds)).values

    def invoke(self, command, types, values):
        return self.ask(Kind.INVOKE, types, values, session=self.session, command=command)

    def exchange(self, packet, fds=()):
        """Send, and return the reply, or None when the TEE closed cleanly."""
        if fds:
            socket.send_fds(self.socket, [packet], list(fds))
        else:
            self.socket.send(packet)
        ready, _, _ = select.select([self.socket], [], [], REPLY_SECONDS)
        assert ready, "the TEE hangs"
        reply = self.socket.recv(8192)
        if not reply:
            return None
        seq = decode(reply).seq  # 0 when the packet was no frame
        if 0 < seq - self.taken <= MAX_SEQ_GAP:
            self.taken = seq  # a mutation in the number moves the TEE forward
            self.seq = max(self.seq, seq)
        return reply

    def valid(self):
        """A well-formed request, most of them of the kind that does something."""
        rng = self.rng
        region = memref(self.memory, rng.choice((0, 1, 64)), rng.choice((32, 64, 128, 8192)))
        rows = memref(self.memory, 0, 32)  # four heads of eight rows of one byte
        requests = [
            (Kind.STATUS, 0, (0,) * 8),
            (Kind.OPEN_SESSION, 1, (*self.uuid, *[0] * 6)),
            (Kind.CLOSE_SESSION, 0, (0,) * 8),
            (Kind.CLOSE_SESSION, 0, (0,) * 8),
            (Kind.INITIALIZE, 0, (0,) * 8),
            (Kind.REGISTER_MEMORY, 1, (4096, 1, *[0] * 6)),
            (Kind.RELEASE_MEMORY, 1, ((self.arena + rng.randrange(-3, 3)) % 2**64, *[0] * 7)),
        ]
        commands = [
            (1, 0x211, (2 | 4 << 32, 2 | 8 << 32, 8 | 4 << 32, *[0] * 5)),
            (2, 0x1, (rng.randrange(self.model + 2), *[0] * 7)),
            (3, 0x111F, (*rows, self.model, rng.randrange(3), rng.randrange(6), 1, 0, 4)),
            (4, 0x11F, (*region, self.model, rng.randrange(3), 1, 0, 0, 0)),
            (5, 0x211, (self.arena, rng.choice((0, 4080, 4090)), rng.choice((0, 0, 1)), *[0] * 5)),
            (6, 0x1, (rng.randrange(50), *[0] * 7)),
            (7, 0x1111, (self.arena, rng.choice((0, 4064, 4080)), 1, 2, 3, 4, 5, 6)),
            (8, 0x111F, (*rows, self.model, rng.randrange(3), rng.randrange(6), 1, 0, 4)),
            (9, 0x111F, (*rows, self.model, rng.randrange(3), rng.randrange(6), 1, 0, 4)),
        ]
        if self.role == "guard":
            commands = self.guard_commands()
        if self.role == "store":
            commands = self.store_commands()
        if self.role == "attest":
            nonce = memref(self.memory, rng.choice((0, 1)), rng.choice((0, 7, 8, 32, 64, 65)))
            token = memref(self.memory, rng.choice((0, 64)), rng.choice((0, 500, 800, 1024)))
            algorithm = rng.choice((6, 7, 8, 9, 2**64 - 7))
            commands = [(1, GET_EVIDENCE_TYPES, (*nonce, *token, algorithm, 0, 0, 0))]
        if rng.random() < 0.35:
            kind, types, values = rng.choice(requests)
            return self.frame(kind, types, values, session=rng.randrange(60))
        if self.role == "core" and rng.random() < 0.2:
            room = memref(self.memory, rng.choice((0, 1)), rng.choice((0, 31, 32, 200, 65_000)))
            command, types, values = rng.choice(
                (
                    (1, 0x2222, [0] * 8),
                    (2, 0x223E, (*room, rng.choice(INTERESTING), *[0] * 5)),
                    (3, 0x21, (rng.choice((0, self.model)), rng.randrange(2), *[0] * 6)),
                )
            )
            return self.frame(Kind.INVOKE, types, values, session=self.admin, command=command)
        command, types, values = rng.choice(commands)
        return self.frame(Kind.INVOKE, types, values, session=self.session, command=command)

    def guard_commands(self):
        """Texts of a vault that was opened, and of some that were not."""
        rng = self.rng
        text = memref(self.memory, rng.choice((0, 1, 512)), rng.choice((0, 32, 128, 8192)))
        answer = memref(self.memory, 512, rng.choice((0, 64, 4096)))
        if not self.vault or rng.random() < 0.02:
            self.vault = self.invoke(2, 0x211, (7, 7, 60, *[0] * 5))[4] or self.vault
            self.invoke(3, 0x33ED, (*memref(self.memory, 0, 0), *answer, self.vault, 0, 7, 7))
        if not self.saved:
            opened = self.invoke(2, 0x211, (7, 7, 60, *[0] * 5))[4]
            there = memref(self.memory, 1 << 14, 40_000)
            self.saved = self.invoke(6, 0x112E, (*there, 0, 0, opened, 0, 7, 7))[2]
            self.invoke(8, 0x11, (7, 7, opened, *[0] * 5))
        vault = rng.choice((self.vault, self.vault, self.vault, 0, 1))
        user = rng.choice(((7, 7), (7, 7), (7, 8)))
        room = memref(self.memory, 1 << 15, rng.choice((0, 100, 30_000)))
        saved = memref(self.memory, 1 << 14, self.saved - (rng.random() < 0.2 < self.saved))
        named = rng.choice((0, 6 | 1 << 32, 35 | 1 << 32, 99 | 1 << 32))
        return [
            (1, 0x22ED, (*text, *memref(self.memory, 0, 64), 0, 0, 0, 0)),
            (2, 0x211, (7, 7, rng.choice((0, 60, 2**40)), rng.choice((0, 0, 1)), *[0] * 4)),
            (3, 0x33ED, (*text, *answer, vault, rng.randrange(4), *user)),
            (4, 0x33ED, (*text, *answer, vault, rng.choice((0, 1, 2, 2**32, 3 << 32 | 1)), *user)),
            (5, 0x211, (*user, vault, named, *[0] * 4)),
            (6, 0x112E, (*room, 0, 0, vault, rng.choice((0, 0, 1)), *user)),
            (7, 0x112D, (*saved, 0, 0, rng.choice((vault, 0, 0)), rng.choice((0, 0, 1)), *user)),
            (8, 0x11, (*user, vault, rng.choice((0, 0, 1)), *[0] * 4)),
            (9, 0x112D, (*text, 0, 0, vault, rng.choice((0, 1, 2, 3, 4)), *user)),
        ]

    def store_commands(self):
        """Objects of a few ids, sealed to and opened from one place, so that some are whole."""
        rng = self.rng
        object_id = (rng.randrange(3), 0, 0, 0)
        plain, sealed = memref(self.memory, 0, 40), memref(self.memory, 4096, 160)
        record = memref(self.memory, 8192, rng.choice((40, 1024, 1 << 14)))
        same = (*record, 0, 0, *object_id)
        return [
            (1, 0x12F, (*record, 0, 0, rng.choice((0, 0, 48, 200)), 0, 0, 0)),
            (2, 0x11ED, (*plain, *sealed, *object_id)),
            *((3, 0x112E, same), (5, 0x112E, same)),
            (4, 0x11ED, (*sealed, *plain, *object_id)),
            (6, 0x2E, (*record, *[0] * 6)),
            (7, 0x11, (self.arena, rng.choice((0, 4064, 4080)), 1, 2, 0, 0, 0, 0)),
        ]

    def mutated(self):
        """A valid request with some fields changed and its checksum made right again."""
        rng = self.rng
        body = bytearray(self.valid()[:-4])
        for _ in range(rng.choice((1, 1, 2, 4))):
            way = rng.randrange(4)
            if way == 3:
                self.spoil_memref(body)
            elif way == 0:
                body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
            elif way == 1:
                at = 28 + 8 * rng.randrange(8)
                struct.pack_into("<Q", body, at, rng.choice(INTERESTING))
            else:
                at = rng.choice((6, 8, 12, 16, 18))
                struct.pack_into("<H", body, at, rng.choice(INTERESTING) & 0xFFFF)
        return with_crc(bytes(body))

    def spoil_memref(self, body):
        """Have a reference to memory name another region, or a range that is not inside."""
        rng = self.rng
        types = struct.unpack_from("<H", body, 16)[0]
        places = [i for i in range(4) if types >> 4 * i & 0xC]
        if places:
            region = rng.choice((self.memory, self.memory, self.arena, 0, -1)) & 0xFFFFFFFF
            size = rng.choice((*INTERESTING, 2**16 - 1, 2**16, 2**16 + 1)) & 0xFFFFFFFF
            offset = rng.choice((*INTERESTING, 2**16, -size, 2**63)) & (2**64 - 1)
            struct.pack_into("<QQ", body, 28 + 16 * rng.choice(places), region << 32 | size, offset)

    def random_packet(self):
        rng = self.rng
        way = rng.randrange(4)
        if way == 0:
            return rng.randbytes(rng.choice((1, 2, 95, 96, 97, 200, 4096, 4097, 6000)))
        if way == 1:
            return self.valid()[: rng.randrange(1, FRAME_BYTES)]
        if way == 2:
            return self.valid() + rng.randbytes(rng.randrange(1, 50))
        packet = bytearray(self.valid())
        packet[rng.randrange(len(packet))] ^= 1 << rng.randrange(8)
        return bytes(packet)

    def descriptors(self, packet):
        """Now and then attach descriptors, most of them of the wrong kind or number."""
        rng = self.rng
        if rng.random() > (0.7 if packet[6:8] == b"\5\0" else 0.05):  # REGISTER_MEMORY
            return []
        kind = rng.randrange(8)
        if kind in (0, 5, 6, 7):
            return [memfd(4096)]
        if kind == 1:
            return [memfd(4096, 0), memfd(64)]
        if kind == 2:
            return list(os.pipe())
        if kind == 3:
            return [os.open("/dev/null", os.O_RDWR)]
        return [os.dup(0) for _ in range(rng.choice((1, 8, 12)))]


def fuzz(role, count, seed):
    """Send `count` packets; return what was accepted, and with which codes the rest was refused.

    Returns:
        {(kind, application, command): times}, and {(kind, code): times}.
    """
    rng = random.Random(seed)
    peer = Peer(role, rng)
    accepted, refused = collections.Counter(), collections.Counter()
    for i in range(count):
        if i % 100 == 0:
            peer.prepare()
        packet = (peer.mutated, peer.valid, peer.random_packet)[rng.choice((0, 0, 1, 2))]()
        fds = peer.descriptors(packet)
        reply = peer.exchange(packet, fds)
        for fd in fds:
            os.close(fd)
        assert reply is not None, f"packet {i} closed the connection"  # only an empty one may
        frame = decode(reply)
        assert frame.kind & REPLY_BIT
        kind = frame.kind & ~REPLY_BIT
        if frame.command:
            refused[kind, frame.command] += 1
        else:
            request = decode(packet)
            if kind == Kind.INVOKE:
                accepted[kind, peer.applications.get(request.session), request.command] += 1
            else:
                accepted[kind, None, 0] += 1
        assert peer.process.poll() is None
    assert select.select([peer.socket], [], [], 0)[0] == []  # one reply each, no more
    assert peer.ask(Kind.STATUS)[1] == peer.process.pid
    if os.geteuid() == 0:
        open_fds = len(list(Path(f"/proc/{peer.process.pid}/fd").iterdir()))
        assert open_fds < 64 + 16, "the TEE leaks descriptors"
    peer.close()
    assert peer.process.returncode == 0
    return accepted, refused


def check_reach(role, accepted, refused):
    """The fuzzer must get past the checks, into every kind and command, and meet the checks."""
    _, uuid, commands = ROLES[role]
    wanted = {(APPLICATIONS[uuid], command) for command in commands}
    if role == "core":
        wanted |= {("admin", command) for command in AdminCommand}
    assert {call[1:] for call in accepted if call[0] == Kind.INVOKE and call[1]} == wanted
    assert {call[0] for call in accepted} == set(Kind) - {Kind.INITIALIZE}  # it was made before
    assert set(refused) >= {
        (0, ResultCode.BAD_FORMAT),
        (Kind.INITIALIZE, ResultCode.BAD_STATE),
        (Kind.OPEN_SESSION, ResultCode.ITEM_NOT_FOUND),
        (Kind.CLOSE_SESSION, ResultCode.ITEM_NOT_FOUND),
        (Kind.REGISTER_MEMORY, ResultCode.SECURITY),  # no memory, or of a size that may change
        (Kind.REGISTER_MEMORY, ResultCode.BAD_PARAMETERS),
        (Kind.RELEASE_MEMORY, ResultCode.ITEM_NOT_FOUND),
        (Kind.INVOKE, ResultCode.NOT_SUPPORTED),
        (Kind.INVOKE, ResultCode.ITEM_NOT_FOUND),
        (Kind.INVOKE, ResultCode.ACCESS_DENIED),  # an arena in the place of shared memory
        (Kind.INVOKE, ResultCode.BAD_PARAMETERS),
        (Kind.STATUS, ResultCode.BAD_PARAMETERS),
    }
    assert not [call for call in refused if call[1] == ResultCode.TARGET_DEAD]


@pytest.mark.parametrize("role,count", [*zip(ROLES, (1800, 2000, 1200, 400), strict=True)])
def test_five_thousand_hostile_packets_get_one_reply_each(role, count):
    check_reach(role, *fuzz(role, count, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("role,count", [*zip(ROLES, (50_000, 20_000, 30_000, 10_000), strict=True)])
def test_more_than_a_hundred_thousand_hostile_packets_get_one_reply_each(role, count):
    check_reach(role, *fuzz(role, count, seed=2))


def test_an_empty_packet_closes_cleanly():
    peer = Peer("core", random.Random(0))
    peer.socket.send(b"")
    assert peer.socket.recv(4096) == b""
    assert peer.process.wait(5) == 0
    peer.close()


def test_nothing_is_served_before_initialisation_and_nothing_is_initialised_twice():
    process, connection = spawn("core")
    connection.send(encode(Kind.STATUS, 0, 0, 0, 0, 1, (0,) * 8))
    assert decode(connection.recv(4096)).command == 0xFFFF0007
    connection.send(encode(Kind.INITIALIZE, 0, 0, 0, 0, 2, (0,) * 8))
    assert decode(connection.recv(4096)).command == 0
    connection.send(encode(Kind.INITIALIZE, 0, 0, 0x11, 0, 3, (9,) * 4 + (0,) * 4))
    assert decode(connection.recv(4096)).command == 0xFFFF0007
    connection.close()
    assert process.wait(5) == 0
    process.stderr.close()


def test_a_replayed_packet_is_refused():
    peer = Peer("core", random.Random(0))
    packet = peer.frame(Kind.STATUS)
    assert decode(peer.exchange(packet)).command == 0
    assert decode(peer.exchange(packet)).command == 0xFFFF0005
    peer.close()


def test_outputs_carry_only_what_the_command_declares():
    peer = Peer("core", random.Random(0))
    values = (SMALL.n_layers | 4 << 32, 2 | 8 << 32, 8 | 4 << 32, *[0] * 5)
    opened = peer.exchange(peer.frame(Kind.INVOKE, 0x211, values, session=peer.session, command=1))
    assert decode(opened).values == (0, 0, 0, 0, 2, 3, 0, 0)
    peer.close()


def test_a_host_that_hangs_up_in_mid_call_leaves_no_process_behind():
    for _ in range(5):
        peer = Peer("core", random.Random(0))
        peer.socket.send(peer.valid())
        peer.socket.close()
        assert peer.process.wait(5) == 0
        peer.process.stderr.close()
