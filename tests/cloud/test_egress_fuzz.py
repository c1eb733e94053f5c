"""Many turns, masked and with values slipped in: none of them is in the bytes the server got.

The oracle is invariant I1 in words of its own, over the bytes that the server logged: a value as it
is, case-folded, by its digits alone, or spaced out; from five characters on in any byte, shorter
ones as whole words of text.
"""

import json
import random
import re
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptmo_secure.cloud.types import CloudRequest
from ptmo_secure.errors import EgressRefusedError
from ptmo_secure.privacy.obfuscate import OBFUSCATIONS
from ptmo_secure.privacy.synth.generator import dataset
from tests.cloud import hostile_server as hostile

TURNS, ALL_TURNS, PARTS = 500, 100_000, 10
TURNS_OF_A_CONVERSATION = 12
LONGEST_TEXT = 200
SLIPPED = 0.35  # share of turns with a value slipped in
FORMS = ("as_is", *OBFUSCATIONS)
NEVER_SENT = ("as_is", "lower_case", "upper_case", "spaced", "fullwidth")


# Short keys of the protocol, which stand in every request and are no words of anybody
PROTOCOL = {"id", "role", "type", "name", "stop", "seed"}


def texts_in(value):
    """Every string of some JSON, in JSON inside strings too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in PROTOCOL:
                yield key
            yield from texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)
    elif isinstance(value, str):
        yield value
        if value[:1] in ("{", "["):
            try:
                yield from texts_in(json.loads(value))
            except ValueError:
                pass


class Bytes:
    """What one request brought, to be searched."""

    def __init__(self, request):
        head = [request.method, request.path]
        head += [
            f"{k}: {v}" for k, v in request.headers.items() if k not in FIXED and (k, v) not in SAME
        ]
        said = {key: value for key, value in request.json.items() if key != "model"}  # not a text
        self.texts = [text.casefold() for text in texts_in(said)]
        everything = "\n".join([*head, request.body.decode(), *self.texts])
        self.whole = everything + everything.casefold()

    def hold(self, value):
        folded = value.casefold()
        if len(value) < 5:
            word = re.compile(rf"(?<!\w){re.escape(folded)}(?!\w)")
            return any(word.search(text) for text in self.texts)
        forms = {value, folded, " ".join(value), " ".join(folded)}
        digits = "".join(char for char in value if char.isdecimal())
        if len(digits) >= 5:
            forms |= {digits, " ".join(digits)}
        return any(form in self.whole for form in forms)


FIXED = {"host", "content-length"}
# What every request brings, whoever asks and whatever: "CONNECT" in "connection" is no leak
SAME = {
    *(("user-agent", "ptmo-secure"), ("accept-encoding", "identity"), ("connection", "keep-alive")),
    *(("accept", "application/json"), ("content-type", "application/json")),
}


def test_the_oracle_finds_what_it_should():
    body = json.dumps({"a": ["call 010-1234", {"b": '{"c": "K i m and ANNA lee"}'}], "n": 73})
    headers = {
        "host": "secret",
        "x": "Header-Value",
        "connection": "keep-alive",
        "accept": "Jo-Lee",
    }
    request = hostile.Received("POST", "/v1", headers, body.encode())
    held = Bytes(request)
    for value in ("010-1234", "Anna Lee", "header-value", "call", "jo-lee"):
        assert held.hold(value), value
    for value in ("secret-host", "all", "73", "Kimm", "0102-34567", "CONNECT"):
        assert not held.hold(value), value
    spaced = hostile.Received("POST", "/", {}, b'{"a": "h u n t e r 2", "b": "0101234567"}')
    assert Bytes(spaced).hold("Hunter2") and Bytes(spaced).hold("010-123-4567")


class Conversation:
    """Turns of one vault, sent as they grow; what is refused is taken back."""

    def __init__(self, draw, client, egress, vault, texts):
        self.draw, self.client, self.egress, self.vault = draw, client, egress, vault
        self.texts, self.messages, self.tools, self.values = texts, [], [], []

    def masked(self):
        """The next text without its values, which are remembered."""
        text = next(self.texts)
        masked = self.vault.mask(text)
        self.values += [text[span.start : span.end] for span in masked.spans]
        return masked.text

    def slipped(self):
        """A value as it must not leave, in some form."""
        value, form = self.draw.choice(self.values), self.draw.choice(FORMS)
        around = f"about {value} please"
        if form == "as_is":
            return form, around
        return form, OBFUSCATIONS[form](around, (6, 6 + len(value)))[0]

    def place(self, text):
        """Put a text somewhere; return the request with it."""
        messages, tools = list(self.messages), list(self.tools)
        kind = self.draw.randrange(8)
        call = {"id": "c1", "type": "function"}
        if kind == 0:
            messages.insert(0, {"role": "system", "content": text})
        elif kind == 1:
            messages.append({"role": "assistant", "content": text})
        elif kind == 2:
            arguments = json.dumps({"query": text}, ensure_ascii=self.draw.random() < 0.5)
            function = {"name": "look_up", "arguments": arguments}
            messages.append({"role": "assistant", "tool_calls": [{**call, "function": function}]})
        elif kind == 3:
            function = {"name": "look_up", "arguments": "{}"}
            messages.append({"role": "assistant", "tool_calls": [{**call, "function": function}]})
            messages.append({"role": "tool", "tool_call_id": "c1", "content": text})
        elif kind == 4:
            described = {"name": "look_up", "description": text, "parameters": {"type": "object"}}
            tools = [{"type": "function", "function": described}]
        elif kind == 5:
            parts = [{"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}]
            messages.append({"role": "user", "content": parts})
        else:
            messages.append({"role": "user", "content": text})
        if not any(message["role"] == "user" for message in messages):
            messages.append({"role": "user", "content": "What is Python?"})
        return messages, tools

    def turn(self, text):
        """Send the conversation with a text more; return whether it was sent."""
        messages, tools = self.place(text)
        request = CloudRequest(tuple(messages), tools=tuple(tools), max_tokens=9)
        try:
            with self.egress.clearance(self.vault, "fuzz"):
                if self.draw.random() < 0.5:
                    self.client.complete(request)
                else:
                    for _ in self.client.stream(request):
                        pass
        except EgressRefusedError as refused:
            assert refused.code in ("held", "private"), refused
            return False
        self.messages, self.tools = messages, tools
        return True


def either(sender, request):
    """Answer as it was asked: whole or in a stream."""
    answer = hostile.stream(["ok"]) if request.json.get("stream") else hostile.chat("ok")
    answer(sender, request)


def fuzz(turns, seed, make, server, egress, guard):
    """Return how many turns were sent, refused, and refused or sent by the form of what slipped."""
    draw, counts = random.Random(seed), Counter()
    source = dataset("heldout", 10**9, seed)
    texts = (example.text for example in source if len(example.text) <= LONGEST_TEXT)
    server.default, client = either, make()
    while counts["turns"] < turns:
        with guard.open_vault("fuzz") as vault:
            talk = Conversation(draw, client, egress, vault, texts)
            for _ in range(TURNS_OF_A_CONVERSATION):
                counts["turns"] += 1
                if talk.values and draw.random() < SLIPPED:
                    form, text = talk.slipped()
                    sent = talk.turn(text)
                    counts["slipped sent" if sent else "slipped refused", form] += 1
                    assert not sent or form not in NEVER_SENT, ascii(text)
                    if sent:  # in no form of I1: the others go on without it
                        talk.messages = [m for m in talk.messages if text not in json.dumps(m)]
                else:
                    sent = talk.turn(talk.masked())
                counts["sent" if sent else "refused"] += 1
                for request in server.requests:
                    held = Bytes(request)
                    leaked = [value for value in talk.values if held.hold(value)]
                    assert leaked == [], f"seed {seed}, turn {counts['turns']}"
                server.forget()
    return counts


def check(counts, turns):
    assert counts["turns"] >= turns
    assert counts["sent"] > 0.4 * turns  # the test does not pass by refusing everything
    assert all(counts["slipped refused", form] > 0 for form in FORMS)
    print({str(key): counts[key] for key in sorted(counts, key=str)})


@pytest.mark.timeout(1200)
def test_no_vault_value_is_in_what_the_server_got(make, server, egress, guard):
    check(fuzz(TURNS, 1, make, server, egress, guard), TURNS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 2 + PARTS))
def test_no_vault_value_is_in_what_the_server_got_in_100_000_turns(
    make, server, egress, guard, seed
):
    check(fuzz(ALL_TURNS // PARTS, seed, make, server, egress, guard), ALL_TURNS // PARTS)


VALUES = ("Andre Novak", "hunter22-Xy", "010-1234-5678", "Kim", "37")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    before=st.text(st.characters(codec="utf-8"), max_size=40),
    after=st.text(st.characters(codec="utf-8"), max_size=40),
    value=st.sampled_from(VALUES),
    form=st.sampled_from(("as_is", "lower_case", "upper_case", "spaced", "fullwidth")),
    as_json=st.booleans(),
)
def test_values_amid_any_unicode_are_refused(
    make, server, egress, guard, before, after, value, form, as_json
):
    server.default = either
    with guard.open_vault("any") as vault:
        vault.mask("My name is Andre Novak, my password is hunter22-Xy, call 010-1234-5678.")
        vault.mask("I am 37 and my name is Kim.")
        shown = value if form == "as_is" else OBFUSCATIONS[form](value, (0, len(value)))[0]
        text = f"{before} {shown} {after}"
        content = json.dumps({"a": text}) if as_json else text
        request = CloudRequest(({"role": "user", "content": content},))
        with egress.clearance(vault, "fuzz"), pytest.raises(EgressRefusedError) as refused:
            make().complete(request)
        assert refused.value.code in ("held", "private")
    assert server.received == b""
