"""Kept sessions: reused by the next turn, put away when room is short, back after a restart."""

import os
import threading

import pytest

from ptmo_secure.engine.engine import Engine
from ptmo_secure.engine.scheduler import Scheduler
from ptmo_secure.engine.shelf import SessionShelf
from ptmo_secure.errors import InputError
from tests.tiny_models import make_tiny_model

A, B = "a" * 32, "b" * 32
FIRST = [{"role": "user", "content": "hello there, who is it?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"), "Q4_1").path


def load(model, **fields):
    return Engine.load(model, **{"threads": 1, "cache_tokens": 1024, "shield": "seal", **fields})


def ask(scheduler, ids, name, tokens=8, **fields):
    request = scheduler.submit(ids, tokens, session=name, **fields)
    request.result(60)
    return request


def turn(engine, request):
    """Ids of a prompt that goes on from an answer."""
    return [*request.generation.history, *engine.tokenizer.encode(" and then?")]


def prefilled(request):
    return request.stats.prefilled_tokens


def test_the_next_turn_computes_only_what_is_new_and_answers_as_without(model):
    with load(model) as engine:
        ids = list(engine.render(FIRST).ids)
        shelf = SessionShelf(engine)
        with Scheduler(engine, shelf=shelf) as scheduler:
            first = ask(scheduler, ids, A)
            longer = turn(engine, first)
            alone = ask(scheduler, longer, None)
            kept = ask(scheduler, longer, A)
        assert prefilled(first) == len(ids)
        assert prefilled(alone) == len(longer)
        # The last token of the answer was chosen and never fed.
        assert prefilled(kept) == len(longer) - len(first.generation.history) + 1
        assert kept.generation.history == alone.generation.history
        assert shelf.counts == {"reused": 1}


def test_a_session_serves_its_own_name_alone(model):
    with load(model) as engine:
        shelf = SessionShelf(engine)
        with Scheduler(engine, shelf=shelf) as scheduler:
            longer = turn(engine, ask(scheduler, list(engine.render(FIRST).ids), A))
            other = ask(scheduler, longer, B)
        assert prefilled(other) == len(longer)
        assert shelf.counts == {}


def test_of_two_requests_of_one_name_the_later_goes_without(model):
    with load(model) as engine, Scheduler(engine, shelf=SessionShelf(engine)) as scheduler:
        ids = list(engine.render(FIRST).ids)
        requests = [scheduler.submit(ids, 32, session=A) for _ in range(3)]
        texts = {request.result(60) for request in requests}
        assert len(texts) == 1
        assert ask(scheduler, turn(engine, requests[0]), A).stats.finish_reason


def test_a_cancelled_request_keeps_its_rows_and_its_name_is_free_again(model):
    with load(model) as engine:
        shelf = SessionShelf(engine)
        with Scheduler(engine, shelf=shelf) as scheduler:
            request = scheduler.submit(list(engine.render(FIRST).ids), 400, session=A)
            next(iter(request))
            request.cancel()
            assert request.wait(60)
            assert request.stats.finish_reason == "cancelled"
            longer = turn(engine, request)
            assert prefilled(ask(scheduler, longer, A)) < len(longer) // 2


def test_kept_sessions_give_way_to_requests_that_need_their_pages(model):
    with load(model, cache_tokens=128, context_tokens=128) as engine:
        shelf = SessionShelf(engine)
        with Scheduler(engine, shelf=shelf) as scheduler:
            for number in range(6):
                ask(scheduler, [5 + number] * 60, f"{number:032x}", tokens=4)
        assert shelf.counts["dropped"] >= 4
        assert len(shelf) <= 2


def test_the_least_recently_used_leaves_when_too_many_are_kept(model):
    with load(model) as engine:
        shelf = SessionShelf(engine, keep=2)
        with Scheduler(engine, shelf=shelf) as scheduler:
            for number in range(5):
                ask(scheduler, [5 + number] * 9, f"{number:032x}", tokens=4)
        assert len(shelf) == 2 and shelf.counts["dropped"] == 3


def test_sessions_that_were_put_away_come_back_after_a_restart(model, tmp_path):
    state, folder = tmp_path / "device", tmp_path / "kept"
    with load(model, tee_state=state) as engine:
        shelf = SessionShelf(engine, folder=folder)
        with Scheduler(engine, shelf=shelf) as scheduler:
            first = ask(scheduler, list(engine.render(FIRST).ids), A)
            longer = turn(engine, first)
            expected = ask(scheduler, longer, None).generation.history
        assert shelf.save_all() == 1
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    with load(model, tee_state=state) as engine:
        shelf = SessionShelf(engine, folder=folder)
        with Scheduler(engine, shelf=shelf) as scheduler:
            again = ask(scheduler, longer, A)
        assert shelf.counts == {"resumed": 1, "reused": 1}
    assert again.generation.history == expected
    assert prefilled(again) < len(longer) - len(first.generation.history) + 2


def test_a_changed_file_is_refused_and_its_rows_are_computed_anew(model, tmp_path):
    state, folder = tmp_path / "device", tmp_path / "kept"
    with load(model, tee_state=state) as engine:
        shelf = SessionShelf(engine, folder=folder)
        with Scheduler(engine, shelf=shelf) as scheduler:
            longer = turn(engine, ask(scheduler, list(engine.render(FIRST).ids), A))
            expected = ask(scheduler, longer, None).generation.history
        shelf.save_all()
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with load(model, tee_state=state) as engine:
        shelf = SessionShelf(engine, folder=folder)
        with Scheduler(engine, shelf=shelf) as scheduler:
            again = ask(scheduler, longer, A)
    assert shelf.counts["refused"] == 1 and shelf.counts["reused"] == 0
    assert again.generation.history == expected
    assert prefilled(again) == len(longer)


def test_the_file_of_one_name_put_in_place_of_anothers_is_refused(model, tmp_path):
    folder = tmp_path / "kept"
    with load(model, tee_state=tmp_path / "device") as engine:
        shelf = SessionShelf(engine, folder=folder)
        with Scheduler(engine, shelf=shelf) as scheduler:
            longer = turn(engine, ask(scheduler, list(engine.render(FIRST).ids), A))
            ask(scheduler, [7] * 20, B)
            assert shelf.save_all() == 2
            os.replace(folder / f"{A}.session", folder / f"{B}.session")
            assert prefilled(ask(scheduler, longer, B)) == len(longer)
        assert shelf.counts["refused"] == 1


def test_the_oldest_files_go_when_there_are_too_many(model, tmp_path):
    folder = tmp_path / "kept"
    with load(model, tee_state=tmp_path / "device") as engine:
        shelf = SessionShelf(engine, folder=folder, keep_files=3)
        with Scheduler(engine, shelf=shelf) as scheduler:
            for number in range(5):
                ask(scheduler, [5 + number] * 9, f"{number:032x}", tokens=2)
            shelf.save_all()
        assert len(list(folder.iterdir())) == 3


def test_a_dead_tee_frees_the_names_it_held(model):
    with load(model) as engine, Scheduler(engine, shelf=SessionShelf(engine)) as scheduler:
        ids = list(engine.render(FIRST).ids)
        ask(scheduler, ids, A)
        engine._tee.client._channel.process.kill()
        engine._tee.client._channel.process.wait(10)
        done = threading.Event()
        for _ in range(50):  # the death is noticed by a watcher of its own
            try:
                ask(scheduler, ids, A)
                done.set()
                break
            except Exception:
                continue
        assert done.is_set()
        assert prefilled(ask(scheduler, [*ids, 40, 41], None)) == len(ids) + 2


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 32, "a" * 65, 5])
def test_a_name_that_is_no_hex_digest_is_refused(model, name):
    with load(model) as engine, Scheduler(engine, shelf=SessionShelf(engine)) as scheduler:
        with pytest.raises(InputError):
            scheduler.submit([5, 6], 4, session=name)
