"""Who can be asked: cloud providers as a TOML file describes them.

    provider = load_providers()["openai"]
    print(provider.model("gpt-4o-mini").usd_per_million_prompt)

Security: a provider names the environment variable of its key, never the key. Plain HTTP is
refused except to loopback, where no network carries it.
"""

import ipaddress
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from ptmo_secure.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

BUILT_IN = Path(__file__).with_name("providers.toml")
FEATURES = frozenset({"logprobs", "continue", "completions", "tools", "seed", "stream_usage"})
GENERIC = "ptmo"  # whose features an address without a name is taken to have
_MAX_FILE_BYTES = 1 << 20
_FIELDS = frozenset(
    {"base_url", "key_env", "features", "models", "default_model", "max_tokens_field"}
    | {"continue_field", "top_logprobs_max", "timeout_s", "connect_timeout_s", "waiting_watts"}
)
_MODEL_FIELDS = frozenset({"usd_per_million_prompt", "usd_per_million_completion", "noted"})


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What a model costs.

    Args:
        name: as the provider calls it.
        usd_per_million_prompt, usd_per_million_completion: dollars per million tokens, >= 0.
        noted: when these were looked up; None for a model of one's own, which costs nothing.
    """

    name: str
    usd_per_million_prompt: float = 0.0
    usd_per_million_completion: float = 0.0
    noted: date | None = None

    def __post_init__(self) -> None:
        for price in (self.usd_per_million_prompt, self.usd_per_million_completion):
            if not (math.isfinite(price) and price >= 0):
                raise InputError(f"model {self.name!a}: {price} is no price per million tokens")
        if self.noted is None and self.usd_per_million_prompt + self.usd_per_million_completion:
            raise InputError(f"model {self.name!a}: a price needs the date it was noted")


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenAI-compatible server.

    Args:
        name: of the provider, for logs and for "provider/model".
        base_url: up to and with /v1; https, or http to loopback.
        key_env: environment variable of the API key; None: none is needed.
        features: what it can do, some of `FEATURES`.
        models: prices by model name; others cost nothing if the server is on loopback, and are
            refused elsewhere, because a cap on dollars could not hold.
        default_model: taken when none is named; None: the first that /models lists.
        max_tokens_field: what the field of the longest answer is called there.
        continue_field: the field that asks to continue the last message; None: the server does so
            when the last message is the assistant's.
        top_logprobs_max: most alternatives per token that it returns, 0 to 20.
        timeout_s: seconds for a whole call when the caller sets no deadline, > 0.
        connect_timeout_s: seconds for a connection, > 0.
        waiting_watts: what this device draws while it waits for the network, above idle, >= 0.
    """

    name: str
    base_url: str
    key_env: str | None = None
    features: frozenset[str] = frozenset()
    models: Mapping[str, ModelPrice] = field(default_factory=lambda: MappingProxyType({}))
    default_model: str | None = None
    max_tokens_field: str = "max_tokens"
    continue_field: str | None = None
    top_logprobs_max: int = 20
    timeout_s: float = 60.0
    connect_timeout_s: float = 5.0
    waiting_watts: float = 1.5

    def __post_init__(self) -> None:
        _check_url(self.name, self.base_url)
        if unknown := self.features - FEATURES:
            raise InputError(f"provider {self.name!a}: unknown feature {min(unknown)!a}")
        if self.default_model is not None and self.models and self.default_model not in self.models:
            raise InputError(f"provider {self.name!a}: {self.default_model!a} has no price")
        if not 0 <= self.top_logprobs_max <= 20:
            raise InputError(f"provider {self.name!a}: top_logprobs_max must be 0 to 20")
        for name in ("timeout_s", "connect_timeout_s"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"provider {self.name!a}: {name} must be above 0")
        if not (math.isfinite(self.waiting_watts) and self.waiting_watts >= 0):
            raise InputError(f"provider {self.name!a}: waiting_watts must be 0 or more")

    @property
    def on_loopback(self) -> bool:
        """Whether what is sent there stays on this machine."""
        return _is_loopback(urlsplit(self.base_url).hostname or "")

    def model(self, name: str) -> ModelPrice:
        """Return what a model costs.

        Raises:
            InputError: nobody noted its price, and the server is not on this machine.
        """
        known = self.models.get(name)
        if known is not None:
            return known
        if not self.on_loopback:
            raise InputError(
                f"provider {self.name}: no price is noted for model {name!a}: add one to your "
                "providers file, so that the caps can count it"
            )
        return ModelPrice(name)

    def key(self, environ: Mapping[str, str] | None = None) -> str | None:
        """Return the API key from the environment; None where a server on loopback needs none.

        Raises:
            InputError: the variable is not set, and the server is not on this machine.
        """
        if self.key_env is None:
            return None
        found = (os.environ if environ is None else environ).get(self.key_env, "").strip()
        if not found and not self.on_loopback:
            raise InputError(f"provider {self.name}: the variable {self.key_env} holds no key")
        if not found.isascii() or not found.isprintable():
            raise InputError(f"provider {self.name}: the variable {self.key_env} holds no key")
        return found or None


def provider_at(base_url: str, name: str = "") -> Provider:
    """Return the provider at an address that no file names: `--cloud http://127.0.0.1:8766/v1`.

    Args:
        base_url: up to and with /v1.
        name: for logs; host and port by default.

    Raises:
        InputError: it is no address, or an unsafe one.
    """
    if not isinstance(base_url, str):
        raise InputError(f"{base_url!a} is no address like https://host/v1")
    _check_url(name or "of that address", base_url)
    known = load_providers()[GENERIC]
    name = name or urlsplit(base_url).netloc
    return Provider(name, base_url.rstrip("/"), known.key_env, known.features)


def load_providers(path: Path | None = None) -> dict[str, Provider]:
    """Return every provider by name: the built-in ones, and over them those of a file.

    Args:
        path: a TOML file of the same form as `providers.toml`; None: none.

    Raises:
        InputError: the file cannot be read, or says something that makes no sense.
    """
    providers = _parse(BUILT_IN)
    if path is not None:
        providers |= _parse(path)
    return providers


def _parse(path: Path) -> dict[str, Provider]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise InputError(f"{path}: too long for a file of providers")
    try:
        tables = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None
    return {name: _provider(path, name, table) for name, table in tables.items()}


def _provider(path: Path, name: str, table: object) -> Provider:
    where = f"{path}: [{name}]"
    if not isinstance(table, dict) or not isinstance(table.get("base_url"), str):
        raise InputError(f"{where}: a table with a base_url is needed")
    fields: dict[str, Any] = _known(where, table, _FIELDS)
    models = fields.pop("models", {})
    if not isinstance(models, dict):
        raise InputError(f"{where}: models is no table")
    fields["features"] = frozenset(fields.get("features", ()))
    fields["models"] = {model: _price(where, model, row) for model, row in models.items()}
    fields["base_url"] = fields["base_url"].rstrip("/")
    try:
        return Provider(name, **fields)
    except TypeError:
        raise InputError(f"{where}: a field has a value of the wrong kind") from None


def _price(where: str, model: str, row: object) -> ModelPrice:
    if not isinstance(row, dict):
        raise InputError(f"{where}: model {model!a} is no table")
    fields = _known(f"{where} {model}", row, _MODEL_FIELDS)
    try:
        return ModelPrice(model, **fields)
    except TypeError:
        raise InputError(f"{where}: model {model!a} has a value of the wrong kind") from None


def _known(where: str, table: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    if any("key" in name and name != "key_env" for name in table):
        raise InputError(f"{where}: keys belong into the environment: name it in key_env")
    if unknown := set(table) - names:
        raise InputError(f"{where}: unknown field {min(unknown)!a}")
    return dict(table)


def _check_url(name: str, base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except (ValueError, AttributeError):
        raise InputError(f"provider {name!a}: {base_url!a} is no address") from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise InputError(f"provider {name!a}: {base_url!a} is no address like https://host/v1")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"provider {name!a}: keys belong into the environment, not the address")
    if parts.scheme == "http" and not _is_loopback(host):
        raise InputError(
            f"provider {name!a}: {base_url!a}: plain http is taken for this machine alone"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
