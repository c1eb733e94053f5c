"""Opens a cloud by its address or name, behind an egress check that shares the pipeline's guard."""

from pathlib import Path

from ptmo_secure.cloud.caps import SpendCaps
from ptmo_secure.cloud.client import CloudClient
from ptmo_secure.cloud.egress import Egress, Guard
from ptmo_secure.cloud.egress_log import EgressLog
from ptmo_secure.cloud.paths import caps_path, egress_folder
from ptmo_secure.cloud.providers import Provider, load_providers, provider_at
from ptmo_secure.errors import InputError


def open_cloud(
    where: str,
    guard: Guard,
    model: str | None = None,
    *,
    state: Path | None = None,
    providers: Path | None = None,
) -> CloudClient:
    """Return a client of a cloud model; `close` it.

    Args:
        where: an address up to and with /v1, a provider's name, or "provider/model".
        guard: reads what would leave.
        model: its name there; None: what `where` says, else the provider's default.
        state: folder of the device's state, with the egress log and the caps; None: the default.
        providers: a TOML file of one's own; None: the built-in ones.

    Raises:
        InputError: there is no such provider, it needs a key that is not set, or the address makes
            no sense.
    """
    provider, named = find_provider(where, providers)
    egress = Egress(guard, EgressLog(egress_folder(state)))
    return CloudClient(provider, model or named, egress=egress, caps=SpendCaps(caps_path(state)))


def find_provider(where: str, providers: Path | None = None) -> tuple[Provider, str | None]:
    """Return a provider by its address or name, and the model that the name says."""
    if "://" in where:
        return provider_at(where), None
    known = load_providers(providers)
    name, _, model = where.partition("/")
    if name not in known:
        raise InputError(
            f"unknown cloud {where!a}: give an address (http://127.0.0.1:8766/v1) or one of "
            f"{', '.join(sorted(known))}"
        )
    return known[name], model or None
