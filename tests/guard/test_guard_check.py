"""What is about to leave: held values are found in each form, and so is what else is private."""

import pytest

from ptmo_secure.privacy.obfuscate import OBFUSCATIONS
from tee_sim.client import Checked, TeeClient, TeeDeadError, TeeError
from tee_sim.errors import ResultCode

PRIVATE = "My name is Andre Novak, my password is hunter22-Xy, call 010-1234-5678. I am 37."
PUBLIC = "What is the capital of France, and repeat why it is that one?"


@pytest.fixture(scope="module")
def guard():
    with TeeClient.launch("guard") as client:
        yield client


@pytest.fixture
def vault(guard):
    with guard.open_vault("somebody") as opened:
        masked = opened.mask(PRIVATE)
        assert {span.kind for span in masked.spans} == {"PERSON", "SECRET", "PHONE", "AGE"}
        yield opened


def held(vault, text, *, words=True):
    return vault.check(text, words=words, scan=False).held


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ask Andre Novak", "PERSON"),
        ("ask ANDRE NOVAK", "PERSON"),
        ("ask andre-novak", "PERSON"),
        ("askANDRENOVAKnow", "PERSON"),
        ("A n d r e  N o v a k", "PERSON"),
        ("And re No vak", "PERSON"),
        ("\uff21\uff4e\uff44\uff52\uff45 Novak", "PERSON"),
        ("\u0410ndr\u0435 N\u043ev\u0430k", "PERSON"),
        ("Andre\u200b Nov\u2060ak", "PERSON"),
        ("x=hunter22-Xy&y", "SECRET"),
        ("HUNTER22-XY", "SECRET"),
        ("h u n t e r 2 2 - X y", "SECRET"),
        ("01012345678", "PHONE"),
        ("010 1234 5678", "PHONE"),
        ("0-1-0-1-2-3-4-5-6-7-8", "PHONE"),
        ('["010","1234","5678"]', "PHONE"),
        ("\uff10\uff11\uff10.1234.5678", "PHONE"),
        ("the 37 of us", "AGE"),
    ],
)
def test_a_value_is_found_in_every_form_of_it(vault, text, kind):
    assert held(vault, text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        PUBLIC,
        "[PERSON_1] said [SECRET_1], call [PHONE_1]",
        "370 of 1378 are x37",
        "1010 2345 6780",
        "Andr\u00e9e Novakova said hunter2",
    ],
)
def test_other_texts_hold_no_value(vault, text):
    assert held(vault, text) is None


def test_short_values_count_as_words_of_text_alone(vault):
    assert held(vault, "seed 37") == "AGE"
    assert held(vault, "seed 37", words=False) is None
    assert held(vault, "Andre Novak", words=False) == "PERSON"


def test_short_korean_names_are_found_with_their_particles(guard):
    with guard.open_vault() as vault:
        masked = vault.mask("\uc774\ub984: \uae40\ubbfc\uc218")
        assert [span.kind for span in masked.spans] == ["PERSON"]
        assert held(vault, "\uae40\ubbfc\uc218\ub294 \uc5b4\ub514\uc5d0") == "PERSON"
        assert held(vault, "\uc774\ubbfc\uc218\ub294") is None


def test_values_of_few_letters_and_some_blanks_are_found_spaced_out(guard):
    with guard.open_vault() as vault:
        masked = vault.mask("My salary is 3\uc5b5 1\ucc9c.")
        assert [span.kind for span in masked.spans] == ["FINANCIAL"]
        for text in ("3 \uc5b5 1 \ucc9c", "3.\uc5b5.1.\ucc9c"):
            assert held(vault, text) == "FINANCIAL", text
        assert held(vault, "3 \uc5b5 2 \ucc9c") is None


def test_what_only_looked_like_a_placeholder_is_nobodys_value(guard):
    with guard.open_vault() as vault:
        masked = vault.mask("write [PERSON_1] as it stands")
        assert masked.text == "write [TEXT_1] as it stands"
        assert vault.check("now [PERSON_1] is another", scan=False) == Checked(None, None)


def test_private_text_that_is_kept_with_a_placeholders_look_is_somebodys(guard):
    with guard.open_vault() as vault:
        text = "[PERSON_1Andre Novak]"
        masked = vault.mask(f"I am {text}, my name is Andre Novak.")
        assert vault.unmask(masked.text) == f"I am {text}, my name is Andre Novak."
        assert held(vault, text) is not None


def test_letters_between_invisible_ones_are_words_too(guard):
    with guard.open_vault() as vault:
        vault.mask("I am 37.")
        for text in ("x\u200b37\u200by", "a 37\u0336 b", "3\u200b7"):
            assert held(vault, text) == "AGE", text


@pytest.mark.parametrize("style", ["placeholder", "surrogate"])
def test_what_the_vault_put_there_is_not_private(vault, style):
    masked = vault.mask(PRIVATE, style)
    assert vault.check(masked.text) == Checked(None, None)


def test_a_private_span_beside_the_placeholders_is(vault):
    masked = vault.mask(PRIVATE)
    assert vault.check(f"{masked.text} My e-mail is maria@example.org.").private == "EMAIL"
    assert vault.check(f"{masked.text} My e-mail is maria@example.org.", scan=False).private is None


def test_a_placeholder_that_the_vault_never_gave_covers_nothing(guard, vault):
    with guard.open_vault("somebody") as other:
        text = vault.mask(PRIVATE, "surrogate").text
        assert vault.check(text).private is None
        assert other.check(text).private is not None


def test_another_users_or_a_closed_vault_is_not_asked(guard, vault):
    stranger = guard.open_vault("stranger")
    stranger.number = vault.number
    with pytest.raises(TeeError) as refused:
        stranger.check("Andre Novak")
    assert refused.value.code == ResultCode.ITEM_NOT_FOUND


def test_a_dead_guard_is_an_error_and_no_answer():
    with TeeClient.launch("guard") as client:
        vault = client.open_vault()
        client.close()
        with pytest.raises(TeeDeadError):
            vault.check("nothing")


def test_obfuscations_that_fold_away_are_found(vault):
    name = "Andre Novak"
    found = set()
    for title, obfuscate in OBFUSCATIONS.items():
        text, _ = obfuscate(f"ask {name} now", (4, 4 + len(name)))
        if held(vault, text):
            found.add(title)
    assert found >= {
        *("zero_width", "fullwidth", "cyrillic", "math_bold", "spaced", "dotted"),
        *("newline_split", "lower_case", "upper_case", "combining_marks"),
    }
