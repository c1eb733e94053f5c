"""What commands were given stands in no shared memory once their call is over, however it ended."""

import os
import re

import pytest
from fault_points import arm, instrumented
from tee_helpers import SMALL

from tee_sim.client import TeeClient, TeeDeadError, TeeError
from tee_sim.protocol import GuardCommand, Kind, KvCommand, StoreCommand

MARK = b"a value that nobody may find afterwards"
TEXT = f"my password is hunter2; {MARK.decode()}; mail a.person@example.org"
ROWS = (MARK * 8)[: SMALL.n_heads * SMALL.head_dim * 8]
OBJECT = bytes(32)


def put_and_get(client):
    store = client.open_store()
    client.store = store
    store.start(b"")
    sealed = store.seal(OBJECT, MARK * 9)
    store.commit(OBJECT)
    assert store.unseal(OBJECT, sealed) == MARK * 9


def permute(client):
    client.permute_weights(client.open_model(SMALL), 0, "q", ROWS, 8)


def unmask(client):
    vault = client.open_vault("somebody")
    client.vault = vault
    vault.mask(TEXT)
    assert "hunter2" in vault.unmask("[SECRET_1]")


def mask(client):
    with client.open_vault("somebody") as vault:
        assert "hunter2" not in vault.mask(TEXT).text


CALLS = {
    "guard": (lambda client: client.scan(TEXT), GuardCommand.SCAN),
    "mask in guard": (mask, GuardCommand.MASK),
    "unmask in guard": (unmask, GuardCommand.UNMASK),
    "unseal": (put_and_get, StoreCommand.UNSEAL),
    "seal": (put_and_get, StoreCommand.SEAL),
    "weights": (permute, KvCommand.PERMUTE_WEIGHTS),
}


def shared_regions(pid):
    """Address ranges of the memory a process shares with the other world."""
    with open(f"/proc/{pid}/maps") as maps:
        lines = [line for line in maps if "/memfd:ptmo-shared" in line]
    return [re.match(r"(\w+)-(\w+)", line).groups() for line in lines]


def shared_memory(pid):
    """What stands in those ranges. One that a collected client has given back meanwhile is none."""
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for region in shared_regions(pid):
            start, end = (int(part, 16) for part in region)
            try:
                memory.seek(start)
                yield memory.read(end - start)
            except OSError:
                if region in shared_regions(pid):
                    raise


@pytest.mark.parametrize("ending", ["answered", "panic", "oom", "before_reply"])
@pytest.mark.parametrize("name", CALLS)
def test_no_shared_memory_holds_what_a_call_carried(monkeypatch, name, ending):
    call, command = CALLS[name]
    with instrumented(monkeypatch), TeeClient.launch("guard" if "guard" in name else "core") as tee:
        if ending == "answered":
            call(tee)
        else:
            arm(tee, ending, Kind.INVOKE, command, at=8)
            with pytest.raises(TeeError) as refused:
                call(tee)
            assert isinstance(refused.value, TeeDeadError) == (ending != "oom")
        readers = [os.getpid()]
        if os.geteuid() == 0 and tee.alive():
            readers.append(tee.pid)
        for pid in readers:
            regions = list(shared_memory(pid))
            assert regions and sum(map(len, regions)) >= 1 << 16
            assert [
                region for region in regions if MARK[:16] in region or b"hunter2" in region
            ] == []


def test_while_a_call_is_under_way_its_text_is_there(monkeypatch):
    """The reader above sees it: here the text is looked for while the guard has not answered."""
    with TeeClient.launch("guard") as guard:
        seen = []
        receive = type(guard._channel)._receive

        def looking(channel):
            seen.extend(shared_memory(os.getpid()))
            return receive(channel)

        monkeypatch.setattr(type(guard._channel), "_receive", looking)
        guard.scan(TEXT)
    assert any(MARK in region for region in seen)
