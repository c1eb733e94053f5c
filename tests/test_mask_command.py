"""`ptmo mask` and `ptmo unmask`: what they print, what they refuse, and that they fail closed."""

import io
import json

import pytest

from ptmo_secure import cli
from ptmo_secure.privacy.masking import Masking
from tee_sim.client import ResultCode, TeeClient, TeeDeadError, TeeError
from tee_sim.errors import Origin

EXAMPLE = "Call Dr. Kim at 010-1234-5678 about my HIV test."
VALUES = ("Kim", "010", "1234", "5678", "HIV")


def run(capsys, *arguments):
    code = cli.main(list(arguments))
    written = capsys.readouterr()
    return code, written.out, written.err


def test_all_three_private_values_of_the_example_are_masked(capsys):
    code, out, err = run(capsys, "mask", EXAMPLE, "--json")
    value = json.loads(out)
    assert (code, err) == (0, "")
    assert value["text"] == "Call [PERSON_1] at [PHONE_1] about my [MEDICAL_1]."
    assert [span["kind"] for span in value["spans"]] == ["PERSON", "PHONE", "MEDICAL"]
    assert [EXAMPLE[s["start"] : s["end"]] for s in value["spans"]] == [
        "Dr. Kim",
        "010-1234-5678",
        "HIV test",
    ]
    places = [value["text"][s["masked_start"] : s["masked_end"]] for s in value["spans"]]
    assert places == ["[PERSON_1]", "[PHONE_1]", "[MEDICAL_1]"]
    assert (value["style"], value["reversible"]) == ("placeholder", True)
    assert value["level"] == "PRIVATE" and 0.9 < value["score"] < 1
    assert not any(private in out for private in VALUES)


@pytest.mark.parametrize("style", ["placeholder", "surrogate", "generalise"])
def test_every_style_shows_none_of_the_values(capsys, style):
    code, out, _ = run(capsys, "mask", EXAMPLE, "--style", style)
    assert code == 0 and out.startswith("Call ") and out.endswith(".\n")
    assert not any(private in out for private in VALUES if style != "surrogate" or private != "010")


def test_generalising_says_that_it_is_one_way(capsys):
    _, out, _ = run(capsys, "mask", "I am 34 years old", "--style", "generalise", "--json")
    value = json.loads(out)
    assert value["text"] == "I am 30s years old" and value["reversible"] is False


def test_the_text_may_come_from_stdin(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("my password is hunter2\n"))
    assert run(capsys, "mask", "-") == (0, "my password is [SECRET_1]\n\n", "")


def test_an_answer_gets_its_values_back_from_the_texts_that_were_masked(capsys):
    turns = ("--original", EXAMPLE, "--original", "My name is Ann Lee")
    answer = "<person_1>, **[Phone 1]**, PERSON_2's, [EMAIL_1]"
    code, out, _ = run(capsys, "unmask", answer, *turns)
    assert (code, out) == (0, "Dr. Kim, **010-1234-5678**, Ann Lee's, [EMAIL_1]\n")
    code, out, _ = run(capsys, "unmask", "nothing", *turns, "--json")
    assert json.loads(out) == {"text": "nothing", "changed": False}


@pytest.mark.parametrize(
    "arguments,message",
    [
        (
            ("mask", "a", "--style", "invisible"),
            "unknown style 'invisible': choose from placeholder",
        ),
        (("mask", "a\udcff"), "the text is not valid UTF-8"),
        (("mask", "a" * ((1 << 20) + 1)), "the text is too long"),
        (("unmask", "a"), "--original or --session is missing"),
        (("unmask", "-", "--original", "-"), "'-' is given twice"),
        (("unmask", "a\udcff", "--original", "b"), "the answer is not valid UTF-8"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    "failure",
    [TeeDeadError(), TeeError(ResultCode.TARGET_DEAD, Origin.TEE, "panic"), None],
    ids=["dead", "panic", "does not start"],
)
def test_a_failing_guard_is_exit_code_1_and_prints_no_text(capsys, monkeypatch, failure):
    def fail(*_, **__):
        raise failure or TeeError(ResultCode.COMMUNICATION, Origin.API, "the TEE did not start")

    if failure is None:
        monkeypatch.setattr(TeeClient, "launch", fail)
    else:
        monkeypatch.setattr("tee_sim.mask_calls.Vault.mask", fail)
    for arguments in (
        ("mask", EXAMPLE),
        ("mask", EXAMPLE, "--json"),
        ("unmask", "a", "--original", EXAMPLE),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (1, "") and err.startswith("error: ")
        assert not any(private in err for private in VALUES)


def test_help_has_examples(capsys):
    for command in ("mask", "unmask"):
        code, out, _ = run(capsys, command, "--help")
        assert code == 0 and f"ptmo {command} " in out and "--json" in out


def test_a_stream_through_the_host_class():
    with Masking.open("ann") as masking:
        masked = masking.mask(EXAMPLE)
        pieces = [masked.text[at : at + 3] for at in range(0, len(masked.text), 3)]
        assert "".join(masking.unmask_stream(pieces)) == EXAMPLE


# ------------------------------------------------------------------------------------- sessions


@pytest.fixture
def state(tmp_path):
    return "--state", str(tmp_path / "device")


def test_a_session_is_masked_now_and_unmasked_by_another_call(capsys, state):
    letter = ("--session", "letter", *state)
    code, out, _ = run(capsys, "mask", EXAMPLE, *letter, "--style", "surrogate", "--json")
    value = json.loads(out)
    assert (code, value["session"], value["reason"]) == (0, "letter", "nothing_left_to_ask")
    assert value["topics"] == ["health"]
    assert run(capsys, "unmask", value["text"], *letter) == (0, EXAMPLE + "\n", "")
    assert run(capsys, "mask", "I am Dr. Kim", *letter)[1] == "I am [PERSON_1]\n"
    assert run(capsys, "unmask", "[PERSON_1]", *letter)[1] == "Dr. Kim\n"


def test_sessions_are_listed_without_values_and_forgotten_by_value_session_or_user(capsys, state):
    for name, user in (("a", "ann"), ("b", "ann"), ("a", "bob")):
        assert run(capsys, "mask", EXAMPLE, "--session", name, "--user", user, *state)[0] == 0
    code, out, _ = run(capsys, "privacy", "sessions", *state, "--json")
    rows = json.loads(out)["sessions"]
    assert [(row["user"], row["session"]) for row in rows] == [
        ("ann", "a"),
        ("ann", "b"),
        ("bob", "a"),
    ]
    assert all(row["ttl_s"] == 7 * 86_400 and row["age_s"] < 600 for row in rows)
    assert not any(private in out for private in VALUES[:2])
    ann = ("--session", "a", "--user", "ann", *state)
    assert run(capsys, "privacy", "forget", *ann, "--value", "[PERSON_1]")[1] == (
        "forgotten: 1 values\n"
    )
    assert run(capsys, "unmask", "[PERSON_1] [PHONE_1]", *ann)[1] == "[PERSON_1] 010-1234-5678\n"
    assert run(capsys, "privacy", "forget", *ann)[1] == "forgotten: 1 sessions\n"
    code, out, err = run(capsys, "unmask", "[PERSON_1]", *ann)
    assert (code, out, err) == (2, "", "error: no session 'a' is kept for 'ann'\n")
    assert run(capsys, "privacy", "forget", "--user", "ann", *state)[1] == "forgotten: 1 sessions\n"
    shown = run(capsys, "privacy", "sessions", *state)[1]
    assert shown.startswith("a of bob: masked in ") and shown.count("\n") == 1
    code, _, err = run(capsys, "privacy", "forget", "--session", "none", *state)
    assert (code, err) == (2, "error: there is nothing of that name to forget\n")


def test_a_tampered_session_is_one_line_exit_code_1_and_no_text(capsys, state, tmp_path):
    run(capsys, "mask", EXAMPLE, "--session", "a", *state)
    (path,) = (tmp_path / "device" / "objects").glob("vault-*.sealed")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    for command in (("unmask", "[PERSON_1]"), ("mask", EXAMPLE)):
        code, out, err = run(capsys, *command, "--session", "a", *state)
        assert (code, out) == (1, "") and "MAC_INVALID" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("mask", "a", "--session", ""), "a session's name has 1 to 200 characters"),
        (("mask", "a", "--session", "a", "--ttl", "0"), "a time to live of 0 s is outside"),
        (("mask", "a", "--session", "a\udcff"), "the session or user is not valid UTF-8"),
        (("unmask", "a", "--session", "a"), "no device keeps its sealed state there"),
        (("unmask", "a", "--session", "a", "--original", "b"), "exclude each other"),
        (("privacy", "forget", "--value", "[PERSON_1]"), "--value needs --session"),
        (("privacy", "forget"), "no device keeps its sealed state there"),
    ],
)
def test_bad_sessions_are_one_line_and_exit_code_2(capsys, state, arguments, message):
    code, out, err = run(capsys, *arguments, *state)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_listing_makes_no_device(capsys, state, tmp_path):
    assert run(capsys, "privacy", "sessions", *state) == (0, "no session is kept\n", "")
    assert not (tmp_path / "device").exists()
