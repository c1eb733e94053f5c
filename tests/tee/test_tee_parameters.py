"""What reaches a command is of exactly the types that it declares, and so is what leaves it."""

import pytest
from fault_world import commands
from local_tee import UUIDS, Asker, local_tee

from tee_sim.errors import Origin, ResultCode
from tee_sim.protocol import NO_VALUES, Kind, ParamType

COMMANDS = commands()
REFUSED = (ResultCode.BAD_PARAMETERS, Origin.TEE, NO_VALUES)


class Watched:
    """One command of a dispatcher in this process, with a handler that only says it was called."""

    def __init__(self, name):
        application, self._command = name.partition(".")[0], COMMANDS[name]
        dispatcher, sessions = local_tee("guard" if application == "guard" else "core")
        table = dispatcher._applications[UUIDS[application]].commands
        self.types, _ = table[self._command]
        table[self._command] = (self.types, self._handle)
        self._session, self._ask = sessions[application], Asker(dispatcher)
        self.calls = 0

    def _handle(self, params):
        self.calls += 1
        return tuple(range(1, 9))

    def __call__(self, types, values=NO_VALUES):
        frame, _ = self._ask(Kind.INVOKE, self._session, self._command, types, values)
        return frame.command, frame.origin, frame.values


@pytest.fixture(params=sorted(COMMANDS))
def watched(request):
    return Watched(request.param)


def kinds(types):
    """The type of each of the eight values."""
    return [types >> 4 * (index // 2) & 0xF for index in range(8)]


def test_only_the_declared_types_reach_a_command(watched):
    for at in range(4):
        for kind in range(16):
            types = watched.types & ~(0xF << 4 * at) | kind << 4 * at
            if types != watched.types:
                assert watched(types) == REFUSED, hex(types)
    assert watched.calls == 0
    assert watched(watched.types)[0] == ResultCode.SUCCESS and watched.calls == 1


def test_a_value_that_a_command_does_not_take_is_refused(watched):
    calls = 0
    for at, kind in enumerate(kinds(watched.types)):
        result = watched(watched.types, tuple(int(index == at) for index in range(8)))
        if kind in (ParamType.NONE, ParamType.VALUE_OUTPUT):
            assert result == REFUSED, at
        else:
            calls += 1
            assert result[0] == ResultCode.SUCCESS
    assert watched.calls == calls


def test_a_command_that_returns_more_than_it_declares_sends_no_more(watched):
    outputs = (ParamType.VALUE_OUTPUT, ParamType.VALUE_INOUT)
    sent = tuple(at + 1 if kind in outputs else 0 for at, kind in enumerate(kinds(watched.types)))
    assert watched(watched.types) == (ResultCode.SUCCESS, 0, sent)
