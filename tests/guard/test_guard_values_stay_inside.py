"""Values of a vault are in no log, error, file or ledger of the host; planted ones are found."""

import logging
import traceback

import pytest

from tee_sim.client import TeeClient, TeeError

TEXT = (
    "My name is Quirin Zaphod, mail quirin.z@mail.com, call 010-8642-9753, card 4111 1111 1111 1111"
)
VALUES = ("Quirin Zaphod", "quirin.z@mail.com", "010-8642-9753", "4111 1111 1111 1111")


def forms(value):
    """A value as it could be written elsewhere."""
    digits = "".join(char for char in value if char.isdigit())
    spaced = " ".join(value)
    found = {value, value.lower(), value.upper(), spaced, value[::-1], value.encode().hex()}
    return found | ({digits} if len(digits) > 5 else set())


def seen_in(text):
    return {value for value in VALUES if any(form in text for form in forms(value))}


def use(vault, errors):
    """Everything a vault is asked, also what is refused; return what may leave the device."""
    shown = [vault.mask(TEXT, style).text for style in ("placeholder", "surrogate", "generalise")]
    streaming = vault.unmasker()
    streaming.feed(shown[0][:30])
    for call in (
        lambda: vault.mask(TEXT + "\ud800"),
        lambda: vault.mask(TEXT * 20_000),
        lambda: vault.unmask(TEXT + "\udfff"),
        lambda: vault.mask(TEXT, "none"),
        lambda: vault.forget("[PERSON]"),
        lambda: (vault.forget(), vault.unmask(shown[0])),
    ):
        with pytest.raises(TeeError) as failure:
            call()
        errors.append("".join(traceback.format_exception(failure.value)))
        errors.append(repr(failure.value.__dict__))
    return shown


def test_no_value_is_in_logs_errors_files_or_what_may_leave(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("PTMO_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PTMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    errors: list[str] = []
    with caplog.at_level(logging.DEBUG), TeeClient.launch("guard") as guard:
        shown = use(guard.open_vault("somebody"), errors)
        errors.append(repr([(row, vars(guard).keys()) for row in guard.ledger.rows()]))
        errors.append(repr(guard.status()))
    written = capfd.readouterr()
    places = {
        "log": caplog.text,
        "errors": "".join(errors),
        "streams": written.out + written.err,
        "files": "".join(
            p.read_bytes().decode("latin-1") for p in tmp_path.rglob("*") if p.is_file()
        ),
        "masked": "".join(shown),
    }
    assert {name: seen_in(text) for name, text in places.items() if seen_in(text)} == {}
    assert len(errors) == 14


@pytest.mark.parametrize("value", VALUES)
def test_a_planted_value_is_found_in_every_form(value):
    for form in forms(value):
        assert seen_in(f"x {form} y") == {value}
