"""Kinds that context decides: what must be found, and what looks like it and is nobody's."""

import pytest

from tee_sim.guard.addresses import find_addresses
from tee_sim.guard.rules import Rule, load, search
from tee_sim.guard.scoring import scan_text


def values(text):
    return [(span.kind, text[span.start : span.end]) for span in scan_text(text).spans]


FOUND = [
    # Persons
    ("PERSON", "My name is Ann Lee", "Ann Lee"),
    ("PERSON", "my name is ann lee and I like tea", "ann lee"),
    ("PERSON", "Me llamo Lucia Gomez", "Lucia Gomez"),
    ("PERSON", "everyone calls me Zed", "Zed"),
    ("PERSON", "I'm Omar Haddad, a plumber", "Omar Haddad"),
    ("PERSON", "Hi, this is Grace Hopper from accounts", "Grace Hopper"),
    ("PERSON", "My neighbour Pat O'Brien shouts all night", "Pat O'Brien"),
    ("PERSON", "my daughter, Mia, is ill", "Mia"),
    ("PERSON", "my boss jennifer smith yelled at me", "jennifer smith"),
    ("PERSON", "Call Dr. Kim about my test", "Dr. Kim"),
    ("PERSON", "I met with Mrs. van der Berg yesterday", "Mrs. van der Berg"),
    ("PERSON", "Dear Ms. Alvarez,\nI am writing to you.", "Ms. Alvarez"),
    ("PERSON", "See you.\n\nBest regards,\nTomas Novak", "Tomas Novak"),
    ("PERSON", "Patient: Ruth Marsh", "Ruth Marsh"),
    ("PERSON", "Full name: Ivan Petrov\n", "Ivan Petrov"),
    ("PERSON", "Please speak to Carla Jung", "Carla Jung"),
    ("PERSON", "What's the name on the account? Rosa Diaz", "Rosa Diaz"),
    ("PERSON", "We named him Otto", "Otto"),
    # Places
    ("ADDRESS", "I live at 12 Oak Street", "12 Oak Street"),
    (
        "ADDRESS",
        "Send it to 4 Privet Lane, Apt 5B, Boston, MA 02118",
        "4 Privet Lane, Apt 5B, Boston, MA 02118",
    ),
    ("ADDRESS", "i live at 77 mulberry street in town", "77 mulberry street"),
    (
        "ADDRESS",
        "send it to the corner of Al\u0161ova 408 and Vedeni Greens\nThanks",
        "the corner of Al\u0161ova 408 and Vedeni Greens",
    ),
    (
        "ADDRESS",
        "at the junction of 15 Elm St. and Third Avenue",
        "the junction of 15 Elm St. and Third Avenue",
    ),
    ("ADDRESS", "PO Box 1234", "PO Box 1234"),
    ("ADDRESS", "PSC 0413, Box 8144\nAPO AA 42323", "PSC 0413, Box 8144\nAPO AA 42323"),
    ("ADDRESS", "my postcode is SW1A 2AB", "SW1A 2AB"),
    ("ADDRESS", "M5V 3L9", "M5V 3L9"),
    ("ADDRESS", "zip code: 10583", "10583"),
    ("ADDRESS", "The depot in Costa Verde 43015 is shut", "Costa Verde 43015"),
    ("ADDRESS", "a flat near Lund 223 50, third floor", "Lund 223 50"),
    ("ADDRESS", "from Bern 3012 by train", "Bern 3012"),
    ("ADDRESS", "Ich wohne Lindenstra\u00dfe 14", "Lindenstra\u00dfe 14"),
    ("ADDRESS", "Vivo en Calle de Alcal\u00e1 45", "Calle de Alcal\u00e1 45"),
    ("ADDRESS", "12 rue de la Paix", "12 rue de la Paix"),
    ("LOCATION", "I live in Lisbon", "Lisbon"),
    ("LOCATION", "my sister moved to New Haven last year", "New Haven"),
    ("COORDINATES", "My house is at 37.5665, 126.9780", "37.5665, 126.9780"),
    (
        "COORDINATES",
        "meet me at 40\u00b042'46\"N 74\u00b00'22\"W",
        "40\u00b042'46\"N 74\u00b00'22\"W",
    ),
    # Times of a life
    ("DATE_OF_BIRTH", "I was born on 12 March 1985", "12 March 1985"),
    ("DATE_OF_BIRTH", "DOB: 03/12/1985", "03/12/1985"),
    ("DATE_OF_BIRTH", "date of birth 1985-03-12", "1985-03-12"),
    ("DATE_OF_BIRTH", "My birthday is June 2nd", "June 2nd"),
    ("DATE_OF_BIRTH", "born in Rome on 2 May 1990", "2 May 1990"),
    ("AGE", "I'm 34 and tired", "34"),
    ("AGE", "I am 16 years old", "16"),
    ("AGE", "my son is 7", "7"),
    ("AGE", "This 62 year old female has a cough", "62"),
    ("AGE", "age: 45", "45"),
    # Network
    ("IP_ADDRESS", "the attack came from 81.2.69.142", "81.2.69.142"),
    ("IP_ADDRESS", "my IP is 192.168.0.17", "192.168.0.17"),
    ("IP_ADDRESS", "2a00:1450:4001:81b::200e", "2a00:1450:4001:81b::200e"),
    ("MAC_ADDRESS", "00:1a:2B:3c:4d:5e", "00:1a:2B:3c:4d:5e"),
    ("URL", "https://bob:s3cret@host.example/x", "https://bob:s3cret@host.example/x"),
    (
        "SECRET",
        "open https://x.example/cb?access_token=abcdef123456",
        "https://x.example/cb?access_token=abcdef123456",
    ),
    ("URL", "https://www.linkedin.com/in/ann-lee-42", "https://www.linkedin.com/in/ann-lee-42"),
    ("URL", "my website is http://annlee.example", "http://annlee.example"),
    ("USERNAME", "username: ann_lee42", "ann_lee42"),
    ("USERNAME", "My Discord is Ann#4412", "Ann#4412"),
    ("USERNAME", "follow me @ann.lee.art", "@ann.lee.art"),
    # Health and money of somebody
    ("MEDICAL", "Can I work with my HIV test?", "HIV test"),
    ("MEDICAL", "I was diagnosed with stage 2 lymphoma", "stage 2 lymphoma"),
    ("MEDICAL", "Ann was just diagnosed with lupus", "lupus"),
    ("MEDICAL", "my diagnosis is gout", "gout"),
    ("MEDICAL", "Patient presents with severe chest pain", "chest pain"),
    ("MEDICAL", "my brother has schizophrenia", "schizophrenia"),
    ("MEDICAL", "I'm taking Zoloft now", "Zoloft"),
    ("MEDICAL", "I tested positive for chlamydia", "chlamydia"),
    ("MEDICAL", "I am pregnant", "pregnant"),
    ("MEDICAL", "my F32.1 came back", "F32.1"),
    ("FINANCIAL", "My salary is $85,000", "$85,000"),
    ("FINANCIAL", "I owe the bank 20,000 dollars", "20,000 dollars"),
    ("FINANCIAL", "we are bankrupt", "bankrupt"),
    ("ORG", "I work for Acme Widgets Inc", "Acme Widgets Inc"),
    ("ORG", "my wife works at Mercy Hospital", "Mercy Hospital"),
    # Numbers that are called somebody's
    ("ID_NUMBER", "my policy number is AB-99812", "AB-99812"),
    ("ID_NUMBER", "MRN: 00451239", "00451239"),
    ("ID_NUMBER", "My card number is 1234 5678 9012 3456", "1234 5678 9012 3456"),
    ("PHONE", "call me on 60-56-85-91", "60-56-85-91"),
    ("PHONE", "fax: 0490 75 40 81", "0490 75 40 81"),
    # Secrets with a shape
    ("API_KEY", "AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    ("API_KEY", "use ghp_" + "a1B2c3D4e5F6g7H8i9J0" * 2, "ghp_" + "a1B2c3D4e5F6g7H8i9J0" * 2),
    ("API_KEY", "sk-proj-Ab12Cd34Ef56Gh78Ij90Kl", "sk-proj-Ab12Cd34Ef56Gh78Ij90Kl"),
    ("API_KEY", "sk_live_4eC39HqLyjWDarjtT1zdp7dc", "sk_live_4eC39HqLyjWDarjtT1zdp7dc"),
    (
        "API_KEY",
        "AIza" + "SyD4x9Kq2LmN7pRtUvWzYbCdEfGhIjKlMno",
        "AIzaSyD4x9Kq2LmN7pRtUvWzYbCdEfGhIjKlMno",
    ),
    (
        "API_KEY",
        "my api key is a8f5f167f44f4964e6c998dee827110c",
        "a8f5f167f44f4964e6c998dee827110c",
    ),
    (
        "JWT",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN",
    ),
    (
        "PRIVATE_KEY",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow==\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow==\n-----END RSA PRIVATE KEY-----",
    ),
    (
        "CRYPTO_ADDRESS",
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "0x52908400098527886E0F7030069857D2E4169EE7",
    ),
    # Korean
    (
        "PERSON",
        "\uc81c \uc774\ub984\uc740 \uae40\ubbfc\uc218\uc785\ub2c8\ub2e4",
        "\uae40\ubbfc\uc218",
    ),
    ("PERSON", "\uc774\uc601\ud76c \uacfc\uc7a5\uc5d0\uac8c \ubcf4\ub0b4", "\uc774\uc601\ud76c"),
    ("PERSON", "\ubc15\uc9c0\uc601\ub2d8\uc758 \uc8fc\ubb38", "\ubc15\uc9c0\uc601"),
    ("PERSON", "\ub0b4 \uce5c\uad6c \ucd5c\uc720\uc9c4\uc774 \uc544\ud30c", "\ucd5c\uc720\uc9c4"),
    (
        "ADDRESS",
        "\uc11c\uc6b8\ud2b9\ubcc4\uc2dc \uac15\ub0a8\uad6c \ud14c\ud5e4\ub780\ub85c 123"
        "\uc5d0 \uc0b4\uc544",
        "\uc11c\uc6b8\ud2b9\ubcc4\uc2dc \uac15\ub0a8\uad6c \ud14c\ud5e4\ub780\ub85c 123",
    ),
    (
        "ADDRESS",
        "\uc11c\uc6b8 \uac15\ub0a8\uad6c \uc5ed\uc0bc\ub3d9 123-45",
        "\uc11c\uc6b8 \uac15\ub0a8\uad6c \uc5ed\uc0bc\ub3d9 123-45",
    ),
    (
        "ORG",
        "\uc800\ub294 \uc0bc\uc131\uc804\uc790\uc5d0 \ub2e4\ub140\uc694",
        "\uc0bc\uc131\uc804\uc790",
    ),
    ("LOCATION", "\uc800\ub294 \ubd80\uc0b0\uc5d0 \uc0b4\uc544\uc694", "\ubd80\uc0b0"),
    ("AGE", "\uc800\ub294 34\uc0b4\uc774\uc5d0\uc694", "34\uc0b4"),
    (
        "DATE_OF_BIRTH",
        "\uc0dd\ub144\uc6d4\uc77c\uc740 1990\ub144 3\uc6d4 5\uc77c",
        "1990\ub144 3\uc6d4 5\uc77c",
    ),
    ("MEDICAL", "\ub098\ub294 \ub2f9\ub1e8\uac00 \uc788\uc5b4", "\ub2f9\ub1e8"),
    (
        "MEDICAL",
        "\uc81c\uac00 \uc6b0\uc6b8\uc99d \uc57d\uc744 \uba39\uc5b4\uc694",
        "\uc6b0\uc6b8\uc99d",
    ),
    (
        "FINANCIAL",
        "\uc81c \uc5f0\ubd09\uc740 5000\ub9cc\uc6d0\uc774\uc5d0\uc694",
        "5000\ub9cc\uc6d0",
    ),
]


@pytest.mark.parametrize("kind,text,value", FOUND, ids=[f"{r[0]} {r[2][:24]}" for r in FOUND])
def test_a_value_in_its_frame_is_found_whole(kind, text, value):
    assert values(text) == [(kind, value)]


HARMLESS = [
    "What is happening at the intersection of AI and Healthcare in 2025?",
    "What is the junction of Line 1 and Line 2?",
    "There is a lamp in the corner of 3 tables and Chairs stand around.",
    "The corner of Art and Science in the 1500s",
    "What happened in Berlin 1945?",
    "Did the fair in Paris 2024 cost 5000 euros?",
    "Answer in Words 10,000 times",
    "Sales in Peru 12345%",
    # Public people, fiction, word problems
    "Who wrote Harry Potter?",
    "Who is Albert Einstein?",
    "Write a biography of Ada Lovelace.",
    "When was Barack Obama born?",
    "Mozart was born on 27 January 1756.",
    "Turing was born on 23 June 1912.",
    "Work: 2019-2023, school before",
    "John has 5 apples and gives 2 to Mary. How many are left?",
    "Mrs. Hilt saw 4 rollercoasters. Each had 7 riders.",
    "Her brother Billy gets 11 pieces of candy per house.",
    "Summarise Romeo and Juliet.",
    "What would Sherlock Holmes of 221B Baker Street do?",
    "My name is spelled wrong, how do I change it?",
    "My name appears incorrectly on the card",
    "I am Groot is a film, right?",
    "My best friend is a dog",
    "I'm trying to learn Rust",
    "This is Sparta",
    "Dear ACL Reviewer, how do I decline?",
    "Name: Spirit E-210 Gas Grill",
    "Company: Tesla",
    "when did a star is born start filming 2018",
    "Dear Sir or Madam, how do I start a letter?",
    # Places
    "What is the capital of France?",
    "Is 5th Avenue in New York?",
    "How long is Route 66?",
    "There are 12 months in a year",
    "The route has 3 stops, place 2 is best",
    # Dates and ages
    "What happened on 9 November 1989?",
    "When do babies walk, at 12 months?",
    "Explain it like I am 5",
    "A star is born is a film of 2018",
    "I am 100 percent sure",
    "I'm 2 minutes late",
    # Network
    "What is 127.0.0.1?",
    "Ping 8.8.8.8 to test the network",
    "ff:ff:ff:ff:ff:ff is the broadcast address",
    "Open https://docs.python.org/3/library/re.html",
    "https://en.wikipedia.org/wiki/Privacy?action=edit",
    "What does :: mean in C++? std::vector",
    "Version 10.15.7.1 is out",
    "The ratio is 37.5, 12.1",
    # Health and money in general
    "What is HIV?",
    "How are people diagnosed with lupus?",
    "The diagnosis is based on a biopsy.",
    "The patient asked for another test.",
    "They bought 12 plates for 6000 each",
    "What are the symptoms of diabetes?",
    "Is depression hereditary?",
    "How does chemotherapy work?",
    "What is a good salary in Berlin?",
    "How do I ask for a raise?",
    "I have a question about cancer research",
    "The company made $5 million",
    # Secrets without a value
    "Where do I find my API key?",
    "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    "eyJub3QiOiJhIn0.eyJzdWIiOjF9.x",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "https://example.com/users?page=2&sort=key",
    # Numbers
    "Order 66 was executed",
    "The number is 42",
    "pi is 3.14159",
    "Call the function with 3 arguments",
    # Korean
    "\uc774\uc21c\uc2e0 \uc7a5\uad70\uc740 \ub204\uad6c\uc57c?",
    "\uace0\uac1d\ub2d8\uaed8 \ubcf4\ub0bc \uc0ac\uacfc\ubb38\uc744 \uc368\uc918",
    "\ub2f9\ub1e8\ubcd1\uc758 \uc6d0\uc778\uc740 \ubb34\uc5c7\uc778\uac00\uc694?",
    "\uc11c\uc6b8\uc5d0\uc11c \uac00\ubcfc \ub9cc\ud55c \uacf3",
    "\ubb38\uc7ac\uc778 \ub300\ud1b5\ub839\uc740 \uc5b8\uc81c \ucde8\uc784\ud588\uc5b4?",
    "\uc190\ud765\ubbfc \uc120\uc218\uc758 \uae30\ub85d",
    "\uc8fc\ubbfc\ub4f1\ub85d\ubc88\ud638\ub294 \uc65c 13\uc790\ub9ac\uc57c?",
    "\ubcc0\ud638\uc0ac\ub2d8\uaed8 \uc9c8\ubb38\ud558\ub294 \ubc95",
    "\uc804\ubb38\uc801 \uc758\uc0ac\ub294 \ub204\uad6c?",
    "\uc5f0\ubd09 \ud611\uc0c1\ud558\ub294 \ubc29\ubc95",
    "\ubbfc\uc218 \ud559\uc0dd\uc774 \ucc45\uc744 3\uad8c \uc77d\uc5c8\ub2e4",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_the_same_words_in_public_text_are_not_flagged(text):
    assert values(text) == []


@pytest.mark.parametrize(
    "name", ["names", "addresses", "korean", "topics", "network", "stated_numbers", "tokens"]
)
def test_no_hint_hides_what_its_pattern_would_find(name):
    for rules in load(name).values():
        for rule in rules:
            bare = Rule((), rule.source)
            for text in [row[1] for row in FOUND]:
                with_hints = [match.span() for match in search([rule], text)]
                assert with_hints == [match.span() for match in search([bare], text)]


def test_a_person_is_found_in_a_private_frame_and_not_in_a_public_one():
    private = ["my neighbour {}", "My name is {}.", "Dear {},\nhello", "Patient: {}", "my son, {},"]
    public = [
        "Who is {}?",
        "Write about {}.",
        "Songs by {}",
        "What did {} invent?",
        "{} has 3 cats",
    ]
    for name in ("Maria Lopez", "James Carter", "Wei Zhang"):
        assert all(("PERSON", name) in values(f.format(name)) for f in private)
        assert all(values(f.format(name)) == [] for f in public)


def test_the_tables_cover_every_kind_that_has_a_rule():
    from tee_sim.guard.recognizers import RECOGNIZERS

    elsewhere = {"SECRET", "PAYMENT_CARD", "US_SSN", "EMAIL", "IBAN", "BANK_ACCOUNT", "NATIONAL_ID"}
    elsewhere |= {"KR_RRN", "PASSPORT", "DRIVER_LICENSE", "TAX_ID", "VEHICLE"}
    model_only = {"DATE", "DEMOGRAPHIC"}
    kinds = {row.kind for row in RECOGNIZERS}
    assert kinds - model_only == elsewhere | {kind for kind, _, _ in FOUND}


def test_a_corner_ends_with_its_sentence():
    text = "Meet me at the corner of 12 Elm St. and King Road. How do magnets work?"
    assert max(end for _, end in find_addresses(text)) == text.index(". How")
