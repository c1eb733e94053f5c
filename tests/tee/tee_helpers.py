"""Shared by the TEE tests: arenas, independent derivations, raw packets."""

import ctypes
import fcntl
import mmap
import os
import struct
import zlib

from tee_sim import keys, permutation
from tee_sim.layout import KvLayout

ROOT_KEY = bytes(range(32))
SMOL = KvLayout(n_layers=30, n_heads=9, n_kv_heads=3, head_dim=64, rotary_dim=64, v_block=32)
SMALL = KvLayout(n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, rotary_dim=8, v_block=4)
ROLES = ("q", "k", "v", "o", "freq")
SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_MEMFD_SECRET = 447


def memfd(size, seals=SIZE_SEALS):
    """A memfd of `size` bytes with the given seals."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def memfd_secret(size):
    """A memfd_secret of `size` bytes, or None where the kernel has none."""
    fd = ctypes.CDLL(None, use_errno=True).syscall(_MEMFD_SECRET, 0)
    if fd < 0:
        return None
    os.ftruncate(fd, size)
    return fd


class Arena:
    """The engine's secret arena as a test plays it."""

    def __init__(self, size=8192, secret=True):
        self.fd = (memfd_secret(size) if secret else None) or memfd(size)
        self.size = size
        self.map = mmap.mmap(self.fd, size)

    def close(self):
        self.map.close()
        os.close(self.fd)


def permutations(layout, epoch, layer, root=ROOT_KEY):
    """Every head's permutations as lists, derived in the test process."""
    heads = permutation.layer_permutations(keys.epoch_key(root, epoch), layout, layer)
    return [(list(head.pairs), list(head.values)) for head in heads]


def row_permutation(layout, epoch, layer, role, root=ROOT_KEY):
    """The gather over all rows of one weight matrix, written out from the definition."""
    heads = permutations(layout, epoch, layer, root)
    half, dim = layout.rotary_dim // 2, layout.head_dim
    rows = []
    n_heads = layout.n_heads if role in "qo" else layout.n_kv_heads
    group = layout.n_heads // layout.n_kv_heads if role in "qo" else 1
    for head in range(n_heads):
        pairs, values = heads[head // group]
        if role == "freq":
            rows += [head * half + p for p in pairs]
        elif role in "vo":
            rows += [head * dim + p for p in values]
        else:
            rows += [head * dim + p for p in pairs] + [head * dim + p + half for p in pairs]
    return rows


def seal_key(epoch, session, root=ROOT_KEY):
    """The key the TEE should have put into the arena."""
    return keys.seal_key(keys.epoch_key(root, epoch), session)


def with_crc(body):
    """Complete a packet body with the checksum it needs to get past the first check."""
    return body + struct.pack("<I", zlib.crc32(body))
