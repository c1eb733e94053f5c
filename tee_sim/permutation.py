"""Permutations drawn from a key: an AES-CTR stream feeding an unbiased Fisher-Yates shuffle.

Gather convention everywhere: ``permuted[i] = original[perm[i]]``. Rotary pairs are NeoX/HF style:
pair j of a head is (j, j + d/2). Pure functions: the same key gives the same permutation for ever
(golden vectors in tests/vectors).
"""

from collections.abc import Sequence
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from tee_sim import keys
from tee_sim.layout import KvLayout
from tee_sim.memory import wipe

_CHUNK_BYTES = 256


class PrfStream:
    """Uniform integers from AES-256-CTR under a 32-byte key, counter from zero.

    The stream is read as big-endian 32-bit words. `below(n)` rejects words at or above the largest
    multiple of n, so every value is exactly as likely as the next (no modulo bias).

    Security: holds the key schedule; lives in the TEE for the length of one derivation.
    """

    __slots__ = ("_encryptor", "_words")

    def __init__(self, key: keys.Key) -> None:
        if len(key) != 32:
            raise ValueError(f"PRF key of {len(key)} bytes, expected 32")
        self._encryptor = Cipher(AES(key), CTR(bytes(16))).encryptor()
        self._words: list[int] = []

    def _word(self) -> int:
        if not self._words:
            stream = self._encryptor.update(bytes(_CHUNK_BYTES))
            self._words = [
                int.from_bytes(stream[at : at + 4], "big") for at in range(_CHUNK_BYTES - 4, -1, -4)
            ]
        return self._words.pop()

    def below(self, n: int) -> int:
        """Return a uniform integer in [0, n), 1 <= n <= 2**32."""
        limit = (1 << 32) - (1 << 32) % n
        while True:
            word = self._word()
            if word < limit:
                return word % n


def shuffle(stream: PrfStream, n: int) -> list[int]:
    """Draw a uniform permutation of range(n) (Fisher-Yates; Knuth TAOCP 3.4.2, algorithm P)."""
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        j = stream.below(i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def blocked_shuffle(stream: PrfStream, n: int, block: int) -> list[int]:
    """Draw a permutation of range(n) that moves elements only inside aligned blocks of `block`."""
    order: list[int] = []
    for base in range(0, n, block):
        order.extend(base + i for i in shuffle(stream, block))
    return order


def expand_pairs(pair_perm: Sequence[int]) -> list[int]:
    """Turn a permutation of rotary pairs into one of elements: both halves of a pair move alike."""
    half = len(pair_perm)
    return [*pair_perm, *(pair + half for pair in pair_perm)]


def invert(perm: Sequence[int]) -> list[int]:
    """Return the inverse permutation: ``invert(p)[p[i]] == i``."""
    inverse = [0] * len(perm)
    for i, source in enumerate(perm):
        inverse[source] = i
    return inverse


class HeadPermutations(NamedTuple):
    """The two permutations of one key/value head. Never leaves the TEE.

    `pairs`: n_pairs entries below n_pairs, for Q and K. `values`: head_dim entries, for V.
    """

    pairs: bytes
    values: bytes


def layer_permutations(
    key_of_epoch: keys.Key, layout: KvLayout, layer: int
) -> tuple[HeadPermutations, ...]:
    """Derive every permutation of one layer, one entry per key/value head.

    Security: this is the secret `--shield permute` rests on. Entries fit a byte because head_dim
    is at most 256.

    Args:
        key_of_epoch: `keys.epoch_key` of the model's epoch, 32 bytes.
        layout: geometry of the model.
        layer: 0 <= layer < n_layers.
    """
    heads = []
    for kv_head in range(layout.n_kv_heads):
        pair_key = keys.pair_permutation_key(key_of_epoch, layer, kv_head)
        value_key = keys.value_permutation_key(key_of_epoch, layer, kv_head)
        pair_stream, value_stream = PrfStream(pair_key), PrfStream(value_key)
        wipe(pair_key, value_key)
        heads.append(
            HeadPermutations(
                bytes(shuffle(pair_stream, layout.n_pairs)),
                bytes(blocked_shuffle(value_stream, layout.head_dim, layout.v_block)),
            )
        )
    return tuple(heads)
