"""The page at /: what it may load, and how it works, in headless Chromium where there is one."""

import re
import time

import pytest

from ptmo_secure.serve.routing import Piece, Preview, PreviewedSegment, Routing
from ptmo_secure.serve.users import KeyFile
from ptmo_secure.types import Level, Route
from tests.serve import chromium
from tests.serve.serving import DONE, FakeRouter, serving

EVIL = '<img src=x onerror="document.title=1"><b>bold</b>'
SAID = "My password is secret123. What is Python?"


class PageRouter(FakeRouter):
    """Says what a hybrid router would, of a text in two parts."""

    async def preview(self, request):
        self.requests.append(request)
        text = request.messages[-1]["content"]
        first, _, second = text.partition(". ")
        parts = (
            PreviewedSegment(
                *(0, f"{first}.", " ", Level.PRIVATE, 0.75, {"SECRET": 1}),
                *(("1 x SECRET",), Route.LOCAL, None),
            ),
            PreviewedSegment(
                *(1, second, "", Level.PUBLIC, 0.0, {}, ("nothing private",), Route.CLOUD),
                f"sent: {second}",
            ),
        )
        routing = Routing(Route.HYBRID, Level.SEMI_SENSITIVE, 0.75, "", {"SECRET": 1})
        going = ("An earlier question", f"sent: {second}")
        sent = tuple({"role": "user", "content": said} for said in going)
        return Preview(routing, parts, () if request.keep_local else sent)


@pytest.fixture(scope="module")
def program():
    found = chromium.find()
    if found is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    return found


@pytest.fixture(scope="module")
def browser(program, tmp_path_factory):
    with chromium.browsing(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def router():
    routing = Routing(Route.HYBRID, Level.SEMI_SENSITIVE, 0.75, "", {"SECRET": 1}, {"SECRET": 1})
    return PageRouter([Piece("It is "), Piece(f"a language {EVIL}"), DONE], routing=routing)


@pytest.fixture
def page(router, browser):
    with serving(router) as served:
        browser.events.clear()
        browser.open(served.url)
        browser.until("document.getElementById('about').textContent.startsWith('Model tiny')")
        yield browser
        assert browser.complaints() == []
        assert all(url.startswith(served.url) for url in browser.requests())


def review(page, text=SAID):
    """Write a message and ask for its review, by the keyboard."""
    page.run("document.getElementById('text').focus()")
    page.write(text)
    page.press("Enter", modifiers=2)
    page.until("!document.getElementById('review').hidden")


def content(page, selector):
    return page.run(f"[...document.querySelectorAll({selector!r})].map((e) => e.textContent)")


def test_the_policy_lets_nothing_in_but_the_pages_own_files(router):
    with serving(router) as served:
        status, html, headers = served.get("/")
        assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        for part in ("script-src 'self'", "style-src 'self'", "connect-src 'self'"):
            assert part in policy
        for part in ("frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for"):
            assert part in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        linked = re.findall(r'(?:src|href)="([^"]+)"', html)
        assert sorted(linked) == ["/page.css", "/page.js"]
        assert not re.search(r"<script(?![^>]*src=)|style=|\son\w+=", html)
        script = served.get("/page.js")[1]
        assert "://" not in script + served.get("/page.css")[1]
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
            assert word not in script
        assert served.get("/page.py")[0] == served.get("/../app.py", "--path-as-is")[0] == 404


def test_a_message_is_reviewed_part_by_part_and_then_sent(page, router):
    review(page)
    assert content(page, "#parts .level") == ["PRIVATE", "PUBLIC"]
    assert content(page, "#verdict") == ["SEMI SENSITIVE (0.75), route hybrid: 1 x SECRET"]
    texts = content(page, "#parts li")
    assert "1 x SECRET" in texts[0] and "Stays on this device." in texts[0]
    assert content(page, "#parts .sent") == ["sent: What is Python?"]
    assert content(page, "#all li") == ["userAn earlier question", "usersent: What is Python?"]
    assert len(router.requests) == 1  # the preview alone: nothing was answered yet
    page.run("document.getElementById('send').click()")
    page.until("document.getElementById('trace').textContent !== ''")
    assert content(page, "#talk p") == [SAID, f"It is a language {EVIL}"]
    trace = content(page, "#trace")[0]
    assert "Route hybrid" in trace and "masked 1 x SECRET" in trace and "$0.2500" in trace
    sent = router.requests[-1]
    assert sent.messages[-1]["content"] == SAID
    assert sent.keep_local == frozenset() and not sent.local_only


def test_text_of_users_and_models_is_never_markup(page):
    review(page, f"{EVIL}. {EVIL}")
    page.run("document.getElementById('send').click()")
    page.until("document.getElementById('trace').textContent !== ''")
    assert page.run("document.querySelectorAll('main img, main b').length") == 0
    assert page.run("document.title") == "ptmo: private chat"


def test_a_part_can_be_kept_and_a_message_refused_or_edited(page, router):
    review(page, "A part. Question?")
    assert content(page, "#all .sent") == ["An earlier question", "sent: Question?"]
    page.run("document.querySelector('.keep').click()")
    page.until("document.getElementById('all').children.length === 0")
    assert content(page, "#all-title") == ["Nothing would be sent to a cloud."]
    assert page.run("document.querySelector('.keep').checked")
    assert page.run("document.activeElement.className") == "keep"
    page.until("!document.getElementById('send').disabled")
    page.run("document.getElementById('send').click()")
    page.until("document.getElementById('trace').textContent !== ''")
    assert router.requests[-1].keep_local == frozenset({1})
    assert router.requests[-1].keep_messages == frozenset()
    review(page, "Another. Question?")
    page.run("document.getElementById('refuse').click()")
    assert page.run("document.getElementById('review').hidden")
    assert page.run("document.activeElement.id") == "text"
    assert page.run("document.getElementById('text').value") == "Another. Question?"
    before = len(router.requests)
    review(page, " More.")
    page.write("x")  # what is edited after its review has to be reviewed again
    page.run("document.getElementById('text').focus()")
    page.write("!")
    assert page.run("document.getElementById('review').hidden")
    assert len(router.requests) == before + 1
    review(page, "")
    page.run("document.getElementById('local').click()")
    page.until("!document.getElementById('stop').hidden || true")
    page.until("document.querySelectorAll('#talk li').length === 4")
    page.until("document.getElementById('talk').getAttribute('aria-busy') === 'false'")
    assert router.requests[-1].local_only and router.requests[-1].keep_local == frozenset()
    assert router.requests[-1].keep_messages == frozenset({0})
    review(page, "And now?")  # what was kept is told with everything that follows
    assert router.requests[-1].keep_messages == frozenset({0, 2})
    page.run("document.getElementById('clear').click()")
    review(page, "Anew?")
    assert router.requests[-1].keep_messages == frozenset()


def test_everything_works_by_the_keyboard_and_has_a_name(page, router):
    review(page)
    assert page.run("document.activeElement.id") == "review-title"
    seen = []
    for _ in range(6):
        page.press("Tab")
        seen.append(page.run("document.activeElement.id || document.activeElement.className"))
        if seen[-1] == "send":
            break
    assert seen[0] == "keep" and seen[-1] == "send"
    page.press("Enter", text="\r")
    page.until("document.getElementById('trace').textContent !== ''")
    assert router.requests[-1].messages[-1]["content"] == SAID
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "checkbox", "DisclosureTriangle")
    controls = [n for n in nodes if n.get("role", {}).get("value") in roles]
    assert len(controls) >= 4
    assert all(node["name"]["value"] for node in controls), controls
    assert page.run("document.documentElement.lang") == "en"


def test_at_the_width_of_a_phone_nothing_runs_out_of_sight(router, browser):
    with serving(router) as served:
        browser.open(served.url, width=320, height=640)
        browser.until("document.getElementById('about').textContent.startsWith('Model tiny')")
        review(browser, f"{'long' * 60}. {'word' * 60}")
        assert browser.run("document.documentElement.scrollWidth") <= 320
        sizes = browser.run(
            "[...document.querySelectorAll('button')].filter((b) => !b.hidden)"
            ".map((b) => b.getBoundingClientRect().height)"
        )
        assert min(sizes) >= 44


def test_a_server_with_keys_is_asked_with_the_key_that_was_typed(router, browser, tmp_path):
    path = tmp_path / "keys.json"
    _, secret = KeyFile(path).add("ann")
    with serving(router, keys=path) as served:
        browser.events.clear()
        browser.open(served.url)
        browser.until("document.getElementById('error').textContent.includes('API key')")
        browser.until("document.getElementById('key-box').open")
        browser.run(
            "(() => { const key = document.getElementById('key');"
            f"key.value = {secret!r}; key.dispatchEvent(new Event('change')); }})()"
        )
        browser.until("document.getElementById('about').textContent.startsWith('Model tiny')")
        review(browser)
        kept = browser.run("JSON.stringify([localStorage, sessionStorage]) + document.cookie")
        assert secret not in kept


def test_an_answer_can_be_stopped(browser):
    import asyncio

    async def slowly():
        await asyncio.sleep(0.02)

    router = PageRouter([Piece("x")] * 10_000, pause=slowly)
    with serving(router) as served:
        browser.open(served.url)
        browser.until("document.getElementById('about').textContent.startsWith('Model tiny')")
        review(browser)
        browser.run("document.getElementById('send').click()")
        browser.until("document.querySelector('#talk li:last-child p').textContent.length > 3")
        browser.run("document.getElementById('stop').click()")
        end = time.monotonic() + 20
        while router.running and time.monotonic() < end:
            time.sleep(0.02)
        assert router.running == 0
        browser.until("document.getElementById('talk').getAttribute('aria-busy') === 'false'")
        assert browser.run("document.getElementById('error').textContent") == ""


def test_of_several_models_one_is_chosen_and_asked(router, browser):
    with serving(router, others=("second",)) as served:
        browser.events.clear()
        browser.open(served.url)
        browser.until("document.getElementById('model').options.length === 2")
        assert content(browser, "#model option") == ["tiny", "second"]
        review(browser)  # of the first: another model may write another draft
        browser.run("document.getElementById('model').value = 'second'")
        browser.run("document.getElementById('model').dispatchEvent(new Event('change'))")
        assert content(browser, "#about") == ["Model second"]
        assert browser.run("document.getElementById('review').hidden")
        review(browser)
        assert router.requests[-1].model == "second"
        browser.run("document.getElementById('send').click()")
        browser.until("document.getElementById('trace').textContent !== ''")
        assert router.requests[-1].model == "second"
        assert browser.complaints() == []
