"""The verifier: each check refuses under its own name, whatever the bytes; `cwt` agrees with us."""

import hashlib
import hmac
import json
import random
import shutil
from datetime import timezone
from pathlib import Path

import cbor2
import cwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_helpers import ROOT_KEY

import tee_sim
from tee_sim import keys
from tee_sim.cose import Sign1, sign1
from tee_sim.evidence import PROFILE
from tee_sim.measurement import measure
from tee_sim.protocol import HARDENING_BITS, Algorithm
from tee_sim.verify import (
    PROTECTIONS,
    REQUIRED,
    DeviceKeys,
    EvidenceError,
    Verifier,
    reference_measurement,
    unverified,
)

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
GOLDEN = json.loads((VECTORS / "tee_tokens.json").read_text())
OTHER_ROOT = bytes([0xA5]) * 32
NONCE = bytes(range(32))
MEASUREMENT = bytes(range(32))
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ALL_IN_FORCE = (1 << len(HARDENING_BITS)) - 1


def refusal(call, *args):
    """The name of the check that refused."""
    with pytest.raises(EvidenceError) as refused:
        call(*args)
    text = str(refused.value)
    assert text.startswith(f"{refused.value.check}: ") and "\n" not in text
    return refused.value.check


def golden(vector):
    """(token, nonce, verifier) of a vector."""
    verifier = Verifier([DeviceKeys(bytes.fromhex(vector["identity"]))], [MEASUREMENT])
    return bytes.fromhex(vector["token"]), bytes.fromhex(vector["nonce"]), verifier


class Bench:
    """A device whose evidence a test writes, and a verifier that knows the device."""

    def __init__(self, generator, root=ROOT_KEY, **options):
        self.generator = generator
        self.root = root
        self.eddsa, self.es256 = generator.identity(root)
        self.evidence = generator.golden_evidence(root, NONCE, False)
        self.keys = DeviceKeys(self.evidence.identity)
        self.verifier = Verifier([self.keys], [MEASUREMENT], **options)

    def token(self, **changed):
        return self.signed(self.evidence._replace(**changed).encode())

    def signed(self, payload):
        return sign1(self.eddsa, self.evidence.ueid, payload)

    def check(self, token, nonce=NONCE):
        return refusal(self.verifier.verify, token, nonce)


@pytest.fixture
def bench(load_generator):
    return Bench(load_generator)


# ---------------------------------------------------------------- golden tokens


@pytest.mark.parametrize("vector", GOLDEN)
def test_the_checked_in_tokens_verify(vector):
    token, nonce, verifier = golden(vector)
    evidence = verifier.verify(token, nonce)
    assert evidence.nonce == nonce and evidence.measurement == MEASUREMENT
    assert evidence == unverified(token)
    assert verifier.seen == {evidence.ueid: evidence}
    assert evidence.downgrades == (("arena",) if evidence.arena == 2 else ())
    assert verifier.verify(token, nonce) == evidence  # the same counter and start are no rollback


def test_the_generator_reproduces_the_checked_in_tokens(load_generator):
    assert load_generator.token_vectors() == GOLDEN


def flip_check(token, at, changed):
    """Which check refuses a token with another byte at `at`; docs/tee.md has the same places."""
    if at == 6:  # the algorithm
        return "signature" if changed[at] in (0x26, 0x27) else "malformed"
    if at in range(10, 43):  # the key id
        return "unknown_key"
    structure = {*range(10), *range(43, 47), len(token) - 66, len(token) - 65}
    return "malformed" if at in structure else "signature"


def flips(token, masks):
    for at in range(len(token)):
        for mask in masks(at):
            changed = bytearray(token)
            changed[at] ^= mask
            yield at, bytes(changed)


@pytest.mark.parametrize("vector", GOLDEN)
def test_every_flipped_byte_fails_with_its_documented_error(vector):
    token, nonce, verifier = golden(vector)
    assert token[3] == 39 and token[43:45] == b"\xa0\x59" and token[-66:-64] == b"\x58\x40"
    for at, changed in flips(token, lambda at: (1 << at % 8, 0xFF)):
        assert refusal(verifier.verify, changed, nonce) == flip_check(token, at, changed), at
    assert verifier.seen == {}


def test_a_token_that_names_the_other_algorithm_fails_by_its_signature():
    for vector in GOLDEN:
        token, nonce, verifier = golden(vector)
        changed = token[:6] + bytes([token[6] ^ 1]) + token[7:]
        assert refusal(verifier.verify, changed, nonce) == "signature"


@pytest.mark.slow
@pytest.mark.parametrize("vector", GOLDEN)
def test_every_other_value_of_every_byte_fails_with_its_documented_error(vector):
    token, nonce, verifier = golden(vector)
    for at, changed in flips(token, lambda _: range(1, 256)):
        assert refusal(verifier.verify, changed, nonce) == flip_check(token, at, changed), at


@pytest.mark.parametrize("vector", GOLDEN[:2])
def test_a_token_of_another_length_is_malformed(vector):
    token, nonce, verifier = golden(vector)
    for cut in range(len(token)):
        assert refusal(verifier.verify, token[:cut], nonce) == "malformed"
        assert refusal(verifier.verify, token[cut + 1 :], nonce) == "malformed"
    for more in (b"\0", b"\xf6", token):
        assert refusal(verifier.verify, token + more, nonce) == "malformed"


# ---------------------------------------------------------------- other implementations


@pytest.mark.parametrize("vector", GOLDEN)
def test_the_third_party_package_verifies_our_tokens(vector):
    token, nonce, verifier = golden(vector)
    identity = bytes.fromhex(vector["identity"])
    if vector["algorithm"] == "EDDSA":
        public = Ed25519PublicKey.from_public_bytes(identity[:32])
    else:
        public = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), identity[32:])
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    alg = "EdDSA" if vector["algorithm"] == "EDDSA" else "ES256"
    ueid = verifier.verify(token, nonce).ueid
    key = cwt.COSEKey.from_pem(pem, alg=alg, kid=ueid)
    claims = cwt.decode(token, key)
    evidence = unverified(token)
    assert claims == {
        10: nonce,
        256: b"\x01" + hashlib.sha256(identity).digest(),
        263: 2,
        265: PROFILE,
        267: evidence.boot_count,
        270: "tee_sim, a simulated TEE: no hardware stands behind this token",
        273: [[42, MEASUREMENT]],
        -70000: identity,
        -70001: evidence.hpke_key,
        -70002: evidence.arena,
        -70003: evidence.epoch,
        -70004: evidence.counter,
        -70005: evidence.hardening,
        -70006: evidence.audit_length,
        -70007: evidence.audit_head,
    }
    changed = token[:-1] + bytes([token[-1] ^ 1])
    with pytest.raises(cwt.VerifyError):
        cwt.decode(changed, key)


@pytest.mark.parametrize("vector", GOLDEN)
def test_a_token_is_the_documented_structure(vector):
    token, nonce, _ = golden(vector)
    message = cbor2.loads(token)
    assert message.tag == 18
    protected, unprotected, payload, signature = message.value
    number = {"EDDSA": -8, "ES256": -7}[vector["algorithm"]]
    assert cbor2.loads(protected) == {1: number, 4: unverified(token).ueid}
    assert unprotected == {} and len(signature) == 64
    assert cbor2.dumps(cbor2.loads(payload), canonical=True) == payload
    assert cbor2.loads(payload)[10] == nonce
    assert 256 <= len(payload) and len(token) == len(payload) + 47 + 66


@pytest.mark.parametrize("vector", GOLDEN)
def test_the_identity_keys_are_the_documented_derivation(vector):
    root = bytes.fromhex(vector["root"])

    def expand(key, info, length):  # RFC 5869, section 2.3
        blocks, block = b"", b""
        for number in range(1, 3):
            block = hmac.digest(key, block + info + bytes([number]), hashlib.sha256)
            blocks += block
        return blocks[:length]

    ssk = keys.storage_key(root)
    assert vector["identity_seed"] == expand(ssk, b"ptmo/v1/identity/ed25519", 32).hex()
    drawn = int.from_bytes(expand(ssk, b"ptmo/v1/identity/p-256", 40), "big")
    scalar = drawn % (P256_ORDER - 1) + 1
    assert int(vector["identity_scalar"], 16) == scalar == keys.identity_scalar(root)
    assert keys.identity_seed(root).hex() == vector["identity_seed"]


# ---------------------------------------------------------------- the checks, one by one


def test_a_stale_nonce_is_refused(bench):
    assert bench.check(bench.token(nonce=bytes(32))) == "nonce"
    assert bench.check(bench.token(), NONCE[:31]) == "nonce"
    assert bench.verifier.verify(bench.token(), NONCE).nonce == NONCE


def test_an_unknown_measurement_is_refused(bench):
    assert bench.check(bench.token(measurement=bytes(32))) == "measurement"
    more = Verifier([bench.keys], [MEASUREMENT, bytes(32)])
    assert more.verify(bench.token(measurement=bytes(32)), NONCE).measurement == bytes(32)
    assert refusal(Verifier([bench.keys]).verify, bench.token(), NONCE) == "measurement"


@pytest.mark.parametrize("state", [0, 1, 3, 4, 2**63])
def test_every_debug_state_but_off_since_the_start_is_refused(bench, state):
    assert bench.check(bench.token(debug_state=state)) == "debug"


def test_an_old_counter_and_an_old_start_are_refused(bench):
    verify = bench.verifier.verify
    first = verify(bench.token(), NONCE)
    assert bench.check(bench.token(counter=11)) == "counter"
    assert bench.check(bench.token(boot_count=2)) == "boot_count"
    assert bench.check(bench.token(boot_count=2, counter=99)) == "boot_count"
    assert bench.verifier.seen == {first.ueid: first}  # a refused token teaches nothing
    later = verify(bench.token(counter=13), NONCE)
    assert bench.check(bench.token()) == "counter"
    assert verify(bench.token(boot_count=4, counter=13, hpke_key=bytes(32)), NONCE) != later
    assert bench.check(bench.token(counter=13)) == "boot_count"
    assert bench.check(bench.token(boot_count=5, counter=12)) == "counter"


def test_two_starts_of_one_number_are_a_rollback(bench):
    bench.verifier.verify(bench.token(), NONCE)
    assert bench.check(bench.token(hpke_key=bytes(32))) == "boot_count"
    assert bench.check(bench.token(hpke_key=bytes(32), counter=99)) == "boot_count"


def test_what_is_remembered_of_one_device_says_nothing_of_another(bench, load_generator):
    other = Bench(load_generator, OTHER_ROOT)
    both = Verifier([bench.keys, other.keys], [MEASUREMENT])
    both.verify(bench.token(boot_count=9, counter=99), NONCE)
    assert both.verify(other.token(), NONCE).ueid == other.keys.ueid
    assert set(both.seen) == {bench.keys.ueid, other.keys.ueid}


def test_only_enrolled_devices_are_believed_and_only_about_themselves(bench, load_generator):
    other = Bench(load_generator, OTHER_ROOT)
    assert bench.check(other.token()) == "unknown_key"
    both = Verifier([bench.keys, other.keys], [MEASUREMENT])
    # Signed by `other`, which names itself as the signer and `bench` in the claims.
    forged = sign1(other.eddsa, other.keys.ueid, bench.evidence.encode())
    assert refusal(both.verify, forged, NONCE) == "unknown_key"
    foreign_keys = other.evidence._replace(identity=bench.keys.identity)
    forged = sign1(other.eddsa, other.keys.ueid, foreign_keys.encode())
    assert refusal(both.verify, forged, NONCE) == "unknown_key"
    # Signed by `other`, which names `bench` as the signer.
    assert bench.check(sign1(other.eddsa, bench.keys.ueid, bench.evidence.encode())) == "signature"
    assert bench.check(sign1(other.es256, bench.keys.ueid, bench.evidence.encode())) == "signature"
    assert bench.verifier.verify(
        sign1(bench.es256, bench.keys.ueid, bench.evidence.encode()), NONCE
    )


def test_a_key_signs_under_its_own_algorithm_alone(bench):
    payload = bench.evidence.encode()
    for algorithm, key in ((Algorithm.ES256, bench.eddsa), (Algorithm.EDDSA, bench.eddsa)):
        message = Sign1(algorithm, bench.keys.ueid, payload)
        token = message._replace(signature=key.sign(message.to_be_signed())).encode()
        if algorithm is Algorithm.EDDSA:
            assert bench.verifier.verify(token, NONCE) == bench.evidence
        else:
            assert bench.check(token) == "signature"


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64, bytes(63) + b"\1"])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_signatures_out_of_range_are_refused(bench, algorithm, signature):
    message = Sign1(algorithm, bench.keys.ueid, bench.evidence.encode(), signature)
    assert bench.check(message.encode()) == "signature"


@pytest.mark.parametrize("name", PROTECTIONS)
def test_a_protection_that_is_not_in_force_shows_and_can_be_required(load_generator, name):
    strict, lenient = Bench(load_generator, require=[name]), Bench(load_generator)
    if name == "arena":
        token = strict.token(arena=2)
        assert strict.check(strict.token(arena=0)) == "protection"
    else:
        token = strict.token(hardening=ALL_IN_FORCE & ~(1 << HARDENING_BITS.index(name)))
    assert unverified(token).downgrades == (name,)
    assert strict.check(token) == "protection"
    assert strict.verifier.verify(strict.token(), NONCE).downgrades == ()
    if name in REQUIRED:
        assert lenient.check(token) == "protection"
    else:
        assert lenient.verifier.verify(token, NONCE).downgrades == (name,)


def test_a_protection_that_does_not_exist_cannot_be_required(bench):
    with pytest.raises(ValueError, match="no protection 'arenas': there are arena, dumpable_off"):
        Verifier([bench.keys], require=["arenas"])


def test_keys_that_are_none_cannot_be_enrolled(bench):
    identity = bench.keys.identity
    off_the_curve = identity[:-1] + bytes([identity[-1] ^ 1])
    for wrong in (b"", identity[:-1], identity + b"\0", identity[:32] + bytes(65), off_the_curve):
        with pytest.raises(ValueError):
            DeviceKeys(wrong)


# ---------------------------------------------------------------- hostile encodings


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
    verifier = Verifier([bench.keys], [MEASUREMENT])
    try:
        evidence = verifier.verify(bench.signed(payload), NONCE)
    except EvidenceError as refused:
        return refused.check
    assert evidence.encode() == payload and evidence.nonce == NONCE
    assert (evidence.ueid, evidence.debug) == (bench.keys.ueid, False)
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


@settings(max_examples=300, deadline=None)
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


# ---------------------------------------------------------------- the measurement


def test_the_measurement_is_the_documented_hash_and_changes_with_every_file(tmp_path):
    import platform

    package = Path(tee_sim.__file__).parent
    copy = tmp_path / "elsewhere"
    shutil.copytree(package, copy)
    assert measure(copy) == measure(package) == reference_measurement()
    names = sorted(
        str(path.relative_to(copy))
        for path in copy.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    assert {"keys.py", "ta/attest.py", "guard/scoring.py", "py.typed"} <= set(names)
    lines = [f"{platform.python_implementation()} {platform.python_version()}"]
    lines += [f"{name} {hashlib.sha256((copy / name).read_bytes()).hexdigest()}" for name in names]
    text = "".join(line + "\n" for line in lines)
    assert measure(copy) == hashlib.sha256(text.encode()).digest()
    seen = {measure(copy)}
    for name in names:
        with (copy / name).open("a") as file:
            file.write("\n")
        seen.add(measure(copy))
    (copy / "keys.so").write_bytes(b"would be imported first")
    seen.add(measure(copy))
    (copy / "py.typed").rename(copy / "py.types")
    seen.add(measure(copy))
    assert len(seen) == len(names) + 3
    (copy / "__pycache__").mkdir(exist_ok=True)
    (copy / "__pycache__" / "keys.pyc").write_bytes(b"x")
    assert measure(copy) in seen


def test_an_other_interpreter_measures_otherwise(monkeypatch):
    before = measure()
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    assert measure() != before
