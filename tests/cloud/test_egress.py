"""What leaves passes one place, which refuses and logs: masked values, and what nobody masked."""

import contextlib
import json
import threading

import httpx2
import openai
import pytest

from ptmo_secure.cloud.egress import Egress
from ptmo_secure.cloud.egress_log import EgressLog
from ptmo_secure.cloud.providers import provider_at
from ptmo_secure.cloud.transport import EgressTransport, JsonDepth
from ptmo_secure.cloud.types import CloudRequest
from ptmo_secure.errors import CloudError, EgressRefusedError, InputError
from tests.cloud.conftest import asking

PRIVATE = "My name is Andre Novak, my password is hunter22-Xy, call 010-1234-5678."
VALUES = ("Andre Novak", "hunter22-Xy", "010-1234-5678")
OTHER = "Write to maria.lopez@example.org about it."


def user(text):
    return {"role": "user", "content": text}


def refused(call, code):
    with pytest.raises(EgressRefusedError) as error:
        call()
    assert error.value.code == code and "\n" not in str(error.value)
    assert str(error.value).startswith("nothing was sent: ")
    assert not any(value in str(error.value) for value in VALUES)
    return str(error.value)


def last(egress):
    return list(egress.log.records())[-1]


@pytest.fixture
def masked(vault):
    return vault.mask(PRIVATE).text


def test_without_a_clearance_nothing_is_sent(make, server, egress):
    client = make()
    refused(lambda: client.complete(asking()), "no_clearance")
    refused(lambda: list(client.stream(asking())), "no_clearance")
    refused(client.models, "no_clearance")
    assert server.received == b"" and server.requests == []
    assert [r.decision for r in egress.log.records()] == ["refused"] * 3


def test_a_clearance_ends_with_its_block_and_holds_for_its_thread_alone(
    make, server, egress, vault
):
    client, seen = make(), []

    def elsewhere():
        with contextlib.suppress(EgressRefusedError):
            seen.append(client.complete(asking()))

    with egress.clearance(vault, "test"):
        late = client.stream(asking())
        client.complete(asking())
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(60)
    assert len(server.requests) == 1 and seen == []
    refused(lambda: next(late), "no_clearance")  # begun inside, asked for outside
    refused(lambda: client.complete(asking()), "no_clearance")
    assert len(server.requests) == 1


def test_another_egress_clears_nothing_here(make, server, guard, tmp_path, vault):
    other = Egress(guard, EgressLog(tmp_path / "other"))
    client = make()
    with other.clearance(vault, "test"):
        refused(lambda: client.complete(asking()), "no_clearance")
    assert server.received == b""


@pytest.mark.parametrize("why", ["", "My name is Andre", "x" * 65, "a\nb", 7])
def test_the_reason_is_a_code_and_no_text(egress, why):
    with pytest.raises(InputError, match="why"), egress.clearance(None, why):
        pass


def test_masked_text_is_sent_and_logged_without_its_text(make, server, egress, vault, masked):
    with egress.clearance(vault, "chat", user="ann", session="s1"):
        make().complete(asking(masked))
    assert masked.encode() in server.requests[0].body
    record = last(egress)
    assert (record.decision, record.code, record.why) == ("sent", "", "chat")
    assert record.kinds == {"PERSON": 1, "PHONE": 1, "SECRET": 1}
    assert record.bytes == len(server.requests[0].body)
    assert (record.provider, record.model, record.path) == ("here", "a-model", "/chat/completions")
    written = (egress.log.folder / "egress.jsonl").read_text()
    for word in ("ann", "s1", "password", *VALUES):
        assert f'"{word}"' not in written and f" {word} " not in written


SCHEMA = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def with_schema(**more):
    return {**SCHEMA, "function": {**SCHEMA["function"], **more}}


def call(arguments, name="look_up"):
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def placed(value):
    """One request per place that a value can slip into."""
    ok = user("What is Python?")
    said = {"role": "assistant", "content": "It is a language."}
    nested = json.dumps({"a": [{"b": json.dumps({"c": value})}]})
    return {
        "question": CloudRequest((user(f"Say it: {value}"),)),
        "part": CloudRequest((user([{"type": "text", "text": f"Say it: {value}"}]),)),
        "system prompt": CloudRequest(({"role": "system", "content": f"You serve {value}."}, ok)),
        "history": CloudRequest((user(f"I am {value}."), said, ok)),
        "answer in history": CloudRequest((ok, {**said, "content": f"Hi {value}!"}, ok)),
        "tool schema": CloudRequest((ok,), tools=(with_schema(description=f"of {value}"),)),
        "key of a schema": CloudRequest(
            (ok,),
            tools=(with_schema(parameters={"type": "object", "properties": {value: {}}}),),
        ),
        "enum of a schema": CloudRequest(
            (ok,), tools=(with_schema(parameters={"type": "object", "enum": [value]}),)
        ),
        "tool call": CloudRequest(
            (ok, {"role": "assistant", "tool_calls": [call(json.dumps({"who": value}))]}, ok)
        ),
        "nested JSON": CloudRequest((ok, {"role": "assistant", "tool_calls": [call(nested)]}, ok)),
        "tool result": CloudRequest(
            (
                ok,
                {"role": "assistant", "tool_calls": [call("{}")]},
                {"role": "tool", "tool_call_id": "c", "content": f'{{"found": "{value}"}}'},
            )
        ),
        "name field": CloudRequest(({**ok, "name": value},)),
        "unknown field": CloudRequest(({**ok, "metadata": {"who": value}},)),
        "stop": CloudRequest((ok,), stop=(value,)),
        "prompt": CloudRequest(None, prompt=f"Dear {value},"),
        "two parts": CloudRequest(
            (user([{"type": "text", "text": piece} for piece in (value[:6], value[6:])]),)
        ),
    }


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("place", sorted(placed("x")))
def test_a_masked_value_that_slips_in_anywhere_is_refused_and_logged(
    make, server, egress, vault, masked, place, value
):
    request = placed(value)[place]
    with egress.clearance(vault, "chat"):
        refused(lambda: make().complete(request), "held")
        refused(lambda: list(make().stream(request)), "held")
    assert server.received == b""
    record = last(egress)
    assert record.decision == "refused" and record.code.startswith("held:")


@pytest.mark.parametrize("form", ["upper", "spaced", "digits", "wide", "escaped", "zero width"])
def test_a_masked_value_is_found_in_other_forms(make, server, egress, vault, masked, form):
    text = {
        "upper": "ANDRE NOVAK",
        "spaced": "h u n t e r 2 2 - X y",
        "digits": "the number 01012345678",
        "wide": "\uff21\uff4e\uff44\uff52\uff45 \uff2e\uff4f\uff56\uff41\uff4b",
        "escaped": json.dumps({"a": "Andre \\u004eovak"}).replace("\\\\", "\\"),
        "zero width": "Andre\u200b No\u200bvak",
    }[form]
    with egress.clearance(vault, "chat"):
        refused(lambda: make().complete(asking(text)), "held")
    assert server.received == b""


@pytest.mark.parametrize("place", sorted(set(placed("x")) - {"two parts", "stop", "name field"}))
@pytest.mark.parametrize("with_vault", [True, False])
def test_private_text_that_nobody_masked_is_refused_too(
    make, server, egress, vault, place, with_vault
):
    request = placed("maria.lopez@example.org")[place]
    with egress.clearance(vault if with_vault else None, "chat"):
        refused(lambda: make().complete(request), "private")
    assert server.received == b""
    assert last(egress).code == "private:EMAIL"


def sdk(egress, server, **more):
    transport = EgressTransport(egress, provider_at(server.url, "here"), "a-model", None)
    return openai.OpenAI(
        api_key="none",
        base_url=server.url,
        max_retries=0,
        http_client=httpx2.Client(transport=transport, trust_env=False),
        **more,
    )


def create(client, **more):
    more.setdefault("messages", [user("What is Python?")])
    return client.chat.completions.create(model="a-model", **more)


@pytest.mark.parametrize("value", VALUES)
def test_headers_the_user_field_and_the_query_are_looked_at(egress, server, vault, masked, value):
    cases = [
        (sdk(egress, server), {"user": value}),
        (sdk(egress, server), {"extra_body": {"metadata": {"who": value}}}),
        (sdk(egress, server), {"extra_headers": {"X-Who": value}}),
        (sdk(egress, server), {"extra_headers": {f"X-{value.replace(' ', '-')}": "1"}}),
        (sdk(egress, server), {"extra_query": {"who": value}}),
        (sdk(egress, server, default_headers={"X-Who": value.upper()}), {}),
    ]
    for client, more in cases:
        with egress.clearance(vault, "chat"):
            refused(lambda client=client, more=more: create(client, **more), "held")
        assert last(egress).code.startswith("held:")
    assert server.received == b""


def test_harmless_headers_are_sent(egress, server, vault):
    with egress.clearance(vault, "chat"):
        create(sdk(egress, server), extra_headers={"X-Request-Kind": "question"})
    assert server.requests[0].headers["x-request-kind"] == "question"


def test_short_values_are_found_as_words(make, server, egress, vault):
    assert [span.kind for span in vault.mask("I am 37 and my name is Kim.").spans] == [
        "AGE",
        "PERSON",
    ]
    with egress.clearance(vault, "chat"):
        refused(lambda: make().complete(asking("Is Kim a common name?")), "held")
        make().complete(asking("What is 3700 by 2?", seed=37))
    assert len(server.requests) == 1


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_value_cut_in_two_by_the_parts_of_a_message_is_found(make, server, egress, vault, cut):
    assert vault.mask("My name is Novak and I am 37.").text.startswith("My name is [PERSON_1]")
    pieces = [f"Ask {'Novak'[:cut]}", f"{'Novak'[cut:]} about it."]
    content = [{"type": "text", "text": piece} for piece in pieces]
    with egress.clearance(vault, "chat"):
        refused(lambda: make().complete(CloudRequest((user(content),))), "held")
    assert server.received == b""


def test_images_sounds_and_files_are_refused(make, server, egress, vault):
    for part in (
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "text", "text": "data:image/png;base64,iVBORw0KGgo="},
    ):
        with egress.clearance(vault, "chat"):
            refused(lambda part=part: make().complete(CloudRequest((user([part]),))), "unreadable")
    assert server.received == b""


def test_a_request_too_long_or_too_deep_to_be_checked_is_refused(make, server, egress, vault):
    deep = {"a": 1}
    for _ in range(60):
        deep = {"a": deep}
    with egress.clearance(vault, "chat"):
        refused(lambda: make().complete(asking("word " * 60_000)), "too_long")
        refused(
            lambda: make().complete(CloudRequest(({**user("a"), "metadata": deep},))), "too_deep"
        )
    assert server.received == b""


def test_the_first_of_two_equal_keys_is_read_too(egress, server, vault, masked):
    transport = EgressTransport(egress, provider_at(server.url, "here"))
    body = b'{"messages":[{"role":"user","content":"maria.lopez@example.org","content":"a"}]}'
    request = httpx2.Request("POST", server.url + "/chat/completions", content=body)
    with egress.clearance(vault, "chat"):
        refused(lambda: transport.handle_request(request), "private")


@pytest.mark.parametrize(
    ("method", "url", "code"),
    [
        ("POST", "{}/files", "endpoint"),
        ("PUT", "{}/chat/completions", "endpoint"),
        ("POST", "{}/chat/completions/../files", "endpoint"),
        ("POST", "http://127.0.0.1:1/v1/chat/completions", "endpoint"),
        ("POST", "{}/chat/completions", "not_json"),
    ],
)
def test_requests_to_anywhere_else_are_refused(egress, server, vault, method, url, code):
    transport = EgressTransport(egress, provider_at(server.url, "here"))
    request = httpx2.Request(method, url.format(server.url), content=b"What is Python?")
    with egress.clearance(vault, "chat"):
        refused(lambda: transport.handle_request(request), code)
    assert server.received == b""


def test_a_key_that_is_not_the_providers_is_refused(egress, server, vault):
    transport = EgressTransport(egress, provider_at(server.url, "here"), "", "the-key")
    headers = {"Authorization": "Bearer another"}
    request = httpx2.Request("GET", server.url + "/models", headers=headers)
    with egress.clearance(vault, "chat"):
        refused(lambda: transport.handle_request(request), "credential")
    assert server.received == b""


def test_texts_seen_before_are_not_scanned_again_but_values_are_looked_for(make, egress, vault):
    calls = []

    class Counting:
        number = vault.number

        def check(self, text, *, words=True, scan=True):
            calls.append(scan)
            return vault.check(text, words=words, scan=scan)

    client = make()
    with egress.clearance(Counting(), "chat"):
        client.complete(asking("What is Python?"))
        assert calls == [False, False, True]
        client.complete(asking("What is Python?"))
        assert calls == [False, False, True, False, False]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_depth_is_followed_across_chunks(size):
    text = json.dumps({"a": '[[[[{"\\\\"', "b": [["\\"], '"\\']}).encode()
    depth = JsonDepth(3)
    for at in range(0, len(text), size):
        depth.feed(text[at : at + size])
    with pytest.raises(CloudError):
        JsonDepth(2).feed(text)
