"""The log of what left: every change is found, also by another program, and no text is in it."""

import json
import multiprocessing
import threading
from dataclasses import replace

import pytest

from ptmo_secure.cloud.egress_log import GENESIS, EgressLog, LogEntry
from ptmo_secure.errors import EngineError, InputError, SecurityError

ENTRY = LogEntry(
    "sent",
    "here",
    "m",
    "/chat/completions",
    b'{"a":"the text"}',
    "chat",
    "ann",
    "s1",
    {"PERSON": 2},
)


@pytest.fixture
def log(tmp_path):
    return EgressLog(tmp_path / "egress", clock=lambda: 1_800_000_000.1234)


@pytest.fixture
def path(log):
    for _ in range(5):
        log.append(ENTRY)
    return log.folder / "egress.jsonl"


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def test_a_record_says_what_left_and_not_what_it_said(log):
    record = log.append(ENTRY)
    assert (record.number, record.time, record.bytes) == (1, 1_800_000_000.123, 16)
    assert record.kinds == {"PERSON": 2} and len(record.body) == 64
    assert record.user != record.session and len(record.user) == 16
    (written,) = lines(log.folder / "egress.jsonl")
    assert b"text" not in written and b"ann" not in written
    assert json.loads(written)["prev"] == GENESIS
    assert list(log.records()) == [record]


def test_files_are_their_owners_alone(log, path):
    assert log.folder.stat().st_mode & 0o077 == 0
    for file in (path, log.folder / "egress.key"):
        assert file.stat().st_mode & 0o077 == 0


def test_equal_texts_of_two_logs_look_unlike(log, tmp_path):
    other = EgressLog(tmp_path / "other").append(ENTRY)
    record = log.append(ENTRY)
    assert record.body == log.append(ENTRY).body
    assert record.body != other.body and record.user != other.user


def test_a_whole_log_is_good(log, path):
    count, head = log.verify()
    assert count == 5 and head == list(log.records())[-1].mac
    assert EgressLog(log.folder).verify(head) == (5, head)


def changed(path, edit):
    rows = [json.loads(line) for line in lines(path)]
    edit(rows)
    text = "".join(json.dumps(r, sort_keys=True, separators=(",", ":")) + "\n" for r in rows)
    path.write_text(text)


@pytest.mark.parametrize(
    "edit",
    [
        lambda rows: rows[2].update(bytes=17),
        lambda rows: rows[2].update(decision="refused"),
        lambda rows: rows[4].update(time=1.0),
        lambda rows: rows[0]["kinds"].clear(),
        lambda rows: rows[3].update(mac="0" * 64),
        lambda rows: rows[3].update(more=1),
        lambda rows: rows[3].pop("why"),
        lambda rows: rows.pop(2),
        lambda rows: rows.pop(0),
        lambda rows: rows.insert(2, dict(rows[1])),
        lambda rows: rows.reverse(),
        lambda rows: rows.__setitem__(slice(1, 3), [rows[2], rows[1]]),
    ],
)
def test_every_change_is_found(log, path, edit):
    changed(path, edit)
    with pytest.raises(SecurityError):
        log.verify()


def test_every_single_bit_counts(log, path):
    whole = path.read_bytes()
    for at in range(len(whole) // 2, len(whole) // 2 + 400):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(SecurityError):
            log.verify()
    path.write_bytes(whole)
    log.verify()


def test_records_cut_off_the_end_are_found_by_a_head_noted_earlier(log, path):
    _, head = log.verify()
    path.write_bytes(b"".join(lines(path)[:-1]))
    assert log.verify()[0] == 4  # alone it looks whole
    with pytest.raises(SecurityError, match="noted earlier"):
        log.verify(head)
    log.append(replace(ENTRY, why="another"))
    with pytest.raises(SecurityError, match="noted earlier"):
        log.verify(head)


def test_a_chain_under_another_key_is_not_this_logs(log, path, tmp_path):
    other = EgressLog(tmp_path / "other")
    for _ in range(5):
        other.append(ENTRY)
    path.write_bytes((other.folder / "egress.jsonl").read_bytes())
    with pytest.raises(SecurityError):
        log.verify()
    with pytest.raises(SecurityError):
        log.append(ENTRY)


def test_a_log_without_its_key_is_neither_checked_nor_gone_on_with(log, path):
    (log.folder / "egress.key").unlink()
    with pytest.raises(SecurityError, match=r"egress\.key"):
        log.verify()
    with pytest.raises(SecurityError, match=r"egress\.key"):
        log.append(ENTRY)


def test_a_line_that_a_crash_cut_off_is_taken_away(log, path):
    whole = lines(path)
    for keep in (1, len(whole[-1]) - 1):
        path.write_bytes(b"".join(whole[:-1]) + whole[-1][:keep])
        assert EgressLog(log.folder).append(ENTRY).number == 5
        assert log.verify()[0] == 5
    path.write_bytes(whole[0][:20])
    assert log.append(ENTRY).number == 1


def test_a_long_log_is_put_aside_and_its_chain_goes_on(tmp_path):
    log = EgressLog(tmp_path, rotate_bytes=1500)
    for _ in range(20):
        log.append(ENTRY)
    aside = sorted(path.name for path in tmp_path.glob("egress-*.jsonl"))
    assert len(aside) > 4 and aside[0] == f"egress-{4:012d}.jsonl"
    assert log.verify()[0] == 20
    assert [record.number for record in log.records()] == list(range(1, 21))
    (tmp_path / aside[2]).unlink()
    with pytest.raises(SecurityError, match="does not follow"):
        log.verify()


def test_old_files_that_were_removed_are_missed(tmp_path):
    log = EgressLog(tmp_path, rotate_bytes=1500)
    for _ in range(20):
        log.append(ENTRY)
    min(tmp_path.glob("egress-*.jsonl")).unlink()
    with pytest.raises(SecurityError, match="before number 5 are gone"):
        log.verify()
    assert next(log.records()).number == 5  # what is there can still be read


def test_threads_and_programs_write_one_chain(tmp_path):
    log = EgressLog(tmp_path, rotate_bytes=20_000)
    log.append(ENTRY)
    programs = [multiprocessing.get_context("spawn").Process(target=write, args=(tmp_path,))]
    threads = [threading.Thread(target=write, args=(tmp_path,)) for _ in range(4)]
    for worker in (*programs, *threads):
        worker.start()
    for worker in (*programs, *threads):
        worker.join(120)
    assert log.verify()[0] == 1 + 5 * 25


def write(folder):
    log = EgressLog(folder, rotate_bytes=20_000)
    for _ in range(25):
        log.append(ENTRY)


def test_no_log_is_the_callers_mistake_and_an_unwritable_one_is_not(tmp_path):
    with pytest.raises(InputError, match="nothing was logged"):
        EgressLog(tmp_path).verify()
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError):
        EgressLog(tmp_path / "file").append(ENTRY)
