"""The guard's application in this process, where a test can break what it calls."""

from tee_sim.dispatch import Dispatcher
from tee_sim.protocol import TA_GUARD, Kind, decode, encode, memref
from tee_sim.shared_memory import create_sealed_memfd
from tee_sim.ta.guard import GuardApplication

_SCAN, _SCAN_TYPES = 1, 0x22ED  # as a client sends them


def scanning(classifier=None):
    """Return a function that has 64 zero bytes scanned, and returns the reply's frame."""
    dispatcher = Dispatcher(lambda budget, root: (GuardApplication(budget, classifier),))
    seq = iter(range(1, 100))

    def ask(kind, types=0, values=(0,) * 8, session=0, command=0, fds=()):
        packet = encode(kind, session, command, types, 0, next(seq), values)
        return decode(dispatcher.handle(packet, fds))

    ask(Kind.INITIALIZE)
    session = ask(Kind.OPEN_SESSION, 1, (*TA_GUARD, *[0] * 6)).values[0]
    fds = (create_sealed_memfd(4096),)
    shared = ask(Kind.REGISTER_MEMORY, 1, (4096, 1, *[0] * 6), fds=fds).values[0]
    values = (*memref(shared, 0, 64), *memref(shared, 64, 512), 0, 0, 0, 0)
    return lambda: ask(Kind.INVOKE, _SCAN_TYPES, values, session, _SCAN)
