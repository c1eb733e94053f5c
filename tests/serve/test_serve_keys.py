"""API keys: kept hashed, asked for, taken back; adapters and users that belong to them."""

import json
import os
import stat

import openai
import pytest

from ptmo_secure import cli
from ptmo_secure.engine.adapters import random_adapter
from ptmo_secure.errors import InputError
from ptmo_secure.serve.routing import Piece
from ptmo_secure.serve.service import ServeSettings
from ptmo_secure.serve.users import LOCAL_KEY, KeyFile, Names
from tests.serve.serving import DONE, HELLO, MODEL, FakeRouter, serving, serving_model

OK = [Piece("ok"), DONE]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "serve" / "keys.json"


def ask(served, key, **fields):
    with served.client(key) as client:
        return client.chat.completions.create(model=MODEL, messages=HELLO, **fields)


def test_of_a_key_only_its_hash_is_kept_in_a_file_of_the_owners(path):
    key, secret = KeyFile(path).add("ann")
    text = path.read_text()
    assert secret not in text and secret.removeprefix("ptmo-") not in text
    assert len(secret) >= 40 and key.sha256 in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert KeyFile(path).find(secret) == key
    assert KeyFile(path).find(secret[:-1]) is None and KeyFile(path).find("") is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_key_file_that_others_may_touch_is_refused(path, mode):
    KeyFile(path).add("ann")
    os.chmod(path, mode)
    with pytest.raises(InputError, match="chmod 600"):
        KeyFile(path)


@pytest.mark.parametrize("text", ["", "[]", '{"keys": [{"id": 1}]}', "[" * 9000])
def test_a_file_that_holds_no_keys_is_refused(path, text):
    path.parent.mkdir()
    path.write_text(text)
    os.chmod(path, 0o600)
    with pytest.raises(InputError, match="not a key file"):
        KeyFile(path)


def test_a_server_with_keys_answers_nobody_without_one(path):
    _, secret = KeyFile(path).add("ann")
    with serving(FakeRouter(OK), keys=path) as served:
        assert ask(served, secret).choices[0].message.content == "ok"
        with pytest.raises(openai.AuthenticationError) as refused:
            ask(served, secret + "x")
        assert refused.value.code == "invalid_api_key"
        status, told, headers = served.post("/v1/chat/completions", {})
        assert (status, told["error"]["code"]) == (401, "missing_api_key")
        assert headers["www-authenticate"] == "Bearer"
        for asked in ("/v1/models", "/metrics", "/openapi.json", "/v1/nothing"):
            assert served.get(asked)[0] == 401, asked
        assert served.get("/health")[0] == 200
        assert served.get("/v1/models", "-H", f"authorization: bearer {secret}")[0] == 200


def test_a_revoked_key_is_refused_and_a_new_one_taken_at_once(path):
    keys = KeyFile(path)
    _, first = keys.add("ann")
    with serving(FakeRouter(OK), keys=path) as served:
        ask(served, first)
        _, second = KeyFile(path).add("bob")
        ask(served, second)
        assert KeyFile(path).revoke("ann") == 1
        with pytest.raises(openai.AuthenticationError):
            ask(served, first)
        ask(served, second)
        KeyFile(path).revoke("bob")  # the last: the file still says that keys are asked for
        with pytest.raises(openai.AuthenticationError):
            ask(served, second)


def test_a_key_file_that_becomes_unusable_lets_nobody_in(path):
    _, secret = KeyFile(path).add("ann")
    with serving(FakeRouter(OK), keys=path) as served:
        ask(served, secret)
        path.write_text("no keys any more")
        with pytest.raises(openai.InternalServerError) as refused:
            ask(served, secret)
        assert refused.value.code == "keys_unusable" and str(path) not in refused.value.message
        assert served.get("/v1/models")[0] == 503


def test_the_commands_make_list_and_revoke_keys(path, capsys):
    where = ["--keys", str(path)]
    assert cli.main(["serve", "keys", "add", "ann", *where, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert KeyFile(path).find(made["key"]).id == made["id"]
    assert cli.main(["serve", "keys", "list", *where]) == 0
    listed = capsys.readouterr().out
    assert made["id"] in listed and "ann" in listed and made["key"] not in listed
    assert cli.main(["serve", "keys", "revoke", made["id"], *where]) == 0
    assert KeyFile(path).keys() == ()
    capsys.readouterr()
    assert cli.main(["serve", "keys", "revoke", made["id"], *where]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert cli.main(["serve", "keys", "add", "a b", *where]) == 2


def test_an_address_beyond_loopback_needs_a_key(path, capsys):
    assert ServeSettings("m", host="0.0.0.0").needs_key
    assert not ServeSettings("m").needs_key
    assert cli.main(["serve", "--host", "0.0.0.0", "--keys", str(path), "--port", "0"]) == 2
    assert "a key is needed" in capsys.readouterr().err


def test_names_of_users_and_sessions_are_opaque_and_each_keys_own(path, tmp_path):
    keys = KeyFile(path)
    ann, bob = keys.add("ann")[0], keys.add("bob")[0]
    names = Names(tmp_path)
    given = {
        names.session(key, user, session)
        for key in (ann, bob, LOCAL_KEY)
        for user in (None, "u", "us")
        for session in (None, "s", "es")
    }
    assert len(given) == 3 * 3 * 3
    assert all(len(name) == 32 for name in given)
    assert Names(tmp_path).user(ann, "u") == names.user(ann, "u")  # over a restart
    assert Names(None).user(ann, "u") != names.user(ann, "u")
    assert stat.S_IMODE((tmp_path / "names.key").stat().st_mode) == 0o600


def test_a_router_sees_opaque_names_and_never_the_users(path):
    router = FakeRouter(OK)
    with serving(router) as served:
        ask(served, "none", user="ann@example.com")
        ask(served, "none", extra_headers={"x-ptmo-user": "ann@example.com"})
        ask(served, "none", user="bob@example.com")
        ask(served, "none")
    first, second, other, nobody = router.requests
    assert first.user == second.user != other.user
    assert first.session == second.session != other.session
    assert nobody.session is None
    assert "ann" not in repr(router.requests)


def test_adapters_are_named_by_model_field_or_header_and_change_the_answer(model):
    adapters = {
        name: lambda m, seed=seed: random_adapter(m, rank=4, seed=seed)
        for seed, name in enumerate(("one", "two"))
    }
    greedy = {"temperature": 0, "max_tokens": 12}
    with serving_model(model, adapters=adapters) as served:
        served.engine.reset()
        expected = "".join(served.engine.generate(HELLO, 12, adapters=["one"]))
        with served.client() as client:
            assert [m.id for m in client.models.list()] == [MODEL, f"{MODEL}+one", f"{MODEL}+two"]
            answer = client.chat.completions.create(model=f"{MODEL}+one", messages=HELLO, **greedy)
        assert answer.choices[0].message.content == expected
        field = ask(served, "none", extra_body={"x_ptmo": {"adapters": ["one"]}}, **greedy)
        header = ask(served, "none", extra_headers={"x-ptmo-adapters": "one"}, **greedy)
        assert field.choices[0].message.content == expected
        assert header.choices[0].message.content == expected
        assert ask(served, "none", **greedy).choices[0].message.content != expected
        with pytest.raises(openai.NotFoundError):
            ask(served, "none", extra_headers={"x-ptmo-adapters": "three"})


def test_a_key_uses_its_own_adapters_alone(path):
    _, with_one = KeyFile(path).add("ann", ["one"])
    _, with_none = KeyFile(path).add("bob")
    router = FakeRouter(OK)
    with serving(router, keys=path, adapters=["one", "two"]) as served:
        headers = {"x-ptmo-adapters": "one"}
        ask(served, with_one, extra_headers=headers)
        assert router.requests[-1].adapters == ("one",)
        for key, adapter in ((with_one, "two"), (with_none, "one"), (with_one, "three")):
            with pytest.raises(openai.NotFoundError) as refused:
                ask(served, key, extra_headers={"x-ptmo-adapters": adapter})
            assert "no such adapter, or not one for this key" in refused.value.message
        with served.client(with_none) as client:
            assert [each.id for each in client.models.list()] == [MODEL]
        with served.client(with_one) as client:
            assert [each.id for each in client.models.list()] == [MODEL, f"{MODEL}+one"]
