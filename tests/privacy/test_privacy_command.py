"""`ptmo privacy status` and `ptmo privacy reset` as a user types them."""

import json

import pytest

from ptmo_secure.cli import main
from ptmo_secure.privacy.budget import PrivacyBudget
from ptmo_secure.privacy.budget_state import OBJECT_NAME, SealedState


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "device"


@pytest.fixture
def spent(folder):
    budget = PrivacyBudget(state=SealedState(folder=folder))
    budget.spend("ann", "chat", 1.5)
    budget.spend("bob", "mail", 0.25)
    budget.close()
    return folder


def run(capsys, *arguments):
    code = main(["privacy", *arguments])
    return code, capsys.readouterr()


def test_status_shows_what_users_spent(spent, capsys):
    code, shown = run(capsys, "status", "--state", str(spent), "--json")
    found = json.loads(shown.out)
    assert code == 0
    assert [(u["user"], u["spent_epsilon"], u["left_epsilon"]) for u in found["users"]] == [
        ("ann", 1.5, 3.5),
        ("bob", 0.25, 4.75),
    ]
    assert found["users"][0]["sessions"] == {"chat": 1.5}
    code, shown = run(capsys, "status", "--state", str(spent), "--user", "ann")
    assert shown.out.startswith("ann: 1.500 of 5 epsilon spent")
    assert "bob" not in shown.out


def test_reset_of_one_user_leaves_the_others(spent, capsys):
    assert run(capsys, "reset", "--state", str(spent), "--user", "ann", "--json")[0] == 0
    _, shown = run(capsys, "status", "--state", str(spent), "--json")
    assert [user["user"] for user in json.loads(shown.out)["users"]] == ["bob"]
    assert run(capsys, "reset", "--state", str(spent))[0] == 0
    assert "nothing was disclosed" in run(capsys, "status", "--state", str(spent))[1].out


def test_looking_makes_no_device(folder, capsys):
    code, shown = run(capsys, "status", "--state", str(folder), "--json")
    assert (code, json.loads(shown.out)["users"]) == (0, [])
    assert not folder.exists()


def test_a_tampered_budget_is_one_line_and_exit_code_one_until_it_is_reset(spent, capsys):
    path = spent / "objects" / f"{OBJECT_NAME}.sealed"
    path.unlink()
    code, shown = run(capsys, "status", "--state", str(spent))
    assert (code, shown.out) == (1, "")
    assert shown.err.startswith("error: ")
    assert OBJECT_NAME in shown.err
    assert run(capsys, "reset", "--state", str(spent))[0] == 0
    assert run(capsys, "status", "--state", str(spent))[0] == 0


def test_a_bad_user_is_exit_code_two(spent, capsys):
    for name in ("x" * 200, "\udcff"):
        assert run(capsys, "status", "--state", str(spent), "--user", name)[0] == 2
