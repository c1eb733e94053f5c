"""`ptmo audit`: what left the device, as a table and as JSON, and what is wrong with the log."""

import json

import pytest

from ptmo_secure import cli
from ptmo_secure.cloud.egress_log import EgressLog, LogEntry
from ptmo_secure.cloud.report import since_s
from ptmo_secure.errors import InputError

DAY = 86_400
NOON = 1_775_044_800.0  # 2026-04-01 12:00 UTC


def entry(decision="sent", model="big", size=100, code="", **kinds):
    return LogEntry(
        decision, "openai", model, "/chat/completions", b"x" * size, "chat", "a", "s", kinds, code
    )


@pytest.fixture
def state(tmp_path):
    now = [NOON]
    log = EgressLog(tmp_path / "egress", clock=lambda: now[0])
    log.append(entry(PERSON=2))
    now[0] += DAY
    log.append(entry(size=50, PERSON=1, EMAIL=1))
    log.append(entry("refused", code="held:SECRET"))
    log.append(entry(model="small", size=7))
    return tmp_path


def run(capsys, *arguments):
    code = cli.main(["audit", *arguments])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def test_it_adds_up_what_each_model_got(state, capsys):
    code, out, _ = run(capsys, "--state", str(state), "--json")
    big, small = json.loads(out)["destinations"]
    assert code == 0
    assert big == {
        "provider": "openai",
        "model": "big",
        "sent": 2,
        "sent_bytes": 150,
        "refused": 1,
        "placeholders": {"EMAIL": 1, "PERSON": 3},
        "refusals": {"held:SECRET": 1},
        "why": {"chat": 2},
        "first": "2026-04-01T12:00:00Z",
        "last": "2026-04-02T12:00:00Z",
    }
    assert (small["sent"], small["sent_bytes"], small["placeholders"]) == (1, 7, {})


def test_the_table_says_the_same(state, capsys):
    code, out, _ = run(capsys, "--state", str(state))
    assert code == 0
    assert "What left the device" in out and "1 EMAIL, 3 PERSON" in out
    assert "refused: held:SECRET" in out and "2026-04-01T12:00:00Z" in out
    assert "newest 4 records" in out


def test_since_and_last_choose_records(state, capsys):
    _, out, _ = run(capsys, "--state", str(state), "--json", "--since", "2026-04-02", "--last", "2")
    found = json.loads(out)
    assert found["destinations"][0]["sent_bytes"] == 50
    assert [record["number"] for record in found["records"]] == [3, 4]
    _, out, _ = run(capsys, "--state", str(state), "--json", "--last", "0")
    assert json.loads(out)["records"] == []


def test_verify_gives_a_head_that_can_be_asked_for_later(state, capsys):
    code, out, _ = run(capsys, "--state", str(state), "--verify", "--json")
    verified = json.loads(out)["verified"]
    assert code == 0 and verified["records"] == 4
    code, out, _ = run(capsys, "--state", str(state), "--verify", "--head", verified["head"])
    assert code == 0 and f"verified: 4 records, head {verified['head']}" in out
    path = state / "egress" / "egress.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    code, _, err = run(capsys, "--state", str(state), "--verify", "--head", verified["head"])
    assert code == 1 and "noted earlier" in err and err.count("\n") == 1


def test_a_changed_log_is_an_error_of_one_line(state, capsys):
    path = state / "egress" / "egress.jsonl"
    path.write_text(path.read_text().replace('"bytes":50', '"bytes":51'))
    for more in ((), ("--verify",)):
        code, out, err = run(capsys, "--state", str(state), *more)
        assert (code, out) == (1, "")
        assert "egress.jsonl:2" in err and "changed" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [("--since", "yesterday"), ("--head", "aa"), ("--last", "-1"), ("--since", "0d")],
)
def test_bad_arguments_are_errors_of_one_line(state, capsys, arguments):
    code, out, err = run(capsys, "--state", str(state), *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1


def test_where_nothing_was_logged_it_says_so_and_makes_nothing(tmp_path, capsys):
    code, _, err = run(capsys, "--state", str(tmp_path / "none"))
    assert code == 2 and "nothing was logged" in err
    assert list(tmp_path.iterdir()) == []


def test_times_count_back_or_are_dates():
    assert since_s("24h", NOON) == NOON - DAY
    assert since_s("2w", NOON) == NOON - 14 * DAY
    assert since_s("2026-04-01T12:00:00Z") == since_s("2026-04-01 12:00") == NOON
    assert since_s("2026-04-01T14:00:00+02:00") == NOON
    with pytest.raises(InputError):
        since_s("")
