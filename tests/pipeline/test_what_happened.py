"""Answers tell what happened and not what was planned; the budget pays for what left alone."""

import threading

import pytest
from worlds import CARRIES

from ptmo_secure.cloud.caps import SpendCaps
from ptmo_secure.errors import InputError
from ptmo_secure.privacy.budget import BudgetLimits, BudgetSpentError, PrivacyBudget
from ptmo_secure.types import Route
from tests.cloud import hostile_server as hostile

MASKED = {"PERSON": 1, "EMAIL": 1}


def left(here, user="ann"):
    return here.budget.status(user).left


def test_a_dead_cloud_spends_nothing_however_often_it_is_asked(make):
    here = make(fields={"base_url": "http://127.0.0.1:1/v1"})
    before, codes = left(here), set()
    for _ in range(26):
        answer = here.answer(CARRIES, user="ann", session="a")
        assert (answer.route, answer.masked, answer.text) == (Route.LOCAL, {}, "from the device")
        codes |= {step.facts["failed"] for step in answer.trace if step.name == "cloud.answer"}
    assert left(here) == before
    assert codes == {"CloudError:connection", "CloudError:circuit_open"}


def test_a_cap_that_refuses_spends_nothing(make):
    here = make()
    caps = SpendCaps()
    caps.set_limit("request", "seconds", 0.001)
    here.pipeline._responder._consultant._cloud._attempts.caps = caps
    before = left(here)
    answer = here.answer(CARRIES, user="ann", session="a")
    assert (answer.route, answer.masked, left(here)) == (Route.LOCAL, {}, before)
    assert here.server.received == b""


def test_what_egress_refuses_spends_nothing(make, monkeypatch):
    here = make()
    monkeypatch.setattr(here.egress.log, "append", raise_disk_error)
    before = left(here)
    answer = here.answer(CARRIES, user="ann", session="a")
    assert (answer.route, answer.masked, left(here)) == (Route.LOCAL, {}, before)
    assert here.server.received == b""


def raise_disk_error(entry):
    raise OSError("the disk is full")


@pytest.mark.parametrize(
    ("behaviour", "route"),
    [(hostile.status(500), Route.LOCAL), (hostile.half_closed(), Route.HYBRID)],
    ids=["status", "cut"],
)
def test_what_left_is_told_and_paid_for_although_no_whole_answer_came(make, behaviour, route):
    here = make(behaviour=behaviour)
    before = left(here)
    answer = here.answer(CARRIES, user="ann", session="a")
    assert (answer.route, answer.masked) == (route, MASKED)
    assert left(here) < before and b"[PERSON_1]" in here.server.received


def test_a_charge_is_given_back_once_and_whole_or_in_part():
    budget = PrivacyBudget(BudgetLimits(user_epsilon=5.0, session_epsilon=5.0))
    for _ in range(2):
        budget.spend("ann", "a", 1.0)
    budget.give_back("ann", "a", 1.0, 0.75)
    assert budget.status("ann").basic == pytest.approx(1.25)
    budget.give_back("ann", "a", 1.0, 1.0)
    budget.give_back("ann", "a", 1.0, 1.0)  # there is no such charge any more
    budget.give_back("ann", "b", 0.25, 0.25)
    budget.give_back("bob", "a", 0.25, 0.25)
    assert budget.status("ann").basic == pytest.approx(0.25)
    with pytest.raises(InputError, match="unspent"):
        budget.give_back("ann", "a", 0.25, 0.5)


def test_charges_and_refunds_at_once_lose_nothing():
    budget = PrivacyBudget(BudgetLimits(user_epsilon=2.0, session_epsilon=2.0))
    kept = []

    def work(number):
        for turn in range(30):
            try:
                budget.spend("ann", "a", 0.05)
            except BudgetSpentError:
                continue
            if (number + turn) % 3:
                budget.give_back("ann", "a", 0.05, 0.05)
            else:
                kept.append(0.05)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    status = budget.status("ann")
    assert kept and status.basic == pytest.approx(sum(kept)) and status.spends == len(kept)


SYSTEM = "The user is called Maria Lopez, born 12 March 1985."


def test_placeholders_of_a_system_prompt_and_of_history_are_told_and_are_to_be_copied(make):
    here = make(behaviour=hostile.stream(["Ask [PERSON_1]."]))
    talk = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "What is Python?"}]
    answer = here.answer(talk, user="ann", session="a")
    sent = here.bodies()[-1]["messages"]
    assert [m["content"] for m in sent[1:]] == [
        "The user is called [PERSON_1], born [DATE_OF_BIRTH_1].",
        "What is Python?",
    ]
    assert sent[0]["role"] == "system" and "Copy them exactly" in sent[0]["content"]
    assert (answer.route, answer.text) == (Route.CLOUD, "Ask Maria Lopez.")
    assert answer.masked == {"PERSON": 1, "DATE_OF_BIRTH": 1}
    talk += [{"role": "assistant", "content": answer.text}]
    talk += [{"role": "user", "content": "Why is snow white?"}]
    again = here.answer(talk, user="ann", session="a")
    assert here.bodies()[-1]["messages"][3]["content"] == "Ask [PERSON_1]."
    assert again.masked == {"PERSON": 2, "DATE_OF_BIRTH": 1}


def test_what_only_looks_like_a_placeholder_in_a_clouds_words_is_not_counted(make):
    here = make(behaviour=hostile.stream(["Write [PERSON_7] there."]))
    talk = [{"role": "user", "content": "What is Python?"}]
    talk += [{"role": "assistant", "content": here.answer(talk).text}]
    again = here.answer([*talk, {"role": "user", "content": "Why is snow white?"}])
    sent = [m["content"] for m in here.bodies()[-1]["messages"]]
    assert sent == ["What is Python?", "Write [PERSON_7] there.", "Why is snow white?"]
    assert again.masked == {}
