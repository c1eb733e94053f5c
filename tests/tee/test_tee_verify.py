"""The verifier: each check refuses under its own name, whatever the bytes; `cwt` agrees with us."""

import hashlib
import hmac
import json
import shutil
from pathlib import Path

import cbor2
import cwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from evidence_bench import MEASUREMENT, NONCE, Bench, refusal

import tee_sim
from tee_sim import keys
from tee_sim.cose import Sign1, sign1
from tee_sim.evidence import PROFILE
from tee_sim.measurement import measure
from tee_sim.protocol import HARDENING_BITS, Algorithm
from tee_sim.verify import (
    PROTECTIONS,
    REQUIRED,
    Verifier,
    public_keys,
    reference_measurement,
    unverified,
)

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
GOLDEN = json.loads((VECTORS / "tee_tokens.json").read_text())
OTHER_ROOT = bytes([0xA5]) * 32
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ALL_IN_FORCE = (1 << len(HARDENING_BITS)) - 1


def golden(vector):
    """(token, nonce, verifier) of a vector."""
    verifier = Verifier([bytes.fromhex(vector["identity"])], [MEASUREMENT])
    return bytes.fromhex(vector["token"]), bytes.fromhex(vector["nonce"]), verifier


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
    made = load_generator.token_vectors()
    for vectors in (made, golden := json.loads(json.dumps(GOLDEN))):
        for vector in vectors:
            if vector["algorithm"] == "ES256":  # another signature every time
                vector["token"] = vector["token"][: -2 * 64]
    assert made == golden


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
    more = Verifier([bench.identity], [MEASUREMENT, bytes(32)])
    assert more.verify(bench.token(measurement=bytes(32)), NONCE).measurement == bytes(32)
    assert refusal(Verifier([bench.identity]).verify, bench.token(), NONCE) == "measurement"


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
    both = Verifier([bench.identity, other.identity], [MEASUREMENT])
    both.verify(bench.token(boot_count=9, counter=99), NONCE)
    assert both.verify(other.token(), NONCE).ueid == other.ueid
    assert set(both.seen) == {bench.ueid, other.ueid}


def test_only_enrolled_devices_are_believed_and_only_about_themselves(bench, load_generator):
    other = Bench(load_generator, OTHER_ROOT)
    assert bench.check(other.token()) == "unknown_key"
    both = Verifier([bench.identity, other.identity], [MEASUREMENT])
    # Signed by `other`, which names itself as the signer and `bench` in the claims.
    forged = sign1(other.eddsa, other.ueid, bench.evidence.encode())
    assert refusal(both.verify, forged, NONCE) == "unknown_key"
    foreign = other.evidence._replace(identity=bench.identity)
    forged = sign1(other.eddsa, other.ueid, foreign.encode())
    assert refusal(both.verify, forged, NONCE) == "unknown_key"
    # Signed by `other`, which names `bench` as the signer.
    assert bench.check(sign1(other.eddsa, bench.ueid, bench.evidence.encode())) == "signature"
    assert bench.check(sign1(other.es256, bench.ueid, bench.evidence.encode())) == "signature"
    assert bench.verifier.verify(sign1(bench.es256, bench.ueid, bench.evidence.encode()), NONCE)


def test_a_key_signs_under_its_own_algorithm_alone(bench):
    payload = bench.evidence.encode()
    for algorithm, key in ((Algorithm.ES256, bench.eddsa), (Algorithm.EDDSA, bench.eddsa)):
        message = Sign1(algorithm, bench.ueid, payload)
        token = message._replace(signature=key.sign(message.to_be_signed())).encode()
        if algorithm is Algorithm.EDDSA:
            assert bench.verifier.verify(token, NONCE) == bench.evidence
        else:
            assert bench.check(token) == "signature"


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64, bytes(63) + b"\1"])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_signatures_out_of_range_are_refused(bench, algorithm, signature):
    message = Sign1(algorithm, bench.ueid, bench.evidence.encode(), signature)
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


def test_what_every_kernel_gives_is_always_required():
    assert REQUIRED == ("dumpable_off", "no_core_dumps", "no_new_privs")


def test_a_protection_that_does_not_exist_cannot_be_required(bench):
    with pytest.raises(ValueError, match="no protection 'arenas': there are arena, dumpable_off"):
        Verifier([bench.identity], require=["arenas"])


def test_keys_that_are_none_cannot_be_enrolled(bench):
    identity = bench.identity
    off_the_curve = identity[:-1] + bytes([identity[-1] ^ 1])
    for wrong in (b"", identity[:-1], identity + b"\0", identity[:32] + bytes(65), off_the_curve):
        with pytest.raises(ValueError):
            public_keys(wrong)


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
