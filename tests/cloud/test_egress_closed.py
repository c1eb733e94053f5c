"""Egress fails closed: without a guard, a vault or a log that can be trusted nothing is sent."""

import os
import signal

import pytest

from ptmo_secure.cloud.egress import Egress
from ptmo_secure.cloud.egress_log import EgressLog
from ptmo_secure.cloud.retries import RetryPolicy
from tee_sim.client import TeeClient
from tests.cloud import hostile_server as hostile
from tests.cloud.conftest import asking
from tests.cloud.test_egress import create, refused, sdk, user


def test_with_the_guard_killed_midway_nothing_is_sent(tmp_path):
    with TeeClient.launch("guard") as guard, hostile.HostileServer() as server:
        egress = Egress(guard, EgressLog(tmp_path))
        client = sdk(egress, server)
        vault = guard.open_vault("ann")
        with egress.clearance(vault, "chat"):
            create(client)
            server.forget()
            os.kill(guard.pid, signal.SIGKILL)
            refused(lambda: create(client), "guard")  # also what was called harmless before
            refused(lambda: create(client, messages=[user("Something new.")]), "guard")
        with egress.clearance(None, "chat"):
            refused(lambda: create(client, messages=[user("Something else.")]), "guard")
        assert server.received == b""
        assert [r.decision for r in egress.log.records()] == ["sent", *["refused"] * 3]


def test_with_the_vault_closed_nothing_is_sent(make, server, egress, guard):
    vault = guard.open_vault("ann")
    vault.close()
    with egress.clearance(vault, "chat"):
        refused(lambda: make().complete(asking()), "guard")
    assert server.received == b""


class BrokenGuard:
    """Gives answers that make no sense."""

    number = 1

    def __init__(self, answer):
        self.answer = answer

    def scan(self, text):
        return self.answer()

    def check(self, text, *, words=True, scan=True):
        return self.answer()


@pytest.mark.parametrize(
    "answer", [lambda: None, lambda: 1 / 0, lambda: (_ for _ in ()).throw(OSError)]
)
def test_a_guard_whose_answer_makes_no_sense_is_no_guard(server, tmp_path, answer):
    broken = BrokenGuard(answer)
    egress = Egress(broken, EgressLog(tmp_path))
    for vault in (None, broken):
        with egress.clearance(vault, "chat"):
            refused(lambda: create(sdk(egress, server)), "guard")
    assert server.received == b""


def test_when_the_log_cannot_be_written_nothing_is_sent(make, server, egress, vault):
    egress.log.folder.parent.mkdir(exist_ok=True)
    egress.log.folder.write_text("a file where the folder should be")
    with egress.clearance(vault, "chat"):
        refused(lambda: make().complete(asking()), "log")
    assert server.received == b""


def test_when_the_log_was_tampered_with_nothing_is_sent(make, server, egress, vault):
    path = egress.log.folder / "egress.jsonl"
    with egress.clearance(vault, "chat"):
        make().complete(asking())
        path.write_text(path.read_text().replace('"sent"', '"lost"'))
        server.forget()
        refused(lambda: make().complete(asking()), "log")
    assert server.received == b""


def test_a_record_is_durable_before_the_first_byte_is_sent(make, server, egress, vault):
    seen = []

    def look(sender, request):
        seen.extend(record.decision for record in egress.log.records())
        hostile.chat("ok")(sender, request)

    server.script = [look]
    with egress.clearance(vault, "chat"):
        make().complete(asking())
    assert seen == ["sent"]


def test_every_attempt_is_checked_and_logged(make, server, egress, vault):
    server.script = [hostile.status(500), hostile.status(500), hostile.chat()]
    with egress.clearance(vault, "chat"):
        make(retry=RetryPolicy(attempts=3)).complete(asking())
    assert [record.decision for record in egress.log.records()] == ["sent"] * 3
