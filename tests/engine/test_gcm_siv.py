"""The native AES-256-GCM-SIV against the `cryptography` package's, record by record."""

import os

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from hypothesis import given
from hypothesis import strategies as st

from ptmo_secure import _native
from tests.engine.kv_model import KeyArena

lengths = st.integers(0, 300) | st.sampled_from([1023, 1024, 1025, 4352, 65537])


def storage(keys, key):
    return _native.PageStorage(keys.native, keys.deliver(key))


@given(
    key=st.binary(min_size=32, max_size=32).filter(any),
    record=st.integers(0, 2**32 - 1),
    header=st.binary(max_size=200),
    length=lengths,
)
def test_records_are_those_of_an_independent_implementation(key, record, header, length):
    plain, nonce = os.urandom(length), record.to_bytes(12, "little")
    keys = KeyArena()
    native = storage(keys, key)
    try:
        sealed = native.seal(record, header, plain)
        assert sealed == AESGCMSIV(key).encrypt(nonce, plain, header)
        assert native.open(record, header, sealed) == plain
    finally:
        native.close()
        assert keys.is_zero()
        keys.close()


@given(length=st.integers(0, 100), bit=st.integers(0, 10**6), in_header=st.booleans())
def test_every_flipped_bit_is_refused_by_both(length, bit, in_header):
    key, header = bytes(range(32)), b"header"
    keys = KeyArena()
    native = storage(keys, key)
    try:
        sealed = native.seal(3, header, os.urandom(length))
        parts = [bytearray(header), bytearray(sealed)]
        changed = parts[0 if in_header else 1]
        changed[bit // 8 % len(changed)] ^= 1 << bit % 8
        aad, record = (bytes(part) for part in parts)
        with pytest.raises(_native.AuthenticationError, match="record 3 does not authenticate"):
            native.open(3, aad, record)
        with pytest.raises(InvalidTag):
            AESGCMSIV(key).decrypt((3).to_bytes(12, "little"), record, aad)
    finally:
        native.close()
        keys.close()
