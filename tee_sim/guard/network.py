"""Addresses of the network and of the globe: e-mail, IP, MAC, URL, user names, coordinates."""

import ipaddress
import re

from tee_sim.guard.frames import near, personal
from tee_sim.guard.rules import Ranges, load, patterns, search, value_of

_RULES = load("network")
_NOT_IP, _MY_IP, _OWN_URL, _CREDENTIALS, _PROFILE, _HANDLE_FRAME, _MY, _PLACE = patterns(
    _RULES, "not_ip my_ip own_url credentials profile handle_frame my place"
)
_FILE_SUFFIXES = frozenset({"png", "jpg", "jpeg", "gif", "svg", "webp", "git", "py", "js", "css"})
_SERVICE_ACCOUNTS = ("git@github.", "git@gitlab.", "git@bitbucket.")
# Resolvers that everybody knows: they say nothing about a person
_PUBLIC_IPS = frozenset({"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9"})


def find_emails(text: str) -> Ranges:
    """Yield e-mail addresses."""
    if "@" not in text:
        return
    for match in search(_RULES["email"], text):
        address = match.group().lower()
        if match["tld"].lower() not in _FILE_SUFFIXES and not address.startswith(_SERVICE_ACCOUNTS):
            yield match.span()


def find_ips(text: str) -> Ranges:
    """Yield IP addresses that can belong to somebody: public ones, and one's own private one."""
    for match in search(_RULES["ip"], text):
        value = match.group().rstrip(".")
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            continue
        before = text[max(0, match.start() - 24) : match.start()]
        if value in _PUBLIC_IPS or address.is_loopback or _NOT_IP.search(before):
            continue
        if address.is_global or (not address.is_unspecified and _MY_IP.search(before)):
            yield match.start(), match.start() + len(value)


def find_macs(text: str) -> Ranges:
    """Yield hardware addresses; not broadcast and not zero."""
    for match in search(_RULES["mac"], text):
        if len(set(re.sub(r"\W", "", match.group().lower()))) > 1:
            yield match.span()


def find_urls(text: str) -> Ranges:
    """Yield links that carry credentials, name a person's profile, or are called one's own."""
    for match in search(_RULES["url"], text):
        url = match.group().rstrip(".,;:!?)]}>")
        own = _OWN_URL.search(text, max(0, match.start() - 48), match.start())
        if own or _CREDENTIALS.search(url) or _PROFILE.search(url):
            yield match.start(), match.start() + len(url)


def find_usernames(text: str) -> Ranges:
    """Yield user names that a text states: "username: X", "my Discord is X", "follow me @X"."""
    for match in search(_RULES["user"], text):
        value = match["value"].rstrip(".-")
        colon = match["link"].strip() in (":", "=")
        own = _MY.search(text, max(0, match.start() - 48), match.start()) is not None
        odd = not (value.isalpha() and value.islower())
        if len(value) > 2 and ((odd and (colon or own)) or (own and colon)):
            start, _ = value_of(match)
            yield start, start + len(value)
    if "@" in text:
        for match in search(_RULES["at_handle"], text):
            if _HANDLE_FRAME.search(text, max(0, match.start() - 60), match.start()):
                yield match.span()


def find_coordinates(text: str) -> Ranges:
    """Yield pairs of latitude and longitude that a text uses as a place of somebody."""
    for match in search(_RULES["coordinates"], text):
        if match["lat"] is not None and not (
            abs(float(match["lat"])) <= 90 and abs(float(match["lon"])) <= 180
        ):
            continue
        if near(_PLACE, text, *match.span()) or personal(text, *match.span()):
            yield match.start(), match.start() + len(match.group().rstrip())
