"""Secrets that have a shape of their own: keys of known services, JWT, PEM blocks, wallets."""

import binascii
import json
import math

from tee_sim.guard.checksums import is_base58check, is_bech32
from tee_sim.guard.rules import Ranges, find, load, search

_RULES = load("tokens")
_KEY_WORD = _RULES["key_word"][0].pattern
_KEY_WORD_REACH = 40
# Bits a character: hexadecimal keys have up to 4, English words under 3.3, placeholders under 3
_MIN_ENTROPY, _MIN_PREFIXED_ENTROPY = 3.5, 3.0


def find_api_keys(text: str) -> Ranges:
    """Yield keys with a known prefix, and opaque strings of high entropy after a key's name."""
    for match in search(_RULES["api_key"], text):
        if entropy(match.group()) > _MIN_PREFIXED_ENTROPY:
            yield match.span()
    if not any(search(_RULES["key_word"], text)):
        return
    for match in search(_RULES["opaque"], text):
        value = match.group()
        mixed = any(c.isdecimal() for c in value) and any(c.isalpha() for c in value)
        if mixed and entropy(value) >= _MIN_ENTROPY:
            low = max(0, match.start() - _KEY_WORD_REACH)
            if _KEY_WORD.search(text, low, match.start()):
                yield match.span()


def entropy(value: str) -> float:
    """Return Shannon's entropy of the characters, in bits a character."""
    shares = [value.count(char) / len(value) for char in set(value)]
    return -sum(share * math.log2(share) for share in shares)


def find_jwts(text: str) -> Ranges:
    """Yield JSON web tokens: RFC 7519, the first part is a JSON object that names its algorithm."""
    for match in search(_RULES["jwt"], text):
        head = match[1].replace("-", "+").replace("_", "/")
        try:
            header = json.loads(binascii.a2b_base64(head + "=" * (-len(head) % 4)))
        except ValueError:
            continue
        if isinstance(header, dict) and "alg" in header:
            yield match.span()


def find_private_keys(text: str) -> Ranges:
    """Yield PEM blocks of private keys whole, also without their end, and PuTTY's."""
    return find(_RULES["pem"], text)


def find_wallets(text: str) -> Ranges:
    """Yield crypto addresses: base58check and bech32 by their checksums, Ethereum's by shape."""
    checks = {"base58": is_base58check, "bech32": is_bech32, "ethereum": _varied}
    for group, valid in checks.items():
        for match in search(_RULES[group], text):
            if valid(match.group()):
                yield match.span()


def _varied(value: str) -> bool:
    return len(set(value[2:].lower())) > 4
