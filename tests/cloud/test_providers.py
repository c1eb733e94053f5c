"""Providers as their file describes them: built in, one's own, and what is refused."""

from datetime import date

import pytest

from ptmo_secure.cloud.providers import Provider, load_providers, provider_at
from ptmo_secure.errors import InputError


def test_the_built_in_providers_have_an_address_and_dated_prices():
    providers = load_providers()
    assert set(providers) == {"openai", "groq", "ollama", "vllm", "ptmo"}
    assert providers["openai"].base_url == "https://api.openai.com/v1"
    assert providers["ptmo"].base_url == "http://127.0.0.1:8766/v1"
    for provider in providers.values():
        assert provider.on_loopback == provider.base_url.startswith("http://")
        for model in provider.models.values():
            assert model.noted is not None and date(2024, 1, 1) < model.noted
            assert 0 < model.usd_per_million_prompt <= model.usd_per_million_completion
    mini = providers["openai"].model("gpt-4o-mini")
    assert (mini.usd_per_million_prompt, mini.usd_per_million_completion) == (0.15, 0.60)


def test_a_file_of_ones_own_adds_and_overrides(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[mine]\nbase_url = "http://[::1]:9000/v1/"\nfeatures = ["tools"]\nwaiting_watts = 0.5\n'
        '[openai]\nbase_url = "https://eu.openai.example/v1"\nkey_env = "EU_KEY"\n'
        "[openai.models.big]\nusd_per_million_prompt = 1\nusd_per_million_completion = 2.5\n"
        "noted = 2026-05-01\n"
    )
    providers = load_providers(path)
    assert providers["mine"] == Provider(
        "mine", "http://[::1]:9000/v1", features=frozenset({"tools"}), waiting_watts=0.5
    )
    assert providers["openai"].models.keys() == {"big"}
    assert providers["openai"].model("big").noted == date(2026, 5, 1)
    assert "groq" in providers


def test_an_address_alone_is_a_provider():
    provider = provider_at("http://127.0.0.1:8766/v1/")
    assert (provider.name, provider.base_url) == ("127.0.0.1:8766", "http://127.0.0.1:8766/v1")
    assert {"logprobs", "completions", "tools"} <= provider.features
    assert provider.model("anything").noted is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://models.example/v1", "plain http"),
        ("http://192.168.1.7/v1", "plain http"),
        ("ftp://127.0.0.1/v1", "no address"),
        ("127.0.0.1:8766", "no address"),
        ("https://key@models.example/v1", "keys belong"),
        ("https://models.example/v1?key=1", "no address"),
        ("http://127.0.0.1:99999/v1", "no address"),
        ("", "no address"),
        (None, "no address"),
    ],
)
def test_addresses_that_are_unsafe_or_none_are_refused(url, said):
    with pytest.raises(InputError, match=said):
        provider_at(url)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a", "Expected"),
        ("a = 1", "base_url"),
        ("[a]", "base_url"),
        ('[a]\nbase_url = "http://127.0.0.1/v1"\napi_key = "sk-1"', "keys belong"),
        ('[a]\nbase_url = "http://127.0.0.1/v1"\nbase = 1', "unknown field 'base'"),
        ('[a]\nbase_url = "http://127.0.0.1/v1"\nfeatures = ["magic"]', "unknown feature 'magic'"),
        ('[a]\nbase_url = "http://127.0.0.1/v1"\ntimeout_s = 0', "timeout_s"),
        ('[a]\nbase_url = "http://127.0.0.1/v1"\ntimeout_s = "1"', "wrong kind"),
        ('[a]\nbase_url = "http://127.0.0.1/v1"\nmodels = 3', "no table"),
        ('[a]\nbase_url = "http://127.0.0.1/v1"\n[a.models.b]\nprice = 3', "unknown field"),
        (
            '[a]\nbase_url = "http://127.0.0.1/v1"\n[a.models.b]\nusd_per_million_prompt = 1',
            "date it was noted",
        ),
        (
            '[a]\nbase_url = "http://127.0.0.1/v1"\n[a.models.b]\nusd_per_million_prompt = -1',
            "no price",
        ),
        (
            '[a]\nbase_url = "http://127.0.0.1/v1"\ndefault_model = "c"\n[a.models.b]',
            "has no price",
        ),
    ],
)
def test_a_file_that_makes_no_sense_is_an_error_of_one_line(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as error:
        load_providers(path)
    assert "\n" not in str(error.value) and "sk-1" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml"):
        load_providers(tmp_path / "none.toml")


def test_keys_come_from_the_environment_alone():
    openai = load_providers()["openai"]
    assert openai.key({"OPENAI_API_KEY": " sk-1 "}) == "sk-1"
    for environ in ({}, {"OPENAI_API_KEY": "  "}, {"OPENAI_API_KEY": "a\nb"}):
        with pytest.raises(InputError, match="OPENAI_API_KEY") as error:
            openai.key(environ)
        assert "a\nb" not in str(error.value)
    assert load_providers()["vllm"].key({}) is None
    assert load_providers()["ollama"].key({"OLLAMA_API_KEY": "x"}) is None


def test_a_model_nobody_priced_is_refused_where_it_could_cost():
    with pytest.raises(InputError, match="no price is noted"):
        load_providers()["groq"].model("another")
