"""Finds byte strings and integer arrays in another process's memory, at any alignment.

An occurrence of a needle of at least 16 bytes covers an aligned 8-byte word that equals one of the
needle's first eight 8-byte windows, so only aligned words are looked up (through a small hash
table) and the few hits are compared in full. Permutations have entries below 256: memory is also
read as arrays of u16, u32 and u64 at every alignment and narrowed to bytes (255 for what does not
fit), so that one needle covers every integer width.
"""

import numpy as np

_HASH_BITS = 20
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(64 - _HASH_BITS)


class Needles:
    """A set of named byte strings to look for, each at least 16 bytes long."""

    def __init__(self, needles):
        assert all(len(needle) >= 16 for needle in needles.values())
        self._by_window = {}
        for name, needle in needles.items():
            for shift in range(8):
                window = int.from_bytes(needle[shift : shift + 8], "little")
                self._by_window.setdefault(window, []).append((name, needle, shift))
        self._windows = np.array(sorted(self._by_window), dtype=np.uint64)
        self._table = np.zeros(1 << _HASH_BITS, dtype=bool)
        self._table[self._windows * _MULTIPLIER >> _SHIFT] = True

    def find(self, data):
        """Return the set of (name, offset) found in `data` (bytes)."""
        words = np.frombuffer(data, dtype="<u8", count=len(data) // 8)
        hits = np.flatnonzero(self._table[words * _MULTIPLIER >> _SHIFT])
        hits = hits[np.isin(words[hits], self._windows)]
        found = set()
        for index in hits:
            for name, needle, shift in self._by_window[int(words[index])]:
                start = 8 * int(index) - shift
                if start >= 0 and data[start : start + len(needle)] == needle:
                    found.add((name, start))
        return found


def narrowed(data):
    """Yield (width, bytes): `data` read as wider integers at every alignment, as bytes."""
    for width in (2, 4, 8):
        for shift in range(width):
            count = (len(data) - shift) // width
            if count >= 16:
                wide = np.frombuffer(data, dtype=f"<u{width}", count=count, offset=shift)
                yield width, np.minimum(wide, 255).astype(np.uint8).tobytes()


def readable_mappings(pid):
    """Yield (path, address, content) of every readable mapping of a process."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            fields = line.split(None, 5)
            path = fields[5].strip() if len(fields) == 6 else "anonymous"
            if "r" not in fields[1] or path.startswith(("[vvar", "[vsyscall")):
                continue
            start, end = (int(part, 16) for part in fields[0].split("-"))
            memory.seek(start)
            try:
                yield path, start, memory.read(end - start)
            except OSError:
                continue


def scan_process(pid, keys, permutations):
    """Look for keys (raw) and permutations (every width) in a process.

    Args:
        pid: the process; must be readable by this one.
        keys: {name: bytes}.
        permutations: {name: sequence of ints below 255, at least 16 long}.

    Returns:
        {name, with "u16" etc. appended for the wide forms: [path of the mapping, ...]}.
    """
    as_bytes = {name: bytes(perm) for name, perm in permutations.items()}
    raw, arrays = Needles({**keys, **as_bytes}), Needles(as_bytes)
    found = {}
    for path, _, data in readable_mappings(pid):
        for name, _ in raw.find(data):
            found.setdefault(name if name in keys else f"{name} u8", []).append(path)
        for width, narrow in narrowed(data):
            for name, _ in arrays.find(narrow):
                found.setdefault(f"{name} u{8 * width}", []).append(path)
    return found
