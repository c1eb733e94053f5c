"""A bug in any command ends what its process can be asked, and tells nothing of what it met."""

import pytest
from fault_points import arming, instrumented
from fault_world import commands
from faulty_tee import PANIC_TEXT
from local_tee import UUIDS, Asker, local_tee
from test_tee_fuzz import REPLY_SECONDS

from tee_sim.audit_chain import read_tail
from tee_sim.errors import Origin, ResultCode
from tee_sim.protocol import (
    NO_VALUES,
    TA_GUARD,
    TA_KV,
    Kind,
    decode,
    encode,
)
from tee_sim.spawn import spawn

COMMANDS = commands()
SECRET = "what the command was given"
DEAD = (ResultCode.TARGET_DEAD, Origin.TEE)


@pytest.mark.parametrize("error", [ValueError, RecursionError, OSError, AssertionError])
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_an_unexpected_exception_in_any_command_ends_every_session(capfd, name, error):
    application, command = name.partition(".")[0], COMMANDS[name]
    dispatcher, sessions = local_tee("guard" if application == "guard" else "core")
    ask = Asker(dispatcher)
    table = dispatcher._applications[UUIDS[application]].commands
    types, _ = table[command]

    def panic(params):
        raise error(SECRET)

    table[command] = (types, panic)
    frame, reply = ask(Kind.INVOKE, sessions[application], command, types)
    assert (frame.command, frame.origin) == (ResultCode.TARGET_DEAD, Origin.TRUSTED_APP)
    assert frame.values == NO_VALUES and SECRET.encode() not in reply
    for other in COMMANDS:  # every command of every session, also of one that is opened now
        served = sessions.get(other.partition(".")[0])
        if served is not None:
            frame, _ = ask(Kind.INVOKE, served, COMMANDS[other])
            assert (frame.command, frame.origin) == DEAD, other
    number = ask(Kind.OPEN_SESSION, types=1, values=(*UUIDS[application], *[0] * 6))[0].values[0]
    assert ask(Kind.INVOKE, number, command)[0].command == ResultCode.TARGET_DEAD
    assert ask(Kind.STATUS)[0].command == ResultCode.SUCCESS  # it still says what it is
    if dispatcher._audit is not None:
        data, length, head = dispatcher._audit.tail(1024)
        assert SECRET.encode() not in data and length > 5
        codes = [record.code for record in read_tail(data, length, head).records]
        assert codes.count(ResultCode.TARGET_DEAD) >= 2
    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")


@pytest.mark.parametrize("role,uuid,command", [("core", TA_KV, 7), ("guard", TA_GUARD, 1)])
def test_a_panic_writes_nothing_to_stderr_and_does_not_end_the_process(
    monkeypatch, role, uuid, command
):
    """Over the socket of a process whose stderr is read to its end."""
    types = {"core": 0x1111, "guard": 0x22ED}[role]
    with instrumented(monkeypatch):
        process, connection = spawn(role)
    connection.settimeout(REPLY_SECONDS)
    replies = []

    def ask(kind, session=0, command=0, types=0, values=NO_VALUES):
        connection.send(encode(kind, session, command, types, 0, len(replies) + 1, values))
        replies.append(connection.recv(4096))
        return decode(replies[-1])

    assert ask(Kind.INITIALIZE).command == 0
    sessions = [ask(Kind.OPEN_SESSION, types=1, values=(*uuid, *[0] * 6)).values[0] for _ in "12"]

    connection.send(arming("panic", Kind.INVOKE, command))
    for session in sessions:
        reply = ask(Kind.INVOKE, session, command, types)
        assert (reply.command, reply.values) == (ResultCode.TARGET_DEAD, NO_VALUES)
    assert ask(Kind.STATUS).values[1] == process.pid
    connection.close()
    assert process.wait(5) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
    assert not any(PANIC_TEXT[:8].encode() in reply for reply in replies)
