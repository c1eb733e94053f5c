"""Bytes that are no token, or an odd one: refused by a documented check, signed or not."""

import random
from datetime import timezone

import cbor2
import pytest
from evidence_bench import MEASUREMENT, NONCE, Bench, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from tee_sim.verify import EvidenceError, Verifier, unverified


def claims_of(bench):
    return cbor2.loads(bench.evidence.encode())


def test_the_claims_of_another_profile_are_refused_by_name(bench):
    for profile in ("tag:ptmo-secure.example,2026:simulated-tee:2", b"", 7, None):
        payload = cbor2.dumps(claims_of(bench) | {265: profile}, canonical=True)
        assert bench.check(bench.signed(payload)) == "profile"


HOSTILE_CLAIMS = [
    {10: "text of 32 characters, not bytes"},
    {10: [NONCE]},
    {10: bytes(7)},
    {10: bytes(65)},
    {256: bytes(32)},
    {256: None},
    {263: False},
    {263: 2.0},
    {263: -1},
    {263: "2"},
    {267: True},
    {267: 2**64},
    {267: -1},
    {270: "a TEE of hardware"},
    {273: MEASUREMENT},
    {273: [[43, MEASUREMENT]]},
    {273: [[42, MEASUREMENT], [42, bytes(32)]]},
    {273: [[42, MEASUREMENT, 0]]},
    {273: [[42, MEASUREMENT[:31]]]},
    {273: {0: {1: MEASUREMENT}}},
    {273: []},
    {273: "mm"},
    {-70000: bytes(96)},
    {-70001: bytes(31)},
    {-70002: 3},
    {-70002: "memfd_secret"},
    {-70003: 1.5},
    {-70004: None},
    {-70005: [0]},
    {-70006: cbor2.CBORTag(2, bytes(9))},
    {-70007: bytes(33)},
    {-70008: 0},
    {1: "issuer"},
    {"nonce": NONCE},
    {(1, 2): 3},
]


@pytest.mark.parametrize("changed", HOSTILE_CLAIMS, ids=repr)
def test_other_claims_are_malformed_even_when_they_are_signed(bench, changed):
    payload = cbor2.dumps(claims_of(bench) | changed, canonical=True)
    assert bench.check(bench.signed(payload)) == "malformed"


def test_every_claim_is_needed(bench):
    for label in claims_of(bench):
        claims = claims_of(bench)
        del claims[label]
        assert bench.check(bench.signed(cbor2.dumps(claims, canonical=True))) == "malformed"


def other_encodings(payload):
    """The same claims in encodings that a lenient decoder takes: {name: bytes}."""
    claims = cbor2.loads(payload)
    items = [(cbor2.dumps(k), cbor2.dumps(v)) for k, v in claims.items()]
    start = bytes([0xA0 | len(items)])
    assert start + b"".join(k + v for k, v in items) == payload
    swapped = [items[1], items[0], *items[2:]]
    long_key = [(b"\x18" + items[0][0], items[0][1]), *items[1:]]
    assert items[0][0] == b"\x0a"
    chunks = b"\x5f\x50" + NONCE[:16] + b"\x50" + NONCE[16:] + b"\xff"
    return {
        "keys out of order": start + b"".join(k + v for k, v in swapped),
        "a long key": start + b"".join(k + v for k, v in long_key),
        "indefinite map": b"\xbf" + payload[1:] + b"\xff",
        "a repeated key": bytes([start[0] + 1]) + payload[1:] + items[0][0] + items[0][1],
        "another value first": bytes([start[0] + 1]) + b"\x0a\x48" + bytes(8) + payload[1:],
        "a string in chunks": start + b"\x0a" + chunks + payload[1 + len(b"".join(items[0])) :],
        "a long head": b"\xb8" + bytes([len(items)]) + payload[1:],
        "trailing bytes": payload + b"\0",
        "a tag in front": b"\xd9\xd9\xf7" + payload,
    }


def test_other_encodings_of_the_claims_are_malformed_even_when_they_are_signed(bench):
    payload = bench.evidence.encode()
    for name, other in other_encodings(payload).items():
        decoded = cbor2.loads(other)
        assert decoded == cbor2.loads(payload), name
        assert bench.check(bench.signed(other)) == "malformed", name


def test_other_encodings_of_the_message_are_malformed(bench):
    token = bench.token()
    protected, _, payload, signature = cbor2.loads(token).value
    dumps = cbor2.dumps
    parts = [protected, {}, payload, signature]
    others = {
        "no tag": dumps(parts),
        "tag 61 before it": b"\xd8\x3d" + token,
        "tag 18 in two bytes": b"\xd8\x12" + token[1:],
        "COSE_Sign": dumps(cbor2.CBORTag(98, parts)),
        "indefinite array": b"\xd2\x9f" + token[2:] + b"\xff",
        "a long head": b"\xd2\x98\x04" + token[2:],
        "something unprotected": dumps(cbor2.CBORTag(18, [protected, {4: b"x"}, *parts[2:]])),
        "a detached payload": dumps(cbor2.CBORTag(18, [protected, {}, None, signature])),
        "five parts": dumps(cbor2.CBORTag(18, [*parts, b""])),
        "a longer length": token[:44] + b"\x5a\0\0" + token[45:],
        "text": token.hex().encode(),
        "empty": b"",
    }
    for name, other in others.items():
        assert other != token
        assert bench.check(other) == "malformed", name


def deep(opening, depth, core=b"\x00"):
    return opening * depth + core


@pytest.mark.parametrize(
    "payload",
    [
        deep(b"\x81", 300),
        deep(b"\x81", 60_000),
        deep(b"\xa1\x00", 30_000),
        deep(b"\xd8\x1c", 20_000),  # shared references
        deep(b"\xd8\x1c\x81", 500, b"\xd8\x1d\x00"),
        b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff" + bytes(300),
        b"\xbb\x00\x00\x7f\xff\xff\xff\xff\xff" + bytes(300),
        b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff" + bytes(300),
        b"\x7b\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(300),
        b"\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01" + bytes(300),  # decimal 1e(2**63)
        b"\xc5\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01" + bytes(300),  # 2**(2**63)
        b"\xc1\xfb\x7f\xef" + bytes(300),  # a date far off
        b"\xd8\x23\x78\x20" + b"(a+)+" * 6 + b"$b" + bytes(300),  # a regular expression
        b"\xd8\x1e\x82\x01\x00" + bytes(300),  # 1/0
        b"\xa1\x81\x00\x00" + bytes(300),
        b"\xf6" * 300,
        b"\xff" * 300,
        b"",
        bytes(70_000),
    ],
    ids=lambda payload: f"{payload[:4].hex()}-{len(payload)}",
)
def test_deep_long_and_odd_payloads_are_malformed_even_when_they_are_signed(bench, payload):
    assert bench.check(bench.signed(payload)) == "malformed"


def outcome(bench, payload):
    """What becomes of a payload that the device signed: "accepted", or the check that refuses."""
    verifier = Verifier([bench.identity], [MEASUREMENT])
    try:
        evidence = verifier.verify(bench.signed(payload), NONCE)
    except EvidenceError as refused:
        return refused.check
    assert evidence.encode() == payload and evidence.nonce == NONCE
    assert (evidence.ueid, evidence.debug) == (bench.ueid, False)
    return "accepted"


NAMES = {"malformed", "unknown_key", "signature", "profile", "nonce", "measurement", "debug"}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=700))
def test_random_bytes_are_malformed(data):
    verifier = Verifier([], [MEASUREMENT])
    assert refusal(verifier.verify, data, NONCE) == "malformed"
    with pytest.raises(EvidenceError):
        unverified(data)


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.binary(max_size=70)
    | st.text(max_size=20)
    | st.datetimes(timezones=st.just(timezone.utc)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-3, 300) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
LABELS = (10, 256, 263, 265, 267, 270, 273, *range(-70007, -69999))


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(LABELS) | st.integers(0, 300), json_like, min_size=1))
def test_signed_claims_of_any_content_are_refused_or_are_claims_of_the_profile(
    load_generator, changed
):
    bench = Bench(load_generator)
    payload = cbor2.dumps(claims_of(bench) | changed, canonical=True)
    assert outcome(bench, payload) in NAMES | {"accepted", "protection"}


def mutated(rng, data):
    """Some bytes changed, cut out, doubled or put elsewhere."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, size = rng.randrange(len(data)), rng.choice((1, 1, 2, 8, 40))
        way = rng.randrange(4)
        if way == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            del data[at : at + size]
        elif way == 2:
            data[at:at] = rng.randbytes(size)
        else:
            data[at : at + size] = rng.choice((b"\x9b", b"\xbb", b"\x5b", b"\xdb")) + b"\xff" * 8
        data = data or bytearray(1)
    return bytes(data)


def fuzz(bench, count, seed):
    """Verify mutated tokens, and validly signed mutated payloads; return what came of them."""
    rng = random.Random(seed)
    token, payload = bench.token(), bench.evidence.encode()
    outcomes = set()
    for _ in range(count // 2):
        hostile = mutated(rng, token)
        if hostile != token:
            outcomes.add(bench.check(hostile))
        outcomes.add(outcome(bench, mutated(rng, payload)))
    return outcomes


def test_two_thousand_mutated_tokens_are_refused_by_a_documented_check(bench):
    outcomes = fuzz(bench, 2000, seed=1)
    assert outcomes <= NAMES | {"accepted", "protection"}
    assert {"malformed", "unknown_key", "signature", "profile", "nonce"} <= outcomes


@pytest.mark.slow
def test_a_hundred_thousand_mutated_tokens_are_refused_by_a_documented_check(bench):
    assert fuzz(bench, 100_000, seed=2) <= NAMES | {"accepted", "protection"}
