"""A device and its host as the fault walk uses them: a state folder, a store, a model, an arena."""

import contextlib
import struct

from fault_points import FaultyStore, outcome
from tee_helpers import SMALL, Arena

from tee_sim import protocol
from tee_sim.client import ResultCode, TeeClient, TeeDeadError, TeeError
from tee_sim.protocol import (
    APPLICATIONS,
    TA_KV,
    Kind,
    KvCommand,
)
from tee_sim.sealed_format import RECORD_HEADER
from tests.sealed_files import REMOVED, value_of

WIDTH = SMALL.n_heads * SMALL.head_dim
ROWS = bytes(range(WIDTH))
VECTOR = struct.pack(f"<{WIDTH}f", *range(WIDTH))
TEXT = "my card is 4111 1111 1111 1111"


class World:
    """One device over many starts, with what must hold of it after each.

    Attributes:
        allowed: name of a sealed object: what it may be ("removed" and None stand for no bytes).
    """

    def __init__(self, folder):
        self.folder = folder
        self.allowed = {"kept": {b"old"}, "other": {b"untouched"}, "gone": {b"gone"}}
        self.counter = self.changes = self.epoch = self.starts = 0
        self.store = self.guard = self.vault = self.saved = None
        with FaultyStore.open(folder) as store:
            for name, (value,) in self.allowed.items():
                store.put(name, value)

    def start(self, before_start=None):
        """Start the device's TEE and check all that an earlier one may have left."""
        self.close()
        opening = type("OpeningStore", (FaultyStore,), {"before_start": before_start})
        self.store = opening.open(self.folder)
        self.store.point = ""  # one that opening did not reach
        self.changes = 0
        self.tee = self.store.tee
        self.check_restart()
        self.arena = Arena()
        self.arena_id = self.tee.register_fd(self.arena.fd, self.arena.size)
        self.model = self.tee.open_model(SMALL)
        self.shared = self.tee.register_memory(4096)
        self.spare_model = self.spare_session = 0  # those of an earlier TEE mean others here
        self.session, epoch = self.tee.new_epoch(self.arena_id, 0)
        assert epoch > self.tee.model_epoch(self.model) > self.epoch, "an epoch number came twice"
        self.epoch = epoch
        self.used_bytes = self.tee.status()["used_bytes"]

    def close(self):
        if self.store is not None:
            self.store.close()
            self.arena.close()
            self.store = None
        if self.guard is not None:
            self.guard.close()
            self.guard = None

    def prepare(self):
        """Have ready what a command uses up: an old object, one to remove, a model, a session."""
        for name, value in (("kept", b"old"), ("gone", b"gone")):
            if self.allowed[name] != {value}:
                self.store.put(name, value)
                self.allowed[name] = {value}
        if self.spare_model:  # used up or not: a TEE has room for so many keys
            outcome(self.tee.close_model, self.spare_model)
            outcome(self.tee.drop_epoch, self.spare_session)
        self.spare_model = self.tee.open_model(SMALL)
        self.spare_session, self.epoch = self.tee.new_epoch(self.arena_id, 1024)

    def client(self, application):
        """The client whose process runs an application."""
        if application != "guard":
            return self.tee
        if self.guard is None:
            self.guard = TeeClient.launch("guard")
            self.vault = self.guard.open_vault("somebody")
            self.vault.mask(TEXT)
            with self.guard.open_vault("another") as vault:
                vault.mask(TEXT)
                self.saved = vault.save()
        return self.guard

    def check_objects(self):
        """Every object is one of its allowed values, and from now on exactly that one."""
        for name, values in self.allowed.items():
            found = value_of(self.store, name)
            assert found in values, name
            values.intersection_update({found})
        counter = RECORD_HEADER.unpack_from((self.folder / "counter").read_bytes())[5]
        grown = self.store.changes - self.changes
        assert counter >= self.counter + grown, "the counter went back, or did not count"
        self.counter, self.changes = counter, self.store.changes

    def check_restart(self):
        """A new TEE was asked only what this host asked it, and no old handle means anything."""
        assert self.tee.status()["crossings"] == self.tee.crossings
        if self.starts:
            for forgotten in (
                lambda: self.tee._invoke(KvCommand.DROP_EPOCH, 1, (self.session, *[0] * 7)),
                lambda: self.tee._invoke(KvCommand.CLOSE_MODEL, 1, (self.model, *[0] * 7)),
                lambda: self.tee.new_epoch(self.arena_id, 0),
                lambda: self.tee.storage_key(self.arena_id, 0, bytes(32), bytes(16)),
            ):
                assert outcome(forgotten)[0] == "ITEM_NOT_FOUND"
        self.starts += 1
        self.store.put("more", b"%d" % self.starts)  # before what a crash left is looked at
        self.check_objects()


def _put(world):
    world.allowed["kept"].add(b"new")
    world.store.put("kept", b"new")
    world.allowed["kept"] = {b"new"}


def _remove(world):
    world.allowed["gone"] |= {REMOVED, None}
    world.store.remove("gone")
    world.allowed["gone"] = {None}


def _unpermute(world):
    world.shared.buffer[: len(VECTOR)] = VECTOR
    world.tee.unpermute(world.model, 0, world.shared, 1)
    return bytes(world.shared.buffer[: len(VECTOR)])


def _unpermute_rows(world):
    rows = ROWS[: SMALL.n_kv_heads * SMALL.head_dim]
    world.shared.buffer[: len(rows)] = rows
    world.tee.reorder_rows(world.model, 1, "k", world.shared, 0, 1, to="model")
    return bytes(world.shared.buffer[: len(rows)])


def _new_epoch(world):
    world.arena.map[256:272] = bytes(16)
    session, epoch = world.tee.new_epoch(world.arena_id, 256)
    assert epoch > world.epoch and world.arena.map[256:272] != bytes(16)
    world.epoch = epoch
    world.tee.drop_epoch(session)


def _open_model(world):
    model = world.tee.open_model(SMALL)
    assert world.tee.model_epoch(model) > world.epoch
    world.epoch = world.tee.model_epoch(model)
    world.tee.close_model(model)


def _storage_key(world):
    world.tee.storage_key(world.arena_id, 512, bytes(32), bytes(16))
    return world.arena.map[512:544]


def _rotate(world):
    world.tee.rotate_model(world.spare_model)
    assert world.tee.model_epoch(world.spare_model) > world.epoch
    world.epoch = world.tee.model_epoch(world.spare_model)
    world.tee.end_rotation(world.spare_model)


def _move_rows(world):
    rows = ROWS[: SMALL.n_kv_heads * SMALL.head_dim]
    world.shared.buffer[: len(rows)] = rows
    world.tee.rotate_model(world.spare_model)
    world.epoch = world.tee.model_epoch(world.spare_model)
    try:
        world.tee.reorder_rows(world.spare_model, 1, "k", world.shared, 0, 1, to="epoch")
        assert sorted(world.shared.buffer[: len(rows)]) == sorted(rows)
    finally:
        with contextlib.suppress(TeeDeadError):
            world.tee.end_rotation(world.spare_model)


def _vault(world):
    """The vault of the guard, which has what is to be unmasked."""
    world.client("guard")
    return world.vault


def _open_vault(world):
    guard = world.client("guard")
    with guard.open_vault("another") as vault:
        assert 0 < vault.number != world.vault.number
    return guard.status()["used_bytes"] > 0


def _forget(world):
    vault = _vault(world)
    return [vault.forget("[PERSON_7]"), vault.unmask("[PAYMENT_CARD_1]")]


def _save_vault(world):
    return len(_vault(world).save())


def _load_vault(world):
    """Load the vault that is closed; a fault afterwards may have left it open."""
    guard = world.client("guard")
    try:
        vault = guard.load_vault(world.saved, "another")
    except TeeError as refused:
        if refused.code != ResultCode.BAD_STATE:
            raise
        return "My card is 4111 1111 1111 1111"
    with vault:
        return vault.unmask("My card is [PAYMENT_CARD_1]")


def _close_vault(world):
    guard = world.client("guard")
    vault = guard.open_vault("a third")
    try:
        guard._close_vault(vault._owner, vault.number)
    except TeeError:
        vault.close()
        raise
    assert outcome(vault.mask, TEXT)[0] == "ITEM_NOT_FOUND"


def _file_key(world):
    world.store._calls.file_key(world.arena_id, 768, bytes(range(16)))
    return world.arena.map[768:800]


# How a host comes to make each command, and what it gets: the same each time within a start.
RECIPES = {
    "kv.OPEN_MODEL": _open_model,
    "kv.CLOSE_MODEL": lambda world: world.tee.close_model(world.spare_model),
    "kv.PERMUTE_WEIGHTS": lambda world: world.tee.permute_weights(world.model, 0, "q", ROWS, 1),
    "kv.UNPERMUTE": _unpermute,
    "kv.NEW_EPOCH": _new_epoch,
    "kv.DROP_EPOCH": lambda world: world.tee.drop_epoch(world.spare_session),
    "kv.STORAGE_KEY": _storage_key,
    "kv.UNPERMUTE_ROWS": _unpermute_rows,
    "kv.MOVE_ROWS": _move_rows,
    "store.START": lambda world: world.start(),
    "store.SEAL": _put,
    "store.COMMIT": _put,
    "store.UNSEAL": lambda world: world.store.get("other"),
    "store.FORGET": _remove,
    "store.FILE_KEY": _file_key,
    "store.COUNTER": lambda world: world.store._settle(),
    "guard.SCAN": lambda world: world.client("guard").scan(TEXT),
    "guard.OPEN_VAULT": _open_vault,
    "guard.MASK": lambda world: _vault(world).mask(TEXT),
    "guard.UNMASK": lambda world: _vault(world).unmask("<payment_card-1>"),
    "guard.FORGET": _forget,
    "guard.SAVE_VAULT": _save_vault,
    "guard.LOAD_VAULT": _load_vault,
    "guard.CLOSE_VAULT": _close_vault,
    "guard.CHECK": lambda world: _vault(world).check(TEXT).held,
    "attest.GET_EVIDENCE": lambda world: len(world.tee.evidence(bytes(32))) > 300,
    "admin.ROTATE": _rotate,
    "admin.STATS": lambda world: world.tee.stats().bytes_in > 0,
    "admin.AUDIT_TAIL": lambda world: len(world.tee.audit_tail(1024).records) > 3,
}
# Those that can be made twice in a row, and give the same.
REPEATABLE = {
    *("kv.PERMUTE_WEIGHTS", "kv.UNPERMUTE", "kv.STORAGE_KEY", "kv.UNPERMUTE_ROWS"),
    *(
        "store.FILE_KEY",
        "store.UNSEAL",
        "guard.SCAN",
        "guard.OPEN_VAULT",
        "guard.MASK",
        "guard.UNMASK",
        "guard.FORGET",
        "guard.SAVE_VAULT",
        "guard.LOAD_VAULT",
        "guard.CHECK",
        "attest.GET_EVIDENCE",
        "admin.STATS",
        "admin.AUDIT_TAIL",
    ),
}


def commands():
    """Every command of every application the protocol knows: {"kv.OPEN_MODEL": command}."""
    return {
        f"{application}.{command.name}": command
        for application in APPLICATIONS.values()
        for command in getattr(protocol, f"{application.capitalize()}Command")
    }


def _ask(world, kind, types, *values):
    world.tee._channel.call(kind, "x", types=types, values=(*values, *[0] * (8 - len(values))))


KIND_RECIPES = {
    Kind.INITIALIZE: lambda world: world.start(),
    Kind.OPEN_SESSION: lambda world: world.tee._channel.open_session(TA_KV),
    Kind.CLOSE_SESSION: lambda world: world.tee._channel.call(
        Kind.CLOSE_SESSION, "close", session=world.tee._channel.open_session(TA_KV)
    ),
    Kind.REGISTER_MEMORY: lambda world: world.tee.register_memory(64),
    Kind.RELEASE_MEMORY: lambda world: _ask(world, Kind.RELEASE_MEMORY, 1, world.shared.id),
    Kind.STATUS: lambda world: world.tee.status(),
}
