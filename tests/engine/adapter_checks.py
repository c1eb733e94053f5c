"""What an engine keeps on any device that has the adapters a0, a1 and a2 (`with_adapters`)."""

import numpy as np

from ptmo_secure.engine.feed import feed_batch
from ptmo_secure.engine.scheduler import Scheduler

IDS = [int(i) for i in np.random.default_rng(11).integers(0, 250, 60)]


def check_that_a_swap_equals_a_fresh_session(engine):
    """Rows of another set are computed anew, to the bits of a session that never had it."""
    for before, after in ((["a0"], ["a1"]), (["a0"], []), ([], ["a0", "a1"])):
        fresh = engine.start_session(after)
        fresh.feed(IDS[:40])
        expected = fresh.feed(IDS[40:], all_logits=True)
        session = engine.start_session(before)
        session.feed(IDS[:40])
        session.use_adapters(after)
        assert session.tokens == IDS[:40] and session.adapters == tuple(after)
        assert np.array_equal(session.feed(IDS[40:], all_logits=True), expected)
        tags = set(engine.dump_device_memory().headers()["adapter_tag"])
        assert tags == {session.adapter_tag}


def check_that_forks_go_on_under_different_adapters(engine):
    """Each side of a fork gives the bits of a session of its own set."""
    expected = []
    for names in (["a0"], ["a1"]):
        session = engine.start_session(names)
        session.feed(IDS)
        expected.append(session.feed([1, 2, 3], all_logits=True))
    trunk = engine.start_session(["a0"])
    trunk.feed(IDS)
    branch = trunk.fork()
    assert branch.adapters == ("a0",) and branch.adapter_tag == trunk.adapter_tag != 0
    branch.use_adapters(["a1"])
    got = [s.feed([1, 2, 3], all_logits=True) for s in (trunk, branch)]
    assert all(np.array_equal(g, e) for g, e in zip(got, expected, strict=True))
    tags = set(engine.dump_device_memory().headers()["adapter_tag"])
    assert tags == {trunk.adapter_tag, branch.adapter_tag}


def check_that_one_pass_equals_each_session_alone(engine):
    """Sequences of different sets and lengths in one pass; 1024 rows of cache hold them."""
    sets = [["a0"], [], ["a2", "a1"], ["a0"]]
    expected = [engine.forward(IDS[i:], names) for i, names in enumerate(sets)]
    engine.reset()
    sessions = [engine.open_session(names) for names in sets]
    got = feed_batch([(s, IDS[i:]) for i, s in enumerate(sessions)], all_logits=True)
    assert all(np.array_equal(g, e) for g, e in zip(got, expected, strict=True))


def check_that_requests_together_answer_as_alone(engine):
    """Requests under sets of their own, more than run at once; 2048 rows of cache hold them."""
    sets = [["a0"], [], ["a0", "a1"], ["a0"], ["a2"], []]
    expected = []
    for i, names in enumerate(sets):
        engine.reset()
        expected.append("".join(engine.generate("hello " * (i + 1), 12, adapters=names)))
    assert len(set(expected)) == len(sets)
    with Scheduler(engine, max_batch=4, max_step_tokens=20) as scheduler:
        requests = [
            scheduler.submit("hello " * (i + 1), 12, adapters=names) for i, names in enumerate(sets)
        ]
        assert [request.result(60) for request in requests] == expected
