"""Made-up passwords, PINs, tokens and network addresses.

The prefixes of tokens are those their issuers document. Some are written in parts, so that no
scanner of secrets takes this file for a leak.
"""

import base64
import ipaddress
import json
import random
import string

from ptmo_secure.privacy.synth.identifiers import digits

_WORDS = (
    "sunset coffee dragon purple tiger rocket maple winter river panda guitar falcon cookie shadow"
    " monkey summer flower silver thunder orange pepper banjo cactus meadow ginger marble velvet"
    " wizard pirate comet badger lantern pickle biscuit harbor saffron juniper walnut"
).split()
_TOKEN = string.ascii_letters + string.digits
_LEET = str.maketrans("aeios", "43105")
_KEYS = (
    ("sk-", _TOKEN, 48),
    ("sk-proj-", _TOKEN + "-_", 64),
    ("sk_" + "live_", _TOKEN, 24),
    ("rk_" + "test_", _TOKEN, 24),
    ("AKIA", string.ascii_uppercase + "234567", 16),
    ("gh" + "p_", _TOKEN, 36),
    ("github_" + "pat_", _TOKEN + "_", 50),
    ("glpat-", _TOKEN + "-_", 20),
    ("xox" + "b-", string.digits, 12),
    ("AIza", _TOKEN + "-_", 35),
    ("hf_", _TOKEN, 34),
    ("SG.", _TOKEN + "-_", 44),
    ("npm_", _TOKEN, 36),
    ("", string.hexdigits[:16], 32),
    ("", string.hexdigits[:16], 40),
    ("", _TOKEN, 32),
    ("", _TOKEN + "+/", 40),
)
_PRIVATE_KEYS = ("RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY")


def password(rng: random.Random) -> str:
    """A password as people choose them, from "tiger88" to what a manager makes."""
    word = rng.choice(_WORDS)
    other = rng.choice(_WORDS)
    shapes = (
        lambda: f"{word}{digits(rng, rng.choice((2, 3, 4)))}",
        lambda: f"{word.title()}{digits(rng, rng.choice((2, 4)))}{rng.choice('!@#$%?')}",
        lambda: f"{word}{rng.choice('-_.!')}{other}{digits(rng, 2)}",
        lambda: f"{word.title()}{other.title()}{rng.choice(('', '!', '99'))}",
        lambda: f"{word.translate(_LEET)}{rng.choice('!@#$')}{digits(rng, 2)}",
        lambda: word + other,
        lambda: f"{word}-{other}-{rng.choice(_WORDS)}-{digits(rng, 1)}",
        lambda: "".join(rng.choices(_TOKEN + "!@#$%^&*?-_+=", k=rng.randint(8, 18))).strip("-_.?!"),
        lambda: "".join(rng.choices(string.ascii_lowercase + string.digits, k=8)),
        lambda: f"P@ss{rng.choice(('word', 'w0rd'))}{digits(rng, 3)}{rng.choice(('', '!'))}",
    )
    return rng.choice(shapes)() or word


def pin(rng: random.Random) -> str:
    """A PIN or one-time code."""
    return digits(rng, rng.choice((4, 4, 4, 5, 6, 6)))


def api_key(rng: random.Random) -> str:
    """A token of one of several services, a web token, or hexadecimal."""
    if rng.random() < 0.1:
        return web_token(rng)
    prefix, alphabet, count = rng.choice(_KEYS)
    key = prefix + "".join(rng.choices(alphabet, k=count))
    if prefix.startswith("xox"):
        key += "-" + "".join(rng.choices(_TOKEN, k=24))
    return key


def web_token(rng: random.Random) -> str:
    """A JSON web token (RFC 7519) with a random signature."""

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"sub": digits(rng, 8), "exp": rng.randint(1_700_000_000, 1_900_000_000)}
    signature = "".join(rng.choices(_TOKEN + "-_", k=43))
    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.{signature}"


def private_key(rng: random.Random) -> str:
    """A short PEM block that holds random bytes."""
    name = rng.choice(_PRIVATE_KEYS)
    body = "\n".join("".join(rng.choices(_TOKEN + "+/", k=64)) for _ in range(rng.randint(2, 4)))
    dashes = "-" * 5
    return f"{dashes}BEGIN {name}{dashes}\n{body}\n{dashes}END {name}{dashes}"


def ip_address(rng: random.Random) -> str:
    """An IPv4 address, one in four IPv6."""
    if rng.random() < 0.25:
        address = ipaddress.IPv6Address(rng.getrandbits(128))
        return rng.choice((str(address), address.exploded))
    return ".".join(
        str(rng.randint(low, high)) for low, high in ((1, 223), (0, 255), (0, 255), (1, 254))
    )


def mac_address(rng: random.Random) -> str:
    """A MAC address, with colons or dashes."""
    pairs = [f"{rng.getrandbits(8):02x}" for _ in range(6)]
    text = rng.choice((":", ":", "-")).join(pairs)
    return text.upper() if rng.random() < 0.4 else text


def coordinates(rng: random.Random) -> str:
    """A place as latitude and longitude, decimal or in degrees."""
    latitude, longitude = rng.uniform(-60, 70), rng.uniform(-180, 180)
    if rng.random() < 0.75:
        places = rng.randint(4, 6)
        return f"{latitude:.{places}f}{rng.choice((', ', ',', ' '))}{longitude:.{places}f}"

    def angle(value: float, names: str) -> str:
        degrees, minutes = divmod(abs(value) * 60, 60)
        return f"{degrees:.0f}°{int(minutes):02d}'{rng.randint(0, 59):02d}\"{names[value < 0]}"

    return f"{angle(latitude, 'NS')} {angle(longitude, 'EW')}"
